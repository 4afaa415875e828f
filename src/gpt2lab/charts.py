"""What reports share: the style of the page, and charts as SVG text. They open offline."""

import html
from collections.abc import Mapping

# Light and dark; --blue, --grey and --soft are what charts are drawn in.
STYLE = """
:root { --ink:#1c1e21; --soft:#667; --line:#dde; --paper:#fff; --blue:#2f6fde; --grey:#b4bccb }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e8e8ec; --soft:#9aa; --line:#334; --paper:#15171b; --blue:#6aa2ff; --grey:#556 } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
p.note, figcaption, th { color: var(--soft); font-size: .9rem; font-weight: normal }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25rem .6rem
       .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } td.n { white-space: nowrap }
figure { margin: 0 } svg { width: 100%; height: auto; display: block }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif }
summary { cursor: pointer; padding: .25rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: color-mix(in srgb, var(--grey)
      15%, transparent); padding: .8rem 1rem; border-radius: .4rem; font-size: .85rem }
"""


def bars(
    values: Mapping[str, float], *, form: str = ",.0f", first: bool = False, alone: bool = False
) -> str:
    """Horizontal bars with their values; first: emphasise the first one.

    alone: for a file of its own and not a part of a page. Colours are the page's variables --blue,
    --grey and --soft, with defaults for such a file.
    """
    space = 'xmlns="http://www.w3.org/2000/svg" ' if alone else ""
    top = max(values.values(), default=0.0) or 1.0
    rows = []
    for i, (name, value) in enumerate(values.items()):
        y = 8 + 30 * i
        width = 400 * value / top
        colour = "var(--grey, #b4bccb)" if first and i else "var(--blue, #2f6fde)"
        rows.append(
            f'<text x="126" y="{y + 15}" text-anchor="end">{html.escape(_short(name))}</text>'
            f'<rect x="134" y="{y}" width="{width:.1f}" height="20" rx="3" fill="{colour}"/>'
            f'<text x="{140 + width:.1f}" y="{y + 15}">{value:{form}}</text>'
        )
    return (
        f'<svg {space}viewBox="0 0 600 {30 * len(values) + 12}" '
        'role="img"><style>text { fill: var(--soft, #667788); font: 12px system-ui, sans-serif }'
        f"</style>{''.join(rows)}</svg>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
