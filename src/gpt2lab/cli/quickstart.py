"""`gpt2lab quickstart`"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Command:
    """Train a small GPT-2 on real English on this machine, measure it, and show what it writes."""

    out: Path = Path("runs/quickstart")
    """Folder for the model, its metrics and report.html."""
    text: Path | None = None
    """Your own text: a file or folder of .txt, .md, .rst, .jsonl; the documentation of the
    installed Python packages if not given."""
    minutes: float = 3.0
    """How long to train."""
    recipe: Path | None = None
    """Another recipe than recipes/quickstart.toml."""
    overwrite: bool = False
    """Replace the run in OUT."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab quickstart")
    from gpt2lab.quickstart.report import next_commands
    from gpt2lab.quickstart.run import default_recipe, quickstart
    from gpt2lab.settings import read_recipe
    from gpt2lab.training.recipe import Recipe

    recipe = read_recipe(command.recipe, Recipe) if command.recipe else default_recipe()
    recipe = replace(recipe, train=replace(recipe.train, minutes=command.minutes, steps=None))
    result = quickstart(command.out, recipe=recipe, text=command.text, overwrite=command.overwrite)
    if command.json:
        print(json.dumps(result.as_table(command.out), ensure_ascii=False))
        return
    print("\nBits per byte on held-out text (less is better)")
    print(f"  {'this model':<18}{result.model_bits.value:.3f}")
    for name, value in result.baselines.items():
        print(f"  {name:<18}{value:.3f}")
    for number, sample in enumerate(result.samples, start=1):
        print(f"\nSample {number}\n{sample.text.strip()}")
    print(f"\nReport: {command.out}/report.html\nNext:\n{next_commands(command.out)}")
