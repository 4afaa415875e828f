"""Where passes are computed: by compiled code on a CPU, by PyTorch everywhere else."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gpt2lab.generation.graphs import Steps
from gpt2lab.model.cache import KVCache
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.native import Model, NotBuiltError, Slots
from gpt2lab.model.transformer import GPT2


class Chunk(NamedTuple):
    """The next tokens of one sequence."""

    slot: int
    start: int
    """Position of the first of them; what lies before it in the slot is what they see."""
    ids: Sequence[int]
    outputs: int
    """After how many of the last of them logits are wanted."""


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    count = min(len(one), len(other))
    if one[:count] != other[:count]:
        count = next(n for n in range(count) if one[n] != other[n])
    return count


class Backend(Protocol):
    """Slots for sequences, and passes over chunks of them."""

    config: GPT2Config
    slots: int
    device: torch.device
    """Where logits are."""

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits [O, V] of all outputs of the chunks, in order; at most one chunk a slot."""
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot `target` begin as slot `source` does; tokens is a multiple of BLOCK."""
        ...


def backend(model: GPT2, slots: int) -> Backend:
    """The fastest there is for where the model lies and what format it is in."""
    try:
        return NativeBackend(model, slots)
    except NotBuiltError:
        return TorchBackend(model, slots)


class NativeBackend:
    """The compiled pass. A sequence's logits do not depend on what else is in a pass."""

    device = torch.device("cpu")

    def __init__(self, model: GPT2, slots: int) -> None:
        self._model = Model(model)
        self._cache = Slots(model.config, slots)
        self.config, self.slots = model.config, slots

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        ids = [i for c in chunks for i in c.ids]
        slot = [c.slot for c in chunks for _ in c.ids]
        position = [p for c in chunks for p in range(c.start, c.start + len(c.ids))]
        out: list[int] = []
        end = 0
        for c in chunks:
            end += len(c.ids)
            out += range(end - c.outputs, end)
        return self._model.forward(self._cache, ids, slot, position, out)

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._cache.copy(source, target, tokens)


class TorchBackend:
    """PyTorch's operators, on any device. On CUDA single tokens go through recorded graphs.

    recorded: whether they go that way, which on other devices gains nothing.
    """

    def __init__(self, model: GPT2, slots: int, *, recorded: bool | None = None) -> None:
        weight = model.wpe.weight
        self._model, self.device = model, weight.device
        context = model.config.n_positions + 1  # the last one is for rows that are not in a pass
        self._cache = KVCache.empty(
            model.config, slots, capacity=context, dtype=weight.dtype, device=self.device
        )
        recorded = self.device.type == "cuda" if recorded is None else recorded
        self._steps = Steps(model, self._cache) if recorded else None
        self.config, self.slots = model.config, slots

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        single = [c for c in chunks if len(c.ids) == 1 and c.outputs]
        others = [c for c in chunks if len(c.ids) > 1 or not c.outputs]
        logits: dict[int, Tensor] = {}
        if single and self._steps:
            slots, starts = [c.slot for c in single], [c.start for c in single]
            rows = self._steps(slots, [c.ids[0] for c in single], starts)
            if not others:
                return rows
            logits = dict(zip(slots, rows.split(1), strict=True))
        for batch in _batches(others if self._steps else chunks):
            logits |= self._batch(batch)
        wanted = [logits[c.slot] for c in chunks if c.outputs]
        return torch.cat(wanted) if wanted else torch.empty(0, self.config.vocab_size)

    def _batch(self, chunks: list[Chunk]) -> dict[int, Tensor]:
        """Logits of each chunk by its slot; the slots are neighbours, the chunks equally long."""
        first, T = chunks[0].slot, len(chunks[0].ids)
        starts_B = torch.tensor([c.start for c in chunks], device=self.device)
        cache = self._cache.view(first, first + len(chunks), starts_B)
        ids_BT = torch.tensor([list(c.ids) for c in chunks], device=self.device)
        x_BTD = self._model.hidden(ids_BT, cache=cache)
        rows = torch.cat([x_BTD[b, T - c.outputs :] for b, c in enumerate(chunks)])
        parts = self._model.logits(rows).float().split([c.outputs for c in chunks])
        return {c.slot: part for c, part in zip(chunks, parts, strict=True)}

    def copy(self, source: int, target: int, tokens: int) -> None:
        for t in (self._cache.keys_LBHSK, self._cache.values_LBHSK):
            t[:, target, :, :tokens] = t[:, source, :, :tokens]


def _batches(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Chunks of equal length in neighbouring slots, which one product with the cache can serve."""
    batches: list[list[Chunk]] = []
    for c in sorted(chunks, key=lambda c: (len(c.ids), c.slot)):
        last = batches[-1][-1] if batches else None
        if last and len(last.ids) == len(c.ids) and last.slot + 1 == c.slot:
            batches[-1].append(c)
        else:
            batches.append([c])
    return batches
