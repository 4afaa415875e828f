"""What every detector does, and what it learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from gpt2lab.detection.detectors.logistic import HUMAN
from gpt2lab.detection.features import Floats
from gpt2lab.detection.reading import Reading
from gpt2lab.evaluation.subject import Step, silent
from gpt2lab.model.transformer import GPT2


class Detector(Protocol):
    """Gives texts a score that is higher for a machine's."""

    name: ClassVar[str]
    models: ClassVar[int]
    """How many models must have read a text."""
    cross: ClassVar[bool]
    """Whether what two of them expect must have been compared."""

    def score(self, readings: Sequence[Reading]) -> Floats:
        """Scores [N], in no unit of their own."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was learned to a folder that is there."""
        ...

    @classmethod
    def load(cls, folder: Path, scorers: Sequence[str]) -> Self:
        """Read what `save` wrote; UserError if it is damaged, or other models' are meant."""
        ...


@dataclass(frozen=True)
class Lesson:
    """Texts whose authors are known."""

    readings: Sequence[Reading]
    kinds: Sequence[str]
    """HUMAN, or how a machine's text was drawn."""
    documents: Sequence[str]
    """Which of them are about the same document."""
    scorers: Sequence[str] = ()
    """Names of the models that read them."""
    backbone: GPT2 | None = None
    """A model to begin from, for a detector that is one."""
    seed: int = 0
    step: Step = field(default=silent, repr=False)

    @property
    def machine(self) -> npt.NDArray[np.bool_]:
        """Which are a machine's [N]."""
        return np.array(self.kinds) != HUMAN
