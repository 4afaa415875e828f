"""`gpt2lab serve` as a process: it says where it is, drains on signals, refuses what is wrong."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from gpt2lab.cli.main import main
from serving.conftest import MODEL

LONG = {"model": "one", "prompt": "a", "max_tokens": 500, "n": 12, "seed": 0, "stream": True}


@contextmanager
def started(*options):
    """The process, and its address once it is ready."""
    command = [sys.executable, "-m", "gpt2lab.cli.main", "serve", f"one={MODEL}", "--port", "0"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stderr:
            if found := re.match(r"serving one on (http://127\.0\.0\.1:\d+)/v1", line):
                break
        for _ in range(200):
            try:
                if httpx.get(f"{found[1]}/health/ready").status_code == 200:
                    break
            except httpx.ConnectError:
                pass
            time.sleep(0.05)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_finished(how):
    with started("--slots", "1") as (process, url):
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as found:
            lines = found.iter_lines()
            next(lines)
            process.send_signal(how)
            time.sleep(0.3)
            assert httpx.get(f"{url}/health/ready").status_code == 503
            assert httpx.get(f"{url}/health/live").status_code == 200
            other = httpx.post(f"{url}/v1/completions", json=LONG)
            assert (other.status_code, other.json()["error"]["code"]) == (503, "overloaded")
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(30) == 0


def test_what_takes_too_long_is_ended(how=signal.SIGTERM):
    with started("--slots", "1", "--drain", "0.2") as (process, url):
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as found:
            lines = found.iter_lines()
            next(lines)
            process.send_signal(how)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(30) == 0


def test_programs_are_told_where_it_is():
    with started("--json") as (process, url):
        told = json.loads(process.stdout.readline())
        assert told == {"base_url": f"{url}/v1", "models": ["one"]}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([str(MODEL), "--host", "0.0.0.0"], "--host is 0.0.0.0; without keys only this machine"),
        ([str(MODEL), "--host", "example.org"], "--host is example.org; without keys only"),
        ([str(MODEL), "--port", "70000"], "--port is 70000; it must be from 0 to 65535"),
        ([str(MODEL), "--slots", "0"], "--slots is 0; it must be from 1 to 1,000,000"),
        ([str(MODEL), "--timeout", "nan"], "--timeout is nan; it must be from 0.001 to"),
        ([str(MODEL), str(MODEL), "--port", "0"], "two models are named reference-1M; name one as"),
        (["no/such/model", "--port", "0"], "no/such/model"),
        ([], "no model is named"),
    ],
)
def test_refusals(argv, message, capsys):
    assert main(["serve", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err.replace("\n", " ") and "Traceback" not in err


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", str(MODEL), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}: " in capsys.readouterr().err
