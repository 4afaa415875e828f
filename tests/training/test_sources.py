"""Shards that are not what they should be are refused by name before the first step."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gpt2lab import UserError
from gpt2lab.corpus.build import shard
from gpt2lab.corpus.document import Document
from gpt2lab.corpus.shards import BLOCK_BYTES, ShardWriter, verify, write_index
from gpt2lab.training import run as runs
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.loop import Callback
from small_runs import recipe, sentence


@pytest.fixture
def copy(tmp_path, shards):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    return folder


def refused(tmp_path, folder, words, **change):
    settings = recipe(folder)
    settings = replace(settings, data=replace(settings.data, **change))
    with pytest.raises(UserError, match=words):
        runs.start(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_flipped_byte(tmp_path, copy):
    path = copy / "train_000000.bin"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    refused(tmp_path, copy, r"train_000000.bin has changed .*, between bytes 0 and 1048575; copy")


def test_the_place_of_a_flipped_byte(tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    writer = ShardWriter(folder, "train", 0)
    writer.add_joined(np.arange(1_500_000, dtype=np.uint32).astype(np.uint16), 1)
    write_index(folder, "digest", {"train": writer.close()})
    assert verify(folder, ["train"]) == 65535
    path = folder / "train_000000.bin"
    data = bytearray(path.read_bytes())
    data[2 * BLOCK_BYTES + 7] ^= 128
    path.write_bytes(data)
    with pytest.raises(UserError, match="between bytes 2097152 and 3145727"):
        verify(folder, ["train"])
    # An index written before places were recorded still tells that something is wrong.
    index = json.loads((folder / "index.json").read_text())
    del index["train"]["files"][0]["crc32"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="has changed since it was written; copy"):
        verify(folder, ["train"])


def test_a_short_tail(tmp_path, copy):
    path = copy / "val_000000.bin"
    path.write_bytes(path.read_bytes()[:-6])
    size = path.stat().st_size
    refused(tmp_path, copy, f"val_000000.bin has {size} bytes, its header says {size + 6}")


def test_a_whole_shard_with_fewer_tokens_than_its_index_says(tmp_path, copy):
    path = copy / "train_000000.bin"
    data = bytearray(path.read_bytes()[:-2])
    count = (len(data) - 1024) // 2
    data[8:12] = count.to_bytes(4, "little")
    path.write_bytes(data)
    refused(tmp_path, copy, f"holds {count} tokens, its index says {count + 1}: it ends at byte")


def test_a_wrong_magic_number(tmp_path, copy):
    path = copy / "train_000000.bin"
    path.write_bytes(b"\0\0\0\0" + path.read_bytes()[4:])
    refused(tmp_path, copy, r"train_000000.bin does not begin with a shard.s magic number")


def test_a_foreign_tokenizer(tmp_path, copy):
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(index | {"tokenizer": "0" * 64}))
    refused(tmp_path, copy, "was written with another tokenizer")


def test_a_second_source_with_a_foreign_tokenizer(tmp_path, shards, copy):
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(index | {"tokenizer": "0" * 64}))
    refused(tmp_path, shards, f"{copy} was written with another tokenizer", also=(str(copy),))


def test_weights_without_their_sources(tmp_path, shards):
    with pytest.raises(UserError, match="data.weights has 1 numbers; give one for data.path and"):
        refused(tmp_path, shards, "", also=("x",), weights=(1.0,))
    with pytest.raises(UserError, match="each must be above 0"):
        refused(tmp_path, shards, "", weights=(0.0,))


def test_a_run_mixes_its_sources(tmp_path, shards, small_tokenizer):
    other = tmp_path / "other"
    texts = ["0 1 2 3 4 5 6 7 8 9 " * 8 + str(i) for i in range(200)]
    shard([Document(t) for t in texts], small_tokenizer, other, held_out=0.1)
    settings = recipe(shards, steps=8)
    settings = replace(settings, data=replace(settings.data, also=(str(other),), weights=(3, 1)))
    digits = []

    class Look(Callback):
        def begin(self, trainer):
            rows = trainer.mixture.batch(np.arange(64))[0]
            texts = [small_tokenizer.decode(row.tolist()) for row in rows]
            digits.append(sum(any(c.isdigit() for c in text) for text in texts))

    out = runs.start(settings, tmp_path / "run", callbacks=[Look()])
    assert digits == [16]
    meta = json.loads((out / "gpt2lab.json").read_text())
    assert len(meta["epochs"]) == 2
    assert meta["train_tokens"] > 0
    assert read_metrics(tmp_path / "run")[-1]["validation_loss"] > 0


def test_text_of_a_run_is_not_taken_for_another(tmp_path, small_tokenizer):
    small_tokenizer.save(tmp_path / "tok")
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(sentence(i) for i in range(300)))
    settings = recipe(tmp_path / "a.txt", steps=2)
    settings = replace(settings, data=replace(settings.data, tokenizer=str(tmp_path / "tok")))
    runs.start(settings, tmp_path / "run")
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(sentence(i) for i in range(300, 600)))
    with pytest.raises(UserError, match="holds a run already"):
        runs.start(settings, tmp_path / "run")
