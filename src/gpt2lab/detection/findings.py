"""What an evaluation is asked for and what it finds."""

from dataclasses import dataclass, field
from typing import Any

from gpt2lab.detection.calibrate import FEWEST
from gpt2lab.detection.features import Floats
from gpt2lab.detection.metrics import Reliability
from gpt2lab.errors import UserError
from gpt2lab.evaluation.measurement import Measurement

_SEEDS = 2**32
RATES = (0.05, 0.01, 0.001)


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    tokens: int = 200
    """Length that texts are cut to, but for the table of lengths."""
    attacked: int = 200
    """Most texts that are attacked."""
    seed: int = 0
    """Of attacks."""

    def __post_init__(self) -> None:
        if self.tokens < FEWEST:
            raise UserError(f"--tokens is {self.tokens}; it must be at least {FEWEST}")
        if not 0 <= self.seed < _SEEDS:
            raise UserError(f"--seed is {self.seed}; it must be from 0 to {_SEEDS - 1}")
        if self.attacked < 1:
            raise UserError(f"--attacked is {self.attacked}; it must be at least 1")


@dataclass(frozen=True)
class Cell:
    """A number of a table, with its 95 % interval where it has one."""

    value: float
    interval: tuple[float, float] | None = None


Row = list[Cell | None]


@dataclass(frozen=True)
class Table:
    """Numbers with the names of rows and columns."""

    title: str
    corner: str
    columns: list[str]
    rows: dict[str, Row]
    note: str
    percent: bool = False


@dataclass
class Findings:
    """All that was found."""

    setup: Setup
    facts: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    curves: dict[str, Reliability] = field(default_factory=dict)
    """Reliability of each detector."""
    roc: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    """False and true positives of each detector."""
