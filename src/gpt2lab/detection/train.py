"""From a set of texts to calibrated detectors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2lab import __version__
from gpt2lab.detection.calibrate import FEWEST, Calibration, Scored, pieces
from gpt2lab.detection.detectors import ENSEMBLE, KINDS, Detector, Ensemble, Lesson
from gpt2lab.detection.detectors.logistic import HUMAN
from gpt2lab.detection.panel import Panel, Scorer
from gpt2lab.detection.reading import Reader, Reading
from gpt2lab.detection.samples import Sample, Set
from gpt2lab.errors import UserError
from gpt2lab.evaluation.subject import Step, Subject, silent
from gpt2lab.model.quantize import require_floats
from gpt2lab.model.transformer import GPT2

# Detectors that are trained unless others are named; the other two want one more model.
USUAL = ("stats", "trees", "curvature", "tfidf")
WHO = {False: "people", True: "machines"}
# One that takes too long to be trained again without each domain.
SLOW = "finetuned"
SEEDS = 2**32
# Fewest tokens of the beginnings that are learned from beside whole texts.
SHORTEST = 30


@dataclass(frozen=True)
class Read:
    """Samples with what models made of them."""

    samples: Sequence[Sample]
    readings: Sequence[Reading]

    def pairs(self) -> Iterator[tuple[Sample, Reading]]:
        """Each sample with its reading."""
        return zip(self.samples, self.readings, strict=True)

    def where(self, wanted: Sequence[bool]) -> "Read":
        """Some of them."""
        at = [i for i, one in enumerate(wanted) if one]
        return Read([self.samples[i] for i in at], [self.readings[i] for i in at])

    def split(self, name: str) -> "Read":
        """Those of a split."""
        return self.where([s.split == name for s in self.samples])

    def without(self, domain: str) -> "Read":
        """Those of other domains."""
        return self.where([s.domain != domain for s in self.samples])

    def people(self, domain: str) -> "Read":
        """People's texts of a domain."""
        return self.where([s.domain == domain and not s.machine for s in self.samples])

    def untested(self) -> "Read":
        """Those that no figure is of."""
        return self.where([s.split != "test" for s in self.samples])

    @property
    def domains(self) -> list[str]:
        """The kinds of people's texts."""
        return sorted({s.domain for s in self.samples})

    def lesson(self, scorers: Sequence[str], **more: Any) -> Lesson:
        """As detectors learn from them."""
        kinds = [s.sampler or "machine" if s.machine else HUMAN for s in self.samples]
        if len({kind == HUMAN for kind in kinds}) < 2:
            raise UserError("the texts to learn from are all people's or all machines'; add others")
        return Lesson(self.readings, kinds, [s.document for s in self.samples], scorers, **more)

    def and_beginnings(self, seed: int) -> "Read":
        """The same with the beginning of each text that is learned from, of a length drawn."""
        rng = np.random.default_rng(seed)
        more = [
            (sample, reading.part(0, int(np.exp(rng.uniform(low, high)))))
            for sample, reading in self.pairs()
            if sample.split in ("train", "blend") and len(reading) > SHORTEST
            for low, high in [(np.log(SHORTEST), np.log(len(reading)))]
        ]
        return Read([*self.samples, *(s for s, _ in more)], [*self.readings, *(r for _, r in more)])

    def at_lengths(self, seed: int) -> "Read":
        """Each text cut to every length that it is compared at."""
        rng = np.random.default_rng(seed)
        cut = [
            (sample, reading.part(0, end))
            for sample, reading in self.pairs()
            for end in pieces(len(reading), rng)
        ]
        return Read([s for s, _ in cut], [r for _, r in cut])


def read(reader: Reader, samples: Sequence[Sample], *, cross: bool = False) -> Read:
    """Read samples; those of fewer than two tokens are left out."""
    readings = reader.read([s.text for s in samples], cross=cross)
    found = Read(samples, readings)
    return found.where([len(r) > 1 for r in readings])


