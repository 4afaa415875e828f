"""What of a test set is in the training text, against sets of strings; and what the filter errs."""

import json
import random
import re

import numpy as np
import pytest

from gpt2lab.cli.main import main
from gpt2lab.corpus import build
from gpt2lab.corpus.document import Document
from gpt2lab.errors import UserError
from gpt2lab.evaluation import suite
from gpt2lab.evaluation.overlap import ERROR, Training
from gpt2lab.evaluation.scores import Score, mean

WORDS = [f"word{n}" for n in range(60)]


def grams(text):
    words = re.findall(r"[^\W_]+", text.lower())
    return [" ".join(words[i : i + 8]) for i in range(len(words) - 7)]


@pytest.fixture(scope="module")
def texts():
    """Training documents, and test items of which some share a stretch with them."""
    rng = random.Random(0)
    train = [" ".join(rng.choices(WORDS, k=rng.randint(3, 200))) for _ in range(60)]
    test = [" ".join(rng.choices(WORDS, k=rng.randint(2, 60))) for _ in range(40)]
    for n in range(0, 40, 3):
        source = train[rng.randrange(60)].split()
        start = rng.randrange(max(1, len(source) - 12))
        test[n] += ". " + ", ".join(w.upper() for w in source[start : start + 12])
    return train, test


def test_overlap_is_that_of_sets(texts, tmp_path):
    train, test = texts
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in train))
    training = Training.of(tmp_path)
    known = {g for t in train for g in grams(t)}
    for text in test:
        of = grams(text)
        assert training.found(text) == (sum(g in known for g in of), len(of))
    right = np.arange(40) % 2
    scores = training.scores("set", test, [mean("set accuracy", right, "p")])
    clean = [not any(g in known for g in grams(t)) for t in test]
    assert 0 < sum(clean) < 40
    overlap, without = scores
    every = [g for t in test for g in grams(t)]
    assert overlap.value == pytest.approx(100 * np.mean([g in known for g in every]))
    assert without.name == "set accuracy, no overlap"
    assert without.value == pytest.approx(100 * np.mean(right[clean]))
    assert without.settings["false_positives"] == 1e-8


def test_a_million_strings_that_are_not_there(tmp_path):
    """The paper's own check of its bound of one in 10^8."""
    rng = np.random.default_rng(0)
    (tmp_path / "train.txt").write_text(" ".join(map(str, rng.integers(10**9, size=200_000))))
    training = Training.of(tmp_path / "train.txt")
    other = " ".join(map(str, rng.integers(10**9, size=1_000_007)))
    assert ERROR == 1e-8
    assert training.found(other) == (0, 1_000_000)


def test_shards_text_and_filter_agree(texts, tmp_path, small_tokenizer, monkeypatch):
    train, test = texts
    monkeypatch.setattr("gpt2lab.evaluation.documents._TOKENS", 777)
    build.shard([Document(t) for t in train], small_tokenizer, tmp_path / "shards", held_out=0.0)
    if not (tmp_path / "shards" / "tokenizer").exists():
        small_tokenizer.save(tmp_path / "shards" / "tokenizer")
    (tmp_path / "train.txt").write_text("\n\n\n".join(train))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in train))
    shards, lines = (Training.of(tmp_path / name) for name in ("shards", "train.jsonl"))
    lines._bloom.save(tmp_path / "bloom.npy")
    kept = Training.of(tmp_path / "bloom.npy")
    for text in test:
        assert shards.found(text) == lines.found(text) == kept.found(text)


def test_scores_of_other_units_are_left_out(texts, tmp_path):
    (tmp_path / "train.txt").write_text(texts[0][0])
    training = Training.of(tmp_path)
    whole = Score("set F1", "F1", np.ones((3, 2)), "p")
    names = [s.name for s in training.scores("set", texts[1], [whole])]
    assert names == ["set overlap"]
    assert training.scores("set", ["too short"], [whole]) == []


def test_from_the_command_line(texts, tmp_path):
    train, _ = texts
    model = "tests/models/reference-1M"
    rows = [{"text": train[0]}, {"text": "the lamp was lit and then it was dark " * 3 + "again"}]
    (tmp_path / "lambada_test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "train.txt").write_text("\n".join(train))
    arguments = [
        "evaluate", model, "--tasks", "lambada[openai]", "--data", str(tmp_path), "--training",
        str(tmp_path / "train.txt"), "--out", str(tmp_path / "out"), "--store", str(tmp_path / "s"),
    ]  # fmt: skip
    assert main(arguments) == 0
    results = suite.load(tmp_path / "out")
    assert 0 < results.find("lambada[openai] overlap").value < 100
    assert results.find("lambada[openai].last_word accuracy, no overlap").n == 1


def test_what_is_no_training_text(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("few words")
    with pytest.raises(UserError, match="holds no text of 8 words"):
        Training.of(tmp_path / "short.txt")
    for content in (b"junk", b"\x93NUMPY" + b"x" * 50):
        (tmp_path / "bloom.npy").write_bytes(content)
        with pytest.raises(UserError, match="is not a Bloom filter"):
            Training.of(tmp_path / "bloom.npy")
    head = np.array([2**60, 27], "<u8").view(np.uint8)
    np.save(tmp_path / "bloom.npy", np.concatenate([head, np.zeros(100, np.uint8)]))
    with pytest.raises(UserError, match="is not a Bloom filter"):
        Training.of(tmp_path / "bloom.npy")
    with pytest.raises(UserError, match="does not exist"):
        Training.of(tmp_path / "nothing")
