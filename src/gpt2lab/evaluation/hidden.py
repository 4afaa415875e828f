"""What a model holds inside at tokens: its last hidden state, and the tokens it found likeliest."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import TOKENS, TOKENS_ON_A_CARD, Ids, Window
from gpt2lab.model.transformer import GPT2

# Positions whose logits are held at once.
_OUTPUTS = 256


class Likeliest(NamedTuple):
    """The k likeliest tokens at each scored place of a window [T, k], likeliest first."""

    ids: Ids
    log_p: npt.NDArray[np.float32]
    """Nats."""


def features(
    model: GPT2,
    texts: Sequence[Ids],
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The final hidden state [D] at the last token of each text, with the text's number.

    Raises UserError if the model gives NaN or infinity, as does `likeliest`.
    """
    for numbers, x_BTD in _passes(model, texts, on_progress):
        for row, number in enumerate(numbers):
            yield number, x_BTD[row, len(texts[number]) - 1].float().cpu().numpy()


def likeliest(
    model: GPT2,
    given: Sequence[Window],
    k: int,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[tuple[int, Likeliest]]:
    """The tokens that the model found likeliest where each scored one stands."""
    most = min(k, model.config.vocab_size)
    inputs = [window.ids[:-1] for window in given]
    for numbers, x_BTD in _passes(model, inputs, on_progress):
        for row, number in enumerate(numbers):
            end = len(inputs[number])
            parts = []
            for start in range(end - given[number].scored, end, _OUTPUTS):
                x_1TD = x_BTD[row : row + 1, start : min(start + _OUTPUTS, end)]
                with torch.inference_mode():
                    parts.append(model.logits(x_1TD)[0].float().log_softmax(-1).topk(most))
            log_p, ids = (torch.cat([p[i] for p in parts]).cpu().numpy() for i in range(2))
            yield number, Likeliest(ids.astype(np.int32), log_p)


def _passes(
    model: GPT2, texts: Sequence[Ids], on_progress: Callable[[float], None]
) -> Iterator[tuple[list[int], Tensor]]:
    """Hidden states [B, T, D] of texts of like length; what fills up the shorter ones is last."""
    device = model.wpe.weight.device
    most = TOKENS if device.type == "cpu" else TOKENS_ON_A_CARD
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    was_training = model.training
    model.eval()
    try:
        done = 0
        while done < len(order):
            T = len(texts[order[done]])
            numbers = order[done : done + max(1, most // max(1, T))]
            ids_BT = np.zeros((len(numbers), T), np.int64)
            for row, number in zip(ids_BT, numbers, strict=True):
                row[: len(texts[number])] = texts[number]
            with torch.inference_mode():
                x_BTD = model.hidden(torch.from_numpy(ids_BT).to(device))
                if not x_BTD.isfinite().all():
                    raise UserError("the model gives NaN or infinity; its weights are damaged")
            yield numbers, x_BTD
            done += len(numbers)
            on_progress(done / len(order))
    finally:
        model.train(was_training)
