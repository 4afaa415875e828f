"""One next token for every sequence at once, as a CUDA graph: one launch instead of hundreds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpt2lab.model.cache import KVCache, StepCache
from gpt2lab.model.transformer import GPT2

# Graphs are recorded for so many keys and their multiples; rows are rounded up to powers of two.
KEYS = 128


class _Step(NamedTuple):
    ids: Tensor
    """[B, 1]"""
    cache: StepCache
    play: Callable[[], Tensor]
    """Computes logits [B, V] for what is in the tensors above."""


class Steps:
    """Recorded passes over the first rows of a cache, whose last position no sequence uses."""

    def __init__(self, model: GPT2, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._made: dict[tuple[int, int], _Step] = {}

    def __call__(self, slots: Sequence[int], ids: Sequence[int], starts: Sequence[int]) -> Tensor:
        """Logits [n, V] after one token of each of n slots, at its position."""
        rows = min(_power(max(slots) + 1), self._cache.keys_LBHSK.shape[1])
        most = self._cache.capacity - 1
        seen = min(-(-(max(starts) + 1) // KEYS) * KEYS, most)
        if (rows, seen) not in self._made:
            self._made[rows, seen] = self._record(rows, seen)
        step = self._made[rows, seen]
        told = torch.tensor([[0, most]] * rows)
        told[list(slots)] = torch.tensor([ids, starts]).T
        told = told.to(step.ids.device)
        step.ids.copy_(told[:, :1])
        step.cache.position_B.copy_(told[:, 1])
        logits_BV = step.play()
        return logits_BV[torch.tensor(slots, device=logits_BV.device)]

    def _record(self, rows: int, seen: int) -> _Step:
        cache = self._cache
        step = StepCache(cache.keys_LBHSK[:, :rows], cache.values_LBHSK[:, :rows], seen)
        ids_B1 = torch.zeros(rows, 1, dtype=torch.long, device=cache.length_B.device)

        def forward() -> Tensor:
            return self._model.logits(self._model.hidden(ids_B1, cache=step)[:, 0]).float()

        play = _recorded(forward) if ids_B1.device.type == "cuda" else forward
        return _Step(ids_B1, step, play)


def _recorded(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A graph of `forward`, played; it reads and writes the tensors that it did when recorded."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what libraries set up on first use cannot be recorded
        for _ in range(2):
            forward()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = forward()

    def play() -> Tensor:
        graph.replay()
        return out

    return play


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()
