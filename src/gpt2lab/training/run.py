"""A run from recipe to finished model: prepare the data, start or resume, train."""

import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gpt2lab import __version__
from gpt2lab.doctor import DTYPES, Peak, peak
from gpt2lab.errors import UserError
from gpt2lab.model import checkpoint
from gpt2lab.progress import Bar, console
from gpt2lab.settings import from_table, read_recipe, to_toml
from gpt2lab.storage import atomic_file, locked, read_json, require_writable_folder
from gpt2lab.training import folder, parallel, saved
from gpt2lab.training.callbacks import Evaluate, Metrics, Profile, Save, Screen
from gpt2lab.training.changes import require_allowed
from gpt2lab.training.footprint import require_memory
from gpt2lab.training.loop import Callback, Trainer
from gpt2lab.training.parallel import World
from gpt2lab.training.recipe import Recipe
from gpt2lab.training.samples import Samples
from gpt2lab.training.settle import settle
from gpt2lab.training.sinks import Report
from gpt2lab.training.sources import Sources, open_sources, text_settings
from gpt2lab.training.start import starting_digest


def start(
    recipe: Recipe,
    run: Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    held: bool = False,
) -> Path | None:
    """Train a new run in the folder `run`; return the folder of the finished model.

    None if it was asked to stop before its end. Where torchrun starts its processes again after one
    has failed, the run goes on from its last checkpoint.

    held: the caller has called `take` for the folder.
    """
    if recipe.train.steps is None and recipe.train.minutes is None:
        raise UserError("the recipe says neither train.steps nor train.minutes; give one")
    with parallel.join(recipe.parallel, recipe.train.device) as world, ExitStack() as stack:
        if not held:
            world.first(lambda: take(run, stack))
        if world.first(lambda: _restarted(run)):
            recipe = world.first(lambda: saved_recipe(run))
            return _resume(recipe, run, world, callbacks, allow_other_data=False)
        recipe = world.first(lambda: settle(recipe))
        reads = (recipe.data.path, *recipe.data.also)

        def make_room() -> None:
            require_memory(recipe, world.size)
            folder.bring_back(run, reads)
            folder.require_room(run, reads, overwrite=overwrite)
            stack.enter_context(folder.replacing(run, reads))

        world.first(make_room)
        sources = open_sources(recipe, run, world, anew=True)
        with Bar("training") as bar:
            trainer = _trainer(recipe, run, sources, world, bar, callbacks)
            if world.main:
                _write_recipe(recipe, run)
                with atomic_file(run / folder.TORCHRUN) as temporary:
                    temporary.write_text(_torchrun() + "\n", "utf-8")
            return trainer.fit()


