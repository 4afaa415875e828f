"""Tables of what may be relied on: false positives, new domains, attacks, unseen generators."""

import itertools
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import partial

import numpy as np

from gpt2lab.detection import metrics
from gpt2lab.detection.attacks import ATTACKS, attack
from gpt2lab.detection.calibrate import FEWEST, LENGTHS, spans
from gpt2lab.detection.conditions import conditions
from gpt2lab.detection.detectors import ENSEMBLE
from gpt2lab.detection.findings import RATES, Cell, Row, Table
from gpt2lab.detection.metrics import Bools, Rate
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.reading import Reading
from gpt2lab.detection.study import Study, Tried
from gpt2lab.detection.train import SLOW, calibrate, teach
from gpt2lab.errors import UserError


def false_positives(study: Study) -> Iterator[Table]:
    """Of the test split's people, by the calibration as it is used."""
    human = study.human(study.test)
    for told in (True, False):
        how = "told" if told else "not told"
        rows: dict[str, Row] = {
            name: [
                study.rate(
                    f"FPR at {fpr:.1%}[{name}, domain {how}]",
                    study.called(study.panel, human, name, fpr, told=told),
                    "people's texts of the test split, whole",
                )
                for fpr in RATES
            ]
            for name in study.names
        }
        yield Table(
            f"Rate of false positives, domain {how}", "detector",
            [f"nominal {fpr:.1%}" for fpr in RATES], rows,
            f"{len(human.samples):,} texts of people, whole: how many have a p-value of at "
            "most the nominal rate. "
            + ("" if told else "Of every domain with texts enough the largest counts."),
            percent=True,
        )  # fmt: skip


def false_positives_by_length(study: Study) -> Iterator[Table]:
    """A p-value holds of a range of lengths: what it is at both ends of each."""
    ends = [n for low, high in itertools.pairwise(LENGTHS) for n in (low, high - 1)]
    rows: dict[str, Row] = {name: [] for name in study.names}
    counts = []
    for tokens in (*ends, LENGTHS[-1]):
        cut = study.cut(study.test, tokens).found
        human = cut.where([not s.machine for s in cut.samples])
        counts.append(f"{tokens}: {len(human.samples)}")
        for name in study.names:
            rows[name].append(
                study.rate(
                    f"FPR at 1.0%[{name}, {tokens} tokens]",
                    study.called(study.panel, human, name, 0.01, told=True),
                    "people's texts of the test split cut to one length, domain told",
                )
            )
    yield Table(
        "Rate of false positives by length, nominal 1 %, domain told", "detector \\ tokens",
        [str(n) for n in (*ends, LENGTHS[-1])], rows,
        "People's texts cut to one length, compared with all of their range of lengths "
        f"({', '.join(counts)}).",
        percent=True,
    )  # fmt: skip


def found(study: Study) -> Iterator[Table]:
    """What the p-values that verdicts rest on find."""
    least = study.setup.tokens
    machine = study.test.where([s.machine and len(r) >= least for s, r in study.test.pairs()])
    ways = [(fpr, told) for told in (True, False) for fpr in RATES[:2]]
    rows: dict[str, Row] = {
        name: [
            study.rate(
                f"found at {fpr:.1%}[{name}, domain {'told' if told else 'not told'}]",
                study.called(study.panel, machine, name, fpr, told=told),
                f"machines' texts of {least} tokens or more, by their p-values",
            )
            for fpr, told in ways
        ]
        for name in study.names
    }
    yield Table(
        "Machines' texts that are called likely generated", "detector \\ rate, domain",
        [f"{fpr:.1%}, {'told' if told else 'not told'}" for fpr, told in ways], rows,
        f"{len(machine.samples):,} texts of {least} tokens or more, whole, by the p-values of "
        "verdicts. Where no domain is told, a text must stand out from all of them.",
        percent=True,
    )  # fmt: skip


