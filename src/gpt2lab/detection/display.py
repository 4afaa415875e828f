"""A verdict in a terminal: what is said, why, and the text coloured by rank as GLTR does."""

import unicodedata
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from gpt2lab.detection.reading import Reading
from gpt2lab.detection.tokens import BIN_NAMES, histograms, pieces
from gpt2lab.detection.verdict import LIKELY, Verdict

# GLTR's colours for its four bins, dark enough for white letters and for black ones.
COLOURS = ("#9ad29a", "#f2dc7e", "#f0a08c", "#c9a3e6")
_STRIP = "▁▂▃▄▅▆▇█"
_WIDTH = 32
# Pieces of a text that are shown; all count.
MOST = 2000


def headline(v: Verdict) -> str:
    """The verdict in one sentence."""
    if v.verdict is None:
        return "no verdict"
    if v.p is None:
        return f"{v.verdict}: {next(c.sentence for c in v.conditions if c.blocks)}"
    return f"{v.verdict}: p = {v.p:.4f}, beside {v.compared_with:,} human texts ({v.domain})"


def lines(v: Verdict) -> list[str]:
    """The rest of what is said, in sentences."""
    found = [f"{v.tokens:,} tokens, judged by {v.detector} at a false-positive rate of {v.fpr:g}"]
    if v.probability is not None:
        found.append(
            f"probability of a machine {v.probability:.1%} among texts like the set's, if "
            f"{v.prior:.0%} of all are"
        )
    if v.predictive_value is not None:
        found.append(
            f"of texts called {LIKELY!r}, {v.predictive_value:.1%} are, if {v.prior:.0%} of all are"
        )
    if v.like:
        found.append(f"of all samplers, most like {v.like}")
    return found


def show(v: Verdict, reading: Reading, console: Console) -> None:
    """Print a verdict; the coloured text where the console has colours."""
    console.print(Text(headline(v), style="bold"))
    for line in lines(v):
        console.print(Text(f"  {line}"))
    for condition in v.conditions:
        console.print(Text(f"  {'!' if condition.blocks else '-'} {condition.sentence}"))
    if v.reasons:
        console.print(Text("why"))
        for name, value, adds in v.reasons:
            console.print(Text(f"  {adds:+6.2f}  {name} = {value:.3g}"))
    if v.windows:
        console.print(Text.assemble("windows  ", _strip(v)))
    if len(reading) and console.is_terminal:
        console.print(_coloured(reading), _bars(reading), sep="\n")


def _strip(v: Verdict) -> Text:
    """A bar a window, high where its p-value is low."""
    strip = Text()
    for window in v.windows:
        at = min(len(_STRIP) - 1, int((1 - window.p) * len(_STRIP)))
        strip.append(_STRIP[at], style="red" if window.p <= v.fpr else "")
    return strip


def _coloured(reading: Reading) -> Text:
    text = Text()
    shown = pieces(reading)
    for piece in shown[:MOST]:
        text.append(safe(piece.text), style=f"black on {COLOURS[piece.bin]}")
    if len(shown) > MOST:
        text.append(f"\n({len(shown) - MOST:,} tokens more; --html shows 20,000)")
    return text


def _bars(reading: Reading) -> Any:
    rows = []
    for name, share in histograms(reading)["rank"].items():
        colour = COLOURS[BIN_NAMES.index(name)]
        bar = Text(" " * round(_WIDTH * share), style=f"on {colour}")
        rows.append(Text.assemble(f"{name:>10} ", bar, f" {share:.0%}"))
    return Group(*rows)


def safe(text: str) -> str:
    """Without the characters that would steer a terminal, or that none can show."""
    steering = ("Cc", "Cf", "Cs")
    return "".join(
        "\N{SYMBOL FOR SUBSTITUTE}"
        if c not in "\n\t" and unicodedata.category(c) in steering
        else c
        for c in text
    )
