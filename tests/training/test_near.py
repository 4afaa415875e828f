"""Texts that are there twice, nearly, and evaluation texts among the training text, are told."""

import random

import numpy as np
import pytest

from gpt2lab.corpus.shards import Tokens
from gpt2lab.training.near import NearDuplicates, overlap


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


def test_overlap(small_tokenizer):
    known, unknown = text(1), text(2)
    ids = small_tokenizer.encode(f"{text(3)} {known} {text(4)}")
    training = Tokens((np.array(ids, np.uint16),), "")
    found = overlap([known, unknown, "a b"], small_tokenizer, training)
    assert (found["texts"], found["known"]) == (3, 1)
    assert 0.4 < found["share"] < 0.6
