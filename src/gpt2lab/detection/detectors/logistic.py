"""Logistic regression of people's texts against several kinds of machines', all parts of it told.

Texts drawn at temperature 1 are less likely than people's, and texts drawn from the 40 likeliest
tokens more likely: no one weighing of numbers finds both. So each kind has weights of its own, and
the score is the log-odds of all kinds together against people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gpt2lab.detection.features import Floats
from gpt2lab.errors import UserError

HUMAN = ""
# Inverse strengths of regularisation that are tried, on so many folds.
STRENGTHS = (0.01, 0.1, 1.0)
_FOLDS = 3
_TRIED = 2000
# A number of a text that is stranger than all that were learned from counts as this strange.
_MOST = 8.0


@dataclass(frozen=True)
class Logistic:
    """Of each kind K, the sum of weighted numbers F, each less its mean and over its deviation."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """The first is HUMAN."""
    mean_F: Floats
    deviation_F: Floats
    weight_KF: Floats
    intercept_K: Floats

    @classmethod
    def fit(
        cls, x_NF: Floats, kinds_N: Sequence[str], groups_N: Sequence[str], names: Sequence[str]
    ) -> "Logistic":
        """Learn, people and machines counting alike, and of these each kind.

        The strength is the one with the least log-loss in folds that part no group.
        """
        linear_model, model_selection = sklearn()
        mean_F, deviation_F = x_NF.mean(0), x_NF.std(0)
        deviation_F[deviation_F == 0] = 1.0
        z_NF = _standard(x_NF, mean_F, deviation_F)
        kinds = np.array(kinds_N)
        weight_N = weights(kinds)

        def made(strength: float, at: npt.NDArray[np.int64]) -> "Logistic":
            fitted = linear_model.LogisticRegression(C=strength, max_iter=1000)
            fitted.fit(z_NF[at], kinds[at], sample_weight=weight_N[at])
            weight_KF, intercept_K = fitted.coef_, fitted.intercept_
            if len(fitted.classes_) == 2:  # only the second kind's are told
                weight_KF = np.concatenate([0 * weight_KF, weight_KF])
                intercept_K = np.concatenate([0 * intercept_K, intercept_K])
            told = tuple(map(str, fitted.classes_))
            return cls(tuple(names), told, mean_F, deviation_F, weight_KF, intercept_K)

        best = STRENGTHS[-1]
        tried = _some(np.array(groups_N))
        folds = min(_FOLDS, len(set(groups_N)))
        if folds > 1:
            groups = [groups_N[i] for i in tried]
            each = model_selection.GroupKFold(folds).split(tried, groups=groups)
            cut = [(tried[inside], tried[outside]) for inside, outside in each]
            losses = [
                np.mean([_loss(made(s, a).score(x_NF[b]), kinds[b], weight_N[b]) for a, b in cut])
                for s in STRENGTHS
            ]
            best = STRENGTHS[int(np.argmin(losses))]
        return made(best, np.arange(len(kinds)))

    def logits(self, x_NF: Floats) -> Floats:
        """Of each kind [N, K]."""
        z_NF = _standard(x_NF, self.mean_F, self.deviation_F)
        return z_NF @ self.weight_KF.T + self.intercept_K

    def score(self, x_NF: Floats) -> Floats:
        """Log-odds of a machine [N], were people and machines as many."""
        logits_NK = self.logits(x_NF)
        return np.logaddexp.reduce(logits_NK[:, 1:], 1) - logits_NK[:, 0]

    def parts(self, x_F: Floats) -> tuple[str, Floats]:
        """The kind of machine that a text is most like, and what each number adds to that [F]."""
        kind = 1 + int(self.logits(x_F[None])[0, 1:].argmax())
        z_F = _standard(x_F, self.mean_F, self.deviation_F)
        return self.kinds[kind], z_F * (self.weight_KF[kind] - self.weight_KF[0])

    def table(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "names": list(self.names),
            "kinds": list(self.kinds),
            "mean": self.mean_F.tolist(),
            "deviation": self.deviation_F.tolist(),
            "weight": self.weight_KF.tolist(),
            "intercept": self.intercept_K.tolist(),
        }

    @classmethod
    def of_table(cls, table: Any, where: str) -> Self:
        """Read what `table` gave; UserError if it is damaged."""
        try:
            names, kinds = tuple(map(str, table["names"])), tuple(map(str, table["kinds"]))
            columns = ("mean", "deviation", "weight", "intercept")
            mean, deviation, weight, intercept = (
                np.array(table[name], np.float64) for name in columns
            )
            F, K = len(names), len(kinds)
            shapes = (mean.shape, deviation.shape, weight.shape, intercept.shape)
            if (
                shapes == ((F,), (F,), (K, F), (K,)) and K > 1 and kinds[0] == HUMAN
                and all(np.isfinite(c).all() for c in (mean, deviation, weight, intercept))
                and (deviation > 0).all()
            ):  # fmt: skip
                return cls(names, kinds, mean, deviation, weight, intercept)
        except (KeyError, TypeError, ValueError, OverflowError):
            pass
        raise UserError(f"{where} is damaged; train the detector again")


def _some(groups: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """Texts that strengths are tried on: all, or those of some groups drawn at random."""
    names = np.unique(groups)
    share = min(1.0, _TRIED / len(groups))
    count = max(min(len(names), _FOLDS), int(share * len(names)))
    kept = np.random.default_rng(0).permutation(names)[:count]
    return np.flatnonzero(np.isin(groups, kept))


def _standard(x: Floats, mean_F: Floats, deviation_F: Floats) -> Floats:
    return np.clip((x - mean_F) / deviation_F, -_MOST, _MOST)


def weights(kinds: npt.NDArray[np.str_]) -> Floats:
    """Half for people, half for machines, and of these alike for each kind; the mean is 1."""
    names, counts = np.unique(kinds, return_counts=True)
    share = {k: 0.5 if k == HUMAN else 0.5 / (len(names) - 1) for k in names.tolist()}
    each = {k: share[k] * len(kinds) / n for k, n in zip(names.tolist(), counts, strict=True)}
    return np.array([each[k] for k in kinds.tolist()])


def _loss(score: Floats, kinds: npt.NDArray[np.str_], weight: Floats) -> float:
    """Weighted log-loss of people against machines."""
    sign = np.where(kinds == HUMAN, 1.0, -1.0)
    return float((weight * np.logaddexp(0, sign * score)).sum() / weight.sum())


def sklearn() -> tuple[Any, Any]:
    """scikit-learn's linear models and its cross-validation."""
    try:
        from sklearn import linear_model, model_selection
    except ImportError:
        raise UserError("detectors need scikit-learn; pip install 'gpt2lab[detect]'") from None
    return linear_model, model_selection
