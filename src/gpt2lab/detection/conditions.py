"""What must be true of a text before a verdict on it means anything."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpt2lab.corpus.language import detect_language
from gpt2lab.detection.calibrate import FEWEST, LENGTHS

# Characters of one text.
MOST_CHARACTERS = 1_000_000
_CONTROLS = 0.01
# Shares from which a text is called code, and not English.
_CODE, _LATIN = 0.08, 0.5
_FEW_LETTERS = 40
# Of English words so many are among these, and so many different ones; code and lists have fewer,
# other languages few different ones.
_WORDS = (
    "the of and to a in is that it for was on with as be at by this are or from not which an have "
    "but you if they were has can will would their all one there been when more"
)
_ENGLISH = frozenset(_WORDS.split())
_ENGLISH_SHARE, _ENGLISH_WORDS = 0.1, 7
# Parts whose language is told apart, in characters, and from which share of them on a text is not
# called English.
_PART, _FOREIGN = 1000, 0.25
_CODE_MARKS = frozenset("{}[]()<>=;_#$\\|/*+&^%@~`")
_WORD = re.compile(r"[^\W\d_]+")
# What is blank besides format characters: fillers, a joiner of graphemes, Braille's empty pattern.
_BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_MARK, _JOINER = "\ufeff", "\u200d"
# Greek letters that look like Latin ones; the others stand in Latin words of science: μm.
_LOOKALIKES = frozenset("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορυχ")
# Letters of phonetic writing, and small capitals, which look like others: ɡ, ı, ᴏ.
_PHONETIC = re.compile("[\u0131\u0250-\u02af\u1d00-\u1d7f]")
_PHONETIC_SHARE = 0.02
# Marks on letters, as a share of letters, beyond which they are no accents.
_PILED = 0.1


@dataclass(frozen=True)
class Condition:
    """Something about a text that a reader of its verdict must know."""

    name: str
    sentence: str
    blocks: bool = False
    """Whether there can be no confident verdict."""


def unfit(text: str) -> str:
    """Why a text is none that one verdict could be of; "" if it is one."""
    if not text.strip():
        return f"is empty; give a text of {FEWEST} tokens or more"
    if len(text) > MOST_CHARACTERS:
        return (
            f"has {len(text):,} characters; a verdict is of one document of at most "
            f"{MOST_CHARACTERS:,}: split it"
        )
    if _share(text, _is_control) > _CONTROLS:
        return "is full of control characters, so it is no text; check the file"
    return ""


def conditions(text: str, tokens: int) -> list[Condition]:
    """What there is to say of a text, the worst first."""
    return sorted(_conditions(text, tokens), key=lambda c: not c.blocks)


def _conditions(text: str, tokens: int) -> Iterator[Condition]:
    if tokens < FEWEST:
        yield Condition(
            "short", f"{tokens} tokens are too few for a verdict, which needs {FEWEST}", True
        )
    elif tokens < LENGTHS[1]:
        yield Condition("rather short", f"{tokens} tokens allow little confidence")
    if count := _hidden(text):
        yield Condition(
            "hidden characters",
            f"{count} invisible characters stand in the text, which changes what models read; "
            "remove them and try again",
            True,
        )
    if words := _mixed(text):
        yield Condition(
            "mixed scripts",
            f"{len(words)} words mix letters of several scripts ({', '.join(words[:3])}), which "
            "changes what models read; put the right letters in and try again",
            True,
        )
    if piled := _piled(text):
        yield Condition(
            "piled marks",
            f"{piled} marks stand on letters that words do not have, which changes what models "
            "read; remove them and try again",
            True,
        )
    yield from _language(text)
    if _share(text, _CODE_MARKS.__contains__) > _CODE:
        yield Condition("code", "much of the text looks like code, which detectors did not learn")


def _language(text: str) -> Iterator[Condition]:
    if sum(map(str.isalpha, text)) < _FEW_LETTERS:
        yield Condition("few letters", "the text has hardly any letters", True)
        return
    parts = [text[i : i + _PART] for i in range(0, max(1, len(text) - _PART // 2), _PART)]
    found = [told for part in parts if (told := other_language(part))]
    if len(found) > _FOREIGN * len(parts):
        which = (
            "the text" if len(found) == len(parts) else f"{len(found) / len(parts):.0%} of the text"
        )
        yield Condition(
            "other language",
            f"{which} {found[0]}, not English, of which all the human texts are that it would be "
            "compared with",
            True,
        )


def other_language(text: str) -> str:
    """How a text looks that is not English; "" for English, code among it."""
    letters = [c for c in text if c.isalpha()]
    if letters and sum(_script(c) == "LATIN" for c in letters) < _LATIN * len(letters):
        return "is in other letters"
    words = text.lower().split()
    known = [word for word in words if word in _ENGLISH]
    if len(known) > _ENGLISH_SHARE * len(words) and len(set(known)) >= _ENGLISH_WORDS:
        return ""
    language = _detected(text)
    return "" if language in ("en", "") else f"looks like {language!r}"


def _detected(text: str) -> str:
    try:
        return detect_language(text)
    except ImportError:  # without resiliparse other letters are still seen
        return ""


def _hidden(text: str) -> int:
    """Characters that cannot be seen; those inside emoji, and a mark at the beginning, are none."""
    return sum(
        _is_hidden(c) and not (i == 0 and c == _MARK) and not _in_emoji(text, i)
        for i, c in enumerate(text)
        if not c.isascii()
    )


def _is_hidden(c: str) -> bool:
    return unicodedata.category(c) == "Cf" or c in _BLANKS or _is_variation(c)


def _is_variation(c: str) -> bool:
    return "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef"


def _piled(text: str) -> int:
    """Combining marks, if they are more than accents are."""
    marks = sum(unicodedata.category(c) == "Mn" and not _is_hidden(c) for c in text)
    latin = sum(map(str.isascii, text))
    return marks if marks > _PILED * len(text) and latin > marks else 0


def _in_emoji(text: str, i: int) -> bool:
    """Whether a joiner, a variation or a tag goes on from a symbol."""
    c = text[i]
    if c != _JOINER and not _is_variation(c) and not "\U000e0020" <= c <= "\U000e007f":
        return False
    before = next((b for b in reversed(text[max(0, i - 16) : i]) if not _is_hidden(b)), "a")
    symbol = unicodedata.category(before) in ("So", "Sk")
    return symbol or (_is_variation(c) and not before.isalpha() and not before.isspace())


def _mixed(text: str) -> list[str]:
    """Words of Latin letters and letters that only look so."""
    words = _WORD.findall(text)
    odd = [word for word in words if not word.isascii()]
    phonetic = [word for word in odd if _PHONETIC.search(word)]
    found = [word for word in odd if _is_mixed(word)]
    return found + phonetic * (len(phonetic) > _PHONETIC_SHARE * len(words))


def _is_mixed(word: str) -> bool:
    """Whether a word's letters are of two scripts, or of signs in the shape of letters."""
    scripts = {_script(c) for c in word if unicodedata.category(c) not in ("Lm", "Mn")}
    if scripts == {"LATIN", "GREEK"}:
        return any(c in _LOOKALIKES for c in word)
    return ("LATIN" in scripts and len(scripts) > 1) or any(map(_is_sign, word))


def _is_sign(c: str) -> bool:
    """Whether a character is one letter in another shape: mathematical, wide, in a circle."""
    plain = unicodedata.normalize("NFKC", c)
    return _script(c) != "LATIN" and len(plain) == 1 and plain.isascii() and plain.isalpha()


def _script(c: str) -> str:
    if c.isascii() or c in "ªºµ":
        return "LATIN"
    return unicodedata.name(c, "?").split(" ")[0]


def _is_control(c: str) -> bool:
    return (unicodedata.category(c) == "Cc" and c not in "\n\r\t\f") or c == "\ufffd"


def _share(text: str, of: Callable[[str], bool]) -> float:
    return sum(map(of, text)) / len(text)
