"""From a score to a p-value that people's texts stand behind, and to a probability.

The p-value is conformal: the share of human texts of the same length and domain, this text counted
with them, that score as high. If a human text is drawn as those of its domain and length were, its
p-value is at most a with probability a at most, whatever the scores mean. That holds of a whole
range of lengths, not of each length in it, and as far as passages of one document are as unlike as
those of several; reports measure both.

A threshold does not travel between domains. Where the domain is not told the largest p-value of
all domains counts, and the human texts of each are scored by detectors that know nothing of it, as
those of a domain that none has seen would be. What that is worth is no theorem; reports measure it.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gpt2lab.detection.features import Floats
from gpt2lab.errors import UserError

# A text of so many tokens or more, up to the next number, is compared with human texts of such
# lengths; with fewer than the first there is no verdict.
LENGTHS = (50, 100, 200, 400)
FEWEST = LENGTHS[0]
ALL = "all domains"
# The rate of false positives that human texts of a domain must be enough for.
LOW = 0.01
Human = Mapping[str, Mapping[int, Floats]]


def length_of(tokens: int) -> int:
    """Which of LENGTHS a text belongs to."""
    return max(n for n in LENGTHS if n <= tokens)


def pieces(tokens: int, rng: np.random.Generator) -> list[int]:
    """Of a text, how long beginnings are compared at: one for each of LENGTHS that it reaches."""
    ends = [*LENGTHS[1:], max(tokens, LENGTHS[-1]) + 1]
    return [
        int(rng.integers(low, min(tokens + 1, high)))
        for low, high in zip(LENGTHS, ends, strict=True)
        if low <= tokens
    ]


@dataclass(frozen=True)
class PValue:
    """How often human texts score as high."""

    value: float
    n: int
    """Human texts it was compared with."""
    domain: str
    blind: bool = False
    """Whether those were scored by detectors that know nothing of their domain."""

    @property
    def least(self) -> float:
        """No p-value can be below this with so few texts."""
        return 1 / (self.n + 1)


def spans(tokens: int, longest: int) -> list[tuple[int, int]]:
    """From where to where a text is read by itself: as few windows as may be, alike in length."""
    count = max(1, -(-tokens // longest))
    edges = [tokens * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def combined(values: Sequence[PValue]) -> float:
    """One p-value for windows of a text: what half of them or more are below, and its price.

    The k-th smallest of K p-values times K / k is a p-value however they depend on each other
    (Rueger 1978; Vovk and Wang 2020, section 1).
    """
    half = _half(len(values))
    return min(1.0, sorted(v.value for v in values)[half - 1] * len(values) / half)


def rate_of_each(fpr: float, windows: int) -> float:
    """How low the p-values of half the windows must be for the one of all of them to be `fpr`."""
    return fpr * _half(windows) / windows


def _half(windows: int) -> int:
    return (windows + 1) // 2


@dataclass(frozen=True)
class Scored:
    """The score of a text, or of its beginning."""

    score: float
    tokens: int
    machine: bool
    domain: str


class Calibration:
    """Human scores by domain and length, machines' by length, and what odds a score means.

    blind: human scores by detectors that know nothing of their domain; None if there are none.
    machine: of the generators and samplers of the set, in its shares.
    """

    def __init__(
        self,
        human: Human,
        blind: Human | None,
        machine: Mapping[int, Floats],
        odds: Mapping[int, tuple[Floats, Floats]],
    ) -> None:
        self.human, self.blind, self.machine, self._odds = human, blind, machine, odds

    @classmethod
    def fit(cls, given: Sequence[Scored], blind: Sequence[Scored] = ()) -> Self:
        """Calibrate on texts that no detector learned from.

        blind: people's, scored by detectors that know nothing of their domain.
        Raises UserError if there are no human texts of 50 tokens.
        """
        curves: dict[int, list[Scored]] = {}
        for one in given:
            if one.tokens >= FEWEST:
                curves.setdefault(length_of(one.tokens), []).append(one)
        curves = {n: scored for n, scored in curves.items() if _both(scored)}
        machine = {
            n: np.sort([one.score for one in scored if one.machine]) for n, scored in curves.items()
        }
        odds = {n: _curve(scored) for n, scored in curves.items()}
        return cls(_human(given), _human(blind) if blind else None, machine, odds)

    @property
    def domains(self) -> list[str]:
        """Domains that there are human texts of."""
        return [d for d in self.human if d != ALL]

    def p(
        self,
        score: float,
        tokens: int,
        domain: str | None = None,
        fpr: float = LOW,
        windows: int = 1,
    ) -> PValue:
        """The p-value of a text, or of one of several windows of it.

        domain: None takes the largest of all domains that have texts enough to go as low as `fpr`
        and as 1 %, by scores of detectors that know nothing of them if there are such.
        Raises UserError for a domain that is not known.
        """
        length = length_of(tokens)
        if domain is not None:
            if domain not in self.domains:
                there = ", ".join(self.domains)
                raise UserError(f"no human texts of domain {domain!r}; there are {there}")
            known = _p(self.human, score, length, domain)
            if known.least > rate_of_each(fpr, windows) and self.blind and domain in self.blind:
                # More of its texts were scored by detectors that know nothing of them.
                more = replace(_p(self.blind, score, length, domain), blind=True)
                return more if more.n > known.n else known
            return known
        human = self.blind or self.human
        found = [_p(human, score, length, d) for d in human]
        low = self._able(length, fpr, windows)
        able = [p for p in found if p.least <= low]
        if not able:
            return next(p for p in found if p.domain == ALL)
        return max(able, key=lambda p: (p.value, p.domain))

    def reach(self, longest: int) -> int:
        """Most tokens of a text that is judged as one, where human texts have `longest` at most.

        Few texts may be of the last of LENGTHS. If no domain has enough there for a p-value of 1 %,
        but one has at the length before for windows, longer texts are judged in windows.
        """
        last = length_of(max(longest, FEWEST))
        before = [n for n in LENGTHS if n < last]
        none = len(self.too_small(last, LOW)) == len(self.domains)
        if before and none and len(self.too_small(before[-1], LOW, 2)) < len(self.domains):
            return last - 1
        return longest

    def _able(self, length: int, fpr: float, windows: int) -> float:
        """How low the least p-value of a domain must be for it to count.

        Were small domains to count at high rates alone, a higher rate could find less.
        """
        low = rate_of_each(min(fpr, LOW), windows)
        human = self.blind or self.human
        if any(_p(human, 0.0, length, d).least <= low for d in human):
            return low
        return rate_of_each(fpr, windows)

    def too_small(self, tokens: int, fpr: float, windows: int = 1) -> list[str]:
        """Domains that do not count where none is told, for they have too few texts so long."""
        human, length = self.blind or self.human, length_of(tokens)
        able = self._able(length, fpr, windows)
        return [d for d in human if d != ALL and _p(human, 0.0, length, d).least > able]

    def probability(self, score: float, tokens: int, prior: float = 0.5) -> float | None:
        """That a text is a machine's, if a share `prior` of all texts is.

        None where no machine's text of such a length was seen. Never nearer to 0 or 1 than the
        number of texts that were seen allows.
        """
        curve = self._odds.get(length_of(tokens))
        if curve is None:
            return None
        even = float(np.interp(score, *curve))
        odds = even / (1 - even) * prior / (1 - prior)
        return odds / (1 + odds)

    def sensitivity(self, tokens: int, fpr: float, domain: str | None = None) -> float | None:
        """The share of machines' texts of such a length with a p-value of at most `fpr`.

        None where none was seen.
        """
        scores = self.machine.get(length_of(tokens))
        if scores is None:
            return None
        # P-values fall as scores rise.
        missed = bisect_left(
            scores, True, key=lambda s: self.p(float(s), tokens, domain, fpr).value <= fpr
        )
        return 1 - missed / len(scores)

    def table(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "machine": {str(n): scores.tolist() for n, scores in self.machine.items()},
            "human": _told(self.human),
            "blind": _told(self.blind) if self.blind else None,
            "odds": {str(n): [x.tolist(), y.tolist()] for n, (x, y) in self._odds.items()},
        }

    @classmethod
    def of_table(cls, table: Any, where: str) -> Self:
        """Read what `table` gave; UserError if it is damaged."""
        try:
            human = _read(table["human"])
            blind = None if table["blind"] is None else _read(table["blind"])
            machine = {_known(n): _rising(scores) for n, scores in table["machine"].items()}
            odds = {_known(n): (_rising(x), _rising(y)) for n, (x, y) in table["odds"].items()}
            fine = all(
                len(x) == len(y) > 0 and y[0] > 0 and y[-1] < 1 for x, y in odds.values()
            )  # fmt: skip
            fine = fine and all(len(scores) for scores in machine.values())
            whole = ALL in human and (blind is None or ALL in blind)
            if fine and whole and machine.keys() == odds.keys():
                return cls(human, blind, machine, odds)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            pass
        raise UserError(f"{where} is damaged; train the detector again")


def _human(given: Sequence[Scored]) -> Human:
    """Scores of people's texts by domain, and of all together, by length, in order."""
    found: dict[str, dict[int, list[float]]] = {}
    for one in given:
        if not one.machine and one.tokens >= FEWEST:
            for domain in (one.domain, ALL):
                lengths = found.setdefault(domain, {})
                lengths.setdefault(length_of(one.tokens), []).append(one.score)
    if not found:
        raise UserError(
            f"there is no human text of {FEWEST} tokens to calibrate on; collect longer texts"
        )
    return {d: {n: np.sort(s) for n, s in lengths.items()} for d, lengths in found.items()}