def train(
    texts: Set,
    reader: Reader,
    names: Sequence[str] = USUAL,
    *,
    sources: Mapping[str, str] | None = None,
    backbone: Subject | None = None,
    seed: int = 0,
    step: Step = silent,
) -> Panel:
    """Train and calibrate detectors; an ensemble is added where there are two or more.

    sources: where each of the reader's models is. backbone: what `finetuned` begins from.
    Raises UserError for a detector that is not known or lacks a model, or texts too few.
    """
    for name in names:
        if name not in KINDS:
            raise UserError(f"no detector {name!r}; there are {', '.join(KINDS)}")
        if KINDS[name].models > len(reader.names):
            raise UserError(f"{name} reads with two models; name a second one with --models")
    if not 0 <= seed < SEEDS:
        raise UserError(f"--seed is {seed}; it must be from 0 to {SEEDS - 1}")
    if not names or len(set(names)) < len(names):
        raise UserError("name one detector or more, each once")
    if SLOW in names and not backbone:
        raise UserError(f"{SLOW} needs a model to begin from; name one with --backbone")
    if backbone:
        require_floats(backbone.model)
    if backbone and backbone.tokenizer.digest != reader.tokenizer.digest:
        raise UserError("the --backbone has other tokens than the models; name one of theirs")
    cross = any(KINDS[name].cross for name in names)
    samples = texts.split("train", "blend", "calibrate")
    found = read(reader, samples, cross=cross)
    _require_splits(found, names)
    lessons = found.and_beginnings(seed)
    model = backbone.model if backbone else None
    scorers = tuple(
        Scorer(name, (sources or {}).get(name, name), s.digest)
        for name, s in reader.scorers.items()
    )
    facts = {
        "gpt2lab": __version__,
        "set": texts.manifest["sha256"],
        "texts": texts.manifest["texts"],
        "generators": texts.manifest["generators"],
        "samplers": texts.samplers,
        "domains": texts.domains,
        "seed": seed,
    }
    panel = teach(lessons, scorers, names, backbone=model, seed=seed, step=step)
    quick = [name for name in names if name != SLOW]

    def without(domain: str) -> Panel:
        with step(f"detectors that know nothing of {domain}"):
            return teach(lessons.without(domain), scorers, quick, seed=seed)

    return replace(calibrate(panel, found, seed, without), facts=facts)


def _require_splits(found: Read, names: Sequence[str]) -> None:
    """What is learned last must be there before anything is learned."""
    parts = {"": found}
    if len(found.domains) > 1:
        parts |= {f" without {domain}": found.without(domain) for domain in found.domains}
    splits = ("train", "blend") if len(names) > 1 else ("train",)
    for without, part in parts.items():
        for split in splits:
            there = {s.machine for s in part.split(split).samples}
            if missing := [who for who in WHO if who not in there]:
                raise UserError(
                    f"the split {split}{without} has no text of {WHO[missing[0]]}; collect more "
                    "documents of each domain"
                )
    people = [len(r) for s, r in found.split("calibrate").pairs() if not s.machine]
    if max(people, default=0) < FEWEST:
        raise UserError(
            f"there is no human text of {FEWEST} tokens to calibrate on; collect longer texts"
        )


def teach(
    found: Read,
    scorers: Sequence[Scorer],
    names: Sequence[str],
    *,
    backbone: GPT2 | None = None,
    seed: int = 0,
    step: Step = silent,
) -> Panel:
    """Detectors from the split `train`, and an ensemble of them from `blend`."""
    read_with = [s.name for s in scorers]
    lesson = found.split("train").lesson(read_with, backbone=backbone, seed=seed, step=step)
    detectors: dict[str, Detector] = {}
    for name in names:
        with step(f"training {name}"):
            detectors[name] = KINDS[name].fit(lesson)
    ensemble = None
    if len(names) > 1:
        blend = found.split("blend").lesson(read_with)
        with step(f"training {ENSEMBLE}"):
            scores = {name: d.score(blend.readings) for name, d in detectors.items()}
            ensemble = Ensemble.fit(scores, blend.kinds, blend.documents)
    return Panel(tuple(scorers), detectors, ensemble, {}, 1)


def calibrate(panel: Panel, found: Read, seed: int, without: Callable[[str], Panel]) -> Panel:
    """The panel with its calibrations.

    For texts of a domain that is told, human texts of the split `calibrate` are scored. For others
    the question is how texts of a domain score that detectors know nothing of, so people's texts of
    each domain in turn are scored by detectors that are taught without it.
    """
    cut = found.split("calibrate").at_lengths(seed)
    known = _scored(panel, cut)
    blind: dict[str, list[Scored]] = {name: [] for name in panel.names}
    if len(found.domains) > 1 and set(panel.detectors) != {SLOW}:
        for domain in found.domains:
            outside = found.people(domain).untested().at_lengths(seed)
            for name, scores in _scored(without(domain), outside).items():
                if name in blind and (name != ENSEMBLE or SLOW not in panel.detectors):
                    blind[name] += scores
    calibrations = {name: Calibration.fit(known[name], blind[name]) for name in panel.names}
    longest = max(len(r) for s, r in cut.pairs() if not s.machine)
    decides = calibrations[panel.names[0]]
    return replace(panel, calibrations=calibrations, longest=decides.reach(longest))


def _scored(panel: Panel, found: Read) -> dict[str, list[Scored]]:
    """Every detector's scores of texts."""
    scores = panel.scores(found.readings, panel.names)
    return {
        name: [
            Scored(float(score), len(reading), sample.machine, sample.domain)
            for score, reading, sample in zip(of, found.readings, found.samples, strict=True)
        ]
        for name, of in scores.items()
    }
