"""Stages of tasks, each in a folder named by all that decides its bytes.

A stage's folder is `name-<digest>`, the digest of its code version, its settings and the digests of
what it reads. Changing a late setting leaves the early folders valid; a run that was killed goes
on with the tasks that have no folder yet.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab.corpus.execute import Task, run_tasks
from gpt2lab.corpus.inputs import Input
from gpt2lab.corpus.recipe import Recipe
from gpt2lab.errors import DamagedInput
from gpt2lab.progress import step

# Raised with every change of a stage's code that may change its output.
VERSIONS = {
    "links": 1, "pages": 1, "crawl": 1, "extract": 1, "read": 1, "clean": 1, "distinct": 1,
    "sign": 1, "pairs": 1, "union": 1, "sets": 1, "verify": 1, "clusters": 1, "keys": 1,
    "benchmarks": 1, "overlap": 1, "table": 1, "bloom": 1, "cut": 1, "tokens": 1,
}  # fmt: skip


@dataclass
class Stage:
    """A finished stage: its digest, its task folders and what their manifests say."""

    name: str
    digest: str
    folders: list[Path]
    manifests: list[dict[str, Any]]

    @property
    def counts(self) -> dict[str, int]:
        """Counts of all tasks together, in the order in which they first appear."""
        total: dict[str, int] = {}
        for manifest in self.manifests:
            for name, value in manifest["counts"].items():
                total[name] = total.get(name, 0) + value
        return total

    def files(self, name: str) -> list[str]:
        """The file of this name in each task's folder."""
        return [str(folder / name) for folder in self.folders]


@dataclass
class Build:
    """A corpus in the making."""

    recipe: Recipe
    out: Path
    work: Path
    stages: dict[str, Stage] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)

    def stage(
        self,
        name: str,
        settings: Any,
        sources: Sequence[str],
        tasks: Sequence[tuple[str, Callable[..., dict[str, Any]], dict[str, Any]]],
        *,
        label: str = "",
    ) -> Stage:
        """Run a stage's tasks, given as (name, function, arguments), or find them done."""
        text = json.dumps([name, VERSIONS[name], settings, list(sources)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder = self.work / f"{name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        todo = [Task(folder / task, function, arguments) for task, function, arguments in tasks]
        with _announce(label, all(task.done for task in todo)) as update:
            run_tasks(
                todo,
                executor=self.recipe.run.executor,
                workers=self.recipe.run.workers or os.cpu_count() or 1,
                on_done=lambda done: update(done / max(1, len(todo)), f"{done} of {len(todo)}"),
            )
        stage = Stage(name, digest, [t.folder for t in todo], [t.manifest() for t in todo])
        self.stages[name] = stage
        self._refuse_damage(stage)
        return stage

    def _refuse_damage(self, stage: Stage) -> None:
        damage = [line for manifest in stage.manifests for line in manifest.get("damage", [])]
        if damage and not self.recipe.run.allow_damaged:
            raise DamagedInput(
                f"{damage[0]}"
                + (f" and {len(damage) - 1} more places" if len(damage) > 1 else "")
                + "; what could be read is kept: fetch the file again, or go on without the rest "
                "with --run.allow-damaged"
            )

    @property
    def damage(self) -> list[str]:
        """Every loss met, in the input files and by any stage."""
        return [str(i.damage) for i in self.inputs if i.damage] + [
            line
            for stage in self.stages.values()
            for manifest in stage.manifests
            for line in manifest.get("damage", [])
        ]


@contextmanager
def _announce(label: str, done: bool) -> Iterator[Callable[[float, str], None]]:
    """A progress bar for stages worth a name; silence for the small ones and for done ones."""
    if done or not label:
        yield lambda fraction, note: None
        return
    with step(label) as bar:
        yield bar.update
