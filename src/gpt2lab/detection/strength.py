"""Tables of how well machines' texts are told from people's: overall, by length, by who wrote."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2lab.detection import metrics
from gpt2lab.detection.calibrate import LENGTHS
from gpt2lab.detection.detectors.stats import Stats
from gpt2lab.detection.features import Floats
from gpt2lab.detection.findings import RATES, Table
from gpt2lab.detection.metrics import Bools
from gpt2lab.detection.reading import Reading
from gpt2lab.detection.study import Study, Tried
from gpt2lab.detection.train import Read


def overall(study: Study) -> Iterator[Table]:
    rows: dict[str, list[float | None]] = {}
    documents = [s.document for s in study.at.found.samples]
    for name in study.names:
        scores, machine = study.at.of(name)
        area = metrics.auroc(scores, machine)
        interval = metrics.auroc_interval(scores, machine, documents)
        how = "test split, all samplers and generators; documents are resampled"
        study.record(f"AUROC[{name}]", area, len(set(documents)), how, interval)
        rates = [metrics.tpr(scores, machine, fpr) for fpr in RATES]
        for fpr, rate in zip(RATES, rates, strict=True):
            how = f"machines' texts above all but {fpr:.1%} of people's; exact interval"
            study.record(f"TPR at {fpr:.1%} FPR[{name}]", rate.value, rate.n, how, rate.interval)
        study.findings.roc[name] = _roc(scores, machine)
        rows[name] = [area, *(r.value for r in rates), *_calibrated(study, name)]
    human, of = int((~study.at.machine).sum()), int(study.at.machine.sum())
    columns = ["AUROC", *(f"TPR at {fpr:.1%} FPR" for fpr in RATES), "accuracy", "ECE"]
    yield Table(
        f"Detectors, texts of {study.setup.tokens} tokens", "detector", columns, rows,
        f"{human:,} texts of people, {of:,} of machines, all samplers and generators, of "
        f"{len(set(documents)):,} documents: exact intervals take them for independent. "
        "Thresholds are of the test split's own people's texts; accuracy is the mean of both "
        "kinds'. "
        + _fine(human),
    )  # fmt: skip


def _calibrated(study: Study, name: str) -> tuple[float | None, float | None]:
    """Accuracy and expected calibration error of probabilities."""
    probability, machine = study.probability(study.at, name), study.at.machine
    if probability is None:
        return None, None
    right = metrics.accuracy(probability >= 0.5, machine)
    curve = metrics.reliability(probability, machine)
    how = "probability of 0.5 or more; the mean over people's and machines' texts"
    study.record(f"accuracy[{name}]", right, len(machine), how, None)
    study.record(f"ECE[{name}]", curve.ece, len(machine), "ten bins of equal width", None)
    study.findings.curves[name] = curve
    return right, curve.ece


def lengths(study: Study) -> Iterator[Table]:
    columns = [str(n) for n in LENGTHS]
    kinds: dict[str, dict[str, list[float | None]]] = {"AUROC": {}, "accuracy": {}}
    counts = []
    for tokens in LENGTHS:
        tried = study.cut(study.test, tokens)
        counts.append(f"{tokens}: {int((~tried.machine).sum())}+{int(tried.machine.sum())}")
        fit = 0 < tried.machine.sum() < len(tried.machine)
        for name in study.names:
            scores, machine = tried.of(name)
            said = study.probability(tried, name) if fit else None
            area = metrics.auroc(scores, machine) if fit else None
            right = None if said is None else metrics.accuracy(said >= 0.5, machine)
            kinds["AUROC"].setdefault(name, []).append(area)
            kinds["accuracy"].setdefault(name, []).append(right)
    for kind, rows in kinds.items():
        yield Table(
            f"{kind} by length", "detector \\ tokens", columns, rows,
            f"Texts cut to so many tokens (people's + machines': {', '.join(counts)}).",
        )  # fmt: skip


def samplers(study: Study) -> Iterator[Table]:
    yield from _each(study, "sampler", study.first.samplers)


def generators(study: Study) -> Iterator[Table]:
    yield from _each(study, "generator", study.first.generators)


def _each(study: Study, what: str, values: Sequence[str]) -> Iterator[Table]:
    kinds = ("AUROC", "TPR at 1 % FPR", "accuracy")
    rows: dict[str, dict[str, list[float | None]]] = {
        kind: {name: [] for name in study.names} for kind in kinds
    }
    for value in values:
        some = study.at.among(study.at.by(what, value))
        for name in study.names:
            for kind, found in zip(kinds, _strength(study, some, name), strict=True):
                rows[kind][name].append(found)
                if found is not None:
                    how = f"of its texts and all people's, {study.setup.tokens} tokens"
                    study.record(f"{kind}[{name}, {value}]", found, len(some.machine), how, None)
    for kind in kinds:
        yield Table(
            f"{kind} by {what}", f"detector \\ {what}", list(values), rows[kind],
            f"Of each {what}'s texts and all people's, {study.setup.tokens} tokens.",
        )  # fmt: skip


def _strength(study: Study, tried: Tried, name: str) -> tuple[float | None, ...]:
    """AUROC, true-positive rate and accuracy, as far as there are texts."""
    scores, machine = tried.of(name)
    if not machine.any():
        return None, None, None
    said = study.probability(tried, name)
    right = None if said is None else metrics.accuracy(said >= 0.5, machine)
    return metrics.auroc(scores, machine), metrics.tpr(scores, machine, 0.01).value, right


def across_generators(study: Study) -> Iterator[Table]:
    """OpenAI's picture: who wrote, and who reads."""
    readers = [name for name in study.first.generators if name in study.reader.names]
    rows: dict[str, list[float | None]] = {}
    for wrote in study.first.generators:
        some = study.at.among(study.at.by("generator", wrote))
        if not some.machine.any():
            continue
        row: list[float | None] = []
        for name in readers:
            scores = _stats(study, name, lambda s, name=name: s.generator == name).score(
                _with(some.found, study.reader.names.index(name))
            )
            area = metrics.auroc(scores, some.machine)
            how = f"stats taught with texts of {name}, which reads; test split"
            study.record(f"AUROC[{wrote} seen by {name}]", area, len(scores), how, None)
            row.append(area)
        rows[wrote] = row
    if readers:
        yield Table(
            "AUROC by who wrote and who reads", "wrote \\ reads", readers, rows,
            "`stats` taught with the texts of one model, which it reads with, on the texts of "
            "each.",
        )  # fmt: skip


def across_samplers(study: Study) -> Iterator[Table]:
    rows: dict[str, list[float | None]] = {}
    first = study.reader.names[0]
    for taught in study.first.samplers:
        made = _stats(study, first, lambda s, taught=taught: s.sampler == taught)
        row: list[float | None] = []
        for drawn in study.first.samplers:
            some = study.at.among(study.at.by("sampler", drawn))
            there = bool(some.machine.any())
            scores = made.score(_with(some.found, 0))
            row.append(metrics.auroc(scores, some.machine) if there else None)
        rows[taught] = row
    yield Table(
        "AUROC by sampler of learning and of test", "taught \\ tried", study.first.samplers,
        rows, f"`stats`, reading with {first}, taught with texts of one sampler.",
    )  # fmt: skip


def _stats(study: Study, reads: str, wanted: Any) -> Stats:
    """`stats` with one model, taught with some machines' texts and all people's."""
    index = study.reader.names.index(reads)
    train = study.every.split("train")
    some = train.where([not s.machine or wanted(s) for s in train.samples])
    lesson = replace(some.lesson([reads]), readings=_with(some, index))
    return Stats.fit(lesson)


def _with(found: Read, index: int) -> list[Reading]:
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
