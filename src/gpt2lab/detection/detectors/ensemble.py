"""`ensemble`: logistic regression over the other detectors' scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from gpt2lab.detection.detectors.logistic import Logistic
from gpt2lab.detection.features import Floats
from gpt2lab.storage import read_json, write_json

NAME = "ensemble"
_FILE = "ensemble.json"


class Ensemble:
    """Weighs what other detectors say; it learns from texts that they did not learn from."""

    def __init__(self, logistic: Logistic) -> None:
        self._logistic = logistic

    @property
    def members(self) -> tuple[str, ...]:
        """The detectors it weighs."""
        return self._logistic.names

    @classmethod
    def fit(
        cls,
        scores: Mapping[str, Floats],
        kinds: Sequence[str],
        documents: Sequence[str],
    ) -> Self:
        """Learn from the scores of detectors, each [N]."""
        x = np.stack(list(scores.values()), 1)
        return cls(Logistic.fit(x, kinds, documents, list(scores)))

    def score(self, scores: Mapping[str, Floats]) -> Floats:
        """Log-odds of texts, were people and machines as many."""
        return self._logistic.score(np.stack([scores[name] for name in self.members], 1))

    def save(self, folder: Path) -> None:
        """Write the weights."""
        write_json(folder / _FILE, self._logistic.table())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read them."""
        return cls(Logistic.of_table(read_json(folder / _FILE), str(folder / _FILE)))
