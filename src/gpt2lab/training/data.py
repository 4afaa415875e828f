"""Tokens to batches, in an order that is a function of seed and step alone.

Because the order needs no state, resuming needs only the step, and any number of processes can
each take their part of the same global batch.
"""

import functools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2lab.corpus.shards import Tokens
from gpt2lab.errors import UserError


class Windows:
    """Training sequences of `context` tokens: every epoch a new shift and a new permutation."""

    def __init__(self, tokens: Tokens, context: int, seed: int) -> None:
        self._tokens = tokens
        self.context = context
        self._seed = seed
        # The last `context` tokens are left as room to shift, plus one for the last target.
        self.per_epoch = (len(tokens) - 1) // context - 1
        if self.per_epoch < 1:
            raise UserError(
                f"the training text is {len(tokens)} tokens; sequences of {context} need at least "
                f"{2 * context + 1}: give more text or lower train.context"
            )

    def starts(self, step: int, batch: int) -> list[int]:
        """Where in the token sequence each sequence of a step's batch begins."""
        return [self._start(step * batch + i) for i in range(batch)]

    def batch(self, starts: list[int]) -> tuple[Tensor, Tensor]:
        """Inputs and next-token targets [B, T] for sequences that begin at `starts`."""
        rows = np.stack([self._tokens.slice(start, self.context + 1) for start in starts])
        ids = torch.from_numpy(rows)
        return ids[:, :-1], ids[:, 1:]

    def _start(self, sample: int) -> int:
        epoch, place = divmod(sample, self.per_epoch)
        shift, order = self._epoch(epoch)
        return shift + int(order[place]) * self.context

    def _epoch(self, epoch: int) -> tuple[int, npt.NDArray[np.int64]]:
        return _shuffled(self._seed, epoch, self.per_epoch, self.context)


@functools.lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, n: int, context: int) -> tuple[int, npt.NDArray[np.int64]]:
    rng = np.random.default_rng([seed, epoch])
    return int(rng.integers(context)), rng.permutation(n)


def validation_windows(tokens: Tokens, context: int, count: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [N, T] of up to `count` windows spread evenly over `tokens`.

    The same for every run and step, so that losses compare.
    """
    available = (len(tokens) - 1) // context
    if available < 1:
        raise UserError(
            f"the held-out text is {len(tokens)} tokens, fewer than one window of {context}; "
            "raise data.held_out or give more text"
        )
    chosen = np.unique(np.linspace(0, available - 1, min(count, available)).astype(int))
    ids = torch.from_numpy(np.stack([tokens.slice(i * context, context + 1) for i in chosen]))
    return ids[:, :-1], ids[:, 1:]
