"""How much of what a model writes stands in the text it is trained on, by token n-grams."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpt2lab.corpus.shards import Tokens

# n of the n-grams: the paper's, in its table of overlaps, counts words.
N = 8
# Training text beyond so many tokens is not looked through.
MOST_TOKENS = 2**27
_PART = 2**20
# Odd, so that multiplying by it loses nothing modulo 2^64 (Knuth's multiplier).
_FACTOR = np.uint64(6364136223846793005)

U64 = npt.NDArray[np.uint64]


def copied(texts: Sequence[Sequence[int]], training: Tokens) -> list[npt.NDArray[np.bool_]]:
    """Of each text's n-grams, in order, whether it stands in the training text."""
    grams = [_grams(np.asarray(ids, np.int64)) for ids in texts]
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]))
    found = np.zeros(len(wanted), bool)
    if len(wanted):
        end = min(len(training), MOST_TOKENS)
        for start in range(0, end - N + 1, _PART):
            there = _grams(training.slice(start, min(_PART + N - 1, end - start)))
            places = np.searchsorted(wanted, there).clip(max=len(wanted) - 1)
            found[places[wanted[places] == there]] = True
    return [found[np.searchsorted(wanted, gram)] for gram in grams]


def longest(flags: npt.NDArray[np.bool_]) -> int:
    """Tokens of the longest stretch whose every n-gram stands in the training text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max() + N - 1) if len(edges) else 0


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Share of different n-grams among those of all texts together (distinct-n, Li et al. 2016)."""
    grams = [tuple(ids[i : i + n]) for ids in texts for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(ids: npt.NDArray[np.int64]) -> U64:
    """A 64-bit hash of every n-gram."""
    count = max(0, len(ids) - N + 1)
    total = np.zeros(count, np.uint64)
    values = ids.astype(np.uint64) + np.uint64(1)
    for k in range(N):
        total = total * _FACTOR + values[k : k + count]
    return total ^ (total >> np.uint64(29))
