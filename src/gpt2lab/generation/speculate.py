"""Guesses from a smaller model, accepted so that texts are distributed as without them.

Leviathan, Kalman, Matias: Fast inference from transformers via speculative decoding (2023), alg. 1.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.generation.backend import Chunk, backend, shared
from gpt2lab.generation.random import uniform
from gpt2lab.generation.sampling import Rules, draw, likeliest, truncate
from gpt2lab.model.transformer import GPT2

# What a random number is for; 0 is the draw of a token by the model itself.
GUESS, ACCEPT = 1, 2


@dataclass
class Guesses:
    """Tokens a draft model drew, and the probabilities [n, V] it drew them from."""

    ids: list[int]
    probs: Tensor


def probabilities(logits_BV: Tensor, rules: Rules) -> Tensor:
    """What a row's token is drawn from at a temperature above 0, summing to one."""
    weights_BV = truncate(logits_BV, rules)
    return weights_BV / weights_BV.sum(dim=1, keepdim=True)


class Drafter:
    """A smaller model of the same vocabulary that runs ahead of a larger one, for one text."""

    def __init__(self, model: GPT2, vocabulary: int, context: int) -> None:
        if model.config.vocab_size < vocabulary or model.config.n_positions < context:
            raise UserError(
                f"the draft model has {model.config.vocab_size:,} ids and a context of "
                f"{model.config.n_positions}; it needs the vocabulary of {vocabulary:,} and a "
                f"context of {context} of the model it drafts for"
            )
        self._backend = backend(model, 1)
        self._vocabulary = vocabulary
        self._cached: list[int] = []

    def guess(
        self, window: list[int], count: int, rules: Rules, seed: int, position: int
    ) -> tuple[list[int], Guesses | None]:
        """Continue a text by `count` tokens; at temperature 0 there is nothing to say of chances.

        window: its tokens from the model's position 0 on. position: of the first guess among the
        tokens drawn, which its random number belongs to.
        """
        if count < 1:
            return [], None
        greedy = bool(rules.temperature == 0)
        start = shared(self._cached, window[:-1])
        ids: list[int] = []
        probs: list[Tensor] = []
        for step in range(count):
            new = ids[-1:] or window[start:]
            logits_1V = self._backend.forward([Chunk(0, start, new, 1)])[:, : self._vocabulary]
            start += len(new)
            if greedy:
                ids += likeliest(logits_1V).tolist()
                continue
            probs.append(probabilities(logits_1V, rules))
            point = uniform(np.array([seed], np.uint64), np.array([position + step]), GUESS)
            ids += draw(probs[-1], torch.from_numpy(point).to(logits_1V.device)).tolist()
        self._cached = window + ids[:-1]
        return ids, Guesses(ids, torch.cat(probs)) if probs else None


def accept(
    logits_NV: Tensor, guesses: Guesses, rules: Rules, seed: int, position: int
) -> list[int]:
    """The tokens a text gains: accepted guesses, and one drawn by the model.

    logits_NV: the model's own, [n + 1, V], after the last known token and after each guess.
    """
    count = len(guesses.ids)
    seeds = np.full(count + 1, seed, np.uint64)
    positions = np.arange(position, position + count + 1)
    chance = uniform(seeds, positions, ACCEPT)
    points = torch.from_numpy(uniform(seeds, positions)).to(logits_NV.device)
    each = rules.rows(torch.zeros(count + 1, dtype=torch.long))
    p_NV = probabilities(logits_NV, each)
    taken: list[int] = []
    for j, i in enumerate(guesses.ids):
        p_V, q_V = p_NV[j], guesses.probs[j]
        if chance[j] * float(q_V[i]) >= float(p_V[i]):
            rest_1V = (p_V - q_V).clamp(min=0)[None]
            return [*taken, int(draw(rest_1V, points[j : j + 1]))]
        taken.append(i)
    return [*taken, int(draw(p_NV[count:], points[count:]))]
