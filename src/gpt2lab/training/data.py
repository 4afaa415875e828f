"""Tokens to batches, in an order that is a function of seed and sample number alone.

Because the order needs no state, resuming needs only the number of samples seen, and any number of
processes can each take their part of the same global batch.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2lab.corpus.shards import Tokens
from gpt2lab.errors import UserError
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training.loss import IGNORED
from gpt2lab.training.permutation import permuted

Places = npt.NDArray[np.int64]


class Windows:
    """Training sequences of `context` tokens from one source.

    Every epoch, each token is seen once, cut by a new shift and in a new order.
    learned: for each token 1 if loss is taken on it and 0 if not; on all if not given.
    """

    def __init__(
        self,
        tokens: Tokens,
        context: int,
        key: tuple[int, ...],
        learned: Tokens | None = None,
    ) -> None:
        self.tokens, self.learned = tokens, learned
        self.context = context
        self._key = key
        # The last `context` tokens are left as room to shift, plus one for the last target.
        self.per_epoch = (len(tokens) - 1) // context - 1
        if self.per_epoch < 1:
            raise UserError(
                f"the training text is {len(tokens)} tokens; sequences of {context} need at least "
                f"{2 * context + 1}: give more text or lower train.context"
            )

    def starts(self, samples: Places) -> Places:
        """Where in the token sequence each of the numbered samples begins."""
        epochs, places = np.divmod(samples, self.per_epoch)
        starts = np.empty_like(samples)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            key = (*self._key, int(epoch))
            shift = int(np.random.default_rng(key).integers(self.context))
            starts[now] = shift + self.context * permuted(places[now], self.per_epoch, key)
        return starts

    def batch(self, samples: Places) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Inputs and next-token targets [N, context] of the numbered samples."""
        return _pairs(self.tokens, self.learned, self.starts(samples), self.context)


def _pairs(
    tokens: Tokens, learned: Tokens | None, starts: Iterable[int], context: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Inputs and targets [N, context] from some places on; IGNORED where no loss is taken."""
    places = [int(start) for start in starts]
    ids = np.stack([tokens.slice(start, context + 1) for start in places])
    x, y = ids[:, :-1], ids[:, 1:]
    if learned is not None:
        flags = np.stack([learned.slice(start + 1, context) for start in places])
        y = np.where(flags > 0, y, IGNORED)
    return x, y


class Mixture:
    """Several sources, each giving its share of the samples, as evenly as whole numbers go."""

    def __init__(self, sources: Sequence[Windows], weights: Sequence[float]) -> None:
        self.sources = list(sources)
        # The share of each source among itself and those after it.
        left = np.cumsum(np.array(weights, dtype=np.float64)[::-1])[::-1]
        self._shares = [float(w / rest) for w, rest in zip(weights, left, strict=True)]

    @property
    def some(self) -> bool:
        """Whether there are targets on which no loss is taken."""
        return any(source.learned is not None for source in self.sources)

    def place(self, samples: Places) -> list[Places]:
        """For each source, which of its own samples the numbered ones are; -1 for the others'.

        The first source takes sample i when floor((i + 1) w) exceeds floor(i w); what it leaves is
        numbered anew for the next. So each source's samples are numbered without gaps, and any
        sample's number is known without those before it.
        """
        found = []
        rest = samples.copy()
        last = len(self._shares) - 1
        for number, share in enumerate(self._shares):
            before = rest if number == last else np.floor(rest * share).astype(np.int64)
            taken = rest >= 0
            if number != last:
                taken &= np.floor((rest + 1) * share).astype(np.int64) > before
            found.append(np.where(taken, before, -1))
            rest = np.where(taken | (rest < 0), -1, rest - before)
        return found

    def batch(self, samples: Places) -> tuple[Tensor, Tensor]:
        """Inputs and next-token targets [B, T] of the numbered samples."""
        x_BT, y_BT = np.empty((2, len(samples), self.sources[0].context), np.int64)
        for source, own in zip(self.sources, self.place(samples), strict=True):
            mine = own >= 0
            if mine.any():
                x_BT[mine], y_BT[mine] = source.batch(own[mine])
        return torch.from_numpy(x_BT), torch.from_numpy(y_BT)

    def where(self, samples: Places) -> str:
        """The numbered samples in words, for messages: source and first token of each."""
        named = [
            f"{number}:{start}" if len(self.sources) > 1 else f"{start}"
            for number, (source, own) in enumerate(
                zip(self.sources, self.place(samples), strict=True)
            )
            for start in source.starts(own[own >= 0])
        ]
        return ", ".join(named[:8]) + (", ..." if len(named) > 8 else "")

    def epochs(self, samples: int) -> list[float]:
        """How often each source has been seen after so many samples."""
        if samples == 0:
            return [0.0] * len(self.sources)
        rest, epochs = samples, []
        for share, source in zip(self._shares, self.sources, strict=True):
            taken = int(np.floor(rest * share))
            epochs.append(taken / source.per_epoch)
            rest -= taken
        return epochs


@dataclass(frozen=True)
class Data:
    """What a run reads."""

    mixture: Mixture
    val: Tokens | None
    tokenizer: Tokenizer
    val_learned: Tokens | None = None
    """For each token of `val`, 1 if loss is taken on it; on all if not given."""


class Prefetch:
    """Reads the batch after the one asked for in a thread, while that one is computed with."""

    def __init__(self, mixture: Mixture, *, pin: bool) -> None:
        self._mixture, self._pin = mixture, pin
        self._pool = ThreadPoolExecutor(1, "batches")
        self._next: tuple[bytes, Future[tuple[Tensor, Tensor]]] | None = None

    def batch(self, samples: Places, after: Places | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets [B, T] of `samples`; begins to read `after`, for the next call."""
        name = samples.tobytes()
        if self._next is not None and self._next[0] == name:
            found = self._next[1].result()
        else:
            found = self._read(samples)
        self._next = None
        if after is not None:
            self._next = after.tobytes(), self._pool.submit(self._read, after)
        return found

    def _read(self, samples: Places) -> tuple[Tensor, Tensor]:
        x_BT, y_BT = self._mixture.batch(samples)
        return (
            (x_BT.contiguous().pin_memory(), y_BT.contiguous().pin_memory())
            if self._pin
            else (x_BT, y_BT)
        )


def validation_windows(
    tokens: Tokens, context: int, count: int, learned: Tokens | None = None
) -> tuple[Tensor, Tensor]:
    """Inputs and targets [N, T] of up to `count` windows spread evenly over `tokens`, of those in
    which something is learned.

    The same for every run and step, so that losses compare.
    """
    available = (len(tokens) - 1) // context
    places = np.arange(available)
    if learned is not None and available:
        flags = learned.slice(1, available * context).reshape(available, context)
        places = places[flags.any(axis=1)]
        if not len(places):
            raise UserError(
                "no window of the held-out text has anything to learn; hold out more, or take a "
                "longer context"
            )
    if available < 1:
        raise UserError(
            f"the held-out text is {len(tokens)} tokens, fewer than one window of {context}; "
            "hold out more, shorten the context, or give more text"
        )
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int))]
    x, y = _pairs(tokens, learned, chosen * context, context)
    return torch.from_numpy(x), torch.from_numpy(y)
