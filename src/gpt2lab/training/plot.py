"""Runs over each other: loss against tokens, time and FLOPs, and how training went."""

import html
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.charts import STYLE
from gpt2lab.errors import UserError
from gpt2lab.settings import read_recipe
from gpt2lab.storage import atomic_file
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.recipe import Recipe

# Okabe and Ito's colours, told apart by people of every colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")


@dataclass(frozen=True)
class Curve:
    """What is drawn of one run."""

    name: str
    recipe: Recipe
    metrics: list[dict[str, Any]]

    @property
    def tokens(self) -> list[float]:
        """Tokens seen at each line of metrics."""
        return [float(m["tokens"]) for m in self.metrics]

    @property
    def hours(self) -> list[float]:
        """Wall-clock hours at each line."""
        return [m["seconds"] / 3600 for m in self.metrics]

    @property
    def flops(self) -> list[float]:
        """Training FLOPs at each line."""
        each = self.recipe.model.flops_per_token(self.recipe.context)
        return [each * tokens for tokens in self.tokens]

    def smooth(self, key: str) -> list[float]:
        """A metric's running mean, as long as one fiftieth of the run; NaN before the first."""
        keep = 1 - 1 / max(1.0, len(self.metrics) / 50)
        mean, weight, out = 0.0, 0.0, []
        for line in self.metrics:
            if line.get(key) is not None:
                mean, weight = keep * mean + (1 - keep) * line[key], keep * weight + 1 - keep
            out.append(mean / weight if weight else float("nan"))
        return out


def read_curve(run: Path) -> Curve:
    """The metrics of a run; UserError if the folder holds none."""
    metrics = read_metrics(run)
    recipe = read_recipe(run / "recipe.toml", Recipe)
    if not metrics:
        raise UserError(f"{run / 'metrics.jsonl'} is empty; wait for the run's first step")
    return Curve(run.name or str(run), recipe, metrics)


