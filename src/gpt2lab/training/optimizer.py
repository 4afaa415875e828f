"""AdamW and Muon, and the schedule of their rates."""

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from gpt2lab.model.transformer import GPT2
from gpt2lab.training import recipe as recipes
from gpt2lab.training.muon import Matrix, Muon, matrices
from gpt2lab.training.parallel import World


class Optimizers:
    """One or two optimizers that step together, with named state for checkpoints.

    The state exists from the start, as zeros: so a checkpoint can be read into it.
    dtype: what training multiplies matrices in; Muon does so, too.
    """

    def __init__(
        self, model: GPT2, settings: recipes.Optimizer, world: World, dtype: torch.dtype
    ) -> None:
        self._settings = settings
        self._names = {p: name for name, p in model.named_parameters()}
        self.parts: list[torch.optim.Optimizer] = []
        orthogonal: dict[nn.Parameter, Matrix] = {}
        if settings.name == "muon":
            orthogonal = matrices(model.h)
            self.parts.append(
                Muon(
                    orthogonal,
                    world,
                    lr=settings.muon_learning_rate,
                    weight_decay=settings.weight_decay,
                    dtype=dtype,
                )
            )
        # One group per decay, and per grid of processes: fused kernels take no mixture of grids.
        groups: dict[tuple[float, object], list[nn.Parameter]] = {}
        for p in self._names:
            if p not in orthogonal:
                decay = settings.weight_decay if p.ndim >= 2 else 0.0
                grid = getattr(p, "device_mesh", None)
                groups.setdefault((decay, grid), []).append(p)
        self._adam = torch.optim.AdamW(
            [{"params": p, "weight_decay": decay} for (decay, _), p in groups.items()],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
        for p in self._names:
            if p not in orthogonal:
                self._adam.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        self.parts.append(self._adam)
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_rate(self, fraction: float) -> float:
        """Set every rate for a point of the run, 0 to 1; return the multiple of the peak."""
        multiple = rate_multiple(fraction, self._settings)
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * multiple
        return multiple

    def step(self) -> None:
        """Move all weights and drop all gradients."""
        for part in self.parts:
            part.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    @property
    def updates(self) -> int:
        """Steps that moved the weights, which AdamW's bias correction counts."""
        return int(next(iter(self._adam.state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self._adam.state.values():
            state["step"].fill_(count)

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state, but for the count of updates, as `parameter/key`."""
        for part in self.parts:
            for p, state in part.state.items():
                name = self._names[cast(nn.Parameter, p)]
                for key, value in state.items():
                    if key != "step":
                        yield f"{name}/{key}", value


def rate_multiple(fraction: float, settings: recipes.Optimizer) -> float:
    """Learning rate as a multiple of its peak, at a point of the run from 0 to 1."""
    fraction = min(fraction, 1.0)
    if fraction < settings.warmup:
        return fraction / settings.warmup
    if settings.schedule == "wsd":
        left = (1 - fraction) / settings.decay if settings.decay else 1.0
        return settings.final + (1 - settings.final) * min(1.0, left)
    done = (fraction - settings.warmup) / max(1 - settings.warmup, 1e-12)
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * done))
