"""How varied texts are: repetition, distinct n-grams, self-BLEU and Zipf's law, all on tokens."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from gpt2lab.evaluation.likelihood import Ids
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.scores import RESAMPLES, SEED, Sums

# The longest n-grams of BLEU.
_ORDERS = 4
# Zipf's law is fitted to so many of the most frequent tokens (Holtzman et al. 2020).
_RANKS = 5000

Gram = tuple[int, ...]


def repetition(ids: Ids, n: int) -> float:
    """Share of a text's n-grams that stood in it before (seq-rep-n of Welleck et al. 2020).

    1 less this is the text's own distinct-n. A text shorter than n repeats nothing.
    """
    grams = _grams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: Sequence[Ids], n: int) -> Sums:
    """Sums [N, 2] whose ratio is distinct-n of all texts together (Li et al. 2016).

    What a text adds to the numerator are the n-grams that none before it has.
    """
    seen: set[Gram] = set()
    sums = np.zeros((len(texts), 2))
    for row, ids in zip(sums, texts, strict=True):
        grams = _grams(ids, n)
        row[:] = len(set(grams) - seen), len(grams)
        seen.update(grams)
    return sums


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


def zipf(name: str, texts: Sequence[Ids], data: str) -> Measurement:
    """The s of Zipf's law, frequency ~ rank^-s, with an interval by resampling texts.

    Least squares on logarithms over the 5,000 most frequent tokens.
    """
    rng = np.random.default_rng(SEED)
    values = [
        _slope([texts[i] for i in rng.integers(len(texts), size=len(texts))])
        for _ in range(RESAMPLES)
    ]
    # Texts drawn twice make words look rarer; reflected at the value, that leans the right way.
    slope = _slope(texts)
    low, high = (2 * slope - float(q) for q in np.quantile(values, [0.975, 0.025]))
    how = f"least squares of log frequency on log rank, the {_RANKS:,} most frequent tokens"
    settings = {"resamples": RESAMPLES, "seed": SEED}
    return Measurement(name, slope, "s", len(texts), how, data, low, high, settings)


def _slope(texts: Sequence[Ids]) -> float:
    counts = np.bincount(np.concatenate(texts))
    frequency = np.sort(counts[counts > 0])[::-1][:_RANKS]
    rank = np.log(np.arange(1, len(frequency) + 1))
    centred = rank - rank.mean()
    return -float(centred @ np.log(frequency) / (centred @ centred)) if len(rank) > 1 else 0.0


def _grams(ids: Ids, n: int) -> list[Gram]:
    return list(_tuples(ids.tolist(), n))


def _tuples(ids: list[int], n: int) -> Iterator[Gram]:
    return zip(*(ids[start:] for start in range(n)), strict=False)
