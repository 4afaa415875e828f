"""How well scores part two kinds of texts: areas, rates with exact intervals, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from gpt2lab.detection.features import Floats

Bools = npt.NDArray[np.bool_]
RESAMPLES, SEED = 500, 0
BINS = 10


def auroc(scores: Floats, machine: Bools) -> float:
    """How often a machine's text scores higher than a person's; ties count half."""
    ranks = stats.rankdata(scores)
    n = int(machine.sum())
    return float((ranks[machine].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def auroc_interval(scores: Floats, machine: Bools, documents: Sequence[str]) -> tuple[float, float]:
    """95 % bootstrap interval; documents are drawn again, as texts of one are alike."""
    _, of = np.unique(documents, return_inverse=True)
    rows = [np.flatnonzero(of == i) for i in range(int(of.max()) + 1)]
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(RESAMPLES):
        at = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        if 0 < machine[at].sum() < len(at):
            found.append(auroc(scores[at], machine[at]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def threshold(human: Floats, fpr: float) -> float:
    """The score that a text must be above so that at most a share `fpr` of these is."""
    return float(np.sort(human)[len(human) - 1 - int(fpr * len(human))])


@dataclass(frozen=True)
class Rate:
    """A share of n, with its exact 95 % interval (Clopper and Pearson 1934)."""

    count: int
    n: int

    @classmethod
    def of(cls, hits: Bools) -> "Rate":
        """The share of hits."""
        return cls(int(hits.sum()), len(hits))

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """From, to."""
        if not self.n:
            return 0.0, 1.0
        found = stats.binomtest(self.count, self.n).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)


def tpr(scores: Floats, machine: Bools, fpr: float) -> Rate:
    """Machines' texts above all but a share `fpr` of people's."""
    return Rate.of(scores[machine] > threshold(scores[~machine], fpr))


def accuracy(said: Bools, machine: Bools) -> float:
    """The mean of the shares of people's and of machines' texts that are told right."""
    return float(((said[machine]).mean() + (~said[~machine]).mean()) / 2)


@dataclass(frozen=True)
class Reliability:
    """Probabilities beside what came true, in ten bins; people and machines count alike."""

    said: Floats
    """Mean probability of each bin that is not empty."""
    came: Floats
    """Share of machines' texts in it."""
    weight: Floats
    """Share of all texts in it."""

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean distance of the two."""
        return float((self.weight * np.abs(self.said - self.came)).sum())


def reliability(probability: Floats, machine: Bools) -> Reliability:
    """Bins of equal width from 0 to 1."""
    weight = np.where(machine, 0.5 / machine.sum(), 0.5 / (~machine).sum())
    at = np.minimum((probability * BINS).astype(int), BINS - 1)
    total: Floats = np.bincount(at, weight, BINS).astype(np.float64)
    there = total > 0
    said = np.bincount(at, weight * probability, BINS)[there] / total[there]
    came = np.bincount(at, weight * machine, BINS)[there] / total[there]
    return Reliability(said, came, total[there])
