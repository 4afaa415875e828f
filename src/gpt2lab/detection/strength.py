"""Tables of how well machines' texts are told from people's: overall, by length, by who wrote."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from gpt2lab.detection import metrics
from gpt2lab.detection.calibrate import LENGTHS
from gpt2lab.detection.detectors.stats import Stats
from gpt2lab.detection.features import Floats
from gpt2lab.detection.findings import RATES, Cell, Row, Table
from gpt2lab.detection.metrics import Bools
from gpt2lab.detection.reading import Reading
from gpt2lab.detection.study import Study, Tried
from gpt2lab.detection.train import Read

_KINDS = ("AUROC", "TPR at 1 % FPR", "accuracy")


def overall(study: Study) -> Iterator[Table]:
    rows: dict[str, Row] = {}
    documents = [s.document for s in study.at.found.samples]
    for name in study.names:
        scores, machine = study.at.of(name)
        area = metrics.auroc(scores, machine)
        interval = metrics.auroc_interval(scores, machine, documents)
        how = "test split, all samplers and generators; documents are resampled"
        row: Row = [study.record(f"AUROC[{name}]", area, len(set(documents)), how, interval)]
        for fpr in RATES:
            how = f"machines' texts above all but {fpr:.1%} of people's, given that threshold"
            rate = metrics.tpr(scores, machine, fpr)
            row.append(study.rate(f"TPR at {fpr:.1%} FPR[{name}]", rate, how))
        study.findings.roc[name] = _roc(scores, machine)
        rows[name] = [*row, *_calibrated(study, name)]
    human, of = int((~study.at.machine).sum()), int(study.at.machine.sum())
    columns = ["AUROC", *(f"TPR at {fpr:.1%} FPR" for fpr in RATES), "accuracy", "ECE"]
    yield Table(
        f"Detectors, texts of {study.setup.tokens} tokens", "detector", columns, rows,
        f"{human:,} texts of people, {of:,} of machines, all samplers and generators, of "
        f"{len(set(documents)):,} documents. Thresholds are of the test split's own "
        "people's texts; intervals of rates are exact for those thresholds and independent texts, "
        "those of AUROC draw documents anew. Accuracy is the mean of both kinds'. "
        + _fine(human),
    )  # fmt: skip


def _calibrated(study: Study, name: str) -> Row:
    """Accuracy and expected calibration error of probabilities."""
    probability, machine = study.probability(study.at, name), study.at.machine
    if probability is None:
        return [None, None]
    right = metrics.accuracy(probability >= 0.5, machine)
    curve = metrics.reliability(probability, machine)
    how = "probability of 0.5 or more; the mean over people's and machines' texts"
    study.findings.curves[name] = curve
    return [
        study.record(f"accuracy[{name}]", right, len(machine), how),
        study.record(f"ECE[{name}]", curve.ece, len(machine), "ten bins of equal width"),
    ]


def lengths(study: Study) -> Iterator[Table]:
    rows: dict[str, dict[str, Row]] = {kind: {n: [] for n in study.names} for kind in _KINDS}
    counts = []
    for tokens in LENGTHS:
        tried = study.cut(study.test, tokens)
        counts.append(f"{tokens}: {int((~tried.machine).sum())}+{int(tried.machine.sum())}")
        for name in study.names:
            for kind, cell in _strength(study, tried, name, f"{tokens} tokens").items():
                rows[kind][name].append(cell)
    for kind in ("AUROC", "accuracy"):
        yield Table(
            f"{kind} by length", "detector \\ tokens", [str(n) for n in LENGTHS], rows[kind],
            f"Texts cut to so many tokens (people's + machines': {', '.join(counts)}).",
        )  # fmt: skip


def samplers(study: Study) -> Iterator[Table]:
    yield from _each(study, "sampler", study.first.samplers)


def generators(study: Study) -> Iterator[Table]:
    yield from _each(study, "generator", study.first.generators)


def _each(study: Study, what: str, values: Sequence[str]) -> Iterator[Table]:
    rows: dict[str, dict[str, Row]] = {kind: {n: [] for n in study.names} for kind in _KINDS}
    for value in values:
        some = study.at.among(study.at.by(what, value))
        for name in study.names:
            for kind, cell in _strength(study, some, name, value).items():
                rows[kind][name].append(cell)
    for kind in _KINDS:
        yield Table(
            f"{kind} by {what}", f"detector \\ {what}", list(values), rows[kind],
            f"Of each {what}'s texts and all people's, {study.setup.tokens} tokens.",
        )  # fmt: skip


def _strength(study: Study, tried: Tried, name: str, which: str) -> dict[str, Cell | None]:
    """AUROC, true-positive rate and accuracy, as far as there are texts."""
    scores, machine = tried.of(name)
    if not 0 < machine.sum() < len(machine):
        return dict.fromkeys(_KINDS)
    documents = [s.document for s in tried.found.samples]
    interval = metrics.auroc_interval(scores, machine, documents)
    area, n = metrics.auroc(scores, machine), len(machine)
    how = "its machines' texts and all people's; documents are drawn anew"
    said = study.probability(tried, name)
    found: tuple[Cell | None, ...] = (
        study.record(f"AUROC[{name}, {which}]", area, n, how, interval),
        study.rate(
            f"TPR at 1.0% FPR[{name}, {which}]", metrics.tpr(scores, machine, 0.01),
            "given a threshold of the test split's people",
        ),
        None
        if said is None
        else study.record(
            f"accuracy[{name}, {which}]", metrics.accuracy(said >= 0.5, machine), n,
            "probability of 0.5 or more",
        ),
    )  # fmt: skip
    return dict(zip(_KINDS, found, strict=True))


def across_generators(study: Study) -> Iterator[Table]:
    """OpenAI's picture: who wrote, and who reads."""
    rows: dict[str, Row] = {wrote: [] for wrote in study.first.generators}
    readers = [name for name in study.first.generators if name in study.reader.names]
    for name in readers:
        made = _taught(study, name, "generator", name)
        for wrote, row in rows.items():
            some = study.at.among(study.at.by("generator", wrote))
            row.append(_area(study, made, some, name, f"{wrote} read by {name}"))
    if readers:
        yield Table(
            "AUROC by who wrote and who reads", "wrote \\ reads", readers, rows,
            "`stats` taught with the texts of one model, which it reads with, on the texts of "
            "each.",
        )  # fmt: skip


