"""A server on this machine, with one small model."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

import gpt2lab
from gpt2lab.serving.app import Served, Setup, create

MODEL = Path(__file__).parents[1] / "models" / "reference-1M"


@pytest.fixture(scope="package")
def reference():
    return gpt2lab.load(str(MODEL))


@contextmanager
def serving(reference, **options):
    """The service on a free port of the loopback: its address, and the application."""
    served = Served(reference.model, reference.tokenizer, "0" * 64, 1_700_000_000)
    app = create({"reference-1M": served}, Setup(**options))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning",
                            timeout_graceful_shutdown=10)  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(500):
        if server.started:
            break
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="package")
def address(reference):
    with serving(reference) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server of its own: makes a database at each call, and gives its URL."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb", path=os.pathsep.join(map(str, places[-1:])) or None)
    if found is None:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    tools = Path(found).parent
    # It refuses to run as root, and its socket's path must be short.
    who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if who:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"

        def do(*command):
            subprocess.run([*who, *command], check=True, cwd=folder, capture_output=True)

        do(tools / "initdb", "-D", data, "-U", "tests", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder}"
        do(tools / "pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")

        def make():
            name = f"t{uuid.uuid4().hex}"
            do(tools / "createdb", "-h", folder, "-U", "tests", name)
            return f"postgresql://tests@/{name}?host={folder}"

        try:
            yield make
        finally:
            do(tools / "pg_ctl", "-D", data, "-m", "immediate", "stop")
