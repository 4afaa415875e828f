"""What was found, as Markdown, a page, a picture and JSON."""

import html
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt2lab.charts import STYLE
from gpt2lab.detection.findings import Cell, Findings, Table
from gpt2lab.errors import UserError
from gpt2lab.storage import atomic_file, write_json

REPORT, PAGE, PICTURE, NUMBERS = "report.md", "report.html", "report.png", "report.json"
_COLOURS = ("#2f6fde", "#d9822b", "#2a9d6f", "#b5468f", "#7a6fd0", "#8a6d3b", "#555555")
# Square points of a bin that holds all texts.
_AREA = 600
_STRONG = """
main { max-width: 60rem; margin: 0 auto } body { max-width: none }
td.n small { opacity: .7; white-space: nowrap }
td.n { background: color-mix(in srgb, var(--blue) calc(var(--v) * 45%), transparent) }
"""


def write(findings: Findings, folder: Path) -> None:
    """Write all four files to a folder, each in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NUMBERS, table(findings))
    _picture(findings, folder / PICTURE)
    for name, text in ((REPORT, markdown(findings)), (PAGE, page(findings))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, "utf-8")


def table(findings: Findings) -> dict[str, Any]:
    """As JSON."""
    return {
        "facts": findings.facts,
        "tables": [asdict(t) for t in findings.tables],
        "measurements": [asdict(m) for m in findings.measurements],
    }


def _facts(findings: Findings) -> str:
    f = findings.facts
    generators = ", ".join(
        f"{name} ({told['parameters']:,} parameters)" for name, told in f["generators"].items()
    )
    samplers = ", ".join(f"{name} {rules or ''}".strip() for name, rules in f["samplers"].items())
    return (
        f"Generators: {generators}. Samplers: {samplers}. Domains: {', '.join(f['domains'])}. "
        f"Test split: {f['human']:,} texts of people and {f['machine']:,} of "
        f"machines with {findings.setup.tokens} tokens, of {f['documents']:,} documents. Set "
        f"`{f['set'][:16]}`. Small models are easier to detect than large ones: these figures are "
        "not comparable with those of OpenAI's 1.5B."
    )


def markdown(findings: Findings) -> str:
    """Tables in sections."""
    parts = [_facts(findings), f"![ROC, reliability and accuracy by length]({PICTURE})"]
    for t in findings.tables:
        head = f"| {t.corner} | {' | '.join(map(_plain, t.columns))} |"
        rule = "|---" * (1 + len(t.columns)) + "|"
        rows = [
            f"| {_plain(name)} | {' | '.join(_both(t, value) for value in values)} |"
            for name, values in t.rows.items()
        ]
        parts.append("\n".join([f"### {t.title}", "", head, rule, *rows, "", t.note.strip()]))
    return "\n\n".join(parts) + "\n"


def page(findings: Findings) -> str:
    """HTML that opens offline, beside its picture; darker cells are larger numbers."""
    parts = [f"<p>{html.escape(_facts(findings)).replace('`', '')}</p>"]
    for t in findings.tables:
        head = "".join(f"<th class=n>{html.escape(c)}</th>" for c in t.columns)
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td>{''.join(_coloured(t, v) for v in values)}</tr>"
            for name, values in t.rows.items()
        )
        parts.append(
            f"<h2>{html.escape(t.title)}</h2><table><tr><th>{html.escape(t.corner)}</th>{head}</tr>"
            f"{rows}</table><p class=note>{html.escape(t.note).replace('`', '')}</p>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Detectors</title><style>{STYLE}{_STRONG}</style></head><body><main>"
        "<h1>What detectors are worth</h1>"
        f'<p><img src="{PICTURE}" alt="ROC, reliability and accuracy by length" width="100%"></p>'
        f"{''.join(parts)}</main></body></html>\n"
    )


def text(findings: Findings) -> str:
    """The first table for a terminal."""
    t = findings.tables[0]
    width = max(map(len, t.rows))
    columns = [max(8, len(c)) for c in t.columns]
    head = "  ".join(c.rjust(w) for c, w in zip(t.columns, columns, strict=True))
    rows = [
        f"{name:<{width}}  "
        + "  ".join(_cell(t, v).rjust(w) for v, w in zip(values, columns, strict=True))
        for name, values in t.rows.items()
    ]
    return "\n".join([t.title, f"{'':<{width}}  {head}", *rows, t.note.strip()])


def _plain(name: str) -> str:
    """A name that ends no cell of a table."""
    return name.replace("|", "\\|")


def _number(t: Table, value: float) -> str:
    return f"{100 * value:.1f}" if t.percent else f"{value:.3f}"


def _cell(t: Table, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return _number(t, cell.value) + ("%" if t.percent else "")


def _interval(t: Table, cell: Cell | None) -> str:
    if cell is None or cell.interval is None:
        return ""
    return f"{_number(t, cell.interval[0])} to {_number(t, cell.interval[1])}"


def _both(t: Table, cell: Cell | None) -> str:
    interval = _interval(t, cell)
    return _cell(t, cell) + (f" ({interval})" if interval else "")


def _coloured(t: Table, cell: Cell | None) -> str:
    value = 0.0 if cell is None else cell.value if t.percent else 2 * cell.value - 1
    interval = _interval(t, cell)
    small = f"<br><small>{interval}</small>" if interval else ""
    return f'<td class=n style="--v: {max(0.0, min(1.0, value)):.3f}">{_cell(t, cell)}{small}</td>'


def _picture(findings: Findings, path: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError("the report needs matplotlib; pip install 'gpt2lab[detect]'") from None
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    names = list(findings.roc)
    for name, colour in zip(names, _COLOURS, strict=False):
        false, true = findings.roc[name]
        axes[0].plot(false.clip(1e-4), true, color=colour, label=name)
        if curve := findings.curves.get(name):
            axes[1].scatter(curve.said, curve.came, _AREA * curve.weight, colour, alpha=0.6)
    axes[0].set(xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02), title="ROC")
    axes[0].set(xlabel="people's texts called machines'", ylabel="machines' texts found")
    axes[0].legend(fontsize=8)
    axes[1].plot([0, 1], [0, 1], "--", color="#9aa3b2")
    axes[1].set(xlabel="probability said", ylabel="share that were machines'")
    axes[1].set(title="Reliability (areas are shares of texts)")
    lengths = next(t for t in findings.tables if t.title == "accuracy by length")
    for name, colour in zip(names, _COLOURS, strict=False):
        points = [
            (int(tokens), cell.value)
            for tokens, cell in zip(lengths.columns, lengths.rows[name], strict=True)
            if cell is not None
        ]
        axes[2].plot(*zip(*points, strict=True), "o-", color=colour)
    axes[2].set(xscale="log", xlabel="tokens", ylabel="accuracy", title="By length")
    axes[2].set_xticks([50, 100, 200, 400], ["50", "100", "200", "400"])
    axes[2].minorticks_off()
    for axis in axes:
        axis.grid(alpha=0.2)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
