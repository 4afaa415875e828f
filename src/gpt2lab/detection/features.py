"""Numbers of a text that tell sampled text from written text, each with a name.

Where they are from: likelihood, ranks and their bins, and p beside the likeliest token's p are
GLTR's (Gehrmann et al. 2019); LRR is DetectLLM's (Su et al. 2023); curvature is Fast-DetectGPT's
(Bao et al. 2024). The place of each token in its prediction, the probability of all likelier
tokens, is even from 0 to 1 for a text drawn from the very model, ends at p for a nucleus of p, and
is far from even for people's texts. People come back to rare words, which small models do not.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gpt2lab.detection.reading import Reading
from gpt2lab.evaluation.likelihood import Ids, Scores
from gpt2lab.tokenizer.bpe import Tokenizer

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_RARE = 1000
RANKS = (1, 10, 40, 100, 1000)
_QUANTILES = (5, 25, 50, 75, 95)
_PLACES = 10
# Of the variance of a whole text, so that one of no surprise at all has a curvature.
_LEAST = 1e-6


def curvature(scores: Scores) -> float:
    """How far a text's log-likelihood is above what its predictions expect, in their deviations.

    Fast-DetectGPT's discrepancy in closed form (equation 5, with the scoring model as reference):
    the sum of log p less its mean under each prediction, over the root of the summed variances.
    """
    above = scores.entropy.astype(np.float64) - scores.nats
    return float(above.sum() / np.sqrt(scores.variance.sum(dtype=np.float64) + _LEAST))


def places(scores: Scores) -> Floats:
    """Where each token stands in its prediction, from 0 (the likeliest) to 1: [T]."""
    return np.clip(scores.above + np.exp(-scores.nats.astype(np.float64)) / 2, 0, 1)


def names(scorers: Sequence[str]) -> list[str]:
    """What `features` gives, in order: of each model, of two together, and of the tokens alone."""
    each = [
        "mean log p", "spread of log p", *(f"log p at {q} %" for q in _QUANTILES),
        "mean log rank", "spread of log rank", "mean entropy", "spread of entropy",
        "log p over log rank", "curvature", "log p above expected",
        *(f"rank below {r}" for r in RANKS), "log p below the likeliest",
        "unevenness of places", *(f"places from {i / _PLACES}" for i in range(_PLACES)),
        "least log p", "log p of neighbours", "log p with entropy", "log p along the text",
        "log p of new rare tokens", "log p of repeated rare tokens", "log p of common tokens",
        "log p inside words", "log p at words' beginnings", "log p of halves apart",
    ]  # fmt: skip
    own = [f"{name}: {one}" for name in scorers for one in each]
    between = [f"{b} beyond {a}: {one}" for a, b in _pairs(scorers) for one in _BETWEEN]
    return own + between + list(_OF_TOKENS)


_BETWEEN = ("mean log p", "spread of log p", "curvature")
_OF_TOKENS = (
    *(f"distinct {n}-grams" for n in (1, 2, 3)), "rare tokens", "rare tokens repeated",
    "rare tokens repeated, second half", "tokens a word", "words of three tokens",
    "words of four tokens", "tokens inside words",
)  # fmt: skip


def _pairs(scorers: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(scorers))


def features(readings: Sequence[Reading]) -> Floats:
    """[N, F] of texts, with the names that `names` gives.

    Raises ValueError for a text of fewer than two tokens.
    """
    for reading in readings:
        if reading not in _KNOWN:
            _KNOWN[reading] = np.array(_of(reading), np.float64)
    return np.array([_KNOWN[reading] for reading in readings])


# Several detectors ask for a text's numbers.
_KNOWN: WeakKeyDictionary[Reading, Floats] = WeakKeyDictionary()


def _of(reading: Reading) -> list[float]:
    if len(reading) < 2:
        raise ValueError("a text of fewer than two tokens has no features")
    kinds = _Kinds.of(reading)
    own = [_of_model(s, kinds) for s in reading.scores]
    between = [
        value
        for a, b in pairwise(reading.scores)
        for value in (
            float(a.nats.mean() - b.nats.mean()),
            float((a.nats - b.nats).std()),
            curvature(b) - curvature(a),
        )
    ]
    return [x for one in own for x in one] + between + _of_tokens(reading.ids, kinds)


def distinct(ids: Ids, n: int) -> float:
    """The share of a text's n-grams that are not repeated ones."""
    if len(ids) < n:
        return 1.0
    grams = np.lib.stride_tricks.sliding_window_view(ids, n)
    return len(np.unique(grams, axis=0)) / len(grams)


