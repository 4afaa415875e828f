"""How varied texts are: repetition, distinct n-grams, self-BLEU and Zipf's law, all on tokens."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from gpt2lab.evaluation.likelihood import Ids
from gpt2lab.evaluation.scores import Sums

# The longest n-grams of BLEU.
_ORDERS = 4
# Zipf's law is fitted to so many of the most frequent tokens (Holtzman et al. 2020).
RANKS = 5000

Gram = tuple[int, ...]


def repetition(ids: Ids, n: int) -> float:
    """Share of a text's n-grams that stood in it before (seq-rep-n of Welleck et al. 2020).

    1 less this is the text's own distinct-n. A text shorter than n repeats nothing.
    """
    grams = _grams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: Sequence[Ids], n: int) -> tuple[float, Sums]:
    """Share of different n-grams among those of all texts together (distinct-n, Li et al. 2016).

    Also the same without each text in turn [N].
    """
    each = [_grams(ids, n) for ids in texts]
    owner: dict[Gram, int] = {}
    for i, grams in enumerate(each):
        for gram in set(grams):
            owner[gram] = i if gram not in owner else -1  # -1: of several texts
    alone = np.bincount([i for i in owner.values() if i >= 0], minlength=len(texts))
    counts = np.array([len(grams) for grams in each])
    without = (len(owner) - alone) / (counts.sum() - counts).clip(min=1)
    return len(owner) / max(1, counts.sum()), without


def repeats(ids: Ids, n: int, first: int) -> npt.NDArray[np.bool_]:
    """Of each token from `first` on, whether the n-gram that it ends stood in the text before."""
    seen: set[Gram] = set()
    found = []
    for gram in _grams(ids, n):
        found.append(gram in seen)
        seen.add(gram)
    return np.array([False] * (len(ids) - len(found)) + found)[first:]


def self_bleu(texts: Sequence[Ids]) -> npt.NDArray[np.float64]:
    """BLEU-4 of each text with all others as references, in percent (Zhu et al. 2018).

    Smoothed as sacrebleu does it. Of each n-gram the two texts that have it most often are all that
    is needed, so that N texts take N steps and not N squared.
    """
    counts = [[Counter(_grams(ids, n)) for n in range(1, _ORDERS + 1)] for ids in texts]
    lengths = [len(ids) for ids in texts]
    logs = np.zeros(len(texts))
    smooth = np.ones(len(texts))
    for order in range(_ORDERS):
        most: dict[Gram, tuple[int, int, int]] = {}  # its owner, how often there, and elsewhere
        for i, by_order in enumerate(counts):
            for gram, count in by_order[order].items():
                owner, top, second = most.get(gram, (-1, 0, 0))
                if count > top:
                    most[gram] = (i, count, top)
                elif count > second:
                    most[gram] = (owner, top, count)
        for i, by_order in enumerate(counts):
            total = by_order[order].total()
            matched = 0
            for gram, count in by_order[order].items():
                owner, top, second = most[gram]
                matched += min(count, second if owner == i else top)
            if not matched:
                smooth[i] *= 2
            if not total or not (matched or order):  # too short, or not a token in common
                logs[i] = -math.inf
            else:
                logs[i] += math.log(matched / total if matched else 1 / (smooth[i] * total))
    return np.array(
        [100 * math.exp(logs[i] / _ORDERS) * _brevity(lengths, i) for i in range(len(texts))]
    )


def _brevity(lengths: Sequence[int], i: int) -> float:
    """BLEU's penalty for a text shorter than the reference nearest to it in length."""
    others = (n for j, n in enumerate(lengths) if j != i)
    nearest = min(others, key=lambda n: (abs(n - lengths[i]), n))
    return 1.0 if lengths[i] >= nearest else math.exp(1 - nearest / max(1, lengths[i]))


def zipf(texts: Sequence[Ids]) -> tuple[float, Sums]:
    """The s of Zipf's law, frequency ~ rank^-s, of all texts together; and without each in turn.

    Least squares on logarithms over the most frequent tokens.
    """
    size = 1 + max(int(ids.max()) for ids in texts)
    counts_NV = np.stack([np.bincount(ids, minlength=size) for ids in texts])
    total_V = counts_NV.sum(0)
    return _slope(total_V), np.array([_slope(total_V - one_V) for one_V in counts_NV])


def _slope(counts_V: npt.NDArray[np.int64]) -> float:
    frequency = np.sort(counts_V[counts_V > 0])[::-1][:RANKS]
    rank = np.log(np.arange(1, len(frequency) + 1))
    centred = rank - rank.mean()
    return -float(centred @ np.log(frequency) / (centred @ centred)) if len(rank) > 1 else 0.0


def _grams(ids: Ids, n: int) -> list[Gram]:
    return list(_tuples(ids.tolist(), n))


def _tuples(ids: list[int], n: int) -> Iterator[Gram]:
    return zip(*(ids[start:] for start in range(n)), strict=False)
