"""AdamW and Muon, and the schedule of their rates."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gpt2lab.model.transformer import GPT2
from gpt2lab.training import recipe as recipes


class Optimizers:
    """One or two optimizers that step together, with named state for checkpoints."""

    def __init__(self, model: GPT2, settings: recipes.Optimizer) -> None:
        self._settings = settings
        named = dict(model.named_parameters())
        self._names: dict[Tensor, str] = {p: name for name, p in named.items()}
        matrices = [p for name, p in named.items() if name.startswith("h.") and p.ndim == 2]
        tables = [p for name, p in named.items() if not name.startswith("h.") and p.ndim == 2]
        vectors = [p for p in named.values() if p.ndim < 2]
        self.parts: list[torch.optim.Optimizer] = []
        if settings.name == "muon":
            self.parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=settings.muon_learning_rate,
                    weight_decay=settings.weight_decay,
                    momentum=0.95,
                )
            )
            decayed = tables
        else:
            decayed = matrices + tables
        self.parts.append(
            torch.optim.AdamW(
                [
                    {"params": decayed, "weight_decay": settings.weight_decay},
                    {"params": vectors, "weight_decay": 0.0},
                ],
                lr=settings.learning_rate,
                betas=(settings.beta1, settings.beta2),
                fused=True,
            )
        )
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_rate(self, fraction: float) -> float:
        """Set every rate for a point of the run, 0 to 1; return the multiple of the peak."""
        multiple = rate_multiple(fraction, self._settings)
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * multiple
        return multiple

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def named_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the state as `parameter/key`."""
        for part in self.parts:
            for p, state in part.state.items():
                for key, value in state.items():
                    yield f"{self._names[p]}/{key}", torch.as_tensor(value)

    def load_named_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `named_state` gave."""
        params: dict[str, tuple[torch.optim.Optimizer, nn.Parameter]] = {}
        for part in self.parts:
            for group in part.param_groups:
                params |= {self._names[p]: (part, p) for p in group["params"]}
        for full, value in tensors.items():
            name, _, key = full.rpartition("/")
            part, p = params[name]
            part.state[p][key] = value.to(p.device).clone()


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
