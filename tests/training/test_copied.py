"""What is copied from the training text is found, in any place, and nothing else is."""

import numpy as np
import pytest

from gpt2lab.corpus.shards import Tokens
from gpt2lab.training import copied as room
from gpt2lab.training.copied import N, copied, distinct, longest


def tokens(ids) -> Tokens:
    half = len(ids) // 2
    return Tokens((np.array(ids[:half], np.uint16), np.array(ids[half:], np.uint16)), "")


@pytest.mark.parametrize("part", [2**20, 50])
def test_the_same_as_looking_for_each(monkeypatch, part):
    monkeypatch.setattr(room, "_PART", part)
    rng = np.random.default_rng(0)
    training = rng.integers(0, 4, 3000).tolist()
    texts = [
        training[100:140],
        [*training[700:712], 9, *training[2980:]],
        rng.integers(0, 4, 200).tolist(),
        [1, 2, 3],
        [],
    ]
    there = {tuple(training[i : i + N]) for i in range(len(training) - N + 1)}
    expected = [[tuple(t[i : i + N]) in there for i in range(len(t) - N + 1)] for t in texts]
    found = copied(texts, tokens(training))
    assert [flags.tolist() for flags in found] == expected
    assert longest(found[0]) == 40 and longest(found[1]) == 20 and longest(found[3]) == 0


def test_distinct():
    assert distinct([[1, 2, 3], [1, 2]], 2) == 2 / 3
    assert distinct([[1]], 2) == 0.0