def across_samplers(study: Study) -> Iterator[Table]:
    first, samplers = study.reader.names[0], study.first.samplers
    rows: dict[str, Row] = {}
    for taught in samplers:
        made = _taught(study, first, "sampler", taught)
        rows[taught] = [
            _area(
                study, made, study.at.among(study.at.by("sampler", drawn)), first,
                f"{drawn} after {taught}",
            )
            for drawn in samplers
        ]  # fmt: skip
    yield Table(
        "AUROC by sampler of learning and of test", "taught \\ tried", samplers, rows,
        f"`stats`, reading with {first}, taught with texts of one sampler.",
    )  # fmt: skip


def _taught(study: Study, reads: str, what: str, value: str) -> Stats | None:
    """`stats` with one model, taught with one kind of machines' texts and all people's."""
    index = study.reader.names.index(reads)
    train = study.every.split("train")
    some = train.where([not s.machine or getattr(s, what) == value for s in train.samples])
    if len({s.machine for s in some.samples}) < 2:
        return None
    return Stats.fit(replace(some.lesson([reads]), readings=_with(some, index)))


def _area(study: Study, made: Stats | None, some: Tried, reads: str, which: str) -> Cell | None:
    if made is None or not some.machine.any():
        return None
    scores = made.score(_with(some.found, study.reader.names.index(reads)))
    documents = [s.document for s in some.found.samples]
    interval = metrics.auroc_interval(scores, some.machine, documents)
    area = metrics.auroc(scores, some.machine)
    how = "stats taught with texts of one kind; test split, documents are drawn anew"
    return study.record(f"AUROC[{which}]", area, len(scores), how, interval)


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