def long_texts(study: Study) -> Iterator[Table]:
    """Texts in windows: all passages of a document, or what one model made of them one way."""
    together: dict[tuple[str, str, str], list[Reading]] = {}
    for s, reading in study.test.pairs():
        for start, end in spans(len(reading), study.panel.longest):
            if end - start >= FEWEST:
                key = (s.document, s.generator, s.sampler)
                together.setdefault(key, []).append(reading.part(start, end))
    texts = {who: parts for who, parts in together.items() if len(parts) > 1}
    kinds = {
        "people": [parts for (_, generator, _), parts in texts.items() if not generator],
        "machines": [parts for (_, generator, _), parts in texts.items() if generator],
    }
    if not all(kinds.values()):
        return
    ways = [(who, fpr) for who in kinds for fpr in RATES[:2]]
    rows: dict[str, Row] = {
        name: [
            study.rate(
                f"{who}'s long texts called at {fpr:.1%}[{name}]",
                study.called_together(study.panel, kinds[who], [None] * len(kinds[who]), name, fpr),
                "windows together, domain not told",
            )
            for who, fpr in ways
        ]
        for name in study.names
    }
    counts = ", ".join(f"{len(some):,} of {who}" for who, some in kinds.items())
    yield Table(
        "Long texts that are called likely generated, domain not told", "detector \\ texts, rate",
        [f"{who}, {fpr:.1%}" for who, fpr in ways], rows,
        "Two windows or more by the p-value that half of them are below: all passages of a "
        f"document, or what one model made of them with one sampler ({counts}).",
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
    how = "people of a domain judged by detectors taught and calibrated without it"

    def without(*domains: str) -> Panel:
        """Of two domains either may be the one that is tried."""
        key = frozenset(domains)
        if key not in taught:
            known = [s.domain not in key for s in study.every.samples]
            taught[key] = teach(study.every.where(known), study.panel.scorers, members)
        return taught[key]

    rows: dict[str, Row] = {}
    totals = {n: [0, 0] for n in names}
    with study.step("detectors without a domain") as on_progress:
        for number, domain in enumerate(study.first.domains, start=1):
            inside, seed = study.whole.without(domain), study.setup.seed
            try:
                panel = calibrate(without(domain), inside, seed, partial(without, domain))
            except UserError:  # too few texts are left
                continue
            outside = study.human(study.whole.people(domain))
            rows[domain] = []
            for name in names:
                rate = study.called(panel, outside, name, 0.01, told=False)
                totals[name][0] += rate.count
                totals[name][1] += rate.n
                rows[domain].append(study.rate(f"FPR at 1.0%[{name}, without {domain}]", rate, how))
            on_progress(number / len(study.first.domains))
    rows["all"] = [
        study.rate(f"FPR at 1.0%[{name}, held-out domains]", Rate(*totals[name]), how)
        for name in names
    ]
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
    rows: dict[str, Row] = {}
    cross = study.panel.cross(study.names)
    for attacked in ("none", *ATTACKS):
        changed = [
            t if attacked == "none" else attack(attacked, t, study.setup.seed + i)
            for i, t in enumerate(texts)
        ]
        readings = [r.part(0, study.setup.tokens) for r in study.reader.read(changed, cross=cross)]
        scores = study.panel.scores(readings, study.names)
        how = f"attack: {attacked}; threshold of people's texts that are not attacked"
        row = [
            study.rate(
                f"TPR at 5.0% FPR[{name}, {attacked}]",
                Rate.of(scores[name] > metrics.threshold(human[name], 0.05)),
                how,
            )
            for name in study.names
        ]
        pairs = zip(changed, readings, strict=True)
        refused = [any(c.blocks for c in conditions(t, len(r))) for t, r in pairs]
        words = [_changed(one, other) for one, other in zip(texts, changed, strict=True)]
        rows[attacked] = [*row, Cell(float(np.mean(refused))), Cell(float(np.mean(words)))]
    yield Table(
        "Share found at 5 % FPR, after attacks", "attack \\ detector",
        [*study.names, "refused", "words changed"], rows,
        f"{len(texts)} texts of machines; thresholds are of people's texts as they are. "
        "`refused` is the share that gets no confident verdict because of what is in the text. "
        "White space is not read, so two attacks change nothing; few words have a synonym or "
        "another spelling in the lists. RAID's paraphrase needs another model and is left out.",
        percent=True,
    )  # fmt: skip


def unseen(study: Study) -> Iterator[Table]:
    """Generators of further sets, fine-tuned ones, say, beside those that were learned from."""
    rows: dict[str, Row] = {}
    names = [texts.folder.name for texts, _ in study.others]
    weights = {told.get("weights") for told in study.first.manifest["generators"].values()}
    for texts, found in study.others:
        called = texts.folder.name if names.count(texts.folder.name) == 1 else str(texts.folder)
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
            seen = texts.manifest["generators"].get(generator, {}).get("weights") in weights
            rows[f"{generator} of {called}: {'seen' if seen else 'unseen'}"] = _beside(
                study, tried, mine
            )
    if rows:
        columns = [f"{n}, {k}" for n in study.names for k in ("AUROC", "TPR at 1 %")]
        yield Table(
            "Generators that detectors have not seen, beside those they have", "generator",
            columns, rows,
            f"Texts of {study.setup.tokens} tokens beside the test split's people.",
        )  # fmt: skip


def _beside(study: Study, tried: Tried, mine: Bools) -> Row:
    """Some machines' texts beside the test split's people, by each detector."""
    row: Row = []
    for name in study.names:
        human = study.at.scores[name][~study.at.machine]
        both = np.concatenate([human, tried.scores[name][mine]])
        machine = np.arange(len(both)) >= len(human)
        rate = metrics.tpr(both, machine, 0.01)
        fine = bool(machine.any())
        row.append(Cell(metrics.auroc(both, machine)) if fine else None)
        row.append(Cell(rate.value, rate.interval) if fine else None)
    return row


def _changed(text: str, other: str) -> float:
    """The share of words that two texts do not have in common, in their order."""
    return 1 - SequenceMatcher(None, text.split(), other.split(), autojunk=False).ratio()
