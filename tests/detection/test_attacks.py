"""Each attack does what its name says, the same for the same seed, and nothing else."""

import re

import pytest

from gpt2lab.detection.attacks import ATTACKS, ZERO_WIDTH, attack

TEXT = (
    "The old man said that the color of the house, number 1234, had changed. However, he never "
    "thought about it again! A child was asked in 1999 to organize the big street. It began there."
) * 3


@pytest.mark.parametrize("name", ATTACKS)
def test_a_text_is_changed_the_same_way_each_time(name):
    once = attack(name, TEXT, 3)
    assert once != TEXT and once == attack(name, TEXT, 3)
    if name not in ("alternative spelling", "homoglyph", "zero-width space"):  # all places
        assert once != attack(name, TEXT, 4)
    assert attack(name, "", 1) == ""


def test_what_is_changed():
    assert attack("alternative spelling", "Color it gray.", 0) == "Colour it grey."
    assert attack("zero-width space", "abc", 0) == f"a{ZERO_WIDTH}b{ZERO_WIDTH}c"
    changed = {name: attack(name, TEXT, 0) for name in ATTACKS}
    assert changed["zero-width space"].replace(ZERO_WIDTH, "") == TEXT
    assert len(changed["homoglyph"]) == len(TEXT) and not changed["homoglyph"].isascii()
    articles = [len(re.findall(r"\b(?:the|a|an)\b", t.lower())) for t in (TEXT, "a")]
    left = len(re.findall(r"\b(?:the|a|an)\b", changed["article deletion"].lower()))
    assert 0.2 * articles[0] < left < 0.8 * articles[0]
    assert re.sub(r"\d", "0", changed["number swap"]) == re.sub(r"\d", "0", TEXT)
    assert changed["upper lower"].lower() == TEXT.lower()
    assert " ".join(changed["whitespace"].split()) == " ".join(TEXT.split())
    assert " ".join(changed["insert paragraphs"].split()) == " ".join(TEXT.split())
    assert "\n\n" in changed["insert paragraphs"]
    for name in ("misspelling", "synonym"):
        words = [t.split() for t in (TEXT, changed[name])]
        different = sum(a != b for a, b in zip(*words, strict=True))
        assert 0.05 < different / len(words[0]) < 0.5
    assert re.search(
        r"\b(large|great|aged|ancient|stated|declared|road|path)\b", changed["synonym"]
    )
