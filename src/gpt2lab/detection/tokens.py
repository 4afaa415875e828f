"""A text's tokens as people look at them: spelled, with rank, probability and alternatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gpt2lab.detection.features import RANKS
from gpt2lab.detection.reading import Reading

# GLTR's bins of ranks: in the first 10, 100, 1000, and beyond.
BINS = tuple(r for r in RANKS if r in (10, 100, 1000))
BIN_NAMES = (*(f"top {r:,}" for r in BINS), "beyond")
_ALTERNATIVES = 5


@dataclass(frozen=True)
class Piece:
    """One or more tokens that spell whole characters."""

    text: str
    rank: int
    """How many tokens the model found likelier; the highest of several tokens'."""
    p: float
    """Of all its tokens together."""
    others: tuple[tuple[str, float], ...]
    """What the model found likeliest in its place, with probabilities."""

    @property
    def bin(self) -> int:
        """Which of BIN_NAMES it belongs to."""
        return int(np.searchsorted(BINS, self.rank, side="right"))


def pieces(reading: Reading) -> list[Piece]:
    """All of a text, by the first model that read it."""
    scores, tokenizer = reading.scores[0], reading.tokenizer
    found: list[Piece] = []
    start = 0
    texts = list(tokenizer.decode_stream(reading.ids.tolist()))
    if len(texts) > len(reading.ids):  # it ended inside a character
        texts[-2:] = ["".join(texts[-2:])]
    for i, text in enumerate(texts):
        if not text and i + 1 < len(texts):
            continue
        best = zip(scores.best_ids[start], scores.best_nats[start], strict=True)
        others = [(tokenizer.decode([int(k)]), float(np.exp(-nats))) for k, nats in best]
        p = float(np.exp(-scores.nats[start : i + 1].sum(dtype=np.float64)))
        rank = int(scores.rank[start : i + 1].max())
        found.append(Piece(text, rank, p, tuple(others[:_ALTERNATIVES])))
        start = i + 1
    return found


def histograms(reading: Reading) -> dict[str, dict[str, float]]:
    """GLTR's three, in shares of tokens: ranks, p over the likeliest token's p, entropy."""
    scores = reading.scores[0]
    bins = np.searchsorted(BINS, scores.rank, side="right")
    ranks = np.bincount(bins, minlength=len(BIN_NAMES)) / len(bins)
    ratio = np.exp(scores.top_nats - scores.nats)
    return {
        "rank": dict(zip(BIN_NAMES, ranks.tolist(), strict=True)),
        "p over the likeliest token's p": _shares(ratio, np.linspace(0, 1, 6)),
        "entropy of the prediction, nats": _shares(scores.entropy, [0, 1, 2, 3, 4, 5, 6, np.inf]),
    }


def _shares(values: np.ndarray, edges: Sequence[float] | np.ndarray) -> dict[str, float]:
    counts = np.histogram(np.minimum(values, edges[-1]), edges)[0] / len(values)
    names = [
        f"from {low:g}" if np.isinf(high) else f"{low:.2g} to {high:.2g}"
        for low, high in pairwise(edges)
    ]
    return dict(zip(names, counts.tolist(), strict=True))
