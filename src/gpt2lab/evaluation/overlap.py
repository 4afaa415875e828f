"""How much of a test set the training text holds (paper section 4, table 6), and scores without it.

As in the paper: word 8-grams of the training text, lower-cased and alphanumeric, in a Bloom filter
that errs once in 10^8; the share of a test set's 8-grams that it finds is its overlap.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from gpt2lab.corpus import kernels
from gpt2lab.corpus.overlap import Bloom
from gpt2lab.errors import UserError
from gpt2lab.evaluation.documents import texts_of
from gpt2lab.evaluation.scores import Score, percent

WORDS, ERROR = 8, 1e-8


class Training:
    """The 8-grams of a training text."""

    def __init__(self, bloom: Bloom, name: str) -> None:
        self._bloom, self.name = bloom, name

    @classmethod
    def of(cls, path: Path) -> Self:
        """The training text of a folder of token shards, of text, or of a filter's file.

        Shards are turned into text by the tokenizer in the folder beside them, `tokenizer/`.
        Raises UserError if there is no text, or not enough memory.
        """
        if path.suffix == ".npy":
            return cls(Bloom.load(path), path.name)
        count = sum(len(_grams(text)) for text in texts_of(path, "train"))
        if not count:
            raise UserError(f"{path} holds no text of {WORDS} words; check the path")
        bloom = Bloom(count, ERROR)
        for text in texts_of(path, "train"):
            bloom.add(_grams(text))
        return cls(bloom, path.name)

    def found(self, text: str) -> tuple[int, int]:
        """How many 8-grams of a text are in the training text, and how many it has."""
        grams = _grams(text)
        return int(self._bloom.found(grams).sum()), len(grams)

    def scores(self, task: str, texts: Sequence[str], scores: Sequence[Score]) -> list[Score]:
        """A test set's overlap, and its scores over the items that have none.

        texts: of each item, as the scores have them.
        """
        found = np.array([self.found(text) for text in texts], np.float64)
        if not found[:, 1].sum():
            return []
        told = {"training": self.name, "words": WORDS, "false_positives": ERROR}
        overlap = Score(
            f"{task} overlap", "%", found,
            f"share of the set's word {WORDS}-grams that are in the training text", percent, told,
        )  # fmt: skip
        clean = found[:, 0] == 0
        if clean.all() or not clean.any():
            return [overlap]
        return [overlap] + [
            replace(
                score, name=f"{score.name}, no overlap", sums=score.sums[clean],
                protocol=f"{score.protocol}; items with no {WORDS}-gram in the training text",
                settings={**score.settings, **told},
            )
            for score in scores
            if len(score.sums) == len(clean)
        ]  # fmt: skip


def _grams(text: str) -> kernels.U64:
    """8-grams; a text of fewer words has none."""
    grams, ends = kernels.ngrams_and_ends(text.encode("utf-8", "replace"), WORDS)
    return grams if len(ends) >= WORDS else grams[:0]