def plot(runs: list[Path], out: Path) -> list[Path]:
    """Draw the runs into `out`.png and, with a table of results, `out`.html; return both paths."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib; pip install 'gpt2lab[plot]'") from None
    curves = [read_curve(run) for run in runs]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        sampled = any("sample_copied" in line for curve in curves for line in curve.metrics)
        rows = 3 if sampled else 2
        figure = Figure(figsize=(12, 3.5 * rows), layout="constrained")
        axes = figure.subplots(rows, 3)
        _draw(axes, curves)
        if sampled:
            _draw_samples(axes[2], curves)
    paths = [out.with_name(out.name + suffix) for suffix in (".png", ".html")]
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg")
    figure.savefig(png, format="png", dpi=130)
    page = _page(curves, svg.getvalue()).encode()
    with atomic_file(paths[0]) as first, atomic_file(paths[1]) as second:
        first.write_bytes(png.getvalue())
        second.write_bytes(page)
    return paths


def _draw_samples(axes: Any, curves: list[Curve]) -> None:
    """How varied samples are, and how much of them is copied from the training text."""
    from matplotlib.ticker import EngFormatter

    for ax, (key, label) in zip(
        axes,
        (
            ("sample_distinct_2", "samples: share of bigrams different"),
            ("sample_copied", "samples: share of 8-grams copied"),
            ("sample_longest_copy", "samples: longest copied stretch, tokens"),
        ),
        strict=True,
    ):
        for i, curve in enumerate(curves):
            found = [(m["tokens"], m[key]) for m in curve.metrics if m.get(key) is not None]
            ax.plot(*zip(*found, strict=True) if found else ([], []),
                    color=_COLOURS[i % len(_COLOURS)], lw=1.6, marker="o", ms=3)  # fmt: skip
        top = 1.02 if key != "sample_longest_copy" else None
        ax.set(xlabel="tokens", ylabel=label, ylim=(0, top))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.grid(alpha=0.25, lw=0.5)


def _draw(axes: Any, curves: list[Curve]) -> None:
    from matplotlib.ticker import EngFormatter

    against = (("tokens", "tokens"), ("hours", "hours"), ("flops", "training FLOPs"))
    below = (
        ("grad_norm", "gradient norm", 1.0),
        ("rate", "learning rate, of its peak", 1.0),
        ("tokens_per_s", "thousand tokens/s", 1e-3),
    )
    for i, curve in enumerate(curves):
        colour = _COLOURS[i % len(_COLOURS)]
        loss = curve.smooth("loss")
        measured = [j for j, m in enumerate(curve.metrics) if m.get("validation_loss") is not None]
        for ax, (name, _) in zip(axes[0], against, strict=True):
            x = getattr(curve, name)
            ax.plot(x, loss, color=colour, lw=1, alpha=0.45)
            ax.plot(
                [x[j] for j in measured],
                [curve.metrics[j]["validation_loss"] for j in measured],
                color=colour, lw=1.6, marker="o", ms=3, label=curve.name.replace("$", r"\$"),
            )  # fmt: skip
        for ax, (key, _, factor) in zip(axes[1], below, strict=True):
            line = curve.smooth(key) if key != "rate" else [m[key] for m in curve.metrics]
            ax.plot(curve.tokens, [factor * v for v in line], color=colour, lw=1)
    for ax, (_, label) in zip(axes[0], against, strict=True):
        ax.set(xlabel=label, ylabel="loss, nats per token", ylim=_sensible(curves))
    for ax, (_, label, _) in zip(axes[1], below, strict=True):
        ax.set(xlabel="tokens", ylabel=label, ylim=(0, None))
    for ax in (*axes[0], *axes[1]):
        ax.grid(alpha=0.25, lw=0.5)
        if ax.get_xlabel() == "tokens":
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0, 0].legend(frameon=False, title="validation, and thin: training", title_fontsize=8)


def _sensible(curves: list[Curve]) -> tuple[float, float]:
    """Limits of the loss axis that leave the first steps' fall out of view."""
    later = []
    for curve in curves:
        loss = curve.smooth("loss")
        later += [v for v in loss[len(loss) // 20 :] if not math.isnan(v)]
        later += [m["validation_loss"] for m in curve.metrics if m.get("validation_loss")]
    low, high = min(later, default=0.0), max(later, default=1.0)
    room = 0.05 * (high - low) or 0.1
    return low - room, high + room


def _page(curves: list[Curve], svg: str) -> str:
    def cell(value: float | None, form: str) -> str:
        return f'<td class="n">{"-" if value is None else format(value, form)}</td>'

    rows = []
    for curve in curves:
        last = curve.metrics[-1]
        val = [m["validation_loss"] for m in curve.metrics if m.get("validation_loss") is not None]
        rows.append(
            f"<tr><td>{html.escape(curve.name)}</td>"
            + cell(last["step"], ",d")
            + cell(curve.tokens[-1] / 1e6, ",.1f")
            + cell(curve.hours[-1], ".2f")
            + cell(curve.flops[-1], ".2e")
            + cell(val[-1] if val else None, ".4f")
            + cell(min(val) if val else None, ".4f")
            + cell(curve.smooth("tokens_per_s")[-1], ",.0f")
            + cell(100 * curve.smooth("mfu")[-1], ".0f")
            + "</tr>"
        )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("run", "steps", "million tokens", "hours", "FLOPs", "last validation loss",
                     "best", "tokens/s", "MFU, %")
    )  # fmt: skip
    drawing = svg[svg.index("<svg") :]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Training runs</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}'
        "body { max-width: 72rem } th + th { text-align: right } "
        "figure { background: #fff; overflow-x: auto } "
        f"svg {{ min-width: 40rem }}</style><h1>Training runs</h1><figure>{drawing}</figure>"
        f'<div style="overflow-x:auto"><table><tr>{head}</tr>{"".join(rows)}</table></div></html>\n'
    )
