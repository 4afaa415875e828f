"""A server on this machine, with one small model."""

import threading
import time
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
