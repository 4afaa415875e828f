"""Ten changes to a machine's text that a reader forgives and a detector may not.

They are RAID's (Dugan et al. 2024, arXiv 2405.07940, section 4.3 and appendix), written from the
paper's description, each with its share of places that are changed. Its eleventh, a paraphrase by
another model, is left out. Synonyms are from a list of common words, where RAID asks BERT.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from gpt2lab.detection.words import BRITISH, MISSPELT, SYNONYMS

Attack = Callable[[str, np.random.Generator], str]
ZERO_WIDTH = "\u200b"
_HOMOGLYPHS = str.maketrans("aABceEpPxyTHKMoOsijX", "аАВсеЕрРхуТНКМоОѕіјХ")
_WORD = re.compile(r"[A-Za-z]+")
_ARTICLE = re.compile(r"\b(?:the|a|an)\b ?", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])[ \n]+")
_DIGIT = re.compile(r"\d")
_BLANK = re.compile(" ")


def _some(pattern: re.Pattern[str], share: float, change: Callable[[str, int], str]) -> Attack:
    """Change each match with probability `share`; the change is told a random number below 2^31."""

    def attack(text: str, rng: np.random.Generator) -> str:
        def replaced(found: re.Match[str]) -> str:
            draw, number = rng.random(), int(rng.integers(2**31))
            return change(found[0], number) if draw < share else found[0]

        return pattern.sub(replaced, text)

    return attack


def _from(words: Mapping[str, tuple[str, ...]]) -> Callable[[str, int], str]:
    """Another word for one that the list has, capitals kept."""

    def change(word: str, number: int) -> str:
        others = words.get(word.lower())
        if not others:
            return word
        other = others[number % len(others)]
        return other.capitalize() if word[0].isupper() else other

    return change


def _misspelt(word: str, number: int) -> str:
    """A common misspelling, or two neighbouring letters inside in the wrong order."""
    other = _from(MISSPELT)(word, number)
    if other != word or len(word) < 4:
        return other
    at = 1 + number % (len(word) - 3)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _whole(change: Callable[[str], str]) -> Attack:
    return lambda text, rng: change(text)


ATTACKS: Mapping[str, Attack] = {
    "alternative spelling": _some(_WORD, 1.0, _from(BRITISH)),
    "article deletion": _some(_ARTICLE, 0.5, lambda word, n: ""),
    "homoglyph": _whole(lambda text: text.translate(_HOMOGLYPHS)),
    "insert paragraphs": _some(_SENTENCE, 0.5, lambda gap, n: "\n\n"),
    "misspelling": _some(_WORD, 0.2, _misspelt),
    "number swap": _some(_DIGIT, 0.5, lambda digit, n: str(n % 10)),
    "synonym": _some(_WORD, 0.5, _from(SYNONYMS)),
    "upper lower": _some(_WORD, 0.05, lambda word, n: word[0].swapcase() + word[1:]),
    "whitespace": _some(_BLANK, 0.2, lambda blank, n: " " * (2 + n % 2)),
    "zero-width space": _whole(ZERO_WIDTH.join),
}


def attack(name: str, text: str, seed: int) -> str:
    """A text after an attack; the same for the same seed."""
    return ATTACKS[name](text, np.random.default_rng(seed))
