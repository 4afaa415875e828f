"""How much of one text stands in others, by runs of eight words (paper section 4)."""

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[^\W_]+")
N = 8


def ngrams(text: str) -> set[int]:
    """Hashes of the text's word 8-grams, lower-cased, punctuation dropped; a shorter text is one.

    The hashes are Python's own and hold within one process.
    """
    words = _WORD.findall(text.lower())
    return {hash(tuple(words[i : i + N])) for i in range(max(1, len(words) - N + 1))}


def without_overlap(held_out: Sequence[str], train: Iterable[str], most: float) -> list[str]:
    """The held-out texts of whose 8-grams at most the share `most` occurs in the training texts."""
    seen: set[int] = set()
    for text in train:
        seen |= ngrams(text)
    kept = []
    for text in held_out:
        own = ngrams(text)
        if len(own & seen) <= most * len(own):
            kept.append(text)
    return kept
