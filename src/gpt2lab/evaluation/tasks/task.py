"""What a task is: a named way to ask a model about one data file, and to score the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gpt2lab.errors import UserError
from gpt2lab.evaluation.detokenize import Mode
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.scores import Score
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject


@dataclass(frozen=True)
class Settings:
    """What can be chosen about a task; it is told with every number."""

    limit: int | None = None
    """Only the first so many items (windows, for texts that are read as one)."""
    shots: int | None = None
    """Solved examples before each question; the task's own number if not given."""
    reserved: int = 0
    """Examples set aside at least, so that all numbers of them leave the same questions."""
    stride: int | None = None
    """Tokens by which windows over long texts advance; the model's context, as in the paper, if not
    given."""
    detokenizer: Mode = "paper"
    """How language-model sets are joined: paper (invertibly), megatron (as Megatron-LM and lm-eval
    do), raw (not at all)."""
    seed: int = 0
    """Of what is drawn: examples, sampled summaries."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; it must be at least 0")


@dataclass
class Outcome:
    """What a task found."""

    scores: list[Score]
    data: str
    """Digest of the data."""
    files: list[str]
    items: list[dict[str, Any]] = field(default_factory=list)
    """For people: what was asked and answered, one object an item."""
    texts: list[str] = field(default_factory=list)
    """Of each item of the scores, what of it may have been in a training text."""
    others: list[Measurement] = field(default_factory=list)
    """Numbers that no sums over items make."""


class Task(NamedTuple):
    """An entry of the list of tasks."""

    name: str
    summary: str
    run: Callable[[Subject, Data, Settings], Outcome]
    sources: tuple[Source, ...]


def limited(items: Sequence[Any], settings: Settings, file: DataFile) -> list[Any]:
    """The items that are wanted; UserError if that leaves none."""
    if settings.limit is not None and settings.limit < 1:
        raise UserError(f"limit is {settings.limit}; it must be at least 1")
    if not items:
        raise UserError(f"{file.path} holds no items; fetch it again")
    return list(items[: settings.limit])
