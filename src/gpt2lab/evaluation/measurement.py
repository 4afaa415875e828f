"""The form in which every number leaves the program."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """A number that says how it was measured.

    low, high: 95 % confidence interval; None where there is no sampling error, or one item only.
    n: how many independent items (documents, questions) it is over.
    data: digest of what it was measured on.
    """

    name: str
    value: float
    unit: str
    n: int
    protocol: str
    data: str
    low: float | None = None
    high: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that it depends on: context, stride, seed, examples shown."""

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name} {self.value:.3f}{interval} {self.unit} (n={self.n:,})"
