"""A verdict as one HTML file that opens offline: the text coloured by rank, and all numbers."""

import html
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gpt2lab.charts import STYLE, bars
from gpt2lab.detection.display import COLOURS, headline, lines
from gpt2lab.detection.reading import Reading
from gpt2lab.detection.tokens import BIN_NAMES, Piece, histograms, pieces
from gpt2lab.detection.verdict import LIKELY, NOTHING, Verdict

# A page of more tokens than this is slow; the rest of a text is judged and not shown.
MOST = 20_000

_STYLE = (
    """
main { max-width: 60rem; margin: 0 auto } body { max-width: none }
.verdict { border-left: .5rem solid var(--c); padding: .6rem 1rem; margin: 1rem 0;
           background: color-mix(in srgb, var(--c) 12%, transparent); border-radius: .3rem }
.verdict b { font-size: 1.15rem } .verdict p { margin: .2rem 0 }
ul.told { padding-left: 1.2rem } ul.told b { color: #c0392b }
#text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; font-size: 1rem }
#text span { border-radius: .15rem; cursor: default; color: #1c1e21 }
#text span:hover { outline: 2px solid var(--ink) }
"""
    + "".join(f".r{i} {{ background: {c} }}" for i, c in enumerate(COLOURS))
    + """
#tip { position: fixed; display: none; background: var(--paper); color: var(--ink); z-index: 2;
       border: 1px solid var(--soft); border-radius: .4rem; padding: .5rem .7rem; font-size: .85rem;
       box-shadow: 0 2px 12px #0003; max-width: 22rem; pointer-events: none }
#tip td { border: 0; padding: 0 .6rem 0 0; font-variant-numeric: tabular-nums }
.legend span { padding: .1rem .5rem; border-radius: .2rem; margin-right: .5rem; color: #1c1e21 }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.2rem }
.strip { display: flex; gap: 2px; height: 3.2rem; align-items: flex-end }
.strip i { flex: 1; min-width: 2px; background: var(--grey) } .strip i.hit { background: #c0392b }
input[type=range] { width: 14rem; vertical-align: middle } button { font: inherit }
"""
)

_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent)
const tip = document.getElementById('tip'), text = document.getElementById('text')
const percent = p => (100 * p).toPrecision(3) + ' %'
const cell = s => { const td = document.createElement('td'); td.textContent = s; return td }
const show = s => JSON.stringify(s)
text?.addEventListener('mouseover', e => {
  const one = data.tokens[e.target.dataset.i]
  if (!one) { tip.style.display = 'none'; return }
  const [rank, p, others] = one, table = document.createElement('table')
  for (const [word, q] of others) {
    const row = table.insertRow(); row.append(cell(show(word)), cell(percent(q))) }
  tip.replaceChildren(`${show(e.target.textContent)}: rank ${rank + 1}, ${percent(p)}`, table)
  tip.style.display = 'block'
})
text?.addEventListener('mousemove', e => {
  tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px'
  tip.style.top = Math.min(e.clientY + 18, innerHeight - tip.offsetHeight - 8) + 'px'
})
text?.addEventListener('mouseleave', () => tip.style.display = 'none')
const prior = document.getElementById('prior')
prior?.addEventListener('input', () => {
  const q = prior.value / 1000, odds = data.odds * q / (1 - q)
  document.getElementById('share').textContent = percent(q)
  document.getElementById('probability').textContent = percent(odds / (1 + odds))
  if (data.sensitivity !== null) {
    const hit = q * data.sensitivity, miss = (1 - q) * data.fpr
    document.getElementById('value').textContent = percent(hit / (hit + miss)) }
})
document.getElementById('copy')?.addEventListener('click', () =>
  navigator.clipboard.writeText(document.getElementById('json').textContent))
"""


def page(v: Verdict, reading: Reading, title: str) -> str:
    """The page of a verdict."""
    every = pieces(reading) if len(reading) else []
    shown = every[:MOST]
    data = {
        "tokens": [(p.rank, round(p.p, 6), _rounded(p)) for p in shown],
        "odds": _odds(v),
        "sensitivity": _sensitivity(v),
        "fpr": v.fpr,
    }
    # A text of the page's own language could end its script; this cannot.
    table = json.dumps(data).replace("<", "\\u003c")
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{html.escape(title)}</title><style>{STYLE}{_STYLE}</style></head><body><main>
<h1>{html.escape(title)}</h1>
{_verdict(v)}{_conditions(v)}{_windows(v)}{_reasons(v)}{_text(shown, len(every))}{_bars(reading)}
<h2>All numbers</h2><p><button id="copy">Copy JSON</button></p>
<pre id="json">{html.escape(json.dumps(asdict(v), indent=1, ensure_ascii=False))}</pre>
</main><div id="tip"></div><script type="application/json" id="data">{table}</script>
<script>{_SCRIPT}</script></body></html>
"""


