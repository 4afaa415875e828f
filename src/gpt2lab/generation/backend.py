"""Where passes are computed: by compiled code on a CPU, by PyTorch everywhere else."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gpt2lab.generation.graphs import Steps
from gpt2lab.model.cache import KVCache
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.native import Model, NotBuiltError, Slots
from gpt2lab.model.transformer import GPT2

# Chunks go through PyTorch together if that makes them at most so much longer.
PADDING = 4 / 3
# So many predictions are looked at together.
SCORED_ROWS = 256


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

    def score(
        self, chunks: Sequence[Chunk], targets: Sequence[int], allowed_V: Tensor, best: int = 0
    ) -> Tensor:
        """What the model thinks of the token that follows each output: [O, X], as `describe`."""
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot `target` begin as slot `source` does; tokens is a multiple of BLOCK."""
        ...


def backend(model: GPT2, slots: int, capacity: int | None = None) -> Backend:
    """The fastest there is for where the model lies and what format it is in.

    capacity: most tokens of a sequence; the model's context unless given.
    """
    try:
        return NativeBackend(model, slots, capacity)
    except NotBuiltError:
        return TorchBackend(model, slots, capacity)


class NativeBackend:
    """The compiled pass. A sequence's logits do not depend on what else is in a pass."""

    device = torch.device("cpu")

    def __init__(self, model: GPT2, slots: int, capacity: int | None = None) -> None:
        self._model = Model(model)
        self._cache = Slots(model.config, slots, capacity)
        self.config, self.slots = model.config, slots

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        return self._model.forward(self._cache, *_flat(chunks))

    def score(
        self, chunks: Sequence[Chunk], targets: Sequence[int], allowed_V: Tensor, best: int = 0
    ) -> Tensor:
        return self._model.score(self._cache, *_flat(chunks), targets, allowed_V, best)

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._cache.copy(source, target, tokens)


class TorchBackend:
    """PyTorch's operators, on any device. On CUDA single tokens go through recorded graphs.

    recorded: whether they go that way, which on other devices gains nothing.
    """

    def __init__(
        self,
        model: GPT2,
        slots: int,
        capacity: int | None = None,
        *,
        recorded: bool | None = None,
    ) -> None:
        weight = model.wpe.weight
        self._model, self.device = model, weight.device
        most = model.config.n_positions if capacity is None else capacity
        # The last place is for rows that are not in a pass, and for what pads rows.
        self._cache = KVCache.empty(
            model.config, slots, capacity=most + 1, dtype=weight.dtype, device=self.device
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
        for batch in _batches(others if self._steps else chunks, self._cache.capacity - 1):
            logits |= self._batch(batch)
        wanted = [logits[c.slot] for c in chunks if c.outputs]
        none = torch.empty(0, self.config.vocab_size, device=self.device)
        return torch.cat(wanted) if wanted else none

    @torch.inference_mode()
    def score(
        self, chunks: Sequence[Chunk], targets: Sequence[int], allowed_V: Tensor, best: int = 0
    ) -> Tensor:
        logits_OV, target_O = self.forward(chunks), torch.tensor(targets, device=self.device)
        # Some rows at a time: whole, the logits' copies would take more than the model.
        rows = zip(logits_OV.split(SCORED_ROWS), target_O.split(SCORED_ROWS), strict=True)
        return torch.cat([describe(*one, allowed_V, best) for one in rows])

    def _batch(self, chunks: list[Chunk]) -> dict[int, Tensor]:
        """Logits of each chunk by its slot; the slots are neighbours, short chunks are padded."""
        first, T = chunks[0].slot, max(len(c.ids) for c in chunks)
        starts_B = torch.tensor([c.start for c in chunks], device=self.device)
        cache = self._cache.view(first, first + len(chunks), starts_B)
        padded = [[*c.ids, *[0] * (T - len(c.ids))] for c in chunks]
        x_BTD = self._model.hidden(torch.tensor(padded, device=self.device), cache=cache)
        ends = [len(c.ids) for c in chunks]
        rows = [
            x_BTD[b, end - c.outputs : end]
            for b, (c, end) in enumerate(zip(chunks, ends, strict=True))
        ]
        parts = self._model.logits(torch.cat(rows)).float().split([c.outputs for c in chunks])
        return {c.slot: part for c, part in zip(chunks, parts, strict=True)}

    def copy(self, source: int, target: int, tokens: int) -> None:
        for t in (self._cache.keys_LBHSK, self._cache.values_LBHSK):
            t[:, target, :, :tokens] = t[:, source, :, :tokens]


def _flat(chunks: Sequence[Chunk]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Ids, slots and positions of all tokens, and the numbers of those with outputs."""
    ids = [i for c in chunks for i in c.ids]
    slot = [c.slot for c in chunks for _ in c.ids]
    position = [p for c in chunks for p in range(c.start, c.start + len(c.ids))]
    out: list[int] = []
    end = 0
    for c in chunks:
        end += len(c.ids)
        out += range(end - c.outputs, end)
    return ids, slot, position, out


def describe(logits_OV: Tensor, target_O: Tensor, allowed_V: Tensor, best: int = 0) -> Tensor:
    """What predictions say of the tokens that came: [O, 7 + 2 best], float32.

    Columns: nats, -log p(token); rank, how many tokens are likelier; the same of allowed tokens
    only; the mean (the entropy) and the variance of the nats that the prediction expects; the
    probability of all likelier tokens; the nats of the likeliest. Then the ids of the `best`
    likeliest tokens, and their nats. allowed_V: 1 or 0, float32.
    """
    target_O1 = target_O[:, None]
    likelier_OV = (logits_OV > logits_OV.gather(1, target_O1)).float()
    nats_OV = logits_OV.logsumexp(-1, keepdim=True) - logits_OV
    p_OV = nats_OV.neg().exp()
    entropy_O1 = (p_OV * nats_OV).sum(-1, keepdim=True)
    facts = [
        nats_OV.gather(1, target_O1)[:, 0],
        likelier_OV.sum(-1),
        likelier_OV @ allowed_V,
        entropy_O1[:, 0],
        (p_OV * (nats_OV - entropy_O1) ** 2).sum(-1),
        (p_OV * likelier_OV).sum(-1),
        nats_OV.amin(-1),
    ]
    least = nats_OV.topk(min(best, nats_OV.shape[1]), largest=False)
    return torch.cat([torch.stack(facts, -1), least.indices.float(), least.values], -1)


def _batches(chunks: Sequence[Chunk], most: int) -> list[list[Chunk]]:
    """Chunks in neighbouring slots that one product can serve: alike in length, or nearly so.

    most: tokens that a slot holds, padding included.
    """
    if _even(chunks, most):
        return [list(chunks)]
    batches: list[list[Chunk]] = []
    for c in sorted(chunks, key=lambda c: (len(c.ids), c.slot)):
        last = batches[-1][-1] if batches else None
        if last and len(last.ids) == len(c.ids) and last.slot + 1 == c.slot:
            batches[-1].append(c)
        else:
            batches.append([c])
    return batches


def _even(chunks: Sequence[Chunk], most: int) -> bool:
    """Whether padding all chunks to the longest adds at most a third, and fits."""
    longest = max((len(c.ids) for c in chunks), default=0)
    return (
        all(b.slot == a.slot + 1 for a, b in pairwise(chunks))
        and longest * len(chunks) <= PADDING * sum(len(c.ids) for c in chunks)
        and longest + max((c.start for c in chunks), default=0) <= most
    )
