"""The tables of an evaluation; see `evaluate`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpt2lab.detection import metrics
from gpt2lab.detection.attacks import ATTACKS, attack
from gpt2lab.detection.calibrate import FEWEST, LENGTHS
from gpt2lab.detection.conditions import conditions
from gpt2lab.detection.detectors import ENSEMBLE
from gpt2lab.detection.detectors.stats import Stats
from gpt2lab.detection.features import Floats
from gpt2lab.detection.findings import RATES, Findings, Setup, Table
from gpt2lab.detection.metrics import Bools, Rate
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.reading import Reader, Reading
from gpt2lab.detection.samples import Sample, Set
from gpt2lab.detection.train import SLOW, Read, calibrate, read, teach
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
    """Sets read, and one method a group of tables."""

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
        self.at = self._cut(self.test, setup.tokens)
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

    def _cut(self, found: Read, tokens: int) -> Tried:
        """Texts that have so many tokens, cut to them."""
        long = found.where([len(r) >= tokens for r in found.readings])
        cut = Read(long.samples, [r.part(0, tokens) for r in long.readings])
        return Tried(cut, self.panel.scores(cut.readings, self.names))

    def _record(
        self, name: str, value: float, n: int, how: str, interval: tuple[float, float] | None
    ) -> float:
        low, high = interval or (None, None)
        told = {"tokens": self.setup.tokens, "seed": self.setup.seed}
        digest = self.first.manifest["sha256"]
        self.findings.measurements.append(
            Measurement(name, value, "", n, how, digest, low, high, told)
        )
        return value

    def overall(self) -> Iterator[Table]:
        rows: dict[str, list[float | None]] = {}
        documents = [s.document for s in self.at.found.samples]
        for name in self.names:
            scores, machine = self.at.of(name)
            area = metrics.auroc(scores, machine)
            interval = metrics.auroc_interval(scores, machine, documents)
            how = "test split, all samplers and generators; documents are resampled"
            self._record(f"AUROC[{name}]", area, len(set(documents)), how, interval)
            rates = [metrics.tpr(scores, machine, fpr) for fpr in RATES]
            for fpr, rate in zip(RATES, rates, strict=True):
                how = f"machines' texts above all but {fpr:.1%} of people's; exact interval"
                self._record(
                    f"TPR at {fpr:.1%} FPR[{name}]", rate.value, rate.n, how, rate.interval
                )
            probability = self._probability(self.at, name)
            right = metrics.accuracy(probability >= 0.5, machine)
            curve = metrics.reliability(probability, machine)
            how = "probability of 0.5 or more; the mean over people's and machines' texts"
            self._record(f"accuracy[{name}]", right, len(scores), how, None)
            self._record(f"ECE[{name}]", curve.ece, len(scores), "ten bins of equal width", None)
            self.findings.curves[name] = curve
            self.findings.roc[name] = _roc(scores, machine)
            rows[name] = [area, *(r.value for r in rates), right, curve.ece]
        human, of = int((~self.at.machine).sum()), int(self.at.machine.sum())
        columns = ["AUROC", *(f"TPR at {fpr:.1%} FPR" for fpr in RATES), "accuracy", "ECE"]
        yield Table(
            f"Detectors, texts of {self.setup.tokens} tokens", "detector", columns, rows,
            f"{human:,} texts of people, {of:,} of machines, all samplers and generators, of "
            f"{len(set(documents)):,} documents: exact intervals take them for independent. "
            "Thresholds are of the test split's own people's texts; accuracy is the mean of both "
            "kinds'. "
            + _fine(human),
        )  # fmt: skip

    def lengths(self) -> Iterator[Table]:
        columns = [str(n) for n in LENGTHS]
        kinds: dict[str, dict[str, list[float | None]]] = {"AUROC": {}, "accuracy": {}}
        counts = []
        for tokens in LENGTHS:
            tried = self._cut(self.test, tokens)
            counts.append(f"{tokens}: {int((~tried.machine).sum())}+{int(tried.machine.sum())}")
            fit = 0 < tried.machine.sum() < len(tried.machine)
            for name in self.names:
                scores, machine = tried.of(name)
                said = self._probability(tried, name) >= 0.5 if fit else None
                area = metrics.auroc(scores, machine) if fit else None
                right = metrics.accuracy(said, machine) if said is not None else None
                kinds["AUROC"].setdefault(name, []).append(area)
                kinds["accuracy"].setdefault(name, []).append(right)
        for kind, rows in kinds.items():
            yield Table(
                f"{kind} by length", "detector \\ tokens", columns, rows,
                f"Texts cut to so many tokens (people's + machines': {', '.join(counts)}).",
            )  # fmt: skip

    def samplers(self) -> Iterator[Table]:
        yield from self._each("sampler", self.first.samplers)

    def generators(self) -> Iterator[Table]:
        yield from self._each("generator", self.first.generators)

    def _each(self, what: str, values: Sequence[str]) -> Iterator[Table]:
        for kind in ("AUROC", "TPR at 1 % FPR", "accuracy"):
            rows: dict[str, list[float | None]] = {name: [] for name in self.names}
            for value in values:
                some = self.at.among(self.at.by(what, value))
                for name in self.names:
                    scores, machine = some.of(name)
                    if kind == "accuracy":
                        said = self._probability(some, name) >= 0.5
                        found = metrics.accuracy(said, machine)
                        self._record(
                            f"accuracy[{name}, {value}]", found, len(scores),
                            "probability of 0.5 or more", None,
                        )  # fmt: skip
                    elif kind == "AUROC":
                        found = metrics.auroc(scores, machine)
                    else:
                        found = metrics.tpr(scores, machine, 0.01).value
                    rows[name].append(found)
            yield Table(
                f"{kind} by {what}", f"detector \\ {what}", list(values), rows,
                f"Of each {what}'s texts and all people's, {self.setup.tokens} tokens.",
            )  # fmt: skip

    def across_generators(self) -> Iterator[Table]:
        """OpenAI's picture: who wrote, and who reads."""
        readers = [name for name in self.first.generators if name in self.reader.names]
        rows: dict[str, list[float | None]] = {}
        for wrote in self.first.generators:
            some = self.at.among(self.at.by("generator", wrote))
            row: list[float | None] = []
            for name in readers:
                scores = self._stats(name, lambda s, name=name: s.generator == name).score(
                    _with(some.found, self.reader.names.index(name))
                )
                area = metrics.auroc(scores, some.machine)
                how = f"stats taught with texts of {name}, which reads; test split"
                self._record(f"AUROC[{wrote} seen by {name}]", area, len(scores), how, None)
                row.append(area)
            rows[wrote] = row
        if readers:
            yield Table(
                "AUROC by who wrote and who reads", "wrote \\ reads", readers, rows,
                "`stats` taught with the texts of one model, which it reads with, on the texts of "
                "each.",
            )  # fmt: skip

    def across_samplers(self) -> Iterator[Table]:
        rows: dict[str, list[float | None]] = {}
        first = self.reader.names[0]
        for taught in self.first.samplers:
            made = self._stats(first, lambda s, taught=taught: s.sampler == taught)
            row: list[float | None] = []
            for drawn in self.first.samplers:
                some = self.at.among(self.at.by("sampler", drawn))
                row.append(metrics.auroc(made.score(_with(some.found, 0)), some.machine))
            rows[taught] = row
        yield Table(
            "AUROC by sampler of learning and of test", "taught \\ tried", self.first.samplers,
            rows, f"`stats`, reading with {first}, taught with texts of one sampler.",
        )  # fmt: skip

    def _stats(self, reads: str, wanted: Any) -> Stats:
        """`stats` with one model, taught with some machines' texts and all people's."""
        index = self.reader.names.index(reads)
        train = self.every.split("train")
        some = train.where([not s.machine or wanted(s) for s in train.samples])
        lesson = replace(some.lesson([reads]), readings=_with(some, index))
        return Stats.fit(lesson)

    def false_positives(self) -> Iterator[Table]:
        """Of the test split's people, by the calibration as it is used."""
        human = self._human(self.test)
        for known in (True, False):
            rows = {
                name: [self._realised(self.panel, human, name, fpr, known)
                       for fpr in RATES]
                for name in self.names
            }  # fmt: skip
            for name, found in rows.items():
                for fpr, rate in zip(RATES, found, strict=True):
                    how = "domain told" if known else "domain not told: the largest p of all"
                    self._record(
                        f"FPR at {fpr:.1%}[{name}, {how}]", rate.value, rate.n,
                        "people's texts of the test split, whole", rate.interval,
                    )  # fmt: skip
            how = "told" if known else "not told"
            yield Table(
                f"Rate of false positives, domain {how}", "detector",
                [f"nominal {fpr:.1%}" for fpr in RATES],
                {name: [r.value for r in found] for name, found in rows.items()},
                f"{len(human.samples):,} texts of people, whole: how many have a p-value of at "
                "most the nominal rate. "
                + ("" if known else "Of every domain with texts enough the largest counts."),
                percent=True,
            )  # fmt: skip

    def found(self) -> Iterator[Table]:
        """What the p-values that verdicts rest on find."""
        least = self.setup.tokens
        machine = self.test.where([s.machine and len(r) >= least for s, r in _pairs(self.test)])
        columns = ["5.0 %, told", "1.0 %, told", "5.0 %, not told", "1.0 %, not told"]
        rows: dict[str, list[float | None]] = {name: [] for name in self.names}
        for known in (True, False):
            for fpr in RATES[:2]:
                for name in self.names:
                    rate = self._realised(self.panel, machine, name, fpr, known)
                    how = "domain told" if known else "domain not told"
                    self._record(
                        f"found at {fpr:.1%}[{name}, {how}]", rate.value, rate.n,
                        f"machines' texts of {least} tokens or more, by their p-values",
                        rate.interval,
                    )  # fmt: skip
                    rows[name].append(rate.value)
        yield Table(
            "Machines' texts that are called likely generated", "detector \\ rate, domain", columns,
            rows,
            f"{len(machine.samples):,} texts of {least} tokens or more, whole, by the p-values of "
            "verdicts. Where no domain is told, a text must stand out from all of them.",
            percent=True,
        )  # fmt: skip

    def held_out(self) -> Iterator[Table]:
        """Detectors that are taught and calibrated without a domain, on that domain's people."""
        members = [n for n in self.panel.detectors if n != SLOW]
        if len(self.first.domains) < 2 or not members:
            return
        alike = SLOW not in self.panel.detectors  # an ensemble without a member is another one
        names = [ENSEMBLE] * (alike and self.panel.ensemble is not None) + members
        taught: dict[frozenset[str], Panel] = {}

        def without(*domains: str) -> Panel:
            """Of two domains either may be the one that is tried."""
            key = frozenset(domains)
            if key not in taught:
                known = [s.domain not in key for s in self.every.samples]
                taught[key] = teach(self.every.where(known), self.panel.scorers, members)
            return taught[key]

        rows: dict[str, list[float | None]] = {}
        totals = {n: [0, 0] for n in names}
        with self.step("detectors without a domain") as on_progress:
            for number, domain in enumerate(self.first.domains, start=1):
                inside, seed = self.whole.without(domain), self.setup.seed
                panel = calibrate(without(domain), inside, seed, partial(without, domain))
                outside = self._human(self.whole.people(domain))
                row: list[float | None] = []
                for name in names:
                    rate = self._realised(panel, outside, name, 0.01, False)
                    totals[name][0] += rate.count
                    totals[name][1] += rate.n
                    row.append(rate.value)
                rows[domain] = row
                on_progress(number / len(self.first.domains))
        rows["all"] = [Rate(*totals[n]).value for n in names]
        for name in names:
            rate = Rate(*totals[name])
            self._record(
                f"FPR at 1.0%[{name}, held-out domains]", rate.value, rate.n,
                "each domain judged by detectors taught and calibrated without it", rate.interval,
            )  # fmt: skip
        yield Table(
            "Rate of false positives on a domain that nothing was learned from, nominal 1 %",
            "domain \\ detector", names, rows,
            f"{totals[names[0]][1]:,} texts of people. Detectors are taught and calibrated anew "
            "without each domain in turn, which is then judged as one that is not told.",
            percent=True,
        )  # fmt: skip

    def _human(self, found: Read) -> Read:
        """People's texts that are long enough for a verdict."""
        return found.where([not s.machine and len(r) >= FEWEST for s, r in _pairs(found)])

    def _realised(self, panel: Panel, human: Read, name: str, fpr: float, known: bool) -> Rate:
        scores = panel.scores(human.readings, [name])[name]
        p = panel.calibrations[name].p
        hits = [
            p(float(score), len(r), s.domain if known else None, fpr).value <= fpr
            for score, r, s in zip(scores, human.readings, human.samples, strict=True)
        ]
        return Rate.of(np.array(hits, bool))

    def attacks(self) -> Iterator[Table]:
        human = {name: self.at.scores[name][~self.at.machine] for name in self.names}
        rng = np.random.default_rng(self.setup.seed)
        machine = np.flatnonzero(self.at.machine)
        chosen = rng.permutation(machine)[: self.setup.attacked]
        texts = [self.at.found.readings[i].text for i in chosen]
        rows: dict[str, list[float | None]] = {}
        cross = self.panel.cross(self.names)
        for attacked in ("none", *ATTACKS):
            changed = [
                t if attacked == "none" else attack(attacked, t, self.setup.seed + i)
                for i, t in enumerate(texts)
            ]
            readings = [
                r.part(0, self.setup.tokens) for r in self.reader.read(changed, cross=cross)
            ]
            scores = self.panel.scores(readings, self.names)
            row: list[float | None] = []
            for name in self.names:
                rate = Rate.of(scores[name] > metrics.threshold(human[name], 0.05))
                how = f"attack: {attacked}; threshold of people's texts that are not attacked"
                self._record(
                    f"TPR at 5.0% FPR[{name}, {attacked}]", rate.value, rate.n, how, rate.interval
                )
                row.append(rate.value)
            pairs = zip(changed, readings, strict=True)
            refused = [any(c.blocks for c in conditions(t, len(r))) for t, r in pairs]
            rows[attacked] = [*row, float(np.mean(refused))]
        yield Table(
            "Share found at 5 % FPR, after attacks", "attack \\ detector",
            [*self.names, "refused"], rows,
            f"{len(texts)} texts of machines; thresholds are of people's texts as they are. "
            "`refused` is the share that gets no confident verdict because of what is in the text. "
            "RAID's paraphrase needs another model and is left out.",
            percent=True,
        )  # fmt: skip

    def unseen(self) -> Iterator[Table]:
        """Generators of further sets, fine-tuned ones, say, beside those that were learned from."""
        rows: dict[str, list[float | None]] = {}
        for texts, found in self.others:
            learned = (*self.whole.split("train").samples, *self.whole.split("blend").samples)
            known = {s.document for s in learned}
            fresh = found.where([s.document not in known for s in found.samples])
            tried = self._cut(fresh, self.setup.tokens)
            drawn = np.isin([s.sampler for s in self.at.found.samples], texts.samplers)
            for generator in self.first.generators:
                mine = drawn & self.at.by("generator", generator)
                rows[f"{generator}, {' and '.join(texts.samplers)}"] = self._beside(self.at, mine)
            for generator in texts.generators:
                mine = tried.by("generator", generator)
                rows[f"{generator} of {texts.folder.name}: unseen"] = self._beside(tried, mine)
        if rows:
            columns = [f"{n}, {k}" for n in self.names for k in ("AUROC", "TPR at 1 %")]
            yield Table(
                "Generators that detectors have not seen, beside those they have", "generator",
                columns, rows,
                f"Texts of {self.setup.tokens} tokens beside the test split's people.",
            )  # fmt: skip

    def _beside(self, tried: Tried, mine: Bools) -> list[float | None]:
        """Some machines' texts beside the test split's people, by each detector."""
        row: list[float | None] = []
        for name in self.names:
            human = self.at.scores[name][~self.at.machine]
            both = np.concatenate([human, tried.scores[name][mine]])
            machine = np.arange(len(both)) >= len(human)
            fine = bool(machine.any())
            row.append(metrics.auroc(both, machine) if fine else None)
            row.append(metrics.tpr(both, machine, 0.01).value if fine else None)
        return row

    def _probability(self, tried: Tried, name: str) -> Floats:
        calibration = self.panel.calibrations[name]
        pairs = zip(tried.scores[name], tried.found.readings, strict=True)
        found = [calibration.probability(float(score), len(r)) for score, r in pairs]
        return np.array([0.5 if p is None else p for p in found])


def _pairs(found: Read) -> Iterator[tuple[Sample, Reading]]:
    return zip(found.samples, found.readings, strict=True)


def _with(found: Read, index: int) -> list[Any]:
    """Readings with the scores of one model alone."""
    return [replace(r, scores=(r.scores[index],), cross=None) for r in found.readings]


def _roc(scores: Floats, machine: Bools) -> tuple[Floats, Floats]:
    order = np.argsort(-scores, kind="stable")
    hits = machine[order]
    true, false = np.cumsum(hits) / hits.sum(), np.cumsum(~hits) / (~hits).sum()
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def _fine(human: int) -> str:
    small = [f"{fpr:.1%}" for fpr in RATES if fpr * human < 1]
    if not small:
        return ""
    return f"With so few people's texts, {' and '.join(small)} means above all of them."
