"""Detectors that learn nothing: `curvature` with one model, `binoculars` with two sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from gpt2lab.detection.detectors.detector import Lesson
from gpt2lab.detection.features import Floats, curvature
from gpt2lab.detection.reading import Reading


class _Untaught:
    """Has nothing to write down."""

    @classmethod
    def fit(cls, lesson: Lesson) -> Self:
        """Learn nothing."""
        return cls()

    def save(self, folder: Path) -> None:
        """Write nothing."""

    @classmethod
    def load(cls, folder: Path, scorers: Sequence[str]) -> Self:
        """Read nothing."""
        return cls()


class Curvature(_Untaught):
    """Fast-DetectGPT in closed form: works the day a model is there."""

    name: ClassVar[str] = "curvature"
    models: ClassVar[int] = 1
    cross: ClassVar[bool] = False

    def score(self, readings: Sequence[Reading]) -> Floats:
        """Standard deviations of log-likelihood above what is expected of the model's own text."""
        return np.array([curvature(r.scores[0]) for r in readings])


class Binoculars(_Untaught):
    """A text's log-perplexity beside what one model makes of the other's expectations.

    Hans et al. 2024, equations 2 to 4. The first model is the performer, the second the observer.
    """

    name: ClassVar[str] = "binoculars"
    models: ClassVar[int] = 2
    cross: ClassVar[bool] = True

    def score(self, readings: Sequence[Reading]) -> Floats:
        """Less than nought; machines' texts, which need fewer nats than expected, are nearer."""
        return np.array([_ratio(r) for r in readings])


def _ratio(reading: Reading) -> float:
    assert reading.cross is not None
    needed = reading.scores[0].nats.mean(dtype=np.float64)
    return -float(needed / max(reading.cross.mean(dtype=np.float64), 1e-6))
