"""What must be true of a text before a verdict on it means anything."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from gpt2lab.corpus.language import detect_language
from gpt2lab.detection.calibrate import FEWEST, LENGTHS
from gpt2lab.errors import UserError

# Characters of one text.
MOST_CHARACTERS = 1_000_000
_CONTROLS = 0.01
# Shares from which a text is called code, and not English.
_CODE, _LATIN = 0.08, 0.5
_FEW_LETTERS = 40
# Of English words so many are among these; code and lists have fewer, other languages hardly any.
_WORDS = (
    "the of and to a in is that it for was on with as be at by this are or from not which an have "
    "but you if they were has can will would their all one there been when more"
)
_ENGLISH = frozenset(_WORDS.split())
_ENGLISH_SHARE = 0.1
# Parts whose language is told apart, in characters, and from which share of them on a text is not
# called English.
_PART, _FOREIGN = 1000, 0.25
_CODE_MARKS = frozenset("{}[]()<>=;_#$\\|/*+&^%@~`")
_WORD = re.compile(r"[^\W\d_]+")
# What is blank besides format characters: fillers, a joiner of graphemes, Braille's empty pattern.
_BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_MARK, _JOINER, _VARIATIONS = "\ufeff", "\u200d", "\ufe0e\ufe0f"
# Letters of other scripts that look like Latin ones, which homoglyph attacks put in.
_LOOKALIKES = frozenset(
    "АВЕЅІЈКМНОРСТХҮаеіјорсухѕԁԛԝһ"  # Cyrillic
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορυχ"  # Greek
    "ՕՏՍոսց"  # Armenian
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """Something about a text that a reader of its verdict must know."""

    name: str
    sentence: str
    blocks: bool = False
    """Whether there can be no confident verdict."""


def require_text(text: str, where: str) -> None:
    """Raise UserError for what is no text that one verdict could be of."""
    if not text.strip():
        raise UserError(f"{where} is empty; give a text of {FEWEST} tokens or more")
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            f"{where} has {len(text):,} characters; a verdict is of one document of at most "
            f"{MOST_CHARACTERS:,}: split it"
        )
    if _share(text, _is_control) > _CONTROLS:
        raise UserError(f"{where} is full of control characters, so it is no text; check the file")


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
    if sum(word in _ENGLISH for word in words) > _ENGLISH_SHARE * len(words):
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
    return unicodedata.category(c) == "Cf" or c in _BLANKS or c in _VARIATIONS


def _in_emoji(text: str, i: int) -> bool:
    """Whether a joiner, a variation or a tag goes on from a symbol."""
    c = text[i]
    if c != _JOINER and c not in _VARIATIONS and not "\U000e0020" <= c <= "\U000e007f":
        return False
    before = next((b for b in reversed(text[max(0, i - 16) : i]) if not _is_hidden(b)), "a")
    symbol = unicodedata.category(before) in ("So", "Sk")
    return symbol or (c in _VARIATIONS and not before.isalpha() and not before.isspace())


def _mixed(text: str) -> list[str]:
    """Words of Latin letters and letters that only look so."""
    return [
        word
        for word in _WORD.findall(text)
        if not word.isascii()
        and any(c in _LOOKALIKES for c in word)
        and any(_script(c) == "LATIN" for c in word)
    ]


def _script(c: str) -> str:
    return "LATIN" if c.isascii() else unicodedata.name(c, "?").split(" ")[0]


def _is_control(c: str) -> bool:
    return (unicodedata.category(c) == "Cc" and c not in "\n\r\t\f") or c == "\ufffd"


def _share(text: str, of: object) -> float:
    assert callable(of)
    return sum(map(of, text)) / len(text)
