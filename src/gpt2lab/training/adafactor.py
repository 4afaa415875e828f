"""Adafactor (Shazeer and Stern 2018), which keeps a row and a column of squares for each matrix.

The same steps as `torch.optim.Adafactor`, with two things it has not: weights in bfloat16 are
rounded at random, so that moves below half a unit in the last place are not lost; and each weight
may be moved as soon as its gradient is there, so that gradients are never held together.
"""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

# Numbers worked on at a time: temporaries stay small beside a table of 80 million.
_PART = 2**22
_DECAY = 0.8
_SMALLEST_SQUARE = float(torch.finfo(torch.float32).eps)
_SMALLEST_SCALE = 1e-3


class Adafactor(torch.optim.Optimizer):
    """Steps are `lr` times the root mean square of the weight they move.

    freeing: move a weight within the backward pass and drop its gradient, while `moving` is set.
    seed: of the random rounding.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        freeing: bool,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.moving = False
        """Whether the backward pass at hand is the last of its step."""
        self.squares: list[Tensor] = []
        """Of the 2-norms of gradients that were dropped since the last `step`."""
        self._seed = seed
        self._group: dict[Tensor, tuple[int, dict[str, Any]]] = {}
        for group in self.param_groups:
            for p in group["params"]:
                self._group[p] = (len(self._group), group)
                self.state[p] = _empty_state(p)
                if freeing:
                    p.register_post_accumulate_grad_hook(self._move_at_once)

    def _move_at_once(self, p: Tensor) -> None:
        if self.moving and p.grad is not None:
            self.squares.append(p.grad.float().norm().square())
            self._move(p)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the weights whose gradients are still there."""
        for p in self._group:
            if p.grad is not None:
                self._move(p)
        self.squares.clear()

    @torch.no_grad()
    def _move(self, p: Tensor) -> None:
        number, group = self._group[p]
        state, grad = self.state[p], cast(Tensor, p.grad)
        state["step"] += 1
        time = float(state["step"])
        new = time**-_DECAY
        rate = min(group["lr"], time**-0.5)
        # One row per first axis; a vector is one row.
        weight_RC, grad_RC = (t.detach().view(-1, t.shape[-1]) for t in (p, grad))
        parts = list(_parts(weight_RC))
        size = (sum(float(weight_RC[part].float().square().sum()) for part in parts)) ** 0.5
        scale = max(_SMALLEST_SCALE, size / p.numel() ** 0.5) * rate
        if p.ndim > 1:
            _follow_factors(state, grad_RC, parts, new)
        else:
            state["square"].lerp_(grad.float().square(), new)

        def update(part: slice) -> Tensor:
            if p.ndim > 1:
                mean = state["row"].mean(dim=0, keepdim=True).clamp_(min=_SMALLEST_SQUARE)
                square = state["row"][part] @ state["column"] / mean
            else:
                square = state["square"].view(1, -1).clone()
            return square.clamp_(min=_SMALLEST_SQUARE**2).rsqrt_().mul_(grad_RC[part])

        norm = sum(float(update(part).square().sum()) for part in parts) ** 0.5
        step = scale / max(1.0, norm / p.numel() ** 0.5)
        generator = None
        if p.dtype is torch.bfloat16:
            key = np.random.SeedSequence((self._seed, int(time), number)).generate_state(1)
            generator = torch.Generator(p.device).manual_seed(int(key[0]))
        for part in parts:
            exact = weight_RC[part].float() * (1 - group["lr"] * group["weight_decay"])
            exact.sub_(update(part), alpha=step)
            weight_RC[part] = exact if generator is None else round_at_random(exact, generator)
        p.grad = None


def _empty_state(p: Tensor) -> dict[str, Tensor]:
    count = torch.zeros((), dtype=torch.float32)
    if p.ndim == 1:
        return {"step": count, "square": torch.zeros(p.shape, device=p.device)}
    rows, columns = p.shape
    return {
        "step": count,
        "row": torch.zeros(rows, 1, device=p.device),
        "column": torch.zeros(1, columns, device=p.device),
    }


def _parts(t_RC: Tensor) -> Iterator[slice]:
    rows = max(1, _PART // t_RC.shape[1])
    return (slice(start, start + rows) for start in range(0, len(t_RC), rows))


def _follow_factors(
    state: dict[str, Tensor], grad_RC: Tensor, parts: list[slice], new: float
) -> None:
    """Let the averages of squares, by row and by column, follow the gradient's."""
    rows, columns = grad_RC.shape
    column = torch.zeros_like(state["column"])
    for part in parts:
        square = grad_RC[part].float().square()
        state["row"][part] = state["row"][part].lerp(square.sum(1, keepdim=True) / columns, new)
        column += square.sum(0, keepdim=True)
    state["column"].lerp_(column / rows, new)


def round_at_random(exact: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 numbers in bfloat16: up or down, the likelier the nearer, so that sums stay right."""
    bits = exact.contiguous().view(torch.int32)
    noise = torch.randint(2**16, bits.shape, dtype=torch.int32, device=bits.device,
                          generator=generator)  # fmt: skip
    return ((bits + noise) & -(2**16)).view(torch.float32).to(torch.bfloat16)
