"""The sampling rules as plainly as they can be written, one row at a time."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2lab import UserError
from gpt2lab.generation import Sampling


def choose(
    logits_V: Tensor, rules: Sampling, prompt: Sequence[int], output: Sequence[int], point: float
) -> int:
    """The next token's id."""
    if not rules.plain:
        logits_V = penalise(logits_V, rules, prompt, output)
    if rules.temperature == 0:
        return int(logits_V.argmax())
    probs_V = truncate(logits_V, rules)
    cumulative_V = probs_V.double().cumsum(0)
    point *= float(cumulative_V[-1])
    return min(int(torch.searchsorted(cumulative_V, point, right=True)), len(probs_V) - 1)


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
