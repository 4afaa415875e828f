"""Texts that are there twice, nearly, and evaluation texts among the training text, are told."""

import random

import pytest

from gpt2lab.training.near import NearDuplicates, Overlap


def text(seed, words=200):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(words))


def test_near_duplicates_are_counted():
    pytest.importorskip("numba")
    texts = [text(seed) for seed in range(50)]
    changed = [t.replace(t.split()[100], "other") for t in texts[:7]]
    half = [" ".join([*t.split()[:100], *text(99 + i).split()[:100]]) for i, t in enumerate(texts)]
    near = NearDuplicates()
    near.add(texts)
    near.add([*changed, *half])
    assert near.report() == {"compared": 107, "found": 7}


def test_no_text_at_all():
    pytest.importorskip("numba")
    near = NearDuplicates()
    near.add([])
    assert near.report() == {"compared": 0, "found": 0}


def test_overlap_is_what_evaluate_counts(tmp_path):
    pytest.importorskip("numba")
    from gpt2lab.evaluation.overlap import Training

    known, half, unknown = text(1), f"{text(3)[:700]} {text(5)[:900]}", text(2)
    learned = [f"{text(3)} {known.upper()}!", text(4)]
    seen = Overlap()
    seen.want("a", [known, half, unknown, "a b"])
    seen.want("b", [unknown])
    seen.add(learned[:1])
    seen.add(learned[1:])
    (tmp_path / "learned.txt").write_text("<|endoftext|>".join(learned))
    theirs = Training.of(tmp_path / "learned.txt")
    counts = [theirs.found(t) for t in (known, half, unknown, "a b")]
    found = seen.report()
    assert found["a"]["ngrams"] == sum(n for _, n in counts)
    assert found["a"]["share"] == round(sum(n for n, _ in counts) / found["a"]["ngrams"], 4) > 0.4
    assert (found["a"]["texts"], found["a"]["known"]) == (4, 1)
    assert found["b"] == {"texts": 1, "known": 0, "ngrams": 193, "share": 0.0}
