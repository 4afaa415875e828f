"""Results for people: tables, the paper's figures beside ours, and CSV."""

import csv
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.evaluation import plots
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.paper import ROWS, SIZES, Row
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
    """The paper's table with ours beside it, its notes, curves, and every other number."""
    lines = [
        f"# {results.model}",
        "",
        f"{results.parameters:,} parameters; weights `{results.weights[:16]}`. Intervals: 95 %, "
        "bootstrap over items.",
        "",
    ]
    rows = paper_table(results)
    if any(m for _, m in rows):
        lines += _paper_markdown(rows)
    for curve_table in curves(results, shown):
        lines += ["", *_markdown_table(curve_table)]
    others = [m for m in _others(results) if "curve" not in m.settings]
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


def _paper_markdown(rows: Sequence[tuple[Row, Measurement | None]]) -> list[str]:
    lines = [
        "The columns on the right are the GPT-2 paper's figures for its four sizes; the last one "
        "numbers the notes below.",
        "",
        f"| | ours | n | {' | '.join(f'GPT-2 {size}' for size in SIZES)} | |",
        "|---|---|---|" + "---|" * (len(SIZES) + 1),
    ]
    notes: list[str] = []
    for row, m in rows:
        if row.note and m and row.note not in notes:
            notes.append(row.note)
        note = str(notes.index(row.note) + 1) if row.note and m else ""
        figures = " | ".join("" if f is None else f"{f:g}" for f in row.figures)
        ours = (shown(m), f"{m.n:,}") if m else ("not measured", "")
        lines.append(f"| {row.label} | {ours[0]} | {ours[1]} | {figures} | {note} |")
    return [*lines, "", *(f"{i}. {note}" for i, note in enumerate(notes, start=1))]


def _others(results: Results) -> list[Measurement]:
    """Measurements that the paper has no figure for."""
    used = {row.measurement for row in ROWS}
    return [m for m in results.measurements if m.name not in used]


def curves(results: Results, cell: Callable[[Measurement], str]) -> list[list[tuple[str, ...]]]:
    """Tables of the numbers that are points of curves, one for those along the same axis."""
    tables: dict[str, dict[str, dict[float, Measurement]]] = {}
    for m in results.measurements:
        if "curve" in m.settings:
            curve, of, along, at = (m.settings[k] for k in ("curve", "of", "along", "at"))
            name = ", ".join(filter(None, (curve, of, m.unit)))
            tables.setdefault(along, {}).setdefault(name, {})[at] = m
    found = []
    for along, by_name in tables.items():
        places = sorted({at for points in by_name.values() for at in points})
        rows = [(along, *(f"{at:,}" for at in places), "n")]
        for name, points in by_name.items():
            counts = dict.fromkeys(f"{points[at].n:,}" for at in places if at in points)
            cells = (cell(points[at]) if at in points else "" for at in places)
            rows.append((name, *cells, ", ".join(counts)))
        found.append(rows)
    return found


def _short(m: Measurement) -> str:
    """A value and half the width of its interval."""
    if m.low is None or m.high is None:
        return number(m.value)
    return f"{m.value:.4g} ±{(m.high - m.low) / 2:.2g}"


def _markdown_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    head, *rest = (f"| {' | '.join(_cell(c) for c in row)} |" for row in rows)
    return [head, "|---|" + "---:|" * (len(rows[0]) - 1), *rest]


def _cell(text: str) -> str:
    """Text in a Markdown table, where a bar would begin the next cell."""
    return text.replace("|", "\\|")


def table(results: Results) -> str:
    """The paper's rows that were measured, curves, and every other number, for a terminal."""
    measured = [(row, m) for row, m in paper_table(results) if m]
    cells: list[tuple[str, ...]] = [("", "ours", "n", *(SIZES if measured else ()))]
    for row, m in measured:
        figures = ["" if f is None else f"{f:g}" for f in row.figures]
        cells.append((row.label, shown(m), f"{m.n:,}", *figures))
    cells += [
        (m.name, f"{shown(m)}", f"{m.n:,}", *[""] * (len(cells[0]) - 3))
        for m in _others(results)
        if "curve" not in m.settings
    ]
    parts = [_aligned(cells, left=2)] if len(cells) > 1 else []
    return "\n\n".join([*parts, *(_aligned(rows, left=1) for rows in curves(results, _short))])


def plan_table(plan: dict[str, Any]) -> str:
    """What `plan` says, for a terminal."""
    rows = [("", "texts", "answered already", "tokens to read", "to write at most", "time")]
    for task in plan["tasks"]:
        counts = ("texts", "already_answered", "tokens_to_read", "tokens_to_write_at_most")
        rows.append((task["task"], *(f"{task[name]:,}" for name in counts), _time(task["seconds"])))
    return (
        f"{_aligned(rows, left=1)}\n\n{_time(plan['seconds'])} in all at "
        f"{plan['tokens_read_per_second']:,} tokens read and "
        f"{plan['tokens_written_per_second']:,} written a second, as measured now; "
        f"{plan['parameters']:,} parameters, {plan['weight_bytes'] / 2**20:,.0f} MiB"
    )


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes:,} min {seconds:02} s"


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
        if other is None or m.data != other.data or m.settings.get("of") == "human":
            continue
        if m.settings.get("items") != other.settings.get("items"):
            continue
        one, two = a.scores.get(m.name), b.scores.get(m.name)
        if one and two and len(one.sums) == len(two.sums):
            found[m.name] = difference(one, two)
    if not found:
        raise UserError(
            f"{a.model} and {b.model} have no measurement of the same items; evaluate both on the "
            "same tasks and data, with the same --limit, --shots and --seed"
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
    """results.md, results.csv and, where matplotlib is, results.png and curves.png."""
    for name, text in (("results.md", markdown(results)), ("results.csv", csv_text([results]))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    if not importlib.util.find_spec("matplotlib"):
        return
    if any(m for _, m in paper_table(results)):
        plots.sizes([results], folder / "results.png")
    if curves(results, shown):
        plots.curves([results], folder / "curves.png")
