"""The report: one HTML file with its charts drawn in SVG, which opens offline."""

import html
import math
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from gpt2lab.charts import STYLE, bars
from gpt2lab.storage import atomic_file

if TYPE_CHECKING:
    from gpt2lab.quickstart.run import Result

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gpt2lab quickstart</title>
<style>${style}</style></head><body>
<h1>A GPT-2 trained on this machine</h1>
<p>$summary</p>
<h2>Bits per byte on held-out text (less is better)</h2>
<figure>$bars<figcaption>$bars_note</figcaption></figure>
<h2>Loss</h2>
<figure>$curve<figcaption>Nats per token over the run. Thin: each step; thick: smoothed; dots:
held-out text.</figcaption></figure>
<h2>What it writes</h2>
<p class="note">Temperature 0.8, top-k 40, seeds 0, 1 and 2, from an empty prompt.</p>
$samples
<h2>Sizes and times</h2>
<table>$facts</table>
<h2>Next</h2>
<pre>$next</pre>
</body></html>
""")


def write_report(result: "Result", path: Path) -> None:
    """Write the report of a quickstart run to `path`."""
    model = result.recipe.model
    bits = result.model_bits
    interval = "one document gives no interval"
    if bits.low is not None and bits.high is not None:
        interval = f"95 % interval {bits.low:.3f} to {bits.high:.3f}"
    mentioned = {"this model": bits.value, **result.baselines}
    page = _PAGE.substitute(
        style=STYLE,
        summary=html.escape(
            f"{model.n_params:,} parameters, {result.metadata['tokens']:,} tokens seen in "
            f"{result.metrics[-1]['seconds']:.0f} seconds. It needs {bits.value:.3f} bits per "
            f"byte of text it has never seen ({interval})."
        ),
        bars=bars(mentioned, form=".3f", first=True),
        bars_note=html.escape(
            f"{bits.n:,} documents of the {result.text.name}, digest {bits.data[:12]}; documents "
            "that repeat training text are left out. The 5-gram models (interpolated Kneser-Ney) "
            "counted the whole training text; this model has read "
            f"{_share(result):.0%} of it. xz sees only the held-out text."
        ),
        curve=_curve(result.metrics),
        samples="\n".join(f"<pre>{html.escape(s.text.strip())}</pre>" for s in result.samples),
        facts=_facts(result),
        next=html.escape(next_commands(path.parent)),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, "utf-8")


def next_commands(out: Path) -> str:
    """What to try after quickstart."""
    return (
        f'gpt2lab generate {out}/model "The function returns"\n'
        f"gpt2lab generate {out}/model                 # interactive\n"
        f"gpt2lab quickstart --minutes 30 --out runs/longer\n"
        f"gpt2lab quickstart --text my-texts/ --out runs/mine\n"
        f"gpt2lab train recipes/gpt2-124M.toml --data.path my-texts/ --dry-run"
    )


def _share(result: "Result") -> float:
    """Tokens seen as a share of the training text."""
    size = result.metadata.get("train_tokens") or 1
    return float(min(1.0, result.metadata["tokens"] / size))


def _curve(metrics: list[dict[str, Any]]) -> str:
    """Loss against seconds."""
    seconds = [m["seconds"] for m in metrics]
    losses = [m["loss"] for m in metrics]
    checks = [(m["seconds"], m["validation_loss"]) for m in metrics if "validation_loss" in m]
    low = min(losses + [loss for _, loss in checks])
    high = max(losses)
    span, end = max(high - low, 1e-9), max(seconds[-1], 1e-9)

    def point(second: float, loss: float) -> str:
        return f"{44 + 540 * second / end:.1f},{12 + 220 * (high - loss) / span:.1f}"

    smooth, thick = losses[0], []
    for number, (second, loss) in enumerate(zip(seconds, losses, strict=True), start=1):
        smooth += max(0.05, 1 / number) * (loss - smooth)  # at first, the plain mean
        thick.append(point(second, smooth))
    thin = [point(s, loss) for s, loss in zip(seconds, losses, strict=True)]
    grid = []
    for loss in range(math.ceil(low), math.floor(high) + 1):
        y = 12 + 220 * (high - loss) / span
        grid.append(
            f'<line x1="44" x2="584" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="36" y="{y + 4:.1f}" text-anchor="end">{loss}</text>'
        )
    for part in range(5):
        x = 44 + 540 * part / 4
        grid.append(f'<text x="{x:.0f}" y="252" text-anchor="middle">{end * part / 4:.0f} s</text>')
    dots = "".join(
        f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="4" fill="var(--ink)"/>'
        for p in (point(s, loss) for s, loss in checks)
    )
    return (
        f'<svg viewBox="0 0 600 260" role="img">{"".join(grid)}'
        f'<polyline points="{" ".join(thin)}" fill="none" stroke="var(--grey)" '
        'stroke-width="0.7"/>'
        f'<polyline points="{" ".join(thick)}" fill="none" stroke="var(--blue)" '
        f'stroke-width="2.5"/>{dots}</svg>'
    )


def _facts(result: "Result") -> str:
    model, train = result.recipe.model, result.recipe.train
    rates = sorted(m["tokens_per_s"] for m in result.metrics)
    mfu = sorted(m["mfu"] for m in result.metrics)
    facts = {
        "Model": f"{model.n_layer} layers x {model.n_embd}, {model.n_head} heads, context "
        f"{model.n_positions}, vocabulary {model.vocab_size:,}",
        "Text": f"{len(result.text.train):,} documents to train on, {len(result.text.held_out):,} "
        f"held out, {len(result.text.measured):,} measured",
        "Steps": f"{result.metrics[-1]['step']:,} of {train.batch_tokens:,} tokens",
        "Speed": f"{rates[len(rates) // 2]:,.0f} tokens/s (median), "
        f"{100 * mfu[len(mfu) // 2]:.0f} % of the measured peak",
        "Numbers": f"matrix products in {result.metadata['recipe']['train']['dtype']}",
        "Seconds": ", ".join(f"{k} {v:.0f}" for k, v in result.seconds.items()),
        "Versions": f"gpt2lab {result.metadata['gpt2lab']}, torch {result.metadata['torch']}, "
        f"Python {result.metadata['python']}",
    }
    return "".join(
        f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items()
    )
