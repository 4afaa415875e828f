import json
import time

import pytest
import zstandard

from gpt2lab import UserError
from gpt2lab.corpus import compressed, plaintext
from gpt2lab.corpus.document import Document
from gpt2lab.corpus.plaintext import passages, read_documents
from gpt2lab.quickstart.overlap import without_overlap


def test_documents_from_every_form(tmp_path):
    texts = [f"document number {i}" for i in range(30)]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts[:10]))
    (tmp_path / "b.md").write_text(texts[10])
    lines = "\n".join(json.dumps({"text": t}) for t in texts[11:20])
    (tmp_path / "c.jsonl").write_text(lines + "\n\n")
    packed = "\n".join(json.dumps({"text": t}) for t in texts[20:])
    (tmp_path / "d.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(packed.encode()))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    assert [d.text for d in read_documents(tmp_path)] == texts


def test_one_long_text_becomes_passages(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("\n\n".join(f"Speech {i}. " + "word " * 50 for i in range(400)))
    documents = read_documents(path)
    assert len(documents) > 10
    assert all(len(d.text) <= 8192 for d in documents)
    assert "".join("".join(d.text.split()) for d in documents) == "".join(path.read_text().split())


def test_several_frames_are_all_read(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    lines = [json.dumps({"text": f"text {i}"}).encode() + b"\n" for i in range(40)]
    path.write_bytes(b"".join(map(zstandard.compress, lines)))
    assert len(read_documents(path)) == 40


def test_decompression_bombs_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(plaintext, "MAX_TEXT_BYTES", 2**20)
    (tmp_path / "bomb.txt.zst").write_bytes(zstandard.compress(b"x" * 2**24))
    with pytest.raises(UserError, match=r"bomb.txt.zst holds more than"):
        read_documents(tmp_path / "bomb.txt.zst")


def test_a_line_without_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "MAX_LINE", 2**22)
    (tmp_path / "bomb.jsonl.zst").write_bytes(zstandard.compress(b"x" * 2**24))
    with pytest.raises(UserError, match=r"bomb.jsonl.zst.*a line of over 4 MB"):
        read_documents(tmp_path / "bomb.jsonl.zst")


def test_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read_documents(tmp_path / "a.txt")[0].text == "hello"


def test_a_line_of_50_megabytes(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text("abcdefghij" * 5_000_000)
    began = time.monotonic()
    documents = read_documents(path)
    assert sum(len(d.text) for d in documents) == 50_000_000
    assert time.monotonic() - began < 20


def test_passages_prefer_blank_lines():
    text = "a" * 60 + "\n\n" + "b" * 30 + " " + "c" * 30
    assert list(passages(text, 80)) == ["a" * 60, "b" * 30 + " " + "c" * 30]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "holds no text"),
        ("blank.txt", b" \n\t\n", "holds no text"),
        ("binary.txt", b"\x7fELF\0\0\0", "binary file"),
        ("latin.txt", b"caf\xe9", r"not UTF-8: byte 0xe9 at offset 3; .*iconv"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', "broken.jsonl, line 2"),
        ("nothing.jsonl", b'{"body": "a"}\n', "nothing.jsonl, line 1"),
        ("number.jsonl", b'{"text": 5}\n', "line 1"),
        ("deep.jsonl", b"[" * 100_000, "line 1"),
        ("bad.jsonl.zst", b"not zstd", "corrupt at byte"),
        ("cut.jsonl.zst", zstandard.compress(b'{"text": "a"}\n' * 99)[:-3], "truncated"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "line 1"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_documents(path)
    assert name in str(caught.value)


def test_folders_without_text_and_missing_paths(tmp_path):
    with pytest.raises(UserError, match="holds no file named"):
        read_documents(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_documents(tmp_path / "nothing.txt")


def test_the_split_follows_the_text_alone():
    documents = [Document(f"text {i}") for i in range(5000)]
    held = [d for d in documents if d.held_out(0.1)]
    assert 400 < len(held) < 600
    assert all(Document(d.text, source="elsewhere").held_out(0.1) for d in held)
    assert {d.text for d in held} <= {d.text for d in documents if d.held_out(0.2)}


def test_overlap_is_by_runs_of_eight_words():
    train = ["one two three four five six seven eight nine ten eleven twelve"]
    same = "One, two; three four five six seven eight nine ten!"
    half = "one two three four five six seven eight " + " ".join(f"w{i}" for i in range(8))
    other = "eight seven six five four three two one zero minus one"
    short = "one two three"
    kept = without_overlap([same, half, other, short], train, most=0.25)
    assert kept == [half, other, short]


def test_a_file_cut_inside_its_last_line_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "hello"}\n{"text": "a long second docu')
    with pytest.raises(
        UserError, match=r"a\.jsonl: truncated at byte \d+ \(the last line breaks off\)"
    ):
        read_documents(tmp_path / "a.jsonl")


def test_what_a_record_says_besides_is_taken_only_if_it_can_be(tmp_path):
    lines = [
        '{"text": "a", "url": "\\ud800", "score": true, "date": 5}',
        '{"text": "b", "score": 7}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines * 15))
    first, second = read_documents(tmp_path / "a.jsonl")[:2]
    assert (first.url, first.score, first.date) == (None, None, None)
    assert second.score == 7
