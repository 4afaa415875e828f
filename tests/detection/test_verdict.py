"""Verdicts: found where they should be, and never confident where something is wrong."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import zstandard

from gpt2lab.detection.attacks import attack
from gpt2lab.detection.conditions import MOST_CHARACTERS, conditions, other_language
from gpt2lab.detection.verdict import INCONCLUSIVE, LIKELY, NOTHING, Judge, Setup
from gpt2lab.errors import UserError


@pytest.fixture(scope="module")
def judge(panel, subject):
    return Judge(panel, panel.reader({"reference-1M": subject}), Setup(fpr=0.05))


@pytest.fixture(scope="module")
def generated(texts):
    """The longest text drawn from the 40 likeliest tokens, which any detector finds."""
    some = [s.text for s in texts.split("test") if s.sampler == "k40"]
    return max(some, key=len)


def one(judge, text):
    ((found, reading),) = judge.judge([text], ["the text"])
    return found, reading


def names(found):
    return {c.name for c in found.conditions}


def test_a_generated_text_is_found_and_told_why(judge, generated):
    found, reading = one(judge, generated)
    assert found.verdict == LIKELY and found.p <= 0.05 and found.probability > 0.8
    assert found.detector == "ensemble" and set(found.scores) == set(judge.panel.names)
    assert found.like == "k40" and len(found.reasons) == 6 and not found.windows
    assert found.tokens == len(reading) and reading.scores[0].best_ids.shape == (len(reading), 10)
    assert 0.5 < found.predictive_value <= 1
    assert names(found) == {"generators", "any domain"}
    assert json.loads(json.dumps(asdict(found)))["verdict"] == LIKELY


def test_of_peoples_texts_few_are_called_generated(judge, texts):
    human = [s.text for s in texts.split("test") if not s.machine]
    found = [v for v, _ in judge.judge(human, ["text"] * len(human))]
    called = sum(v.verdict == LIKELY for v in found)
    assert called <= 0.05 * len(human) + 3 * np.sqrt(0.05 * len(human))
    assert {v.verdict for v in found} <= {LIKELY, INCONCLUSIVE, NOTHING, None}
    assert sum(v.verdict == NOTHING for v in found) > len(human) / 2
    assert not any("human" in (v.verdict or "") for v in found)


def test_too_short_is_no_verdict_at_all(judge, generated):
    found, _ = one(judge, " ".join(generated.split()[:15]))
    assert found.verdict is found.p is found.probability is found.score is None
    assert "short" in names(found)
    assert re.search(r"\d+ tokens are too few for a verdict, which needs 50", str(found.conditions))
    ids = judge.reader.ids(generated)
    rather, _ = one(judge, judge.reader.tokenizer.decode(ids[:70].tolist()))
    assert rather.verdict is not None and "rather short" in names(rather)


@pytest.mark.parametrize("name", ["homoglyph", "zero-width space"])
def test_tricks_with_characters_get_no_confident_verdict(judge, generated, name):
    found, _ = one(judge, attack(name, generated, 0))
    assert found.verdict == INCONCLUSIVE
    blocking = [c.sentence for c in found.conditions if c.blocks]
    assert blocking and any("try again" in s for s in blocking)


def test_one_hidden_character_is_enough(judge, generated):
    for hidden in "\u200b\u200d\u2060\u00ad\ufeff\u202e":
        found, _ = one(judge, generated.replace("the", f"th{hidden}e", 1))
        assert found.verdict == INCONCLUSIVE and "hidden characters" in names(found)


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧 came, and 🏴‍☠️ too. " * 3,
        "\ufeffA mark at the very beginning. ",
        "naïve café, Ångström and β-carotene. ",
    ],
)
def test_what_is_no_trick_is_no_condition(text):
    body = "The committee met on Tuesday to discuss the library with the old members of it. "
    found = {c.name for c in conditions(text + body * 4, 200)}
    assert not found & {"hidden characters", "mixed scripts", "other language"}


@pytest.mark.parametrize("code", ["de", "cs", "hi", "ru"])
def test_other_languages_get_no_confident_verdict(judge, data, code):
    file = data / "tokenizer" / "edge" / "multilingual"
    name = next(f for f in file.iterdir() if f.name.endswith(f"src.{code}.sgm.zst"))
    with name.open("rb") as opened:
        whole = zstandard.ZstdDecompressor().stream_reader(opened).read().decode()
    lines = re.findall(r"<seg[^>]*>(.*?)</seg>", whole)[:60]
    passages = [" ".join(lines[i : i + 6]) for i in range(0, 60, 6)]
    for found, _ in judge.judge(passages, ["text"] * len(passages)):
        assert found.verdict == INCONCLUSIVE and "other language" in names(found)


def test_code_and_english_are_told_apart_from_other_languages():
    code = "def f(x):\n    return [y ** 2 for y in x if y > 3]\n" * 8
    assert "code" in {c.name for c in conditions(code, 200)}
    assert not other_language(
        "The committee met on Tuesday to discuss the new library of the town."
    )
    assert "looks like 'de'" in other_language(
        "Der Ausschuss traf sich am Dienstag, um über die neue Bücherei zu sprechen, die der Stadt "
        "gehört und seit vielen Jahren von allen Bürgern gerne besucht worden ist."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty; give a text of 50 tokens or more"),
        (" \n\t ", "the text is empty"),
        ("\x00\x01\x02 binary " * 50, "is full of control characters, so it is no text"),
        ("x" * (MOST_CHARACTERS + 1), "has 1,000,001 characters; a verdict is of one document"),
    ],
)
def test_what_is_no_text_is_refused(judge, text, message):
    with pytest.raises(UserError, match=message):
        one(judge, text)


def test_gibberish_gets_no_confident_verdict_or_is_read(judge):
    for text in ("12345 67890 " * 60, "!?!?!? ... --- " * 60):
        found, _ = one(judge, text)
        assert found.verdict == INCONCLUSIVE and "few letters" in names(found)
    found, _ = one(judge, "a" * 5000)
    assert found.verdict != LIKELY or found.p <= 0.05


def test_long_texts_are_judged_in_windows(judge, texts):
    def long(machine):
        some = [s.text for s in texts.split("test") if s.machine == machine and s.sampler != "t1"]
        return " ".join(some[:12])

    found, reading = one(judge, long(True))
    assert len(found.windows) > 3 and found.windows[-1].end == found.tokens == len(reading)
    assert all(a.end == b.start for a, b in zip(found.windows, found.windows[1:], strict=False))
    assert max(w.end - w.start for w in found.windows) <= judge.panel.longest
    assert found.p == pytest.approx(min(1, 2 * np.mean([w.p for w in found.windows])))
    human, _ = one(judge, long(False))
    assert human.verdict == NOTHING and human.p > found.p


def test_a_text_is_judged_the_same_in_company(judge, generated):
    alone, _ = one(judge, generated)
    other = "The committee met on Tuesday to discuss the library. " * 20
    beside = judge.judge([other, generated], ["a", "b"])[1][0]
    assert beside.p == alone.p and beside.score == pytest.approx(alone.score, abs=1e-3)


def test_domain_prior_and_detector_are_the_users(panel, subject, generated):
    reader = panel.reader({"reference-1M": subject})
    found = {
        name: Judge(panel, reader, Setup(fpr=0.05, **more)).judge([generated], ["text"])[0][0]
        for name, more in {
            "early": {"domain": "early"},
            "rare": {"prior": 0.001},
            "curvature": {"detector": "curvature"},
        }.items()
    }
    assert found["early"].domain == "early"
    assert found["rare"].probability < 0.5 and found["rare"].predictive_value < 0.05
    assert found["curvature"].detector == "curvature"
    for setup, message in (
        ({"domain": "law"}, "no human texts of domain 'law'; there are early, late"),
        ({"detector": "magic"}, "no detector 'magic' was trained; there are ensemble, stats"),
    ):
        with pytest.raises(UserError, match=message):
            Judge(panel, reader, Setup(**setup))


@pytest.mark.parametrize("bad", [{"fpr": 0}, {"fpr": 0.5}, {"fpr": -1}, {"prior": 0}, {"prior": 1}])
def test_rates_out_of_range_are_refused(bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))} is"):
        Setup(**bad)


def test_a_rate_that_the_human_texts_cannot_hold_is_told(panel, subject, generated):
    reader = panel.reader({"reference-1M": subject})
    found, _ = one(Judge(panel, reader, Setup(fpr=1e-4)), generated)
    assert found.verdict == INCONCLUSIVE and found.p is None and "few human texts" in names(found)


def test_known_text_is_told(panel, subject, texts, generated):
    from gpt2lab.corpus.overlap import Bloom
    from gpt2lab.evaluation.overlap import Training, _grams

    bloom = Bloom(1000, 1e-8)
    bloom.add(_grams(generated))
    training = Training(bloom, "books")
    reader = panel.reader({"reference-1M": subject})
    found, _ = one(Judge(panel, reader, Setup(fpr=0.05), training), generated)
    assert found.verdict == INCONCLUSIVE and "familiar" in names(found)
    other = next(s.text for s in texts.split("test") if s.sampler == "k40" and s.text != generated)
    assert "familiar" not in names(one(Judge(panel, reader, Setup(), training), other)[0])
