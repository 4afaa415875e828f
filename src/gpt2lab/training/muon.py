"""Muon: momentum whose matrices are made orthogonal before they are added to the weights.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Matrices of one
shape are stacked, so that a whole model takes a handful of batched products, and each process of a
run makes its part of a stack, so that none repeats another's work.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gpt2lab.training.parallel import World, part_of, whole

# x -> a x + b x^3 + c x^5, tuned by Jordan to push singular values towards 1 quickly: five rounds
# leave most between 0.7 and 1.2, which trains as well as exactly 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


def orthogonalise(stack_NRC: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrix to each [R, C] matrix of a stack, in `dtype`."""
    tall = stack_NRC.shape[1] > stack_NRC.shape[2]
    x = stack_NRC.mT if tall else stack_NRC
    # Brought to size before the cast, which would lose small gradients in float16.
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-20)).to(dtype)
    for _ in range(_ROUNDS):
        s = x @ x.mT
        x = _A * x + torch.baddbmm(s, s, s, beta=_B, alpha=_C) @ x
    return x.mT if tall else x


@dataclass(frozen=True)
class Matrix:
    """How the weight of a linear map is orthogonalised."""

    scale: float
    """What its steps are multiplied by."""
    fused: bool = False
    """Whether it is q, k and v on top of each other, which are matrices of their own."""


def matrices(modules: Iterable[nn.Module]) -> dict[nn.Parameter, Matrix]:
    """The weights of all linear maps in `modules`.

    A map with more outputs than inputs takes steps as much larger as the root of their ratio. Read
    from the maps' declared sizes: a process's part of a weight has other ones.
    """
    found: dict[nn.Parameter, Matrix] = {}
    for module in modules:
        for name, linear in module.named_modules():
            if isinstance(linear, nn.Linear):
                fused = name.endswith("c_attn")
                ratio = linear.out_features / linear.in_features / (3 if fused else 1)
                weight = cast(nn.Parameter, linear.weight)
                found[weight] = Matrix(max(1.0, ratio) ** 0.5, fused)
    return found


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. For matrices only; dtype: what products are made in."""

    def __init__(
        self,
        kinds: dict[nn.Parameter, Matrix],
        world: World,
        *,
        lr: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95}
        super().__init__(list(kinds), defaults)
        self._kinds, self._world, self._dtype = kinds, world, dtype
        for p in kinds:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight by one update of its gradient."""
        (group,) = self.param_groups
        alike: dict[tuple[torch.Size, Matrix], list[nn.Parameter]] = {}
        for p in group["params"]:
            alike.setdefault((p.shape, self._kinds[p]), []).append(p)
        for parameters in alike.values():
            self._move(parameters, group)

    def _move(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Move weights of one shape and kind."""
        momentum, rate = group["momentum"], group["lr"]
        aims = []
        for p in parameters:
            if p.grad is None:
                raise RuntimeError("a matrix has no gradient")
            buffer = self.state[p]["momentum_buffer"]
            buffer.lerp_(p.grad, 1 - momentum)
            aims += self._parts(whole(p.grad.lerp(buffer, momentum)), self._kinds[p])
        directions = self._shared(torch.stack(aims))
        each = len(directions) // len(parameters)
        for p, parts in zip(parameters, directions.split(each), strict=True):
            p.mul_(1 - rate * group["weight_decay"])
            p.add_(part_of(self._joined(parts), p), alpha=-rate * self._kinds[p].scale)

    def _parts(self, t: Tensor, kind: Matrix) -> list[Tensor]:
        """The matrices a weight consists of; who shares it holds q, k and v of its own heads."""
        if not kind.fused:
            return [t]
        by_rank = t.unflatten(0, (self._world.tensor_size, 3, -1))
        return list(by_rank.transpose(0, 1).flatten(1, 2))

    def _joined(self, parts: Tensor) -> Tensor:
        """The inverse of `_parts`."""
        if len(parts) == 1:
            return parts[0]
        by_rank = parts.unflatten(1, (self._world.tensor_size, -1)).transpose(0, 1)
        return by_rank.flatten(0, 2)

    def _shared(self, stack_NRC: Tensor) -> Tensor:
        """`orthogonalise`, of which each process does its share and tells it to the others."""
        if self._world.size == 1:
            return orthogonalise(stack_NRC, self._dtype)
        each = -(-len(stack_NRC) // self._world.size)
        begin = self._world.rank * each
        own = stack_NRC[begin : begin + each]
        mine = stack_NRC.new_zeros(each, *stack_NRC.shape[1:], dtype=self._dtype)
        mine[: len(own)] = orthogonalise(own, self._dtype)
        found = [torch.empty_like(mine) for _ in range(self._world.size)]
        dist.all_gather(found, mine)
        return torch.cat(found)[: len(stack_NRC)]
