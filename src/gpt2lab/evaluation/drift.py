"""Whether a piece of text can still be told to come from its prompt, in topic and in style.

A piece is compared with its own prompt and with those of all other texts. The share of the others
that it is less like is 1 where it plainly belongs to its own, and 1/2 on average where nothing of
the prompt is left: a scale that needs no threshold, and on which a human continuation is measured
in the same way. What vectors are made of is taken from prompts alone, as the words of either
continuation would favour it. Function words are those of English.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import Sums

Floats = npt.NDArray[np.float64]
_SIGNS = re.compile(r"\w+|[^\w\s]|\n")
# What is left of a topic counts as lost where it is less than this share of a human's.
_LOST = 0.5


def recognised(pieces_NV: Any, prompts_NV: Any) -> Floats:
    """Of each piece, the share of other prompts that it is less like than its own; ties count half.

    pieces, prompts: vectors of length 1, as arrays or sparse matrices, text by text.
    """
    alike_NN = pieces_NV @ prompts_NV.T
    alike_NN = np.asarray(alike_NN.todense() if hasattr(alike_NN, "todense") else alike_NN)
    own = np.diagonal(alike_NN)[:, None]
    others = len(alike_NN) - 1
    return ((own > alike_NN).sum(1) + ((own == alike_NN).sum(1) - 1) / 2) / others


class Topic:
    """Texts as vectors of the prompts' content words, rarer ones counting more (tf-idf)."""

    def __init__(self, prompts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._words = TfidfVectorizer(stop_words="english", sublinear_tf=True)
        try:
            self._words.fit(prompts)
        except ValueError:
            raise UserError(
                "the beginnings of the documents have no words that tell topics apart; longer "
                "--prompt, or other documents"
            ) from None

    def vectors(self, texts: Sequence[str]) -> Any:
        """A row a text, of length 1, or of zeros where it has no known word."""
        return self._words.transform(texts)


class Style:
    """Texts as rates of function words, punctuation, capitals and word lengths, no content."""

    def __init__(self, prompts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

        def signs(text: str) -> list[str]:
            return [_sign(s, ENGLISH_STOP_WORDS) for s in _SIGNS.findall(text)]

        self._signs = CountVectorizer(analyzer=signs)
        rates = self._rates(self._signs.fit_transform(prompts))
        self._mean, self._spread = rates.mean(0), rates.std(0) + 1e-9

    def vectors(self, texts: Sequence[str]) -> Floats:
        """A row a text, of length 1: in how far each rate is unusual."""
        unusual = (self._rates(self._signs.transform(texts)) - self._mean) / self._spread
        return unusual / np.linalg.norm(unusual, axis=1, keepdims=True).clip(min=1e-9)

    def _rates(self, counts: Any) -> Floats:
        table = np.asarray(counts.todense(), np.float64)
        return table / table.sum(1, keepdims=True).clip(min=1)


def _sign(found: str, function_words: frozenset[str]) -> str:
    """What style there is in a word or mark."""
    if found.lower() in function_words:
        return found.lower()
    if not found[0].isalnum():
        return found
    if found.isdigit():
        return "<number>"
    case = "capitals" if found.isupper() else "capital" if found[0].isupper() else "small"
    return f"<{case}, {min(len(found), 12)}>"


def until_lost(model_NW: Floats, human_NW: Floats, window: int) -> Sums:
    """Sums of which `lost_after` is, from the recognition of both by window; window: its tokens."""
    n = len(model_NW)
    rest = np.concatenate([np.full((n, 1), window), np.ones((n, 1))], axis=1)
    return np.concatenate([model_NW - 0.5, human_NW - 0.5, rest], axis=1)


def lost_after(sums_RK: Sums) -> Sums:
    """Tokens before the first window in which, and from which on to the end, most is lost.

    sums [..., 2W + 2]: by window, the model's and then the human's recognition above chance; the
    window's length, and 1. Where people keep nothing, nothing can be lost.
    """
    W = sums_RK.shape[-1] // 2 - 1
    model, human = sums_RK[..., :W], sums_RK[..., W : 2 * W]
    lost = (model < _LOST * human) & (_rest(model) < _LOST * _rest(human)) & (_rest(human) > 0)
    never = np.ones_like(lost[..., :1])
    length = sums_RK[..., -2] / sums_RK[..., -1]
    return length * np.concatenate([lost, never], -1).argmax(-1)


def _rest(windows_RW: Sums) -> Sums:
    """Sums from each window to the last."""
    return windows_RW[..., ::-1].cumsum(-1)[..., ::-1]