def _rounded(piece: Piece) -> list[tuple[str, float]]:
    return [(text, round(p, 4)) for text, p in piece.others]


def _odds(v: Verdict) -> float | None:
    """Of a machine, were people and machines as many."""
    if v.probability is None:
        return None
    return v.probability / (1 - v.probability) * (1 - v.prior) / v.prior


def _sensitivity(v: Verdict) -> float | None:
    """The share of machines' texts that are found, which the predictive value is made of."""
    value = v.predictive_value
    if value is None:
        return None
    return value / (1 - value) * v.fpr * (1 - v.prior) / v.prior if value < 1 else 1.0


def _verdict(v: Verdict) -> str:
    colour = {LIKELY: "#c0392b", NOTHING: "#2f6fde"}.get(v.verdict or "", "#b8860b")
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines(v))
    slider = ""
    if v.probability is not None:
        value = "" if v.predictive_value is None else (
            f" Of texts called {LIKELY}, <b id='value'>{v.predictive_value:.1%}</b> would be."
        )  # fmt: skip
        slider = (
            "<p>If this share of all texts were machines': "
            f"<input type=range id=prior min=1 max=999 value={round(1000 * v.prior)}> "
            f"<b id=share>{v.prior:.1%}</b>, the probability of a machine would be "
            f"<b id=probability>{v.probability:.1%}</b>.{value}</p>"
        )
    return (
        f'<div class="verdict" style="--c: {colour}"><p><b>{html.escape(headline(v))}</b></p>'
        f"{said}{slider}</div>"
    )


def _conditions(v: Verdict) -> str:
    rows = [
        f"<li>{'<b>No confident verdict:</b> ' if c.blocks else ''}{html.escape(c.sentence)}</li>"
        for c in v.conditions
    ]
    return f'<ul class="told">{"".join(rows)}</ul>'


def _reasons(v: Verdict) -> str:
    if not v.reasons:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{value:.3g}</td><td class=n>{adds:+.2f}</td>"
        "</tr>"
        for name, value, adds in v.reasons
    )
    return (
        "<h2>Why</h2><p class=note>Of all samplers, the text is most like "
        f"<b>{html.escape(v.like)}</b>. What "
        "speaks most for it (+) or for a person (-), in log-odds:</p>"
        f"<table><tr><th>number</th><th class=n>value</th><th class=n>adds</th></tr>{rows}</table>"
    )


def _windows(v: Verdict) -> str:
    if not v.windows:
        return ""
    strips = "".join(
        f'<i class="{"hit" if w.p <= v.fpr else ""}" '
        f'style="height: {max(4, 100 * (1 - w.p)):.0f}%" '
        f'title="tokens {w.start:,} to {w.end:,}: p = {w.p:.4f}"></i>'
        for w in v.windows
    )
    return (
        f"<h2>Along the text</h2><div class=strip>{strips}</div><p class=note>Each bar is a window "
        f"of {v.windows[0].end} tokens or so; high where few human texts score as high, red at "
        f"p &le; {v.fpr:g}. The verdict is of all of them together.</p>"
    )


def _text(shown: list[Piece], total: int) -> str:
    if not shown:
        return ""
    spans = "".join(
        f'<span class="r{p.bin}" data-i="{i}">{html.escape(p.text)}</span>'
        for i, p in enumerate(shown)
    )
    legend = "".join(f'<span class="r{i}">{name}</span>' for i, name in enumerate(BIN_NAMES))
    left = f"<p>{total - len(shown):,} tokens more are judged and not shown.</p>"
    return (
        f'<h2>The text</h2><p class="note legend">Rank of each token among the model\'s guesses: '
        f'{legend} Point at one to see what the model expected.</p><div id="text">{spans}</div>'
        f"{left if total > len(shown) else ''}"
    )


def _bars(reading: Reading) -> str:
    if not len(reading):
        return ""
    found: Mapping[str, Mapping[str, Any]] = histograms(reading)
    charts = "".join(
        f"<figure><figcaption>{name}</figcaption>{bars(shares, form='.0%')}</figure>"
        for name, shares in found.items()
    )
    return f'<h2>Its tokens</h2><div class="grid">{charts}</div>'
