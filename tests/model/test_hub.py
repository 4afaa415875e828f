"""Fetching by name, against a local server that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt2lab.model import checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, tiny, small_tokenizer):
    """A hub with one model, someone/tiny, and one file nobody asked for."""
    folder = tmp_path / "served"
    checkpoint.save(folder, tiny, small_tokenizer, {})
    (folder / "evil.py").write_text("raise SystemExit")
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            if self.path.startswith("/api/models/someone/tiny/tree/"):
                files = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": COMMIT}
                    for p in sorted(folder.iterdir())
                ]
                self.answer(json.dumps(files).encode(), {"Content-Type": "application/json"})
            elif self.path.startswith("/api/models/someone/tiny"):
                files = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
                body = {"id": "someone/tiny", "sha": COMMIT, "siblings": files}
                self.answer(json.dumps(body).encode(), {"Content-Type": "application/json"})
            elif self.path.startswith("/someone/tiny/resolve/"):
                data = (folder / Path(self.path.split("?")[0]).name).read_bytes()
                tag = hashlib.sha256(data).hexdigest()
                self.answer(data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
            else:
                self.answer(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

        do_HEAD = do_GET

        def answer(self, data, headers, status=200):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def gpt2lab(hub_url, cache, *args):
    code = "import sys; from gpt2lab.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {
        "HF_ENDPOINT": hub_url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *args], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_a_model_is_fetched_by_name_once_and_imported_whole(hub, tmp_path, tiny, small_tokenizer):
    url, asked = hub
    cache = tmp_path / "cache"
    done = gpt2lab(url, cache, "import", "hf:someone/tiny", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokenizer"] is True
    loaded = checkpoint.load(tmp_path / "out")
    assert loaded.tokenizer.digest == small_tokenizer.digest
    assert (loaded.model.wte.weight == tiny.wte.weight).all()
    assert not any("evil.py" in path for path in asked)
    weights = sum("model.safetensors" in path for path in asked)
    done = gpt2lab(url, cache, "generate", "hf:someone/tiny", "the", "--max-tokens", "3")
    assert done.returncode == 0, done.stderr
    assert sum("model.safetensors" in path for path in asked) <= weights + 1  # asked, not fetched


def test_a_name_the_hub_does_not_know(hub, tmp_path):
    url, _ = hub
    done = gpt2lab(url, tmp_path / "cache", "import", "hf:someone/else", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "cannot fetch someone/else" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_nobody_answers(tmp_path):
    done = gpt2lab("http://127.0.0.1:9", tmp_path / "cache", "generate", "gpt2", "hi")
    assert done.returncode == 2
    assert "with no network, copy its config.json" in done.stderr
    assert "Traceback" not in done.stderr