class _Kinds(NamedTuple):
    """Which tokens of a text are of some kinds, each [T]."""

    rare: Bools
    """BPE's ids are in the order of its merges, so these are all but the most frequent."""
    new: Bools
    """Not seen before in the text."""
    first: Bools
    """First of their word."""

    @classmethod
    def of(cls, reading: Reading) -> Self:
        ids = reading.ids
        new = np.zeros(len(ids), bool)
        new[np.unique(ids, return_index=True)[1]] = True
        return cls(ids >= _RARE, new, _begins(reading.tokenizer)[ids])


@lru_cache(maxsize=4)
def _begins(tokenizer: Tokenizer) -> Bools:
    """Which tokens begin a word [V]."""
    return np.array([tokenizer.token(i)[:1] in (b" ", b"\n") for i in range(tokenizer.size)])


def _of_tokens(ids: Ids, kinds: _Kinds) -> list[float]:
    half = len(ids) // 2
    starts = np.flatnonzero(kinds.first)
    sizes = np.diff(np.append(starts, len(ids))) if len(starts) else np.array([len(ids)])
    return [
        *(distinct(ids, n) for n in (1, 2, 3)), kinds.rare.mean(), _mean(~kinds.new[kinds.rare]),
        _mean(~kinds.new[half:][kinds.rare[half:]]), sizes.mean(), (sizes >= 3).mean(),
        (sizes >= 4).mean(), (~kinds.first).mean(),
    ]  # fmt: skip


def _mean(values: npt.NDArray[Any]) -> float:
    """0 where there are none."""
    return float(values.mean()) if len(values) else 0.0


def _of_model(s: Scores, kinds: _Kinds) -> list[float]:
    log_p, log_rank = -s.nats.astype(np.float64), np.log1p(s.rank.astype(np.float64))
    entropy, place = s.entropy.astype(np.float64), places(s)
    n = len(log_p)
    even = (np.arange(n) + 0.5) / n
    return [
        log_p.mean(), log_p.std(), *np.percentile(log_p, _QUANTILES),
        log_rank.mean(), log_rank.std(), entropy.mean(), entropy.std(),
        log_p.mean() / (log_rank.mean() + 0.01), curvature(s), (log_p + entropy).mean(),
        *((s.rank < r).mean() for r in RANKS), (s.top_nats - s.nats).mean(dtype=np.float64),
        np.abs(np.sort(place) - even).max(), *(np.histogram(place, _PLACES, (0, 1))[0] / n),
        log_p.min(), _together(log_p[1:], log_p[:-1]), _together(log_p, entropy),
        _together(log_p, even),
        _mean(log_p[kinds.rare & kinds.new]), _mean(log_p[kinds.rare & ~kinds.new]),
        _mean(log_p[~kinds.rare]), _mean(log_p[~kinds.first]), _mean(log_p[kinds.first]),
        log_p[n // 2 :].mean() - log_p[: n // 2].mean(),
    ]  # fmt: skip


def _together(a: Floats, b: Floats) -> float:
    """Their correlation; 0 where one does not vary."""
    a, b = a - a.mean(), b - b.mean()
    both = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / both) if both > _LEAST else 0.0
