"""From what each item scored to one number with its interval, and from two models to a verdict."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.evaluation.measurement import Measurement

Sums = npt.NDArray[np.float64]
RESAMPLES, SEED = 2000, 0
# Numbers held at once while resampling.
_MOST_PICKS = 2**22


def ratio(sums_RK: Sums) -> Sums:
    """Numerator over denominator."""
    return sums_RK[..., 0] / sums_RK[..., 1]


def percent(sums_RK: Sums) -> Sums:
    """The same in percent."""
    return 100 * ratio(sums_RK)


def perplexity(sums_RK: Sums) -> Sums:
    """E to the mean: nats over the number of units they are of."""
    with np.errstate(over="ignore"):  # infinity is what a hopeless model gets
        return np.exp(ratio(sums_RK))


@dataclass(frozen=True)
class Score:
    """A number that is made of sums over items, so that items can be drawn again."""

    name: str
    unit: str
    sums: Sums
    """[N, K]: what each of N independent items adds, mostly a numerator and a denominator."""
    protocol: str
    form: Callable[[Sums], Sums] = percent
    """The number of sums over items [..., K]."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The number."""
        return float(self.form(self.sums.sum(0)))

    def measurement(self, data: str) -> Measurement:
        """The number with a 95 % bootstrap interval over items; data: digest of what it is of.

        Where none or all of the items are right, that would be no interval at all: then it is exact
        (Clopper and Pearson 1934).
        """
        n = len(self.sums)
        low = high = None
        if self._all_alike and self.value in (0.0, 100.0):
            chance = 100 * 0.025 ** (1 / n)
            low, high = (0.0, 100 - chance) if self.value == 0 else (chance, 100.0)
        elif n > 1:
            values = np.concatenate([self.form(s) for s in _resampled(self.sums)])
            low, high = (float(q) for q in np.nanquantile(values, [0.025, 0.975]))
        settings = {**self.settings, "resamples": RESAMPLES, "resampling_seed": SEED}
        return Measurement(
            self.name, self.value, self.unit, n, self.protocol, data, low, high, settings
        )

    @property
    def _all_alike(self) -> bool:
        """Whether items are right or wrong, and all of them the same."""
        return self.form is percent and bool((self.sums == [self.value / 100, 1]).all())


def mean(name: str, values: npt.ArrayLike, protocol: str, *, unit: str = "%", **more: Any) -> Score:
    """The share of items, in percent, for which something holds, or their mean in percent.

    more: of the score, such as another form than percent.
    """
    numerators = np.asarray(values, dtype=np.float64)
    sums = np.stack([numerators, np.ones_like(numerators)], -1)
    return Score(name, unit, sums, protocol, **more)


def jackknife(
    name: str, unit: str, value: float, without: Sums, protocol: str, data: str,
    settings: Mapping[str, Any],
) -> Measurement:  # fmt: skip
    """A number that no sums over items make, with an interval from leaving out each item in turn.

    without: the number without each of the N items. Drawing items again would not do: an item
    drawn twice makes texts look less varied, and histograms more alike, than they are.
    """
    n = len(without)
    error = 1.96 * float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    told = {**settings, "interval": "jackknife"}
    return Measurement(name, value, unit, n, protocol, data, value - error, value + error, told)


def point(curve: str, along: str, at: float, of: str = "") -> dict[str, Any]:
    """Settings of a score that is a point of a curve; of: which of several curves of that name."""
    return {"curve": curve, "of": of, "along": along, "at": at}


def _resampled(sums_NK: Sums) -> Iterator[Sums]:
    """Sums over as many items drawn with replacement, RESAMPLES times, some at a time."""
    rng = np.random.default_rng(SEED)
    n = len(sums_NK)
    step = max(1, _MOST_PICKS // (n * sums_NK.shape[1]))
    for start in range(0, RESAMPLES, step):
        picks = rng.integers(n, size=(min(step, RESAMPLES - start), n))
        yield sums_NK[picks].sum(1)


@dataclass(frozen=True)
class Difference:
    """How much one model's number is above another's on the same items."""

    value: float
    low: float
    high: float
    """95 % interval of the paired bootstrap."""
    p: float
    """Two-sided: how often a difference of no sign at all would look as one-sided as this."""


def difference(a: Score, b: Score) -> Difference:
    """B's number minus A's; the items of both are drawn again together."""
    both = np.concatenate([a.sums, b.sums], axis=1)
    k = a.sums.shape[1]
    values = np.concatenate([b.form(s[:, k:]) - a.form(s[:, :k]) for s in _resampled(both)])
    low, high = np.quantile(values, [0.025, 0.975])
    # Counting the sample itself keeps p above 0.
    below, above = (1 + (values <= 0).sum()), (1 + (values >= 0).sum())
    p = min(1.0, 2 * min(below, above) / (RESAMPLES + 1))
    return Difference(b.value - a.value, float(low), float(high), float(p))
