"""`tfidf`: OpenAI's baseline made anew, words and pairs of words with logistic regression.

As openai/gpt-2-output-dataset's detection.md describes it: word 1- and 2-grams, those in fewer than
five texts left out, at most 2^21; liblinear; the strength from 2^-6 to 2^6 by accuracy on held-out
texts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from gpt2lab.detection.detectors import arrays
from gpt2lab.detection.detectors.detector import Lesson
from gpt2lab.detection.detectors.logistic import sklearn
from gpt2lab.detection.features import Floats
from gpt2lab.detection.reading import Reading
from gpt2lab.errors import UserError
from gpt2lab.storage import read_json, write_json

_TERMS, _WEIGHTS = "terms.json", "tfidf.safetensors"
_STRENGTHS = [2.0**power for power in range(-6, 7)]
_HELD_OUT = 0.2


class Tfidf:
    """Knows words, and no model."""

    name: ClassVar[str] = "tfidf"
    models: ClassVar[int] = 0
    cross: ClassVar[bool] = False

    def __init__(self, terms: list[str], idf: Floats, weight: Floats, intercept: float) -> None:
        self._terms, self._idf, self._weight, self._intercept = terms, idf, weight, intercept
        self._vectors: Any = None

    @classmethod
    def fit(cls, lesson: Lesson) -> Self:
        """Learn words. Raises UserError if hardly one occurs in five of the texts."""
        texts = [r.text for r in lesson.readings]
        inside, outside = _parted(lesson.documents, lesson.seed)
        tried, x = _fitted_vectors([texts[i] for i in inside])
        beside = tried.transform([texts[i] for i in outside])
        truth = lesson.machine[outside]

        def accuracy(strength: float) -> float:
            said = _regression(strength).fit(x, lesson.machine[inside]).predict(beside)
            return float(np.mean([(said[truth == one] == one).mean() for one in (False, True)]))

        best = max(_STRENGTHS, key=accuracy)
        vectors, x = _fitted_vectors(texts)
        fitted = _regression(best).fit(x, lesson.machine)
        terms = vectors.get_feature_names_out().tolist()
        return cls(terms, vectors.idf_, fitted.coef_[0], float(fitted.intercept_[0]))

    def score(self, readings: Sequence[Reading]) -> Floats:
        """Log-odds, were people and machines as many."""
        if not readings:
            return np.empty(0)
        if self._vectors is None:
            self._vectors = _vectors(vocabulary={t: i for i, t in enumerate(self._terms)})
            self._vectors.idf_ = self._idf
        found = self._vectors.transform([r.text for r in readings])
        return np.asarray(found @ self._weight).ravel() + self._intercept

    def save(self, folder: Path) -> None:
        """Write words and weights."""
        write_json(folder / _TERMS, {"terms": self._terms, "intercept": self._intercept})
        arrays.save(folder / _WEIGHTS, {"idf": self._idf, "weight": self._weight})

    @classmethod
    def load(cls, folder: Path, scorers: Sequence[str]) -> Self:
        """Read them."""
        told = read_json(folder / _TERMS)
        try:
            terms, intercept = list(map(str, told["terms"])), float(told["intercept"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{folder / _TERMS} is damaged; train the detector again") from None
        shape = (len(terms),)
        kept = arrays.load(folder / _WEIGHTS, {"idf": shape, "weight": shape})
        return cls(terms, kept["idf"], kept["weight"], intercept)


def _vectors(**more: Any) -> Any:
    sklearn()
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), **more)


def _fitted_vectors(texts: Sequence[str]) -> tuple[Any, Any]:
    vectors = _vectors(min_df=5, max_features=2**21)
    try:
        return vectors, vectors.fit_transform(texts)
    except ValueError:
        raise UserError(
            "tfidf: hardly a word is in five of the texts; give more texts, or leave it out"
        ) from None


def _regression(strength: float) -> Any:
    linear_model, _ = sklearn()
    return linear_model.LogisticRegression(
        C=strength, solver="liblinear", class_weight="balanced", max_iter=1000
    )


def _parted(
    documents: Sequence[str], seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Texts to learn from and texts to try strengths on, of other documents."""
    names = sorted(set(documents))
    drawn = np.random.default_rng(seed).permutation(len(names))
    held = {names[i] for i in drawn[: max(1, int(_HELD_OUT * len(names)))]}
    out = np.array([d in held for d in documents])
    return np.flatnonzero(~out), np.flatnonzero(out)
