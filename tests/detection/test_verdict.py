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
    assert names(found) == {"generators", "any domain", "overlap unknown"}
    assert json.loads(json.dumps(asdict(found)))["verdict"] == LIKELY


def test_of_peoples_texts_few_are_called_generated(judge, texts):
    human = [s.text for s in texts.split("test") if not s.machine]
    found = [v for v, _ in judge.judge(human, ["text"] * len(human))]
    called = sum(v.verdict == LIKELY for v in found)
    assert called <= 0.05 * len(human) + 3 * np.sqrt(0.05 * len(human))
    assert {v.verdict for v in found} <= {LIKELY, INCONCLUSIVE, NOTHING, None}
    assert sum(v.verdict == NOTHING for v in found) > len(human) / 2
    assert not any("human" in (v.verdict or "") for v in found)


def test_layout_says_nothing(judge, generated):
    plain, _ = one(judge, generated)
    for other in ("\n\n".join(generated.split(" ")), f"\n {generated}\n", "\u00a0\u2009 ".join(
        generated.split()
    )):  # fmt: skip
        found, _ = one(judge, other)
        assert found.p == plain.p and found.tokens == plain.tokens


def test_among_others_what_is_no_text_gets_no_verdict(judge, generated):
    rows = [generated, "", "x" * (MOST_CHARACTERS + 1)]
    (first, _), (empty, reading), (large, _) = judge.judge(rows, ["a", "b", "c"])
    assert first.verdict == LIKELY and empty.verdict is large.verdict is None
    assert empty.conditions[0].sentence == "it is empty; give a text of 50 tokens or more"
    assert "has 1,000,001 characters" in large.conditions[0].sentence and not len(reading)
    with pytest.raises(UserError, match=r"the text has \d\d\d,\d\d\d tokens; a verdict is of one"):
        one(judge, "\u4e00" * 200_000)


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
    ("text", "name"),
    [
        ("Ꭲhe committee", "mixed scripts"), ("an օffer", "mixed scripts"),
        ("тhe мan", "mixed scripts"), ("𝐓𝐡𝐞 committee", "mixed scripts"),
        ("Ｔhe committee", "mixed scripts"), ("thɑt ɡɪant wɑs ıll " * 3, "mixed scripts"),
        ("the\U000e0100 committee", "hidden characters"), ("ver\ufe00y", "hidden characters"),
        ("e\u0301\u0302\u0303" * 60, "piled marks"),
    ],
)  # fmt: skip
def test_letters_that_only_look_so_are_seen(text, name):
    body = "The committee met on Tuesday to discuss the library with the old members of it. "
    told = {c.name: c.blocks for c in conditions(body * 2 + text, 100)}
    assert told.get(name), told


@pytest.mark.parametrize(
    "text",
    [
        "London (/ˈlʌndən/) is 5 µm or 5 μm from 20 ºC. ", "Zoe\u0308 met Ångström in São Paulo. ",
        "👩‍👩‍👧 came, and 🏴‍☠️ too. " * 3,
        "\ufeffA mark at the very beginning. ",
        "naïve café, Ångström and β-carotene. ",
    ],
)  # fmt: skip
def test_what_is_no_trick_is_no_condition(text):
    body = "The committee met on Tuesday to discuss the library with the old members of it. "
    found = {c.name for c in conditions(text + body * 4, 200)}
    assert not found


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
    "text",
    [
        "A magyar nyelv az uráli nyelvcsalád tagja, a finnugor nyelvek közé tartozó ugor nyelvek "
        "egyike. Legközelebbi rokonai a manysi és a hanti nyelv, a kutatók szerint ez is a világ "
        "nyelvei között a nagyok közé tartozik, és a beszélők száma is nagy. ",
        "O menino foi a escola a pe e as ruas da cidade estavam vazias, a noite era fria e a lua "
        "brilhava no ceu, as casas eram antigas e a gente dormia, mas a cidade nunca para. ",
        "De man was in het huis van zijn broer en de kinderen waren met hun moeder in de tuin. Het "
        "was een mooie dag of een dag als alle andere, en de hond is door de straat gelopen. ",
    ],
)
def test_function_words_that_other_languages_share_are_not_english(text):
    assert "other language" in {c.name for c in conditions(text * 2, 200)}


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


def test_what_has_hardly_a_letter_gets_no_confident_verdict(judge):
    for text in ("12345 67890 " * 60, "!?!?!? ... --- " * 60):
        found, _ = one(judge, text)
        assert found.verdict == INCONCLUSIVE and "few letters" in names(found)


def test_long_texts_are_judged_in_windows(judge, texts):
    def long(machine):
        some = [s.text for s in texts.split("test") if s.machine == machine and s.sampler != "t1"]
        return " ".join(some[:12])

    found, reading = one(judge, long(True))
    assert len(found.windows) > 3 and found.windows[-1].end == found.tokens == len(reading)
    assert all(a.end == b.start for a, b in zip(found.windows, found.windows[1:], strict=False))
    assert max(w.end - w.start for w in found.windows) <= judge.panel.longest
    half = -(-len(found.windows) // 2)
    p = sorted(w.p for w in found.windows)[half - 1] * len(found.windows) / half
    assert found.p == pytest.approx(min(1, p))
    assert found.probability is found.predictive_value is None  # were calibrated on single ones
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
        ({"domain": "all domains"}, "no human texts of domain 'all domains'"),
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