def resume(
    run: Path,
    recipe: Recipe | None = None,
    *,
    allow_other_data: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Path | None:
    """Continue a run from its last checkpoint, or from the start if it has none.

    recipe: the run's own, or changed in what may change; see `changes`.
    allow_other_data: also in what it reads and in which order.
    """
    recipe = recipe or saved_recipe(run)
    with parallel.join(recipe.parallel, recipe.train.device) as world, ExitStack() as stack:

        def make_room() -> None:
            take(run, stack)
            folder.bring_back(run, (recipe.data.path, *recipe.data.also))

        world.first(make_room)
        settled = world.first(lambda: settle(recipe))
        return _resume(settled, run, world, callbacks, allow_other_data=allow_other_data)


def saved_recipe(run: Path) -> Recipe:
    """The recipe a run was started with, or last resumed with."""
    path = folder.recipe_file(run)
    if not path.exists():
        raise UserError(f"{run} holds no run ({folder.RECIPE} is missing); check the path")
    return read_recipe(path, Recipe)


def take(run: Path, stack: ExitStack) -> None:
    """Hold the folder until the stack unwinds."""
    require_writable_folder(run)
    stack.enter_context(locked(run / ".lock", run))


def _resume(
    recipe: Recipe,
    run: Path,
    world: World,
    callbacks: Sequence[Callback],
    *,
    allow_other_data: bool,
) -> Path | None:
    last = world.first(lambda: saved.last_sound(run, console().print))
    before = world.first(lambda: _trained_by(run, last))

    def require() -> None:
        require_allowed(before, recipe, allow_other_data=allow_other_data)
        require_memory(recipe, world.size)

    world.first(require)
    other_text = text_settings(before) != text_settings(recipe)
    sources = open_sources(recipe, run, world, anew=False, other_text=other_text)
    with Bar("training") as bar:
        trainer = _trainer(recipe, run, sources, world, bar, callbacks)
        if last is not None:
            if not allow_other_data:
                world.first(lambda: _require_same_data(last, trainer.metadata))
            trainer.restore(last)
        if world.main:
            _write_recipe(recipe, run)
            bar.print(f"resuming {run} after step {trainer.progress.step}")
        return trainer.fit()


def _restarted(run: Path) -> bool:
    """Whether this run was started by the same torchrun before, and has made a step.

    It tells its processes a name of its own, unless it goes by the default "none".
    """
    name, path = _torchrun(), run / folder.TORCHRUN
    known = bool(name) and path.exists() and path.read_text("utf-8").strip() == name
    return known and folder.begun(run)


def _torchrun() -> str:
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return "" if name == "none" else name


def _trained_by(run: Path, last: Path | None) -> Recipe:
    """The recipe of the run's last checkpoint, which nobody edits, or of its folder."""
    if last is None:
        return saved_recipe(run)
    path = last / checkpoint.METADATA
    metadata = read_json(path)
    recipe = metadata.get("recipe") if isinstance(metadata, dict) else None
    if not isinstance(recipe, dict):
        raise UserError(f"{path} names no recipe; remove {last}")
    return from_table(Recipe, recipe, where=str(path))


def _write_recipe(recipe: Recipe, run: Path) -> None:
    with atomic_file(run / folder.RECIPE) as temporary:
        temporary.write_text(to_toml(recipe), "utf-8")


def _require_same_data(last: Path, metadata: dict[str, Any]) -> None:
    before = read_json(last / checkpoint.METADATA)
    if not isinstance(before, dict):
        raise UserError(f"{last / checkpoint.METADATA} is damaged; remove {last}")
    for what, of in (
        ("corpus_digest", "shards have"), ("tokenizer_digest", "shards have"),
        ("base_digest", "base model has"),
    ):  # fmt: skip
        if before.get(what) != metadata[what]:
            raise UserError(
                f"the {of} changed since {last} was written ({what} differs); put the old back, "
                "start a new run, or pass --override-resume"
            )


def _trainer(
    recipe: Recipe,
    run: Path,
    sources: Sources,
    world: World,
    bar: Bar,
    callbacks: Sequence[Callback],
) -> Trainer:
    device = torch.device(recipe.train.device or "cpu")
    tflops = recipe.train.peak_tflops
    best = world.first(
        lambda: Peak(tflops, "recipe") if tflops else peak(device, DTYPES[recipe.train.dtype])
    )
    metadata = {
        "gpt2lab": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git": world.first(git_revision),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "processes": world.size,
        "peak_tflops": round(best.tflops, 3),
        "peak_source": best.source,
        "corpus_digest": sources.digest,
        "train_tokens": sources.train_tokens,
        "tokenizer_digest": sources.data.tokenizer.digest,
        "base_digest": world.first(lambda: starting_digest(recipe)),
        "recipe": _without_none(asdict(recipe)),
    }
    # Validation before the checkpoint, which holds its loss.
    standard: list[Callback] = [
        folder.Begun(), Evaluate(), Metrics(best), Save(), Screen(bar)
    ]  # fmt: skip
    standard += [Report(sink) for sink in recipe.train.sinks]
    if recipe.train.profile:
        standard.append(Profile(recipe.train.profile))
    # Samples and validation first, so that what they find is in the line of metrics.
    first = [Samples(bar.print, steps=recipe.every.sample)] if recipe.every.sample else []
    return Trainer(recipe, run, sources.data, metadata, [*first, *standard, *callbacks], world)


def git_revision() -> str | None:
    """The revision of the checkout gpt2lab runs from, with + if it has changes; None elsewhere."""
    here = Path(__file__).parents[3]
    if not (here / ".git").exists():  # installed, perhaps inside another project's checkout
        return None
    try:
        revision = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changed else "")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value
