"""The folder a run lives in: one process at a time, and no older run lost to one that cannot start.

What stands in the folder is put aside until the new run has made its first step. Should it fail
before that, or be killed, the old run is brought back.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.storage import require_ours
from gpt2lab.training.loop import Callback, Trainer

RECIPE = "recipe.toml"
TORCHRUN = "torchrun.txt"
_ASIDE = ".replaced"
_PARTS = (
    RECIPE, TORCHRUN, "identity.txt", "metrics.jsonl", "samples.jsonl", "events.jsonl",
    "checkpoints", "model", "adapter", "data", "data-*", "profile", "tensorboard", "wandb",
)  # fmt: skip


def require_room(run: Path, reads: Iterable[str], *, overwrite: bool) -> None:
    """Raise UserError unless a new run may be started in the folder.

    reads: paths the run reads, which may lie in the folder and are no part of an older run.
    """
    found = _parts(run, reads)
    if RECIPE in {part.name for part in found}:
        if not overwrite:
            raise UserError(
                f"{run} holds a run already; continue it with --resume {run}, or pass --overwrite"
            )
        for part in found:
            if part.name in ("model", "data"):
                require_ours(part)
    elif found:
        raise UserError(
            f"{run} holds {found[0].name}, but no run of gpt2lab; choose another --out, or move it "
            "away yourself"
        )


@contextmanager
def replacing(run: Path, reads: Iterable[str]) -> Iterator[None]:
    """Put an older run aside; bring it back if the block fails before `Begun` saw a step."""
    aside = run / _ASIDE
    old = _parts(run, reads)
    aside.mkdir()
    for part in old:
        part.rename(aside / part.name)
    try:
        yield
    except BaseException:
        bring_back(run, reads)
        raise
    shutil.rmtree(aside, ignore_errors=True)


class Begun(Callback):
    """Lets go of the older run once the new one has made a step."""

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        if trainer.world.main and (trainer.run / _ASIDE).exists():
            shutil.rmtree(trainer.run / _ASIDE, ignore_errors=True)


def bring_back(run: Path, reads: Iterable[str]) -> None:
    """Undo the start of a run that never made a step, if there is one."""
    for torn in run.glob(".*.????????.tmp"):  # as mkdtemp names them
        shutil.rmtree(torn, ignore_errors=True)
    aside = run / _ASIDE
    if not aside.is_dir():
        return
    for part in _parts(run, reads):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
    for part in aside.iterdir():
        part.rename(run / part.name)
    aside.rmdir()


def begun(run: Path) -> bool:
    """Whether the folder's run has made a step, so that no older one waits to be brought back."""
    return not (run / _ASIDE).exists()


def recipe_file(run: Path) -> Path:
    """Where the recipe of the folder's run is, be it put aside for one that did not start."""
    aside = run / _ASIDE / RECIPE
    return aside if aside.exists() else run / RECIPE


def _parts(run: Path, reads: Iterable[str]) -> list[Path]:
    """What a run writes, of that which is there."""
    sources = [Path(path).absolute() for path in reads if path]
    return [
        part
        for pattern in _PARTS
        for part in sorted(run.glob(pattern))
        if not any(part.absolute() in (source, *source.parents) for source in sources)
    ]
