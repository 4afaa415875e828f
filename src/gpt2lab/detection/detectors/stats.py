"""`stats`: logistic regression on the numbers of `features`."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from gpt2lab.detection.detectors.detector import Lesson
from gpt2lab.detection.detectors.logistic import Logistic
from gpt2lab.detection.features import Floats, features, names
from gpt2lab.detection.reading import Reading
from gpt2lab.errors import UserError
from gpt2lab.storage import read_json, write_json

_FILE = "stats.json"


class Stats:
    """Weighs what models think of a text's tokens."""

    name: ClassVar[str] = "stats"
    models: ClassVar[int] = 1
    cross: ClassVar[bool] = False

    def __init__(self, logistic: Logistic) -> None:
        self._logistic = logistic

    @classmethod
    def fit(cls, lesson: Lesson) -> Self:
        """Weigh the numbers."""
        x_NF = features(lesson.readings)
        return cls(Logistic.fit(x_NF, lesson.kinds, lesson.documents, names(lesson.scorers)))

    def score(self, readings: Sequence[Reading]) -> Floats:
        """Log-odds, were people and machines as many."""
        return self._logistic.score(features(readings)) if readings else np.empty(0)

    def reasons(
        self, reading: Reading, count: int = 6
    ) -> tuple[str, list[tuple[str, float, float]]]:
        """The sampler whose texts a text is most like, and what speaks most for it or against.

        Each with its name, its value, and the log-odds of that sampler against people it adds.
        """
        x_F = features([reading])[0]
        kind, parts_F = self._logistic.parts(x_F)
        order = np.argsort(-np.abs(parts_F))[:count]
        return kind, [(self._logistic.names[i], float(x_F[i]), float(parts_F[i])) for i in order]

    def save(self, folder: Path) -> None:
        """Write the weights."""
        write_json(folder / _FILE, self._logistic.table())

    @classmethod
    def load(cls, folder: Path, scorers: Sequence[str]) -> Self:
        """Read them."""
        made = Logistic.of_table(read_json(folder / _FILE), str(folder / _FILE))
        if made.names != tuple(names(scorers)):
            raise UserError(f"{folder / _FILE} is of other models; train the detector again")
        return cls(made)
