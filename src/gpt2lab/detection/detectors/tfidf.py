"""`tfidf`, OpenAI's baseline made anew, and `style`, which looks at the writing more closely.

As openai/gpt-2-output-dataset's detection.md describes the former: word 1- and 2-grams, those in
fewer than five texts left out, at most 2^21; liblinear; the strength from 2^-6 to 2^6 by accuracy
on held-out texts. The latter keeps capitals and punctuation, with n-grams of characters and words.
"""

from collections.abc import Mapping, Sequence
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
_OF_FITTING = ("min_df", "max_features")


class Tfidf:
    """Knows words, and no model."""

    name: ClassVar[str] = "tfidf"
    models: ClassVar[int] = 0
    cross: ClassVar[bool] = False
    views: ClassVar[tuple[dict[str, Any], ...]] = (
        {"ngram_range": (1, 2), "min_df": 5, "max_features": 2**21},
    )
    """What is counted, as scikit-learn's TfidfVectorizer is told."""
    strengths: ClassVar[Sequence[float]] = _STRENGTHS

    def __init__(
        self, terms: list[list[str]], idf: Floats, weight: Floats, intercept: float
    ) -> None:
        self._terms, self._idf, self._weight, self._intercept = terms, idf, weight, intercept
        self._vectors: list[Any] = []

    @classmethod
    def fit(cls, lesson: Lesson) -> Self:
        """Learn words. Raises UserError if hardly one occurs in five of the texts."""
        texts = [r.text for r in lesson.readings]
        strength = cls.strengths[0]
        if len(cls.strengths) > 1:
            strength = cls._strength(texts, lesson)
        vectors, x = cls._fitted_vectors(texts)
        fitted = _regression(strength).fit(x, lesson.machine)
        terms = [v.get_feature_names_out().tolist() for v in vectors]
        idf = np.concatenate([v.idf_ for v in vectors])
        return cls(terms, idf, fitted.coef_[0], float(fitted.intercept_[0]))

    @classmethod
    def _strength(cls, texts: Sequence[str], lesson: Lesson) -> float:
        """The one that tells most of some documents right, learned from the others."""
        inside, outside = _parted(lesson.documents, lesson.seed)
        tried, x = cls._fitted_vectors([texts[i] for i in inside])
        beside = _counted(tried, [texts[i] for i in outside])
        truth = lesson.machine[outside]

        def accuracy(strength: float) -> float:
            said = _regression(strength).fit(x, lesson.machine[inside]).predict(beside)
            return float(np.mean([(said[truth == one] == one).mean() for one in (False, True)]))

        return max(cls.strengths, key=accuracy)

    @classmethod
    def _fitted_vectors(cls, texts: Sequence[str]) -> tuple[list[Any], Any]:
        from scipy import sparse

        vectors = [_vectorizer(view) for view in cls.views]
        try:
            return vectors, sparse.hstack([v.fit_transform(texts) for v in vectors], "csr")
        except ValueError:
            raise UserError(
                f"{cls.name}: hardly a word is in five of the texts; give more texts, or leave it "
                "out"
            ) from None

    def score(self, readings: Sequence[Reading]) -> Floats:
        """Log-odds, were people and machines as many."""
        if not readings:
            return np.empty(0)
        if not self._vectors:
            start = 0
            for view, terms in zip(self.views, self._terms, strict=True):
                known = {name: value for name, value in view.items() if name not in _OF_FITTING}
                vector = _vectorizer(known | {"vocabulary": {t: i for i, t in enumerate(terms)}})
                vector.idf_ = self._idf[start : start + len(terms)]
                self._vectors.append(vector)
                start += len(terms)
        found = _counted(self._vectors, [r.text for r in readings])
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
            terms = [[str(term) for term in view] for view in told["terms"]]
            intercept = float(told["intercept"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{folder / _TERMS} is damaged; train the detector again") from None
        fine = len(terms) == len(cls.views) and np.isfinite(intercept)
        if not fine or any(not view or len(set(view)) < len(view) for view in terms):
            raise UserError(f"{folder / _TERMS} is damaged; train the detector again")
        shape = (sum(map(len, terms)),)
        kept = arrays.load(folder / _WEIGHTS, {"idf": shape, "weight": shape})
        return cls(terms, kept["idf"], kept["weight"], intercept)


class Style(Tfidf):
    """Knows how words are put: characters in their order, capitals, punctuation."""

    name: ClassVar[str] = "style"
    views: ClassVar[tuple[dict[str, Any], ...]] = (
        {
            "analyzer": "char", "ngram_range": (2, 5), "lowercase": False, "sublinear_tf": True,
            "min_df": 3, "max_features": 2**18,
        },
        {
            "token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 3), "lowercase": False,
            "sublinear_tf": True, "min_df": 2, "max_features": 2**18,
        },
    )  # fmt: skip
    strengths: ClassVar[Sequence[float]] = (10.0,)


def _vectorizer(view: Mapping[str, Any]) -> Any:
    sklearn()
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(**view)


def _counted(vectors: Sequence[Any], texts: Sequence[str]) -> Any:
    from scipy import sparse

    return sparse.hstack([v.transform(texts) for v in vectors], "csr")


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
