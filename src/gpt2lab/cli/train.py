"""`gpt2lab train RECIPE [--a.b value ...]` and `gpt2lab train --resume RUN`"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tyro

from gpt2lab.cli.output import show
from gpt2lab.errors import UserError
from gpt2lab.model.config import GPT2Config
from gpt2lab.progress import first_process
from gpt2lab.settings import read_recipe, to_toml
from gpt2lab.training.recipe import Data, Every, Finetune, Optimizer, Parallel, Recipe, Train


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
    """Continue the run in this folder from its last checkpoint. Of its recipe, what follows may
    differ: how long it runs, rates, devices, processes, what happens beside training."""
    override_resume: bool = False
    """With --resume: also change what is read, and in which order."""
    overwrite: bool = False
    """Start anew in a folder that holds a run."""
    dry_run: bool = False
    """Print the resolved recipe with parameters, FLOPs, memory and expected time, and stop."""
    processes: int = 1
    """With --dry-run: how many processes, each on a device like this one."""
    json: bool = False
    """Print one JSON object."""
    model: GPT2Config = field(default_factory=GPT2Config)
    finetune: Finetune = field(default_factory=Finetune)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    parallel: Parallel = field(default_factory=Parallel)
    every: Every = field(default_factory=Every)


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    if argv and argv[0] == "plot":
        from gpt2lab.cli import train_plot

        train_plot.run(argv[1:])
        return
    default = Command()
    resumed = _resumed(argv)
    if argv and not argv[0].startswith("-"):
        recipe = read_recipe(Path(argv[0]), Recipe)
        default = Command(recipe=Path(argv[0]), **_tables(recipe))
    elif resumed is not None:
        from gpt2lab.training.run import saved_recipe

        default = Command(**_tables(saved_recipe(resumed)))
    command = tyro.cli(Command, args=argv, default=default, prog="gpt2lab train")
    if command.recipe != default.recipe:
        raise UserError(f"write the recipe first: gpt2lab train {command.recipe} ...")
    if command.override_resume and command.resume is None:
        raise UserError("--override-resume goes with --resume RUN; give both")
    if command.resume is not None and (command.overwrite or command.out != default.out):
        raise UserError("--resume goes on in the run's own folder; leave --out and --overwrite out")
    recipe = Recipe(**{f.name: getattr(command, f.name) for f in fields(Recipe)})

    from gpt2lab.training import run as runs
    from gpt2lab.training.callbacks import read_metrics
    from gpt2lab.training.plan import plan
    from gpt2lab.training.settle import settle

    if command.dry_run:
        found = plan(recipe, command.processes)
        if not command.json:
            print(to_toml(settle(recipe)))
        show(found, as_json=command.json)
        return
    where = command.resume or command.out
    if command.resume is not None:
        folder = runs.resume(where, recipe, allow_other_data=command.override_resume)
    else:
        folder = runs.start(recipe, where, overwrite=command.overwrite)
    if not first_process():
        return
    last = (read_metrics(where) or [{"step": 0, "loss": None, "seconds": 0.0}])[-1]
    result: dict[str, Any] = {
        "model": str(folder) if folder else None,
        "steps": last["step"],
        "loss": last["loss"] and round(last["loss"], 4),
        "validation_loss": round(last["validation_loss"], 4) if "validation_loss" in last else None,
        "seconds": last["seconds"],
    }
    if folder is None:
        result["stopped"] = f"as asked; continue with: gpt2lab train --resume {where}"
    show(result, as_json=command.json)


def _resumed(argv: Sequence[str]) -> Path | None:
    """The folder after the last --resume, whose recipe the other options are read against."""
    found = None
    for number, word in enumerate(argv):
        if word.startswith("--resume="):
            found = Path(word.partition("=")[2])
        elif word == "--resume" and number + 1 < len(argv):
            found = Path(argv[number + 1])
    return found


def _tables(recipe: Recipe) -> dict[str, Any]:
    return {f.name: getattr(recipe, f.name) for f in fields(recipe)}
