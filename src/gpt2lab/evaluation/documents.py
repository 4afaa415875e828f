"""Bits per byte of whole documents: a figure that models of all vocabularies share."""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np

from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.scores import Score, ratio
from gpt2lab.evaluation.subject import Subject
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

PROTOCOL = (
    "each document after <|endoftext|>, every token once, windows of the whole context "
    "advancing by half of it; bytes of the UTF-8 text"
)


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
