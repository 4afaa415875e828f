"""The optimizers of a run, and the schedule of their rates."""

import logging
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from gpt2lab.errors import UserError
from gpt2lab.model.transformer import GPT2
from gpt2lab.training import recipe as recipes
from gpt2lab.training.adafactor import Adafactor
from gpt2lab.training.muon import Matrix, Muon, matrices
from gpt2lab.training.parallel import World, gradient_norm

# Counted apart, or the same table for every weight.
_NO_STATE = ("step", "qmap1", "qmap2")


class Optimizers:
    """One or two optimizers that step together, with named state for checkpoints.

    Of the weights that may move. The state exists from the start, as zeros: so a checkpoint can be
    read into it.
    dtype: what training multiplies matrices in; Muon does so, too.
    seed: of what adafactor draws.
    """

    def __init__(
        self,
        model: GPT2,
        settings: recipes.Optimizer,
        world: World,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        self._settings = settings
        # Adafactor limits every update by itself, and its gradients may be gone by then.
        limited = settings.name == "adafactor" or not settings.clip
        self.clip = math.inf if limited else settings.clip
        """Largest norm of the whole gradient."""
        self._names = {p: name for name, p in model.named_parameters() if p.requires_grad}
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
        tables = [{"params": p, "weight_decay": decay} for (decay, _), p in groups.items()]
        self.parts.append(_rest(tables, settings, freeing=world.size == 1, seed=seed))
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

    def moving(self, now: bool) -> None:
        """Tell whether the next backward pass is the last of its step, in which adafactor moves."""
        for part in self.parts:
            if isinstance(part, Adafactor):
                part.moving = now

    def gradient_norm(self) -> float:
        """2-norm of the whole gradient, the same number on every process."""
        dropped = [s for part in self.parts if isinstance(part, Adafactor) for s in part.squares]
        if dropped:
            return float(torch.stack(dropped).sum().sqrt())
        return float(gradient_norm(self._names))

    @property
    def updates(self) -> int:
        """Steps that moved the weights, which AdamW's bias correction counts."""
        return int(next(iter(self.parts[-1].state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self.parts[-1].state.values():
            if isinstance(state["step"], Tensor):
                state["step"].fill_(count)
            else:
                state["step"] = count

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state, but for the count of updates, as `parameter/key`."""
        for part in self.parts:
            for p, state in part.state.items():
                name = self._names[cast(nn.Parameter, p)]
                for key, value in state.items():
                    if key not in _NO_STATE:
                        yield f"{name}/{key}", value


def _rest(
    groups: list[dict[str, Any]], settings: recipes.Optimizer, *, freeing: bool, seed: int
) -> torch.optim.Optimizer:
    """The optimizer of the weights that Muon leaves, with its state."""
    if settings.name == "adafactor":
        return Adafactor(groups, lr=settings.learning_rate, freeing=freeing, seed=seed)
    betas = (settings.beta1, settings.beta2)
    if settings.name == "adamw8bit":
        return _adamw8bit(groups, settings.learning_rate, betas)
    adam = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    for group in groups:
        for p in group["params"]:
            adam.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
    return adam


def _adamw8bit(
    groups: list[dict[str, Any]], rate: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW with averages in blocks of 256 8-bit numbers (Dettmers et al. 2022)."""
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # what else it could have loaded
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer.name adamw8bit needs bitsandbytes; pip install bitsandbytes, or take "
            "adamw or adafactor"
        ) from None
    adam = AdamW8bit(groups, lr=rate, betas=betas)
    adam.check_overrides()
    adam.initialized = True
    for i, group in enumerate(adam.param_groups):
        for j, p in enumerate(group["params"]):
            adam.init_state(group, p, i, j)
    return cast(torch.optim.Optimizer, adam)


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
