"""Whole documents: reading them, and bits per byte, a figure that all vocabularies share."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from gpt2lab.corpus import shards
from gpt2lab.corpus.compressed import Damage
from gpt2lab.corpus.plaintext import find_files, read_file
from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.scores import Score, ratio
from gpt2lab.evaluation.subject import Subject
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

PROTOCOL = (
    "each document after <|endoftext|>, every token once, windows of the whole context "
    "advancing by half of it; bytes of the UTF-8 text"
)
# Tokens that are turned into text at once.
_TOKENS = 2**20


def texts_of(path: Path, split: str) -> Iterator[str]:
    """Documents of one split of a folder of token shards, or of files of text.

    Shards are turned into text by the tokenizer in the folder beside them, `tokenizer/`.
    Raises UserError if there is no text that can be read.
    """
    if path.is_dir() and any(shards.has_split(path, each) for each in ("train", "val")):
        yield from _shard_texts(path, split)
        return
    damage: list[Damage] = []
    for file in find_files(path):
        for document in read_file(file, damage):
            yield document.text
    if damage:
        raise DamagedInput(f"{damage[0]}; fetch or make the file again")


def _shard_texts(path: Path, split: str) -> Iterator[str]:
    if not shards.has_split(path, split):
        raise UserError(f"the shards in {path} have no split {split!r}; give some that do, or text")
    if not (path / "tokenizer").is_dir():
        raise UserError(
            f"{path} has token shards but no tokenizer/ to read them with; put it there"
        )
    tokenizer = Tokenizer.load(path / "tokenizer")
    digest = shards.tokenizer_digest(path)
    if digest not in (None, tokenizer.digest):
        raise UserError(f"{path}/tokenizer is not the one its shards were made with")
    tokens = shards.open_split(path, split)
    rest: list[np.ndarray] = []
    for start in range(0, len(tokens), _TOKENS):
        piece = tokens.slice(start, min(_TOKENS, len(tokens) - start))
        ends = np.flatnonzero(piece == tokenizer.end_of_text)
        for part in np.split(piece, ends)[:-1]:
            yield tokenizer.decode(np.concatenate([*rest, part]).tolist())
            rest = []
        rest.append(piece[ends[-1] + 1 if len(ends) else 0 :])
    yield tokenizer.decode(np.concatenate([*rest, np.empty(0, np.int64)]).tolist())


def bits_per_byte(
    model: GPT2,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Measurement:
    """Bits the model needs per byte of `texts`, with a bootstrap interval over documents."""
    subject = Subject(model, tokenizer, step=lambda label: nullcontext(on_progress))
    ids = [np.array(one, np.int32) for one in tokenizer.encode_batch(texts)]
    scored = subject.rolling("documents", ids, max(1, subject.context // 2))
    bits = [sum(s.total for s in windows) / math.log(2) for windows in scored]
    sizes = [len(text.encode()) for text in texts]
    sums = np.stack([np.array(bits), np.array(sizes, np.float64)], -1)
    score = Score("bits per byte", "bits/byte", sums, PROTOCOL, ratio)
    return score.measurement(digest(texts))


def digest(texts: Sequence[str]) -> str:
    """SHA-256 of texts in order."""
    state = hashlib.sha256()
    for text in texts:
        data = text.encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()
