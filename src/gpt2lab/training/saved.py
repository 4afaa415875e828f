"""The checkpoints that lie in a run's folder: which there are, and whether they are sound."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from gpt2lab.errors import UserError
from gpt2lab.storage import read_json, sha256
from gpt2lab.training.recipe import Every

CHECKPOINTS = "checkpoints"
DIGESTS = "sha256.json"
_NAME = re.compile(r"step-(\d{7,})")


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [p for p in (run / CHECKPOINTS).glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(folder.name.removeprefix("step-"))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found[str(path.relative_to(folder))] = sha256(path)
    return found


def retire(run: Path, newest: Path, best_step: int, every: Every) -> None:
    """Remove the checkpoints that the recipe does not keep."""
    found = list_checkpoints(run)
    for old in found[: -every.keep]:
        step = step_of(old)
        kept = every.keep_each and step % every.keep_each == 0
        if old != newest and step != best_step and not kept:
            shutil.rmtree(old, ignore_errors=True)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        recorded = dict(read_json(folder / "state" / DIGESTS)["files"])
        found = digests(folder)
    except (UserError, KeyError, TypeError, ValueError, OSError) as error:
        return f"{folder} is incomplete ({error})"
    del found[f"state/{DIGESTS}"]
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            return f"{folder / name} is missing"
        if name not in recorded:
            return f"{folder / name} does not belong there"
        if found[name] != recorded[name]:
            return f"{folder / name} has changed since it was written"
    return None


def last_sound(run: Path, tell: Callable[[str], None]) -> Path | None:
    """The last checkpoint whose files are as they were written; None if there is none at all.

    Later ones are renamed, so that none of them is taken for the run's last again.
    """
    found = list_checkpoints(run)
    for number, folder in reversed(list(enumerate(found))):
        problem = damage(folder)
        if problem is None:
            for bad in found[number + 1 :]:
                bad.rename(bad.with_name(f"damaged-{bad.name}"))
            return folder
        tell(f"{problem}; trying the checkpoint before it")
    if found:
        raise UserError(f"no checkpoint under {run} is sound; restore one, or start a new run")
    return None
