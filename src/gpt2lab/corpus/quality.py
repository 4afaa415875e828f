"""Published quality rules, each a function from a text to the reason it is dropped, or None.

Gopher (Rae et al. 2021, table A1 and appendix A.1.1), C4 (Raffel et al. 2020, section 2.2) and
FineWeb (Penedo et al. 2024, section 3.6), with the thresholds FineWeb ran them with. Words are
split at white space, the others' at spaCy's tokens; GPT-2's paper used none of these rules.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
_TERMINAL = (".", "?", "!", "。", "！", "？", "।", "؟", "۔")
_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")
_SENTENCE_END = re.compile(r"[.!?][\"')\]”’]*(?=\s|$)")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_TOP_GRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
_DUPLICATE_GRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))

# A rule gives the text it leaves, or a reason in place of it.
Rule = Callable[[str], tuple[str, str | None]]


def gopher(text: str) -> tuple[str, str | None]:
    """Repetition first, then the shape of words and lines, as Gopher and FineWeb order them."""
    words = text.split()
    return text, _repetition(text, words) or _shape(text, words)


def _shape(text: str, words: Sequence[str]) -> str | None:
    real = [w for w in words if any(c.isalnum() for c in w)]
    if not 50 <= len(real) <= 100_000:
        return "gopher: word count"
    if not 3 <= sum(map(len, real)) / len(real) <= 10:
        return "gopher: word length"
    if text.count("#") / len(words) > 0.1:
        return "gopher: hash signs"
    if (text.count("...") + text.count("…")) / len(words) > 0.1:
        return "gopher: ellipses"
    lines = text.splitlines()
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > 0.9:
        return "gopher: bullet points"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return "gopher: lines end in ellipsis"
    if sum(any(c.isalpha() for c in w) for w in words) / len(words) < 0.8:
        return "gopher: words without letters"
    if len(_STOP_WORDS.intersection(words)) < 2:
        return "gopher: stop words"
    return None


def _repetition(text: str, words: Sequence[str]) -> str | None:
    for name, parts in (
        ("paragraphs", _PARAGRAPHS.split(text.strip())),
        ("lines", _LINES.split(text)),
    ):
        count, chars = _repeated(parts)
        if count / len(parts) > 0.30 or chars / max(1, len(text)) > 0.20:
            return f"gopher: repeated {name}"
    for n, most in _TOP_GRAMS:
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        if grams:
            # Of n-grams equally frequent the first counts, as Counter orders them.
            gram, times = grams.most_common(1)[0]
            if (sum(map(len, gram)) + n - 1) * times / len(text) > most:
                return f"gopher: top {n}-gram"
    for n, most in _DUPLICATE_GRAMS:
        if _repeated_gram_chars(words, n) / max(1, len(text)) > most:
            return f"gopher: repeated {n}-grams"
    return None


def _repeated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts occurred before, and their characters."""
    seen: set[str] = set()
    count = chars = 0
    for part in parts:
        if part in seen:
            count += 1
            chars += len(part)
        seen.add(part)
    return count, chars


def _repeated_gram_chars(words: Sequence[str], n: int) -> int:
    """Characters in n-grams seen before, none counted twice."""
    seen: set[tuple[str, ...]] = set()
    chars = i = 0
    while i <= len(words) - n:
        gram = tuple(words[i : i + n])
        if gram in seen:
            chars += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return chars


def c4(text: str) -> tuple[str, str | None]:
    """Drops lines, and texts that hold a brace, filler, or fewer than five sentences.

    As in FineWeb, lines need not end in a full stop: that rule alone dropped a third of the text.
    """
    lower = text.lower()
    if "lorem ipsum" in lower:
        return text, "c4: lorem ipsum"
    if "{" in text:
        return text, "c4: curly bracket"
    kept, sentences = [], 0
    for raw in text.splitlines():
        line = _CITATION.sub("", raw.strip())
        words = line.split()
        low = line.lower()
        if (
            len(words) < 3
            or max(map(len, words)) > 1000
            or "javascript" in low
            or any(phrase in low for phrase in _POLICY)
        ):
            continue
        sentences += max(1, len(_SENTENCE_END.findall(line)))
        kept.append(line)
    if sentences < 5:
        return text, "c4: fewer than five sentences"
    return "\n".join(kept), None


def fineweb(text: str) -> tuple[str, str | None]:
    """Texts made of unfinished, short or repeated lines."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return text, "fineweb: empty"
    if sum(line.endswith(_TERMINAL) for line in lines) / len(lines) < 0.12:
        return text, "fineweb: lines without an end mark"
    if sum(len(line) <= 30 for line in lines) / len(lines) > 0.67:
        return text, "fineweb: short lines"
    if _repeated(lines)[1] / len(text.replace("\n", "")) > 0.01:
        return text, "fineweb: repeated lines"
    if text.count("\n") / max(1, len(text.split())) > 0.3:
        return text, "fineweb: list"
    return text, None


RULES: dict[str, Rule] = {"gopher": gopher, "c4": c4, "fineweb": fineweb}
