"""`gpt2lab train RECIPE [--a.b value ...]` and `gpt2lab train --resume RUN`"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tyro

from gpt2lab.cli.output import show
from gpt2lab.errors import UserError
from gpt2lab.model.config import GPT2Config
from gpt2lab.settings import read_recipe, to_toml
from gpt2lab.training.recipe import Data, Every, Optimizer, Recipe, Train


@dataclass(frozen=True)
class Command:
    """Train a GPT-2. RECIPE is a TOML file; any of its fields can be given here instead, as in
    `gpt2lab train recipes/gpt2-124M.toml --data.path shards --train.steps 1000`.
    """

    recipe: tyro.conf.Positional[Path | None] = None
    """The recipe; the defaults below are its values. It comes first."""
    out: Path = Path("runs/train")
    """Folder of the run: recipe, metrics, checkpoints and, at the end, `model`."""
    resume: Path | None = None
    """Continue the run in this folder from its last checkpoint; takes nothing else."""
    overwrite: bool = False
    """Start anew in a folder that holds a run."""
    dry_run: bool = False
    """Print the resolved recipe with parameters, FLOPs, memory and expected time, and stop."""
    json: bool = False
    """Print one JSON object."""
    model: GPT2Config = field(default_factory=GPT2Config)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    every: Every = field(default_factory=Every)


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default = Command()
    if argv and not argv[0].startswith("-"):
        recipe = read_recipe(Path(argv[0]), Recipe)
        default = Command(recipe=Path(argv[0]), **_tables(recipe))
    command = tyro.cli(Command, args=argv, default=default, prog="gpt2lab train")
    if command.recipe != default.recipe:
        raise UserError(f"write the recipe first: gpt2lab train {command.recipe} ...")

    from gpt2lab.training import run as runs
    from gpt2lab.training.callbacks import read_metrics
    from gpt2lab.training.loop import settle

    if command.resume is not None:
        if command != Command(resume=command.resume, json=command.json):
            raise UserError("--resume takes the run's own recipe; give no other option")
        folder = runs.resume(command.resume)
        where = command.resume
    else:
        recipe = Recipe(**{f.name: getattr(command, f.name) for f in fields(Recipe)})
        if command.dry_run:
            plan = runs.plan(recipe)
            if not command.json:
                print(to_toml(settle(recipe)))
            show(plan, as_json=command.json)
            return
        folder = runs.start(recipe, command.out, overwrite=command.overwrite)
        where = command.out
    last = read_metrics(where)[-1]
    result: dict[str, Any] = {
        "model": str(folder),
        "steps": last["step"],
        "loss": round(last["loss"], 4),
        "validation_loss": round(last["validation_loss"], 4) if "validation_loss" in last else None,
        "seconds": last["seconds"],
    }
    show(result, as_json=command.json)


def _tables(recipe: Recipe) -> dict[str, Any]:
    return {f.name: getattr(recipe, f.name) for f in fields(recipe)}
