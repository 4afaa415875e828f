"""Text as it was written, from files in which it was taken apart into tokens, and back again.

GPT-2 reads ordinary text; the classic language-model sets come as `It does n't , he said .`. The
paper joins such text again with invertible de-tokenisers (section 3.1), which is worth 2.5 to 5
perplexity. Here each join is made only where taking the text apart by the corpus's own rules
gives back the tokens that were there; what cannot be undone stays apart. A line is given back as
it was if even that fails.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Mode = Literal["paper", "megatron", "raw"]

# Words that keep their full stop.
_ABBREVIATIONS = re.compile(
    "[Aa]ve|Adm|Bros|Capt|Cdr|[Cc]o|Col|[Cc]orp|Cpl|Dept|[Dd]r|Est|Fig|Fr|Ft|Gen|Gov|Hon|[Ii]nc|"
    "[Jj]r|Lt|[Ll]td|Maj|Messrs|[Mm]rs?|[Mm]s|Mt|[Nn]o|Nos|Op|Ph[.]D|Prof|Pvt|Rep|Rev|Sen|Sgt|"
    "[Ss]r|[Ss]t|[Vv]ol|art|ca|cf|e[.]V|eds?|etc|ex|ft|pp?|sq|var|viz|vs"
)
_AFTER_A_SENTENCE = frozenset(["'", '"', "''", ")", "]", "-RRB-", "-RSB-"])
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_Cut = tuple[re.Pattern[str], str]


@dataclass(frozen=True)
class Style:
    """How a corpus was taken apart.

    closing, opening, between: tokens that were written without a blank before them, after them, or
    on either side. spelled: what stood in the text for a token that is now spelled otherwise.
    cuts: replacements that put blanks into a word of text where it was taken apart.
    margin: what stands before the first and after the last token of a line.
    """

    closing: re.Pattern[str]
    opening: re.Pattern[str]
    between: re.Pattern[str]
    spelled: dict[str, str]
    cuts: tuple[_Cut, ...]
    paired: frozenset[str] = frozenset()
    """Tokens that open and close by turns."""
    margin: str = ""
    stops: bool = True
    """Whether the full stop of a sentence is a token by itself."""

    def words(self, chunk: str) -> list[str]:
        """The tokens of a stretch of text without blanks."""
        for pattern, replacement in self.cuts:
            chunk = pattern.sub(replacement, chunk)
        tokens = chunk.split()
        if not self.stops:
            return tokens
        end = len(tokens)
        while end > 1 and tokens[end - 1] in _AFTER_A_SENTENCE:
            end -= 1
        last = tokens[end - 1] if tokens else ""
        stem = last[:-1]
        if last.endswith(".") and stem.strip(".") and not _abbreviated(stem):
            tokens[end - 1 : end] = [stem, "."]
        return tokens

    def apart(self, text: str) -> str:
        """The inverse: a line of text as the corpus has it."""
        tokens = [token for chunk in text.split(" ") for token in self.words(chunk)]
        return self.margin + (f"{' '.join(tokens)}{self.margin}" if tokens else "")


def _abbreviated(stem: str) -> bool:
    return bool(_ABBREVIATIONS.fullmatch(stem) or _INITIALS.fullmatch(stem))


class Line(NamedTuple):
    """A line of a corpus, joined."""

    text: str
    invertible: bool
    """Whether `apart` gives the line back; if not, `text` is the line itself."""


def join(line: str, style: Style) -> Line:
    """Join the tokens of one line, without its line end."""
    tokens = line.split()
    chunks: list[str] = []
    for group in _groups(tokens, style):
        start = 0
        while start < len(group):
            # The longest part that can be taken apart again; a token alone keeps its spelling.
            for end in range(len(group), start, -1):
                part = group[start:end]
                chunk = "".join(style.spelled.get(t, t) for t in part) if part[1:] else part[0]
                if style.words(chunk) == part:
                    break
            else:
                return Line(line, False)
            chunks.append(chunk)
            start = end
    text = " ".join(chunks)
    return Line(text, True) if style.apart(text) == line else Line(line, False)


def _groups(tokens: Sequence[str], style: Style) -> list[list[str]]:
    """Tokens that were written without blanks between them."""
    groups: list[list[str]] = []
    opened: set[str] = set()
    glued = False
    for i, token in enumerate(tokens):
        before = after = False
        if token in style.paired:
            before = token in opened or (
                token == "'" and tokens[i - 1].endswith("s") and "'" not in tokens[i + 1 :]
            )
            after = not before
            opened ^= {token}
        elif style.between.fullmatch(token):
            before = after = _between(tokens, i)
        else:
            before = style.closing.fullmatch(token) is not None or token == "=" == tokens[i - 1]
            after = style.opening.fullmatch(token) is not None
        if groups and (glued or before):
            groups[-1].append(token)
        else:
            groups.append([token])
        glued = after
    return groups


def _between(tokens: Sequence[str], i: int) -> bool:
    """Dashes and colons stand close between numbers; elsewhere they have blanks."""
    if tokens[i] not in ("–", ":"):
        return True
    return 0 < i < len(tokens) - 1 and tokens[i - 1].isdigit() and tokens[i + 1].isdigit()


def _cuts(*pairs: tuple[str, str]) -> tuple[_Cut, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


# Moses' tokenizer, as WikiText and One Billion Words were made with.
_MOSES_CUTS = _cuts(
    (r"""(["()\[\];:?!$£%/—–°′″=])""", r" \1 "),
    (r"\.{2,}", r" \g<0> "),
    (r"(?<!\d),|,(?!\d)", " , "),
    (r"(?<=[^\s'])'(?=\w)", " '"),
    (r"'(?!\w)|^'(?!(?:s|t|re|ve|ll|d|m)$)|(?<=\s)(?<=[\"(\[] )'(?=\w)", " ' "),
)
_MOSES_CLOSING = re.compile(r"[,.;?!)\]%°′″]|:|\.{2,}|'\w+|n't")
_OPENING = re.compile(r"[(\[$£#]")
ONE_BILLION = Style(
    closing=_MOSES_CLOSING,
    opening=_OPENING,
    between=re.compile(r"/"),
    spelled={},
    cuts=_MOSES_CUTS,
    paired=frozenset("\"'"),
)
WIKITEXT = Style(
    closing=_MOSES_CLOSING,
    opening=_OPENING,
    between=re.compile(r"@[-,.]@|[/—–:]"),
    spelled={"@-@": "-", "@,@": ",", "@.@": "."},
    cuts=_cuts((r"(?<=[\d>])([,.])(?=[\d<])", r" @\1@ "), (r"(?<=[\w>])-(?=[\w<])", " @-@ "))
    + _MOSES_CUTS[:2]
    + _cuts((r"(?<!@),(?!@)", " , "))
    + _MOSES_CUTS[3:],
    paired=frozenset("\"'"),
    margin=" ",
)
# The Penn Treebank's conventions, as the Children's Book Test and the treebank itself.
_PTB_SPELLED = {
    "``": '"', "''": '"', "`": "'", "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]",
    "-LCB-": "{", "-RCB-": "}",
}  # fmt: skip
_CONTRACTIONS = _cuts(
    (r"(?<=[\w>])(?=n't\b)", " "),
    (r"(?<=[\w>.])(?='(?:s|m|d|re|ve|ll)\b)", " "),
    (r"(?<=\S)'(?!\w|')(?<!'')", " ' "),
)
_PTB_CUTS = _cuts(
    (r"""(?<![^(\[{'"])"(?=.)""", " `` "),
    (r'"', " '' "),
    (r"(?<![^(\[{`])'(?=[^\W\d])(?!(?:s|m|d|re|ve|ll|t|em)$)", " ` "),
    (r"([;$%#]|[?!]+|(?<!\d):|:(?!\d))", r" \1 "),
    (r"\.{2,}", r" \g<0> "),
    (r",(?!\d)", " , "),
    *((re.escape(old), f" {new} ") for new, old in list(_PTB_SPELLED.items())[3:]),
)
CHILDRENS_BOOKS = Style(
    closing=re.compile(r"[,.;:%]|[?!]+|\.{2,}|''?|'(?:s|m|d|re|ve|ll)|n't|-R[RSC]B-"),
    opening=re.compile(r"``?|[$#]|-L[RSC]B-"),
    between=re.compile(r"(?!)"),
    spelled=_PTB_SPELLED,
    cuts=_PTB_CUTS + _CONTRACTIONS,
)
# Mikolov's form of the treebank has no punctuation, and no full stops but those of abbreviations.
PENN_TREEBANK = Style(
    closing=re.compile(r"'(?:s|m|d|re|ve|ll)?|n't"),
    opening=re.compile(r"[$#]"),
    between=re.compile(r"(?!)"),
    spelled={},
    cuts=_cuts((r"^([$#])(?=.)", r"\1 ")) + _CONTRACTIONS,
    margin=" ",
    stops=False,
)
