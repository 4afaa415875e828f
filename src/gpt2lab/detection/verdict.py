"""A verdict on a text: one of three, with the p-value behind it, and what to keep in mind.

It is never that a person wrote it: that no model's marks were found is no evidence of a person. A
text longer than the human ones it is compared with is cut into windows, each read by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from gpt2lab.detection.calibrate import (
    ALL,
    FEWEST,
    Calibration,
    PValue,
    combined,
    rate_of_each,
    spans,
)
from gpt2lab.detection.conditions import Condition, conditions, unfit
from gpt2lab.detection.detectors.stats import Stats
from gpt2lab.detection.features import Floats
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.reading import Reader, Reading, concatenated
from gpt2lab.errors import UserError

if TYPE_CHECKING:
    from gpt2lab.evaluation.overlap import Training

LIKELY, INCONCLUSIVE, NOTHING = "likely generated", "inconclusive", "no evidence"
# Up to so many times the rate of false positives a p-value is neither.
_MARGIN = 10
# The share of word 8-grams known from a training text from which that is told.
_FAMILIAR = 0.2
# Tokens of one text: a minute of reading or so with a small model.
MOST_TOKENS = 250_000


@dataclass(frozen=True)
class Setup:
    """How texts are judged."""

    fpr: float = 0.01
    """Of people's texts, how many may be called likely generated."""
    prior: float = 0.5
    """The share of machines' texts among all that are judged, for probabilities."""
    domain: str | None = None
    """The kind of text; if not given, it must stand out from every kind that has texts enough."""
    detector: str | None = None
    """The detector that decides; the ensemble, or the first, if not given."""

    def __post_init__(self) -> None:
        for name, low, high in (("fpr", 0, 0.5), ("prior", 0, 1)):
            if not low < getattr(self, name) < high:
                raise UserError(
                    f"--{name} is {getattr(self, name)}; it must be above {low} and below {high}"
                )


@dataclass(frozen=True)
class Window:
    """Part of a text: tokens from start to end."""

    start: int
    end: int
    score: float
    p: float


@dataclass(frozen=True)
class Verdict:
    """What is said of a text."""

    verdict: str | None
    """LIKELY, INCONCLUSIVE or NOTHING; None for a text too short for any."""
    p: float | None
    """Of human texts like it, this one counted, how many score as high; None if nothing is sure."""
    compared_with: int
    """How many human texts that is of, at least."""
    domain: str
    score: float | None
    probability: float | None
    """That a machine wrote it, if `prior` of all texts are machines'; None for windows."""
    predictive_value: float | None
    """Of texts called likely generated, how many are, if `prior` are: None if not measured."""
    tokens: int
    detector: str
    fpr: float
    prior: float
    conditions: list[Condition]
    scores: dict[str, float] = field(default_factory=dict)
    """Of every detector that was asked."""
    like: str = ""
    """The sampler whose texts it is most like, by `stats`."""
    reasons: list[tuple[str, float, float]] = field(default_factory=list)
    """What `stats` found for that, and against: name, value, log-odds that it adds."""
    windows: list[Window] = field(default_factory=list)


