"""The report has every table, its numbers are what they say, and it is written whole."""

import json
from dataclasses import replace

import numpy as np
import pytest

from docstrings import SETUP
from gpt2lab.detection import collect, metrics, report
from gpt2lab.detection.attacks import ATTACKS
from gpt2lab.detection.evaluate import evaluate
from gpt2lab.detection.findings import Setup
from gpt2lab.detection.reading import Reader
from gpt2lab.detection.samples import Set
from gpt2lab.detection.train import read
from gpt2lab.errors import UserError
from gpt2lab.model import GPT2

TITLES = [
    "Detectors, texts of 60 tokens", "AUROC by length", "accuracy by length", "AUROC by sampler",
    "TPR at 1 % FPR by sampler", "accuracy by sampler", "AUROC by generator",
    "TPR at 1 % FPR by generator", "accuracy by generator", "AUROC by who wrote and who reads",
    "AUROC by sampler of learning and of test", "Rate of false positives, domain told",
    "Rate of false positives, domain not told",
    "Rate of false positives by length, nominal 1 %, domain told",
    "Machines' texts that are called likely generated",
    "Long texts that are called likely generated, domain not told",
    "Rate of false positives on a domain that nothing was learned from, nominal 1 %",
    "Share found at 5 % FPR, after attacks",
    "Generators that detectors have not seen, beside those they have",
]  # fmt: skip


@pytest.fixture(scope="module")
def findings(panel, texts, subject, human, work):
    other = type(subject)(GPT2(subject.model.config, seed=4).eval(), subject.tokenizer)
    source = collect.Source("early", human["early"])
    few = replace(SETUP, samples=80, references=0)
    collect.collect({"untrained": other}, [source], work / "other", few)
    sets = [texts, Set.load(work / "other")]
    reader = panel.reader({"reference-1M": subject})
    return evaluate(panel, reader, sets, Setup(tokens=60, attacked=25))


def table(findings, title):
    return next(t for t in findings.tables if t.title == title)


def test_every_table_is_there_and_full(findings, panel):
    assert [t.title for t in findings.tables] == TITLES
    for t in findings.tables:
        assert t.rows and t.note
        for name, row in t.rows.items():
            assert len(row) == len(t.columns), (t.title, name)
            assert all(v is None or 0 <= v.value <= 1 for v in row)
            ranges = [(v.value, *v.interval) for v in row if v and v.interval]
            assert all(low <= value <= high for value, low, high in ranges), (t.title, name)
    assert list(findings.tables[0].rows) == panel.names
    assert list(table(findings, TITLES[-2]).rows) == ["none", *ATTACKS]


def test_the_first_table_is_what_it_says(findings, panel, texts, subject):
    found = read(Reader({"reference-1M": subject}), texts.split("test"))
    found = found.where([len(r) >= 60 for r in found.readings])
    readings = [r.part(0, 60) for r in found.readings]
    scores = panel.scores(readings, ["stats"])["stats"]
    machine = np.array([s.machine for s in found.samples])
    row = [cell.value for cell in findings.tables[0].rows["stats"]]
    assert row[0] == pytest.approx(metrics.auroc(scores, machine))
    human = np.sort(scores[~machine])
    line = human[len(human) - 1 - int(0.05 * len(human))]
    assert row[1] == pytest.approx((scores[machine] > line).mean())
    area = next(m for m in findings.measurements if m.name == "AUROC[stats]")
    assert area.value == row[0] and area.low < row[0] < area.high
    assert area.data == texts.manifest["sha256"] and area.n == findings.facts["documents"]


def values(findings, title, row):
    return [None if c is None else c.value for c in table(findings, title).rows[row]]


