"""A set is balanced, matched and split as it says, and a run that was stopped goes on."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from docstrings import SETUP
from gpt2lab.detection import collect as room
from gpt2lab.detection.samples import SPLITS, Set, split_of
from gpt2lab.errors import UserError
from gpt2lab.storage import sha256


def test_people_and_machines_are_matched(texts, subject):
    machine = [s for s in texts.samples if s.machine]
    human = {(s.document, s.prompt): s for s in texts.samples if not s.machine}
    assert Counter(s.sampler for s in machine).keys() == {"t1", "k40"}
    for s in machine:
        beside = human[s.document, s.prompt]
        assert (s.split, s.domain) == (beside.split, beside.domain)
        # As many tokens were drawn; spelled and read again they may be cut otherwise.
        lengths = [len(subject.ids(one.text)) for one in (s, beside)]
        assert abs(lengths[0] - lengths[1]) < 0.2 * lengths[1]
    per_sampler = Counter(s.sampler for s in machine)
    assert len(set(per_sampler.values())) == 1


def test_no_document_is_in_two_splits(texts):
    splits = {}
    for s in texts.samples:
        assert splits.setdefault(s.document, s.split) == s.split
    assert set(splits.values()) == set(SPLITS)
    # Of documents that are not continued most calibrate, and the ensemble needs none.
    paired = {s.document for s in texts.samples if s.machine}
    alone = Counter(s.split for s in texts.samples if s.document not in paired)
    assert alone.most_common(1)[0][0] == "calibrate" and alone["blend"] == 0


def test_splits_have_their_shares():
    found = Counter(split_of(str(n), 3) for n in range(20_000))
    for name, share in SPLITS.items():
        assert found[name] / 20_000 == pytest.approx(share, abs=0.012)  # four deviations


def test_the_manifest_says_what_was_done(texts, subject, human):
    told = texts.manifest
    assert told["generators"]["reference-1M"]["weights"] == subject.digest
    assert told["samplers"]["k40"] == {"top_k": 40} and told["setup"]["seed"] == 0
    assert [s["domain"] for s in told["sources"]] == ["early", "late"]
    assert told["sources"][0]["files"].keys() == {human["early"].name}
    counts = Counter((s.split, s.machine) for s in texts.samples)
    for split, one in told["texts"].items():
        assert one == {"human": counts[split, False], "machine": counts[split, True]}


def test_the_same_seed_gives_the_same_set_and_another_another(texts, subject, human, work):
    sources = [room.Source(name, path) for name, path in human.items()]
    again = work / "again"
    room.collect({"reference-1M": subject}, sources, again, SETUP)
    assert (again / "samples.jsonl").read_bytes() == (texts.folder / "samples.jsonl").read_bytes()
    few = replace(SETUP, seed=1, samples=40, samplers=("t1",))
    room.collect({"reference-1M": subject}, sources, again, few, overwrite=True)
    first = {s.text for s in texts.samples if s.machine}
    assert not first & {s.text for s in Set.load(again).samples if s.machine}


def test_a_run_that_was_stopped_writes_nothing_twice(subject, human, work, monkeypatch):
    from gpt2lab.evaluation import subject as subjects

    sources = [room.Source(name, path) for name, path in human.items()]
    setup = replace(SETUP, seed=5, samples=30)
    drawn = []
    whole = subjects.generate_each

    def stopping(model, tokenizer, requests):
        for number, result in enumerate(whole(model, tokenizer, requests)):
            if len(drawn) == 40:
                raise KeyboardInterrupt
            drawn.append(number)
            yield result

    monkeypatch.setattr(subjects, "generate_each", stopping)
    with pytest.raises(KeyboardInterrupt):
        room.collect({"reference-1M": subject}, sources, work / "stopped", setup)
    assert not (work / "stopped").exists() and not list(work.glob(".stopped*"))
    again = []
    monkeypatch.setattr(
        subjects,
        "generate_each",
        lambda m, t, requests: (again.append(1) or r for r in whole(m, t, requests)),
    )
    room.collect({"reference-1M": subject}, sources, work / "stopped", setup)
    made = sum(s.machine for s in Set.load(work / "stopped").samples)
    assert len(again) == made - 40


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"longest": 600}, "--longest is 600; after a prompt of 16 the context of reference-1M"),
        ({"shortest": 900, "longest": 901}, "has room for 496 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(subject, human, work, changed, message):
    source = [room.Source("early", human["early"])]
    with pytest.raises(UserError, match=message):
        room.collect({"reference-1M": subject}, source, work / "no", replace(SETUP, **changed))
    assert not (work / "no").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samplers": ("k41",)}, "no sampler 'k41'; there are t1, k40"),
        ({"samplers": ()}, "--samplers must name one or more"),
        ({"samplers": ("t1", "t1")}, "each once"),
        ({"prompt": 0}, "--prompt is 0; it must be at least 1"),
        ({"longest": 20}, "--longest is 20; it must be at least 60"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        replace(SETUP, **changed)


def test_texts_too_few_or_too_short_are_refused(subject, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("<|endoftext|>".join(["Just a few words."] * 30))
    with pytest.raises(UserError, match="has no English document of 76 tokens"):
        room.collect({"m": subject}, [room.Source("s", short)], tmp_path / "out", SETUP)
    one = tmp_path / "one.txt"
    one.write_text("The committee met on Tuesday to discuss the library again. " * 40)
    with pytest.raises(UserError, match="1 documents are too few to be split"):
        room.collect({"m": subject}, [room.Source("s", one)], tmp_path / "out", SETUP)


def test_a_document_of_two_sources_is_in_one_split(subject, human, work):
    both = [room.Source("a", human["early"]), room.Source("b", human["early"])]
    with pytest.raises(UserError, match="has no English document .* that was not there before"):
        room.collect({"m": subject}, both, work / "twice", SETUP)
    for names, message in (
        (("a", "a"), "names the domain a twice; put its files into one folder"),
        (("all domains",), "cannot name a domain 'all domains'"),
        (("\ud800",), "cannot name a domain"),
    ):
        sources = [room.Source(name, human["early"]) for name in names]
        with pytest.raises(UserError, match=message):
            room.collect({"m": subject}, sources, work / "twice", SETUP)
    assert not (work / "twice").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split": "foo"}, "holds a line that is no sample"),
        ({"text": "\ud800"}, "holds a line that is no sample"),
        ({"machine": 1}, "holds a line that is no sample"),
        ({"split": "test"}, "in two splits; collect the set again"),
    ],
)
def test_samples_that_collect_would_not_write_are_refused(texts, tmp_path, changed, message):
    first = next(s for s in texts.samples if s.split == "train")
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [json.dumps(vars(first) | more) for more in ({}, changed)]
    (folder / "samples.jsonl").write_text("\n".join(rows) + "\n")
    table = texts.manifest | {"sha256": sha256(folder / "samples.jsonl")}
    (folder / "gpt2lab.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=message):
        Set.load(folder)


def test_a_set_that_was_changed_is_refused(texts, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    with pytest.raises(UserError, match="is not a set of texts; make one with"):
        Set.load(folder)
    for name in ("gpt2lab.json", "samples.jsonl"):
        (folder / name).write_bytes((texts.folder / name).read_bytes())
    assert len(Set.load(folder).samples) == len(texts.samples)
    with (folder / "samples.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match="is not what its manifest says"):
        Set.load(folder)


@pytest.mark.parametrize("lost", ["sha256", "texts", "generators", "samplers"])
def test_a_manifest_that_lacks_something_is_refused(texts, tmp_path, lost):
    table = {name: value for name, value in texts.manifest.items() if name != lost}
    (tmp_path / "gpt2lab.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=f"has no {lost}; collect the set again"):
        Set.load(tmp_path)
    (tmp_path / "gpt2lab.json").write_text(json.dumps({**texts.manifest, "generators": {"m": {}}}))
    with pytest.raises(UserError, match="does not tell the parameters of m"):
        Set.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "domain", "path"),
    [("news=a/b.txt", "news", "a/b.txt"), ("a/reddit.jsonl.zst", "reddit", "a/reddit.jsonl.zst")],
)
def test_sources_are_named(text, domain, path):
    source = room.Source.parse(text)
    assert (source.domain, str(source.path)) == (domain, path)
