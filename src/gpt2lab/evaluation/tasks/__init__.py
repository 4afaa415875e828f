"""The tasks, by name, and the suites they form."""

import difflib
from pathlib import Path

from gpt2lab.errors import UserError
from gpt2lab.evaluation.tasks import (
    cbt,
    coqa,
    lambada,
    natural_questions,
    questions,
    summaries,
    text,
    translation,
    winograd,
)
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task

_PAPER = (
    *lambada.TASKS, *cbt.TASKS, *text.TASKS, *winograd.TASKS, *coqa.TASKS, *summaries.TASKS,
    *translation.TASKS, *natural_questions.TASKS,
)  # fmt: skip
_FILES = Path(__file__).with_name("files")


def tasks() -> dict[str, Task]:
    """Every task there is, in the paper's order, then the others."""
    others = (questions.load(path) for path in sorted(_FILES.glob("*.toml")))
    return {task.name: task for task in (*_PAPER, *others)}


SUITES = {
    "paper": tuple(task.name for task in _PAPER),
    "choices": tuple(path.stem for path in sorted(_FILES.glob("*.toml"))),
}


def chosen(names: list[str]) -> list[Task]:
    """Tasks by name, by the part before `[`, or by the path of a TOML file, without repeats.

    Raises UserError, with the nearest name, for one that does not exist.
    """
    known = tasks()
    found: dict[str, Task] = {}
    for name in names:
        if name.endswith(".toml"):
            task = questions.load(Path(name))
            found[task.name] = task
            continue
        several = [t for t in known.values() if name in (t.name, t.name.partition("[")[0])]
        if not several:
            near = difflib.get_close_matches(name, [*known, "lambada"], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"no task {name!r}; {hint}")
        found |= {task.name: task for task in several}
    return list(found.values())


__all__ = ["SUITES", "Outcome", "Settings", "Task", "chosen", "tasks"]
