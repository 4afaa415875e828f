"""Megatron-LM's de-tokenisers, for figures that are to be compared with its or lm-eval's.

They lose text (every number of the Penn Treebank becomes 1, quotes move), so they have no inverse;
`detokenize` is what the project measures with.
"""

import re

_Rules = tuple[tuple[str, str], ...]
_PENN_TREEBANK: _Rules = (
    (" '", "'"), (" \n", "\n"), ("\n ", "\n"), (" n't", "n't"), (" N ", "1 "), ("$ 1", "$1"),
    ("# 1", "#1"),
)  # fmt: skip
_WIKITEXT: _Rules = (
    ("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
)  # fmt: skip
# Blanks inside brackets and quotes; the text within holds no closing mark.
_INSIDE = tuple(
    (re.compile(rf"{left}\s*([^{right}]*?)\s*{right}"), f"{plain_left}\\1{plain_right}")
    for left, right, plain_left, plain_right in (
        (r"\(", r"\)", "(", ")"), (r"\[", r"\]", "[", "]"), ("{", "}", "{", "}"),
        ('"', '"', '"', '"'), ("'", "'", "'", "'"),
    )
)  # fmt: skip
_WIKITEXT_AFTER: _Rules = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°"), (" \n", "\n"),
    ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


def penn_treebank(text: str) -> str:
    """Its text of lines of the Penn Treebank."""
    return _replaced(text, _PENN_TREEBANK)


def wikitext(text: str) -> str:
    """Its text of lines of WikiText; lm-eval's is the same."""
    text = _replaced(text, _WIKITEXT)
    for pattern, replacement in _INSIDE:
        text = pattern.sub(replacement, text)
    return _replaced(text, _WIKITEXT_AFTER)


def _replaced(text: str, rules: _Rules) -> str:
    for old, new in rules:
        text = text.replace(old, new)
    return text
