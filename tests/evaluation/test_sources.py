"""Data files are found wherever they lie, and a sentence says what is wrong with others."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.evaluation.sources import Data, DataFile, Source

SOURCE = Source(("set-2/test.txt", "other.txt"), "https://example.org/set.zip", "ab" * 32)


@pytest.mark.parametrize(
    "path", ["set-2/test.txt", "deep/in/set-2/test.txt", "set-2/test.txt.gz", "other.txt"]
)
def test_files_are_found(tmp_path, path):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(b"text\n") if path.endswith("gz") else b"text\n")
    (tmp_path / "test.txt").write_text("of another set")
    found = Data(tmp_path).find(SOURCE)
    assert found.path.samefile(file)
    assert found.text == "text\n"
    plain = tmp_path / "plain"
    plain.write_bytes(b"text\n")
    assert found.digest == DataFile(plain).digest


def test_the_published_name_comes_first(tmp_path):
    for path in ("other.txt", "set-2/test.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    assert Data(tmp_path).find(SOURCE).text == "set-2/test.txt"
    assert Data(tmp_path / "set-2").find(SOURCE).text == "set-2/test.txt"


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError) as error:
        Data(tmp_path).find(SOURCE)
    for part in ("set-2/test.txt", "other.txt", "https://example.org/set.zip", "ab" * 32, "--data"):
        assert part in str(error.value)
    with pytest.raises(UserError, match="not a folder"):
        Data(tmp_path / "none")


def test_too_many_files_are_not_walked(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt2lab.evaluation.sources._MOST_FILES", 3)
    for n in range(5):
        (tmp_path / f"{n}").write_text("")
    with pytest.raises(UserError, match="over 3 files"):
        Data(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"text": 1}\n{"text"', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: not an object"),
        ("a.jsonl", b'{"txt": 1}\n', "line 1 has no 'text', only txt"),
        ("a.jsonl", b"\xff\xfe", "is not UTF-8 at byte 0"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.parquet", b"PAR1 nothing", "is not a whole Parquet file"),
        ("a.jsonl", gzip.compress(b"x"), "compressed but its name does not say so"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        DataFile(tmp_path / name).records("text")


def test_a_file_cut_short(tmp_path):
    whole = gzip.compress(json.dumps({"text": "x" * 1000}).encode() * 50)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedInput, match="a.jsonl.gz"):
        DataFile(tmp_path / "a.jsonl.gz").records("text")


def test_rows_of_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [" a b \n", "", " c "]}), tmp_path / "a.parquet")
    file = DataFile(tmp_path / "a.parquet")
    assert file.records("text")[2] == {"text": " c "}
    assert file.text == " a b \n\n c \n"


@pytest.fixture
def hub():
    """A hub that has one file of one data set."""
    body = b'{"text": "x"}\n'
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            known = self.path == "/datasets/owner/set/resolve/main/data/a.jsonl"
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body) if known else 0))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
            self.end_headers()
            if known and self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_the_hub_is_asked_where_there_is_no_folder(tmp_path, hub):
    """In a process of its own, as huggingface_hub reads its settings once."""
    address, asked = hub
    code = """
import sys
from gpt2lab.evaluation.sources import Data, Source
source = Source(("a.jsonl",), "https://example.org/a.jsonl", hub=sys.argv[1])
print(Data().find(source).records("text"))
"""
    environment = os.environ | {
        "HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip

    def run(name, **more):
        return subprocess.run(
            [sys.executable, "-c", code, name], env=environment | more, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip

    assert run("owner/set:data/a.jsonl").stdout == "[{'text': 'x'}]\n", asked
    assert "/datasets/owner/set/resolve/main/data/a.jsonl" in asked
    # Once fetched, no network is needed.
    assert run("owner/set:data/a.jsonl", HF_HUB_OFFLINE="1").stdout == "[{'text': 'x'}]\n"
    gone = run("owner/set:data/b.jsonl")
    assert "a.jsonl cannot be fetched; get it from https://example.org/a.jsonl" in gone.stderr


def test_a_folder_that_is_given_is_all_there_is(tmp_path):
    with pytest.raises(UserError, match="is not under"):
        Data(tmp_path).find(Source(("b.jsonl",), "nowhere", hub="owner/set:b.jsonl"))
