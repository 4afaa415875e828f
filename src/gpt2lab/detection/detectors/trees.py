"""`trees`: boosted trees on the numbers of `features`, for what no weighing of them finds."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from gpt2lab.detection.detectors import arrays
from gpt2lab.detection.detectors.detector import Lesson
from gpt2lab.detection.detectors.logistic import sklearn, weights
from gpt2lab.detection.features import Floats, features, names
from gpt2lab.detection.reading import Reading
from gpt2lab.errors import UserError
from gpt2lab.storage import read_json, write_json

_FILE, _TREES = "trees.json", "trees.safetensors"
_COUNT, _DEPTH, _RATE = 250, 4, 0.15
_NODES = 2 ** (_DEPTH + 1) - 1
# The threshold of a leaf: every text goes left from it, to a leaf of the same value.
_LEAF = np.finfo(np.float64).max

Nodes = npt.NDArray[np.int64]


class Trees:
    """Each tree's leaf adds to the score: K trees of N nodes."""

    name: ClassVar[str] = "trees"
    models: ClassVar[int] = 1
    cross: ClassVar[bool] = False

    def __init__(
        self, feature_KN: Nodes, threshold_KN: Floats, value_KN: Floats, names: Sequence[str]
    ) -> None:
        self._feature_KN, self._threshold_KN, self._value_KN = feature_KN, threshold_KN, value_KN
        self._names = list(names)

    @classmethod
    def fit(cls, lesson: Lesson) -> Self:
        """Grow trees, each on half of the texts."""
        sklearn()
        from sklearn.ensemble import GradientBoostingClassifier

        made = GradientBoostingClassifier(
            n_estimators=_COUNT, max_depth=_DEPTH, learning_rate=_RATE, subsample=0.5,
            max_features="sqrt", min_samples_leaf=10, init="zero", random_state=lesson.seed,
        )  # fmt: skip
        weight_N = weights(np.array(lesson.kinds))
        made.fit(features(lesson.readings), lesson.machine, sample_weight=weight_N)
        feature_KN = np.zeros((_COUNT, _NODES), np.int64)
        threshold_KN = np.full((_COUNT, _NODES), _LEAF)
        value_KN = np.zeros((_COUNT, _NODES))
        for k, (one,) in enumerate(made.estimators_):
            tree = one.tree_
            places = {0: 0}  # children of node n are put at 2 n + 1 and 2 n + 2
            for node in range(tree.node_count):
                at = places[node]
                value_KN[k, at] = _RATE * tree.value[node, 0, 0]
                if tree.children_left[node] >= 0:
                    feature_KN[k, at] = tree.feature[node]
                    threshold_KN[k, at] = tree.threshold[node]
                    places[int(tree.children_left[node])] = 2 * at + 1
                    places[int(tree.children_right[node])] = 2 * at + 2
        value_KN = _down(value_KN, threshold_KN)
        return cls(feature_KN, threshold_KN, value_KN, names(lesson.scorers))

    def score(self, readings: Sequence[Reading]) -> Floats:
        """Log-odds, were people and machines as many."""
        if not readings:
            return np.empty(0)
        x_TF = features(readings).astype(np.float32)  # as they were learned
        rows_T1, trees_K = np.arange(len(x_TF))[:, None], np.arange(len(self._feature_KN))
        at_TK = np.zeros((len(x_TF), len(trees_K)), np.int64)
        for _ in range(_DEPTH):
            value_TK = x_TF[rows_T1, self._feature_KN[trees_K, at_TK]]
            right_TK = value_TK > self._threshold_KN[trees_K, at_TK]
            at_TK = 2 * at_TK + 1 + right_TK
        return self._value_KN[trees_K, at_TK].sum(1)

    def save(self, folder: Path) -> None:
        """Write the trees."""
        write_json(folder / _FILE, {"names": self._names})
        kept = {"feature": self._feature_KN, "threshold": self._threshold_KN}
        arrays.save(folder / _TREES, kept | {"value": self._value_KN})

    @classmethod
    def load(cls, folder: Path, scorers: Sequence[str]) -> Self:
        """Read them."""
        told = read_json(folder / _FILE)
        if not isinstance(told, dict) or told.get("names") != names(scorers):
            raise UserError(f"{folder / _FILE} is of other models; train the detector again")
        shapes = dict.fromkeys(("feature", "threshold", "value"), (_COUNT, _NODES))
        kept = arrays.load(folder / _TREES, shapes)
        feature_KN, count = kept["feature"], len(told["names"])
        whole = np.issubdtype(feature_KN.dtype, np.integer)
        if not whole or not ((feature_KN >= 0) & (feature_KN < count)).all():
            raise UserError(f"{folder / _TREES} is damaged; train the detector again")
        return cls(feature_KN, kept["threshold"], kept["value"], told["names"])


def _down(value_KN: Floats, threshold_KN: Floats) -> Floats:
    """Values with those of leaves above the last row handed down to the left, where texts go."""
    value_KN = value_KN.copy()
    for at in range(_NODES // 2):
        leaf_K = threshold_KN[:, at] == _LEAF
        value_KN[leaf_K, 2 * at + 1] = value_KN[leaf_K, at]
    return value_KN
