"""What a model holds inside at the end of a text: its last hidden state."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import TOKENS, TOKENS_ON_A_CARD, Ids
from gpt2lab.model.transformer import GPT2


def features(
    model: GPT2,
    texts: Sequence[Ids],
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The final hidden state [D] at the last token of each text, with the text's number.

    Raises UserError if the model gives NaN or infinity.
    """
    for numbers, x_BTD in _passes(model, texts, on_progress):
        for row, number in enumerate(numbers):
            yield number, x_BTD[row, len(texts[number]) - 1].float().cpu().numpy()


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
