"""Pictures of results: the paper's numbers against model size, and curves."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.paper import PARAMETERS, ROWS, Row
from gpt2lab.evaluation.suite import Results
from gpt2lab.storage import atomic_file

_GREY = "#9aa3b2"
_COLOURS = ("#2f6fde", "#d9822b", "#2a9d6f", "#b5468f", "#7a6fd0", "#8a6d3b")


def sizes(results: Sequence[Results], path: Path) -> None:
    """Each of the paper's numbers against model size, with the paper's four sizes as a line.

    Raises UserError if none was measured.
    """
    rows = [row for row in ROWS if any(one.find(row.measurement) for one in results)]
    if not rows:
        raise UserError("none of the paper's tasks was measured; there is nothing to plot")
    figure, axes = _panels(len(rows))
    for row, axis in zip(rows, axes, strict=True):
        _against_size(axis, row, results)
    axes[0].legend(fontsize=8)
    figure.supxlabel("parameters", fontsize=9)
    _save(figure, path)


def _against_size(axis: Any, row: Row, results: Sequence[Results]) -> None:
    from matplotlib.ticker import NullFormatter

    published = [(p, f) for p, f in zip(PARAMETERS, row.figures, strict=True) if f is not None]
    if published:
        axis.plot(*zip(*published, strict=True), "o-", color=_GREY, label="GPT-2, paper")
    ours = sorted(
        ((one.parameters, m) for one in results if (m := one.find(row.measurement))),
        key=lambda pair: pair[0],
    )
    found = [m for _, m in ours]
    axis.errorbar(
        [p for p, _ in ours], [m.value for m in found], yerr=_errors(found), fmt="s-",
        color=_COLOURS[0], label="ours",
    )  # fmt: skip
    axis.set_xscale("log")
    if "perplexity" in row.label:
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_title(row.label, fontsize=10)
    axis.tick_params(labelsize=8)


def curves(results: Sequence[Results], path: Path) -> None:
    """Numbers that are points of curves, a panel a curve; bands are their intervals.

    What people wrote, or was held out, is dashed. Raises UserError if there are none.
    """
    names = dict.fromkeys(
        (m.settings["curve"], m.settings["along"], m.unit)
        for one in results for m in one.measurements if "curve" in m.settings
    )  # fmt: skip
    if not names:
        raise UserError("no curve was measured; run `evaluate longform`, or --shots 0 1 4")
    figure, axes = _panels(len(names))
    for (name, along, unit), axis in zip(names, axes, strict=True):
        colours = cycle(_COLOURS)
        drawn: list[list[float]] = []
        for one in results:
            mine = [m for m in one.measurements if m.settings.get("curve") == name]
            for of in dict.fromkeys(m.settings["of"] for m in mine):
                points = sorted(
                    (m for m in mine if m.settings["of"] == of), key=lambda m: m.settings["at"]
                )
                values = [m.value for m in points]
                if of == "human" and values in drawn:  # the same texts beside several models
                    continue
                drawn.append(values)
                control = of in ("human", "held-out")
                labels = [Path(one.model).name] * (len(results) > 1) + [of] * bool(of)
                _curve(axis, points, ", ".join(labels), _GREY if control else next(colours))
            lost = one.find(f"{name.removesuffix(' kept')} lost after")
            if lost and lost.value < max(m.settings["at"] for m in mine):
                axis.axvline(lost.value, color=_GREY, linestyle=":")
        if name.endswith(" kept"):
            axis.axhline(50, color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"{name}, {unit}", fontsize=10)
        axis.set_xlabel(along, fontsize=8)
        axis.tick_params(labelsize=8)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7, framealpha=0.5)
    _save(figure, path)


def _curve(axis: Any, points: Sequence[Measurement], label: str, colour: str) -> None:
    x, y = [m.settings["at"] for m in points], [m.value for m in points]
    below, above = _errors(points)
    low = [v - e for v, e in zip(y, below, strict=True)]
    high = [v + e for v, e in zip(y, above, strict=True)]
    style = "o--" if colour == _GREY else "o-"
    axis.plot(x, y, style, color=colour, label=label or None, markersize=4)
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _errors(found: Sequence[Measurement]) -> list[list[float]]:
    """How far intervals go below and above."""
    return [
        [m.value - (m.value if m.low is None else m.low) for m in found],
        [(m.value if m.high is None else m.high) - m.value for m in found],
    ]


def _panels(count: int) -> tuple[Any, list[Any]]:
    """A figure and so many axes."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError("plots need matplotlib; pip install 'gpt2lab[plot]'") from None
    columns = min(4, count)
    height = -(-count // columns)
    figure, axes = pyplot.subplots(
        height, columns, figsize=(3.4 * columns, 2.7 * height), squeeze=False, layout="constrained"
    )
    every = list(axes.flat)
    for axis in every[count:]:
        axis.axis("off")
    return figure, every[:count]


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