class Judge:
    """Detectors with the models they read with."""

    def __init__(
        self, panel: Panel, reader: Reader, setup: Setup, training: "Training | None" = None
    ) -> None:
        self.panel, self.reader, self.setup = panel, reader, setup
        self.name = panel.require(setup.detector or panel.names[0])
        self.training = training
        if setup.domain is not None:
            self.calibration.p(0.0, FEWEST, setup.domain)  # refuses a domain that is not known

    @property
    def calibration(self) -> Calibration:
        """Of the detector that decides."""
        return self.panel.calibrations[self.name]

    def judge(self, texts: Sequence[str], where: Sequence[str]) -> list[tuple[Verdict, Reading]]:
        """Judge texts; each verdict comes with what the first model made of the text.

        where: what texts are called in errors. Among several one that is no text gets no verdict;
        one alone raises UserError.
        """
        problems = [unfit(text) for text in texts]
        if len(texts) == 1 and problems[0]:
            raise UserError(f"{where[0]} {problems[0]}")
        whole = []
        for i, text in enumerate(texts):
            ids = self.reader.ids("" if problems[i] else text)
            if len(ids) > MOST_TOKENS:
                raise UserError(
                    f"{where[i]} has {len(ids):,} tokens; a verdict is of one document of at most "
                    f"{MOST_TOKENS:,}: split it"
                )
            whole.append(ids)
        longest = self.panel.longest
        cut = [[ids[a:b] for a, b in spans(len(ids), longest)] for ids in whole]
        readings = iter(
            self.reader.read_ids(
                [part for parts in cut for part in parts],
                best=10, cross=self.panel.cross(self.panel.names),
            )
        )  # fmt: skip
        found = []
        for text, problem, parts in zip(texts, problems, cut, strict=True):
            mine = [next(readings) for _ in parts]
            told = [Condition("no text", f"it {problem}", True)] if problem else []
            tokens = sum(map(len, mine))
            told = told or self._conditions(text, tokens)
            found.append((self._verdict(mine, told), joined(mine)))
        return found

    def _verdict(self, parts: list[Reading], told: list[Condition]) -> Verdict:
        tokens = sum(map(len, parts))
        empty = Verdict(
            None, None, 0, self.setup.domain or ALL, None, None, None, tokens, self.name,
            self.setup.fpr, self.setup.prior, told,
        )  # fmt: skip
        if tokens < FEWEST:
            return empty
        scores = self.panel.scores(parts, self.panel.names)
        windows, values = self._windows(parts, scores[self.name])
        p = combined(values)
        weakest = min(values, key=lambda v: v.n)
        least = weakest.least * self.setup.fpr / rate_of_each(self.setup.fpr, len(values))
        margin = min(0.5, _MARGIN * self.setup.fpr)
        if least > self.setup.fpr:
            told.append(_too_few(weakest.n, self.setup.fpr, blocks=p <= margin or least > margin))
        if weakest.blind:
            told.append(
                Condition(
                    "few of the domain",
                    f"texts of {weakest.domain} are scarce at this length, so it is compared with "
                    f"{weakest.n} that were scored by detectors that know nothing of the domain",
                )
            )
        if self.setup.domain is None:
            told.append(self._any_domain(parts))
        verdict = LIKELY if p <= self.setup.fpr else INCONCLUSIVE
        if p > margin:
            verdict = NOTHING
        blocked = any(c.blocks for c in told)
        if blocked:
            verdict = INCONCLUSIVE
        means = {name: float(of.mean()) for name, of in scores.items()}
        score, length = means[self.name], min(map(len, parts))
        stats = self.panel.detectors.get(Stats.name)
        strongest = parts[int(np.argmax(scores[self.name]))]
        like, reasons = stats.reasons(strongest) if isinstance(stats, Stats) else ("", [])
        return replace(
            empty,
            verdict=verdict, p=None if blocked else float(p), compared_with=weakest.n, score=score,
            scores=means,
            domain=max(values, key=lambda v: v.value).domain,
            probability=None if blocked or windows[1:]
            else self.calibration.probability(score, length, self.setup.prior),
            predictive_value=None if blocked or windows[1:] else self._predictive_value(length),
            like=like, reasons=reasons,
            windows=windows if len(windows) > 1 else [],
        )  # fmt: skip

    def _any_domain(self, parts: Sequence[Reading]) -> Condition:
        tokens = min(map(len, parts))
        small = self.calibration.too_small(tokens, self.setup.fpr, len(parts))
        known = [d for d in self.calibration.domains if d not in small]
        sentence = (
            f"no --domain is told, so the text must stand out from each of {', '.join(known)}"
            if known
            else "no --domain is told, and the text is compared with those of all together"
        )
        if small:
            sentence += f"; of {', '.join(small)} there are too few texts of this length"
        if self.calibration.blind is None:
            sentence += "; what this detector makes of other domains was not measured"
        return Condition("any domain", sentence)

    def _predictive_value(self, tokens: int) -> float | None:
        """Bayes' rule for a text that is called likely generated."""
        setup = self.setup
        found = self.calibration.sensitivity(tokens, setup.fpr, setup.domain)
        if found is None:
            return None
        true, false = setup.prior * found, (1 - setup.prior) * setup.fpr
        return true / (true + false)

    def _windows(
        self, parts: Sequence[Reading], scores: Floats
    ) -> tuple[list[Window], list[PValue]]:
        windows, values, start = [], [], 0
        for part, score in zip(parts, scores.tolist(), strict=True):
            p = self.calibration.p(score, len(part), self.setup.domain, self.setup.fpr, len(parts))
            values.append(p)
            windows.append(Window(start, start + len(part), score, p.value))
            start += len(part)
        return windows, values

    def _conditions(self, text: str, tokens: int) -> list[Condition]:
        found = conditions(text, tokens)
        if self.training is None:
            found.append(
                Condition(
                    "overlap unknown",
                    "whether the models were trained on this text was not checked; name what they "
                    "were trained on with --training",
                )
            )
        else:
            known, of = self.training.found(text)
            if of and known / of > _FAMILIAR:
                found.append(
                    Condition(
                        "familiar",
                        f"{100 * known / of:.0f} % of its word 8-grams are in "
                        f"{self.training.name}: text that models learned scores as their own",
                        True,
                    )
                )
        generators: Mapping[str, object] = self.panel.facts.get("generators", {})
        found.append(
            Condition(
                "generators",
                f"the detectors know texts of {', '.join(generators)}; those of other models are "
                "untested",
            )
        )
        return found


def _too_few(n: int, fpr: float, *, blocks: bool) -> Condition:
    return Condition(
        "few human texts",
        f"{n} human texts of this length are too few to find any text at a rate of false positives "
        f"of {fpr:g}; train with more, or ask for a higher --fpr",
        blocks,
    )


def joined(parts: Sequence[Reading]) -> Reading:
    """Windows of a text, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Reading(
        np.concatenate([p.ids for p in parts]),
        parts[0].tokenizer,
        tuple(concatenated(each) for each in zip(*(p.scores for p in parts), strict=True)),
    )
