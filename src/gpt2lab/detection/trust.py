"""Tables of what may be relied on: false positives, new domains, attacks, unseen generators."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from gpt2lab.detection import metrics
from gpt2lab.detection.attacks import ATTACKS, attack
from gpt2lab.detection.conditions import conditions
from gpt2lab.detection.detectors import ENSEMBLE
from gpt2lab.detection.findings import RATES, Table
from gpt2lab.detection.metrics import Bools, Rate
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.study import Study, Tried
from gpt2lab.detection.train import SLOW, calibrate, teach


def false_positives(study: Study) -> Iterator[Table]:
    """Of the test split's people, by the calibration as it is used."""
    human = study.human(study.test)
    for known in (True, False):
        rows = {
            name: [study.realised(study.panel, human, name, fpr, known)
                   for fpr in RATES]
            for name in study.names
        }  # fmt: skip
        for name, found in rows.items():
            for fpr, rate in zip(RATES, found, strict=True):
                how = "domain told" if known else "domain not told: the largest p of all"
                study.record(
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


def found(study: Study) -> Iterator[Table]:
    """What the p-values that verdicts rest on find."""
    least = study.setup.tokens
    machine = study.test.where([s.machine and len(r) >= least for s, r in study.test.pairs()])
    columns = ["5.0 %, told", "1.0 %, told", "5.0 %, not told", "1.0 %, not told"]
    rows: dict[str, list[float | None]] = {name: [] for name in study.names}
    for known in (True, False):
        for fpr in RATES[:2]:
            for name in study.names:
                rate = study.realised(study.panel, machine, name, fpr, known)
                how = "domain told" if known else "domain not told"
                study.record(
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


def held_out(study: Study) -> Iterator[Table]:
    """Detectors that are taught and calibrated without a domain, on that domain's people."""
    members = [n for n in study.panel.detectors if n != SLOW]
    if len(study.first.domains) < 2 or not members:
        return
    alike = SLOW not in study.panel.detectors  # an ensemble without a member is another one
    names = [ENSEMBLE] * (alike and study.panel.ensemble is not None) + members
    taught: dict[frozenset[str], Panel] = {}

    def without(*domains: str) -> Panel:
        """Of two domains either may be the one that is tried."""
        key = frozenset(domains)
        if key not in taught:
            known = [s.domain not in key for s in study.every.samples]
            taught[key] = teach(study.every.where(known), study.panel.scorers, members)
        return taught[key]

    rows: dict[str, list[float | None]] = {}
    totals = {n: [0, 0] for n in names}
    with study.step("detectors without a domain") as on_progress:
        for number, domain in enumerate(study.first.domains, start=1):
            inside, seed = study.whole.without(domain), study.setup.seed
            panel = calibrate(without(domain), inside, seed, partial(without, domain))
            outside = study.human(study.whole.people(domain))
            row: list[float | None] = []
            for name in names:
                rate = study.realised(panel, outside, name, 0.01, False)
                totals[name][0] += rate.count
                totals[name][1] += rate.n
                row.append(rate.value)
            rows[domain] = row
            on_progress(number / len(study.first.domains))
    rows["all"] = [Rate(*totals[n]).value for n in names]
    for name in names:
        rate = Rate(*totals[name])
        study.record(
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


def attacks(study: Study) -> Iterator[Table]:
    human = {name: study.at.scores[name][~study.at.machine] for name in study.names}
    rng = np.random.default_rng(study.setup.seed)
    machine = np.flatnonzero(study.at.machine)
    chosen = rng.permutation(machine)[: study.setup.attacked]
    texts = [study.at.found.readings[i].text for i in chosen]
    rows: dict[str, list[float | None]] = {}
    cross = study.panel.cross(study.names)
    for attacked in ("none", *ATTACKS):
        changed = [
            t if attacked == "none" else attack(attacked, t, study.setup.seed + i)
            for i, t in enumerate(texts)
        ]
        readings = [r.part(0, study.setup.tokens) for r in study.reader.read(changed, cross=cross)]
        scores = study.panel.scores(readings, study.names)
        row: list[float | None] = []
        for name in study.names:
            rate = Rate.of(scores[name] > metrics.threshold(human[name], 0.05))
            how = f"attack: {attacked}; threshold of people's texts that are not attacked"
            study.record(
                f"TPR at 5.0% FPR[{name}, {attacked}]", rate.value, rate.n, how, rate.interval
            )
            row.append(rate.value)
        pairs = zip(changed, readings, strict=True)
        refused = [any(c.blocks for c in conditions(t, len(r))) for t, r in pairs]
        rows[attacked] = [*row, float(np.mean(refused))]
    yield Table(
        "Share found at 5 % FPR, after attacks", "attack \\ detector",
        [*study.names, "refused"], rows,
        f"{len(texts)} texts of machines; thresholds are of people's texts as they are. "
        "`refused` is the share that gets no confident verdict because of what is in the text. "
        "RAID's paraphrase needs another model and is left out.",
        percent=True,
    )  # fmt: skip


def unseen(study: Study) -> Iterator[Table]:
    """Generators of further sets, fine-tuned ones, say, beside those that were learned from."""
    rows: dict[str, list[float | None]] = {}
    for texts, found in study.others:
        learned = (*study.whole.split("train").samples, *study.whole.split("blend").samples)
        known = {s.document for s in learned}
        fresh = found.where([s.document not in known for s in found.samples])
        tried = study.cut(fresh, study.setup.tokens)
        drawn = np.isin([s.sampler for s in study.at.found.samples], texts.samplers)
        for generator in study.first.generators:
            mine = drawn & study.at.by("generator", generator)
            rows[f"{generator}, {' and '.join(texts.samplers)}"] = _beside(study, study.at, mine)
        for generator in texts.generators:
            mine = tried.by("generator", generator)
            rows[f"{generator} of {texts.folder.name}: unseen"] = _beside(study, tried, mine)
    if rows:
        columns = [f"{n}, {k}" for n in study.names for k in ("AUROC", "TPR at 1 %")]
        yield Table(
            "Generators that detectors have not seen, beside those they have", "generator",
            columns, rows,
            f"Texts of {study.setup.tokens} tokens beside the test split's people.",
        )  # fmt: skip


def _beside(study: Study, tried: Tried, mine: Bools) -> list[float | None]:
    """Some machines' texts beside the test split's people, by each detector."""
    row: list[float | None] = []
    for name in study.names:
        human = study.at.scores[name][~study.at.machine]
        both = np.concatenate([human, tried.scores[name][mine]])
        machine = np.arange(len(both)) >= len(human)
        fine = bool(machine.any())
        row.append(metrics.auroc(both, machine) if fine else None)
        row.append(metrics.tpr(both, machine, 0.01).value if fine else None)
    return row