def test_samplers_are_tried_each_with_all_people(findings, panel, texts, subject):
    found = read(Reader({"reference-1M": subject}), texts.split("test"))
    found = found.where([len(r) >= 60 for r in found.readings])
    scores = panel.scores([r.part(0, 60) for r in found.readings], ["trees"])["trees"]
    for place, sampler in enumerate(texts.samplers):
        keep = [not s.machine or s.sampler == sampler for s in found.samples]
        machine = np.array([s.machine for s in found.samples])[keep]
        area = metrics.auroc(scores[keep], machine)
        assert values(findings, "AUROC by sampler", "trees")[place] == pytest.approx(area)
        rate = metrics.tpr(scores[keep], machine, 0.01).value
        assert values(findings, "TPR at 1 % FPR by sampler", "trees")[place] == rate
    t1, k40 = (texts.samplers.index(name) for name in ("t1", "k40"))
    title = "AUROC by sampler of learning and of test"
    assert values(findings, title, "k40")[k40] > values(findings, title, "k40")[t1]


def test_rates_are_those_of_p_values_with_the_domain_and_without(findings, panel, texts, subject):
    found = read(Reader({"reference-1M": subject}), texts.split("test"))
    found = found.where([50 <= len(r) <= panel.longest for r in found.readings])
    p = panel.calibrations["stats"].p
    scores = panel.scores(found.readings, ["stats"])["stats"]

    def called(machine, fpr, told, least):
        hits = [
            p(float(score), len(r), s.domain if told else None, fpr).value <= fpr
            for score, r, s in zip(scores, found.readings, found.samples, strict=True)
            if s.machine == machine and len(r) >= least
        ]
        return np.mean(hits)

    for told, how in ((True, "told"), (False, "not told")):
        rates = [called(False, fpr, told, 50) for fpr in (0.05, 0.01, 0.001)]
        assert values(findings, f"Rate of false positives, domain {how}", "stats") == rates
    ways = [(fpr, told) for told in (True, False) for fpr in (0.05, 0.01)]
    rates = [called(True, fpr, told, 60) for fpr, told in ways]
    title = "Machines' texts that are called likely generated"
    assert values(findings, title, "stats") == rates and rates[0] > 0.2


def test_windows_together_find_more_of_machines_than_of_people(findings):
    title = "Long texts that are called likely generated, domain not told"
    people, _, machines, _ = values(findings, title, "ensemble")
    assert people <= 0.1 and machines > people


def test_a_domain_that_is_held_out_is_judged_by_others(findings, texts):
    t = table(findings, TITLES[-3])
    assert list(t.rows) == [*texts.domains, "all"] and t.columns[0] == "ensemble"
    assert all(c.value <= 0.1 for c in t.rows["all"])


def test_tricks_with_characters_are_refused_and_seen_to_be(findings):
    t = table(findings, TITLES[-2])
    assert t.columns[-2:] == ["refused", "words changed"]
    rows = {name: [c.value for c in row[-2:]] for name, row in t.rows.items()}
    assert rows["zero-width space"] == [1, 1] and rows["homoglyph"][0] == 1
    assert rows["none"][0] < 0.2 and rows["none"][1] == rows["whitespace"][1] == 0
    assert 0 < rows["synonym"][1] < rows["misspelling"][1] < 0.5
    found = {name: [c.value for c in row[:-2]] for name, row in t.rows.items()}
    assert found["whitespace"] == found["none"]  # white space is not read


def test_unseen_generators_stand_by_themselves(findings):
    rows = list(table(findings, TITLES[-1]).rows)
    assert rows == ["reference-1M, k40 and t1", "untrained of other: unseen"]


def test_reports_are_written(findings, tmp_path):
    report.write(findings, tmp_path / "report")
    names = {f.name for f in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "report.html", "report.png", "report.json"}
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"### {title}" in text for title in TITLES)
    kept = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [t["title"] for t in kept["tables"]] == TITLES
    assert len(kept["measurements"]) == len(findings.measurements)
    assert (tmp_path / "report" / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert "nan" not in (tmp_path / "report" / "report.html").read_text().lower().split("<h1>")[1]
    assert "ensemble" in report.text(findings)


def test_texts_too_few_are_refused(panel, texts, subject):
    reader = panel.reader({"reference-1M": subject})
    with pytest.raises(UserError, match="texts of people and .* of machines with 155 tokens"):
        evaluate(panel, reader, [texts], Setup(tokens=155))
    with pytest.raises(UserError, match="--tokens is 10"):
        Setup(tokens=10)
    with pytest.raises(UserError, match="--attacked is 0"):
        Setup(attacked=0)
