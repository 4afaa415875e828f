"""How much of a test set the training text holds (paper section 4, table 6), and scores without it.

As in the paper: word 8-grams of the training text, lower-cased and alphanumeric, in a Bloom filter
that errs once in 10^8; the share of a test set's 8-grams that it finds is its overlap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from gpt2lab.corpus import kernels, shards
from gpt2lab.corpus.overlap import Bloom
from gpt2lab.corpus.plaintext import find_files, read_documents
from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import Score, percent
from gpt2lab.tokenizer.bpe import Tokenizer

WORDS, ERROR = 8, 1e-8
# Tokens that are turned into text at once.
_TOKENS = 2**20


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
        count = sum(len(_grams(text)) for text in _texts(path))
        if not count:
            raise UserError(f"{path} holds no text of {WORDS} words; check the path")
        bloom = Bloom(count, ERROR)
        for text in _texts(path):
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


def _texts(path: Path) -> Iterator[str]:
    if path.is_dir() and shards.has_split(path, "train"):
        yield from _shard_texts(path)
        return
    for file in find_files(path):
        for document in read_documents(file):
            yield document.text


def _shard_texts(path: Path) -> Iterator[str]:
    """Documents of token shards, one after the other."""
    if not (path / "tokenizer").is_dir():
        raise UserError(
            f"{path} has token shards but no tokenizer/ to read them with; put it there"
        )
    tokenizer = Tokenizer.load(path / "tokenizer")
    digest = shards.tokenizer_digest(path)
    if digest not in (None, tokenizer.digest):
        raise UserError(f"{path}/tokenizer is not the one its shards were made with")
    tokens = shards.open_split(path, "train")
    rest: list[np.ndarray] = []
    for start in range(0, len(tokens), _TOKENS):
        piece = tokens.slice(start, min(_TOKENS, len(tokens) - start))
        ends = np.flatnonzero(piece == tokenizer.end_of_text)
        for part in np.split(piece, ends)[:-1]:
            yield tokenizer.decode(np.concatenate([*rest, part]).tolist())
            rest = []
        rest.append(piece[ends[-1] + 1 if len(ends) else 0 :])
    yield tokenizer.decode(np.concatenate([*rest, np.empty(0, np.int64)]).tolist())