def _p(human: Human, score: float, length: int, domain: str) -> PValue:
    scores = human[domain].get(length, np.empty(0))
    if not np.isfinite(score):
        raise UserError(f"a score is {score}, so a detector is damaged; train the detectors again")
    as_high = len(scores) - int(np.searchsorted(scores, score, side="left"))
    return PValue((1 + as_high) / (len(scores) + 1), len(scores), domain)


def _told(human: Human) -> dict[str, dict[str, list[float]]]:
    return {d: {str(n): s.tolist() for n, s in lengths.items()} for d, lengths in human.items()}


def _read(table: Any) -> Human:
    return {
        str(domain): {_known(n): _rising(scores) for n, scores in lengths.items()}
        for domain, lengths in table.items()
    }


def _known(length: str) -> int:
    return LENGTHS[LENGTHS.index(int(length))]


def _rising(values: Iterable[float]) -> Floats:
    found = np.array(values, np.float64)
    if found.ndim != 1 or not np.isfinite(found).all() or (np.diff(found) < 0).any():
        raise ValueError("not in order")
    return found


def _both(scored: Sequence[Scored]) -> bool:
    return len({one.machine for one in scored}) == 2


def _curve(scored: Sequence[Scored]) -> tuple[Floats, Floats]:
    """Isotonic regression of a machine's probability on the score, both kinds counting alike."""
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError:
        raise UserError("detectors need scikit-learn; pip install 'gpt2lab[detect]'") from None
    machine = np.array([one.machine for one in scored])
    weight = _weights(machine)
    least = 1 / (min(machine.sum(), (~machine).sum()) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    fitted.fit([one.score for one in scored], machine.astype(float), sample_weight=weight)
    return fitted.X_thresholds_, fitted.y_thresholds_


def _weights(machine: npt.NDArray[np.bool_]) -> Floats:
    return np.where(machine, len(machine) / machine.sum(), len(machine) / (~machine).sum()) / 2
