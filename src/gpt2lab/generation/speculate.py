"""Guesses from a smaller model, accepted so that texts are distributed as without them.

Leviathan, Kalman, Matias: Fast inference from transformers via speculative decoding (2023), alg. 1.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.generation.backend import Chunk, backend
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
    """What a row's token is drawn from, summing to one; temperature 0 is all on the likeliest."""
    if (rules.temperature == 0).all():
        best_B = likeliest(logits_BV)
        return torch.nn.functional.one_hot(best_B, logits_BV.shape[1]).float()
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
    ) -> Guesses:
        """Continue a text by `count` tokens.

        window: its tokens from the model's position 0 on. position: of the first guess among the
        tokens drawn, which its random number belongs to.
        """
        same = 0
        while same < min(len(window) - 1, len(self._cached)) and (
            self._cached[same] == window[same]
        ):
            same += 1
        start, new, found = same, window[same:], Guesses([], torch.empty(0, self._vocabulary))
        probs = []
        for step in range(count):
            logits_1V = self._backend.forward([Chunk(0, start, new, 1)])[:, : self._vocabulary]
            probs_1V = probabilities(logits_1V, rules)
            point = uniform(np.array([seed], np.uint64), np.array([position + step]), GUESS)
            start, new = start + len(new), draw(probs_1V, torch.from_numpy(point)).tolist()
            found.ids += new
            probs.append(probs_1V)
        self._cached = window + found.ids[:-1]
        if probs:
            found.probs = torch.cat(probs)
        return found


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
    points = torch.from_numpy(uniform(seeds, positions))
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
