"""Charts as SVG text: enough for reports that open offline, no plotting library needed."""

import html
from collections.abc import Mapping


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
