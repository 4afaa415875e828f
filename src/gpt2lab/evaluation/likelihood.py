"""Log-probability of texts, each document by itself, in windows that slide over long ones."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

TOKENS_PER_BATCH = 8192
LOGIT_ELEMENTS = 2**24
RESAMPLES = 2000


@dataclass(frozen=True)
class _Window:
    document: int
    ids: list[int]
    """Inputs and last target: one more than the model sees."""
    scored: int
    """How many of the last targets count; those before them are context only."""


@torch.inference_mode()
def document_nats(
    model: GPT2,
    documents: Sequence[Sequence[int]],
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> npt.NDArray[np.float64]:
    """Negative log-probability in nats of each document after its first token.

    documents: ids, each beginning with `<|endoftext|>`, which is given, not scored.
    Every other token is scored once; beyond the context, windows advance by half a context, so
    each token sees at least half a context before it. Batches are made of windows alike in
    length and hold at most a few thousand tokens.
    """
    windows = [w for d, ids in enumerate(documents) for w in _windows(d, ids, model)]
    windows.sort(key=lambda w: -len(w.ids))  # the first of a batch is its longest
    nats = np.zeros(len(documents))
    was_training = model.training
    model.eval()
    done = 0
    try:
        while done < len(windows):
            count = max(1, TOKENS_PER_BATCH // len(windows[done].ids))
            batch = windows[done : done + count]
            for window, value in zip(batch, _score(model, batch), strict=True):
                nats[window.document] += value
            done += len(batch)
            on_progress(done / len(windows))
    finally:
        model.train(was_training)
    return nats


def _windows(document: int, ids: Sequence[int], model: GPT2) -> Iterator[_Window]:
    context = model.config.n_positions
    end = 1
    while end < len(ids):
        new = context if end == 1 else max(1, context // 2)
        stop = min(len(ids), end + new)
        yield _Window(document, list(ids[max(0, stop - context - 1) : stop]), stop - end)
        end = stop


def _score(model: GPT2, batch: list[_Window]) -> list[float]:
    device = model.wpe.weight.device
    longest = max(len(w.ids) for w in batch)
    # Right padding cannot be seen by what stands before it.
    ids_BT = torch.zeros(len(batch), longest, dtype=torch.long, device=device)
    keep_BT = torch.zeros(len(batch), longest - 1, dtype=torch.bool, device=device)
    for b, window in enumerate(batch):
        ids_BT[b, : len(window.ids)] = torch.tensor(window.ids)
        keep_BT[b, len(window.ids) - 1 - window.scored : len(window.ids) - 1] = True
    x_BTD = model.hidden(ids_BT[:, :-1])
    nats_N = _cross_entropy(model, x_BTD[keep_BT], ids_BT[:, 1:][keep_BT])
    parts = nats_N.split([w.scored for w in batch])
    return [float(part.double().sum()) for part in parts]


def _cross_entropy(model: GPT2, x_ND: Tensor, target_N: Tensor) -> Tensor:
    rows = max(1, LOGIT_ELEMENTS // model.config.vocab_size)
    parts = [
        torch.nn.functional.cross_entropy(model.logits(x).float(), target, reduction="none")
        for x, target in zip(x_ND.split(rows), target_N.split(rows), strict=True)
    ]
    return torch.cat(parts)


def bits_per_byte(
    model: GPT2,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Measurement:
    """Bits the model needs per byte of `texts`, with a bootstrap interval over documents."""
    documents = [[tokenizer.end_of_text, *ids] for ids in tokenizer.encode_batch(texts)]
    bits = document_nats(model, documents, on_progress=on_progress) / math.log(2)
    sizes = np.array([len(text.encode()) for text in texts])
    return ratio("bits per byte", bits, sizes, "bits/byte", PROTOCOL, digest(texts))


PROTOCOL = (
    "each document after <|endoftext|>, every token once, windows of the whole context "
    "advancing by half of it; bytes of the UTF-8 text"
)


def ratio(
    name: str,
    bits: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.int64],
    unit: str,
    protocol: str,
    data: str,
) -> Measurement:
    """sum(bits) / sum(sizes) with a 95 % interval from resampling documents (seed 0)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(bits), size=(RESAMPLES, len(bits)))
    values = bits[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    return Measurement(
        name,
        float(bits.sum() / sizes.sum()),
        unit,
        len(bits),
        protocol,
        data,
        float(low),
        float(high),
    )


def digest(texts: Sequence[str]) -> str:
    """SHA-256 of texts in order."""
    state = hashlib.sha256()
    for text in texts:
        data = text.encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()
