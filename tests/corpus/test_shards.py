import json

import numpy as np
import pytest

from gpt2lab import UserError
from gpt2lab.corpus.build import shard
from gpt2lab.corpus.document import Document
from gpt2lab.corpus.shards import ShardWriter, open_shard, open_split, write_index
from gpt2lab.tokenizer import Tokenizer


def write(folder, documents, tokens_per_shard=10):
    writer = ShardWriter(folder, "train", 7, tokens_per_shard)
    for document in documents:
        writer.add(document)
    write_index(folder, "digest", {"train": writer.close()})


def test_every_document_is_preceded_by_end_of_text(tmp_path):
    documents = [[1, 2, 3], [], [4] * 25, [5]]
    write(tmp_path, documents)
    tokens = open_split(tmp_path, "train")
    expected = [t for d in documents for t in (7, *d)]
    assert tokens.slice(0, len(tokens)).tolist() == expected
    assert len(tokens.parts) == 4
    for start in range(len(expected)):
        assert tokens.slice(start, 5 if start + 5 <= len(expected) else 1)[0] == expected[start]
    assert tokens.slice(8, 14).tolist() == expected[8:22]
    with pytest.raises(IndexError):
        tokens.slice(len(expected) - 2, 3)


def test_the_layout_is_llmc(tmp_path):
    write(tmp_path, [[1, 2, 3]])
    raw = (tmp_path / "train_000000.bin").read_bytes()
    header = np.frombuffer(raw[:1024], "<i4")
    assert header[:3].tolist() == [20240520, 1, 4]
    assert not header[3:].any()
    assert np.frombuffer(raw[1024:], "<u2").tolist() == [7, 1, 2, 3]
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["train"]["tokens"] == 4
    assert index["train"]["documents"] == 1


def test_nanogpts_files_are_read(tmp_path):
    ids = np.arange(5000, dtype="<u2")
    ids.tofile(tmp_path / "train.bin")
    assert open_split(tmp_path, "train").slice(4998, 2).tolist() == [4998, 4999]


def test_damaged_shards_are_named(tmp_path):
    write(tmp_path, [list(range(600))], tokens_per_shard=1000)
    path = tmp_path / "train_000000.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"train_000000.bin has \d+ bytes, its header says"):
        open_split(tmp_path, "train")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(UserError, match="odd number of bytes"):
        open_shard(tmp_path / "odd.bin")
    with pytest.raises(UserError, match="has no split 'val'"):
        open_split(tmp_path, "val")
    index = json.loads((tmp_path / "index.json").read_text())
    index["train"]["files"][0]["name"] = "../x.bin"
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lies outside"):
        open_split(tmp_path, "train")


def test_text_to_shards(tmp_path, small_tokenizer):
    documents = [Document(f"the cat number {i} sat on mat {i}") for i in range(200)]
    counts = shard(documents, small_tokenizer, tmp_path / "out", held_out=0.2)
    tokens = {s: open_split(tmp_path / "out", s) for s in ("train", "val")}
    assert {s: len(t) for s, t in tokens.items()} == counts
    read = Tokenizer.load(tmp_path / "out" / "tokenizer")
    texts = []
    for part in tokens.values():
        texts += read.decode(part.slice(0, len(part))).split("<|endoftext|>")[1:]
    assert sorted(texts) == sorted(d.text for d in documents)


def test_a_split_that_would_be_empty(tmp_path, small_tokenizer):
    with pytest.raises(UserError, match="none of 1 documents fell into 'val'"):
        shard([Document("only one")], small_tokenizer, tmp_path / "out", held_out=0.0001)
    assert not (tmp_path / "out").exists()
