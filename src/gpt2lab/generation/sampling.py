"""Choosing the next token: temperature, truncation and penalties, with a random number per token
that depends on seed and position alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gpt2lab.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Defaults sample from the model's own distribution.

    Applied in this order: repetition penalty, presence and frequency penalties, bias,
    temperature, top-k, top-p, min-p (the middle three as in openai/gpt-2 src/sample.py).
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens, ties with the k-th included; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together have this probability."""
    top_p_form: Literal["nucleus", "openai"] = "nucleus"
    """nucleus keeps the token that crosses top_p; OpenAI's 2019 code leaves it out."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the most likely one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or output (CTRL)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens in the output."""
    frequency_penalty: float = 0.0
    """Subtracted once per occurrence in the output."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of the given ids."""

    def __post_init__(self) -> None:
        rules = (
            (
                "temperature",
                self.temperature == 0 or 1e-6 <= self.temperature < float("inf"),
                "0 or at least 1e-6",
            ),
            ("top_k", self.top_k >= 0, "0 (off) or above"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("presence_penalty", abs(self.presence_penalty) < float("inf"), "finite"),
            ("frequency_penalty", abs(self.frequency_penalty) < float("inf"), "finite"),
        )
        for name, ok, wanted in rules:
            if not ok:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {wanted}")
        for i, bias in self.logit_bias.items():
            if not abs(bias) < float("inf"):
                raise UserError(f"logit_bias of token {i} is {bias}; it must be finite")

    @property
    def plain(self) -> bool:
        """Whether logits reach the choice unchanged but for temperature and truncation."""
        return (
            self.repetition_penalty == 1.0
            and not self.presence_penalty
            and not self.frequency_penalty
            and not self.logit_bias
        )


def choose(
    logits_V: Tensor, rules: Sampling, prompt: Sequence[int], output: Sequence[int], seed: int
) -> int:
    """The next token's id.

    logits_V: the model's logits [V], which are not changed.
    The draw uses the random number of (seed, len(output)): the same request gives the same text
    whatever else is decoded beside it.
    """
    logits_V = logits_V.cpu()  # a few kilobytes; not every accelerator has the float64 used below
    if not rules.plain:
        logits_V = penalise(logits_V, rules, prompt, output)
    if rules.temperature == 0:
        return int(logits_V.argmax())
    probs_V = truncate(logits_V, rules)
    # Inverse of the cumulative distribution, in float64 so that rounding cannot run out of mass.
    cumulative_V = probs_V.double().cumsum(0)
    point = uniform(seed, len(output)) * float(cumulative_V[-1])
    return min(int(torch.searchsorted(cumulative_V, point, right=True)), len(probs_V) - 1)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a function of seed and position (Philox, counter-based)."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def penalise(
    logits_V: Tensor, rules: Sampling, prompt: Sequence[int], output: Sequence[int]
) -> Tensor:
    """Logits after penalties and bias."""
    logits_V = logits_V.clone()
    device = logits_V.device
    if rules.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *output}), device=device)
        before = logits_V[seen]
        penalty = rules.repetition_penalty
        logits_V[seen] = torch.where(before > 0, before / penalty, before * penalty)
    if output and (rules.presence_penalty or rules.frequency_penalty):
        counts = Counter(output)
        ids = torch.tensor(list(counts), device=device)
        times = torch.tensor(list(counts.values()), dtype=logits_V.dtype, device=device)
        logits_V[ids] -= rules.presence_penalty + rules.frequency_penalty * times
    for i, bias in rules.logit_bias.items():
        if not 0 <= i < len(logits_V):
            raise UserError(f"logit_bias names token {i}; ids are 0 to {len(logits_V) - 1}")
        logits_V[i] += bias
    return logits_V


def truncate(logits_V: Tensor, rules: Sampling) -> Tensor:
    """Probabilities [V] after temperature, top-k, top-p and min-p; they sum to one."""
    logits_V = (logits_V.float() - logits_V.max()) / rules.temperature
    if 0 < rules.top_k < len(logits_V):
        threshold = torch.topk(logits_V, rules.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < threshold, -torch.inf)
    probs_V = torch.softmax(logits_V, dim=0)
    if rules.top_p < 1:
        sorted_V, order_V = probs_V.sort(descending=True, stable=True)
        cumulative_V = sorted_V.cumsum(0)
        if rules.top_p_form == "openai":
            keep_V = cumulative_V <= rules.top_p
        else:
            keep_V = cumulative_V - sorted_V < rules.top_p
        keep_V[0] = True
        probs_V = probs_V.index_fill(0, order_V[~keep_V], 0.0)
    if rules.min_p > 0:
        probs_V = probs_V.masked_fill(probs_V < rules.min_p * probs_V.max(), 0.0)
    return probs_V / probs_V.sum()
