"""Sets read and scored: what the tables of an evaluation are made with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from gpt2lab.detection.calibrate import FEWEST, combined, spans
from gpt2lab.detection.features import Floats
from gpt2lab.detection.findings import Cell, Findings, Setup
from gpt2lab.detection.metrics import Bools, Rate
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.reading import Reader, Reading
from gpt2lab.detection.samples import Set
from gpt2lab.detection.train import Read, read
from gpt2lab.errors import UserError
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.subject import Step


@dataclass(frozen=True)
class Tried:
    """Texts of the test split at one length, with every detector's scores."""

    found: Read
    scores: Mapping[str, Floats]

    @property
    def machine(self) -> Bools:
        """Which are a machine's."""
        return np.array([s.machine for s in self.found.samples], bool)

    def among(self, wanted: Bools) -> "Tried":
        """Some of them, and all people's texts."""
        keep = wanted | ~self.machine
        scores = {name: s[keep] for name, s in self.scores.items()}
        return Tried(self.found.where(keep.tolist()), scores)

    def by(self, name: str, value: str) -> Bools:
        """Which have a value: sampler t1, generator reference-3M."""
        return np.array([getattr(s, name) == value for s in self.found.samples], bool)

    def of(self, detector: str) -> tuple[Floats, Bools]:
        """Scores, and whose texts they are of."""
        return self.scores[detector], self.machine


class Study:
    """Sets read, and what every table is made with."""

    def __init__(
        self, panel: Panel, reader: Reader, sets: Sequence[Set], setup: Setup, step: Step
    ) -> None:
        self.panel, self.reader, self.setup, self.step = panel, reader, setup, step
        if panel.facts.get("set") != sets[0].manifest["sha256"]:
            raise UserError(
                f"the detectors were not trained on {sets[0].folder}, so it may hold what they "
                "learned from; name their own set first"
            )
        self.first = sets[0]
        self.names = panel.names
        cross = panel.cross(self.names)
        self.whole = read(reader, sets[0].samples, cross=cross)
        self.test = self.whole.split("test")
        self.every = self.whole.and_beginnings(setup.seed)
        self.others = [(s, read(reader, s.samples, cross=cross)) for s in sets[1:]]
        self.at = self.cut(self.test, setup.tokens)
        counts = self.at.machine.sum(), (~self.at.machine).sum()
        if min(counts) < 20:
            raise UserError(
                f"the test split has only {counts[1]} texts of people and {counts[0]} of machines "
                f"with {setup.tokens} tokens; collect more, or ask for fewer --tokens"
            )
        facts = {
            "set": sets[0].manifest["sha256"], "generators": sets[0].manifest["generators"],
            "samplers": sets[0].manifest["samplers"], "domains": sets[0].domains,
            "human": int(counts[1]), "machine": int(counts[0]),
            "documents": len({s.document for s in self.at.found.samples}),
            "setup": asdict(setup), "scorers": {s.name: s.weights for s in panel.scorers},
        }  # fmt: skip
        self.findings = Findings(setup, facts)

    def cut(self, found: Read, tokens: int) -> Tried:
        """Texts that have so many tokens, cut to them."""
        long = found.where([len(r) >= tokens for r in found.readings])
        cut = Read(long.samples, [r.part(0, tokens) for r in long.readings])
        return Tried(cut, self.panel.scores(cut.readings, self.names))

    def record(
        self,
        name: str,
        value: float,
        n: int,
        how: str,
        interval: tuple[float, float] | None = None,
    ) -> Cell:
        """A figure, kept with how many texts it is of, what it is, and its 95 % interval."""
        low, high = interval or (None, None)
        told = {"tokens": self.setup.tokens, "seed": self.setup.seed}
        digest = self.first.manifest["sha256"]
        self.findings.measurements.append(
            Measurement(name, value, "", n, how, digest, low, high, told)
        )
        return Cell(value, interval)

    def rate(self, name: str, rate: Rate, how: str) -> Cell | None:
        """A share, kept with its exact interval; None of no texts."""
        return self.record(name, rate.value, rate.n, how, rate.interval) if rate.n else None

    def human(self, found: Read) -> Read:
        """People's texts that are long enough for a verdict."""
        return found.where([not s.machine and len(r) >= FEWEST for s, r in found.pairs()])

    def called(self, panel: Panel, found: Read, name: str, fpr: float, *, told: bool) -> Rate:
        """How many texts have a p-value of at most `fpr`; told: whether their domain is."""
        texts = [
            [r.part(*span) for span in spans(len(r), panel.longest)]
            if len(r) > panel.longest
            else [r]
            for r in found.readings
        ]
        domains = [s.domain if told else None for s in found.samples]
        return self.called_together(panel, texts, domains, name, fpr)

    def called_together(
        self,
        panel: Panel,
        texts: Sequence[Sequence[Reading]],
        domains: Sequence[str | None],
        name: str,
        fpr: float,
    ) -> Rate:
        """The same of texts that are given as windows."""
        parts = [part for text in texts for part in text]
        scores = iter(panel.scores(parts, [name])[name].tolist())
        p = panel.calibrations[name].p
        hits = [
            combined([p(next(scores), len(part), domain, fpr, len(text)) for part in text]) <= fpr
            for text, domain in zip(texts, domains, strict=True)
        ]
        return Rate.of(np.array(hits, bool))

    def probability(self, tried: Tried, name: str) -> Floats | None:
        """That machines wrote texts, were half machines'; None if a length was not calibrated."""
        calibration = self.panel.calibrations[name]
        pairs = zip(tried.scores[name], tried.found.readings, strict=True)
        said = [calibration.probability(float(score), len(r)) for score, r in pairs]
        known = [p for p in said if p is not None]
        return np.array(known) if len(known) == len(said) else None
