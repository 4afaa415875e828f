"""Results for people: a table beside the paper's figures, CSV, and plots against model size."""

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

from gpt2lab.errors import UserError
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.paper import PARAMETERS, ROWS, SIZES, Row
from gpt2lab.evaluation.scores import Difference, difference
from gpt2lab.evaluation.suite import Results
from gpt2lab.storage import atomic_file


def number(value: float) -> str:
    """Four digits or so, and no more than mean something."""
    if abs(value) >= 100_000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def shown(m: Measurement) -> str:
    """A value with its interval."""
    interval = "" if m.low is None or m.high is None else f" [{number(m.low)}, {number(m.high)}]"
    return number(m.value) + interval


def paper_table(results: Results) -> list[tuple[Row, Measurement | None]]:
    """The paper's rows, each with ours if it was measured."""
    return [(row, results.find(row.measurement)) for row in ROWS]


def markdown(results: Results) -> str:
    """The paper's table with ours beside it, its notes, and every other number."""
    lines = [
        f"# {results.model}, zero-shot",
        "",
        f"{results.parameters:,} parameters; weights `{results.weights[:16]}`. Intervals: 95 %, "
        "bootstrap over items. The paper's columns are its figures for its four sizes; the last "
        "column numbers the notes below.",
        "",
        f"| | ours | n | {' | '.join(f'GPT-2 {size}' for size in SIZES)} | |",
        "|---|---|---|" + "---|" * (len(SIZES) + 1),
    ]
    notes: list[str] = []
    rows = paper_table(results)
    for row, m in rows:
        if row.note and m and row.note not in notes:
            notes.append(row.note)
        note = str(notes.index(row.note) + 1) if row.note and m else ""
        figures = " | ".join("" if f is None else f"{f:g}" for f in row.figures)
        ours = (shown(m), f"{m.n:,}") if m else ("not measured", "")
        lines.append(f"| {row.label} | {ours[0]} | {ours[1]} | {figures} | {note} |")
    lines += ["", *(f"{i}. {note}" for i, note in enumerate(notes, start=1))]
    used = {row.measurement for row, _ in rows}
    others = [m for m in results.measurements if m.name not in used]
    if others:
        lines += ["", "## More numbers", "", "| | | n | how |", "|---|---|---|---|"]
        lines += [
            f"| {m.name} | {shown(m)} {'' if m.unit == 'perplexity' else m.unit} | {m.n:,} "
            f"| {_cell(m.protocol)} |"
            for m in others
        ]
    if results.absent:
        lines += ["", "## Not measured", ""]
        lines += [f"- {name}: {why}" for name, why in results.absent.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text in a Markdown table, where a bar would begin the next cell."""
    return text.replace("|", "\\|")


def table(results: Results) -> str:
    """The paper's rows that were measured, and every other number, for a terminal."""
    head = ("", "ours", "n", *SIZES)
    cells: list[tuple[str, ...]] = [head]
    for row, m in paper_table(results):
        if m:
            figures = ["" if f is None else f"{f:g}" for f in row.figures]
            cells.append((row.label, shown(m), f"{m.n:,}", *figures))
    used = {row.measurement for row in ROWS}
    cells += [
        (m.name, shown(m), f"{m.n:,}", *[""] * len(SIZES))
        for m in results.measurements
        if m.name not in used
    ]
    return _aligned(cells, left=2)


def csv_text(results: Sequence[Results]) -> str:
    """A row a measurement of each model."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["model", "parameters", "name", "value", "unit", "low", "high", "n", "protocol", "data"]
    )
    for one in results:
        for m in one.measurements:
            writer.writerow(
                [one.model, one.parameters, m.name, m.value, m.unit, m.low, m.high, m.n,
                 m.protocol, m.data]
            )  # fmt: skip
    return out.getvalue()


def differences(a: Results, b: Results) -> dict[str, Difference]:
    """By how much B's numbers are above A's, where both are of the same items.

    Raises UserError if none is.
    """
    found: dict[str, Difference] = {}
    for m in a.measurements:
        other = b.find(m.name)
        if other is None or m.data != other.data:
            continue
        one, two = a.scores.get(m.name), b.scores.get(m.name)
        if one and two and len(one.sums) == len(two.sums):
            found[m.name] = difference(one, two)
    if not found:
        raise UserError(
            f"{a.model} and {b.model} have no measurement of the same items; evaluate both on the "
            "same tasks and data"
        )
    return found


def comparison(a: Results, b: Results, found: dict[str, Difference]) -> str:
    """Differences as a table for a terminal."""
    rows = [("", a.model, b.model, "difference", "p")]
    for name, d in found.items():
        gained = f"{d.value:+.4g} [{d.low:+.4g}, {d.high:+.4g}]"
        one, two = (number(results.scores[name].value) for results in (a, b))
        rows.append((name, one, two, gained, f"{d.p:.3g}"))
    return _aligned(rows, left=5)


def _aligned(rows: Sequence[tuple[str, ...]], left: int) -> str:
    """Rows as columns, the first so many of them aligned on the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def write(results: Results, folder: Path) -> None:
    """results.md, results.csv and, where matplotlib is, results.png."""
    for name, text in (("results.md", markdown(results)), ("results.csv", csv_text([results]))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    measured = any(m for _, m in paper_table(results))
    if measured and importlib.util.find_spec("matplotlib"):
        plot([results], folder / "results.png")


def plot(results: Sequence[Results], path: Path) -> None:
    """Each of the paper's numbers against model size, with the paper's four sizes as a line."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.ticker import NullFormatter
    except ImportError:
        raise UserError("plots need matplotlib; pip install 'gpt2lab[plot]'") from None
    rows = [row for row in ROWS if any(one.find(row.measurement) for one in results)]
    if not rows:
        raise UserError("none of the paper's tasks was measured; there is nothing to plot")
    columns = min(4, len(rows))
    height = -(-len(rows) // columns)
    figure, axes = pyplot.subplots(
        height, columns, figsize=(3.4 * columns, 2.7 * height), squeeze=False, layout="constrained"
    )
    for place, axis in enumerate(axes.flat):
        if place >= len(rows):
            axis.axis("off")
            continue
        row = rows[place]
        published = [(p, f) for p, f in zip(PARAMETERS, row.figures, strict=True) if f is not None]
        if published:
            x, y = zip(*published, strict=True)
            axis.plot(x, y, "o-", color="#9aa3b2", label="GPT-2, paper")
        ours = sorted(
            ((one.parameters, m) for one in results if (m := one.find(row.measurement))),
            key=lambda pair: pair[0],
        )
        sizes = [p for p, _ in ours]
        values = [m.value for _, m in ours]
        errors = [
            [m.value - (m.value if m.low is None else m.low) for _, m in ours],
            [(m.value if m.high is None else m.high) - m.value for _, m in ours],
        ]
        axis.errorbar(sizes, values, yerr=errors, fmt="s-", color="#2f6fde", label="ours")
        axis.set_xscale("log")
        if "perplexity" in row.label:
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(row.label, fontsize=10)
        axis.tick_params(labelsize=8)
    axes.flat[0].legend(fontsize=8)
    figure.supxlabel("parameters", fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
