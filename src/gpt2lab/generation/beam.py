"""Beam search: the likeliest text that a search of a few open ends finds."""

import math

import torch

from gpt2lab.errors import UserError
from gpt2lab.generation.backend import Backend, Chunk, backend
from gpt2lab.generation.request import Generation, Request, Text
from gpt2lab.model.native import BLOCK
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

# Each takes two slots, of 75 MB at 124M.
MOST_BEAMS = 64


def beam_search(
    model: GPT2, tokenizer: Tokenizer, request: Request, beams: int, *, length_penalty: float = 1.0
) -> Generation:
    """Continue a prompt by the text whose log-probability / length ** length_penalty is highest.

    Of each step's continuations the `beams` best are followed; one that ends with `<|endoftext|>`
    is kept aside, and the search ends when none that runs can beat the best `beams` of those, as
    in transformers with early_stopping="never". Sampling rules of the request are not used.
    Raises UserError if prompt and output do not fit the context.
    """
    text = Text(request, model.config, tokenizer)
    most = min(MOST_BEAMS, tokenizer.size)
    if not 1 <= beams <= most:
        raise UserError(f"beams is {beams}; it must be from 1 to {most}")
    if request.logprobs is not None:
        raise UserError("beam search gives no log-probabilities; leave logprobs out")
    if len(text.prompt) + request.max_tokens > model.config.n_positions:
        raise UserError(
            f"beam search needs prompt and output ({len(text.prompt)} + {request.max_tokens} "
            f"tokens) within the context of {model.config.n_positions}; ask for fewer tokens"
        )
    best = _search(model, tokenizer, text, beams, length_penalty)
    for i in best:
        text.accept(i, None)
        if text.reason:
            break
    return text.result()


def _search(
    model: GPT2, tokenizer: Tokenizer, text: Text, beams: int, length_penalty: float
) -> list[int]:
    # Two slots for each open end: the one it is in, and one to move to when others take its place.
    slots = backend(model, 2 * beams)
    request, end = text.request, tokenizer.end_of_text
    logits_BV = slots.forward([Chunk(0, 0, text.prompt, 1)]).cpu()
    running: list[tuple[float, list[int], int]] = [(0.0, [], 0)]  # score, ids, slot
    ended: list[tuple[float, list[int]]] = []

    def final(score: float, length: int) -> float:
        return score / max(1, length) ** length_penalty

    for step in range(1, request.max_tokens + 1):
        logp_BV = torch.log_softmax(logits_BV[:, : tokenizer.size].float(), dim=1)
        total_BV = logp_BV + torch.tensor([[score] for score, _, _ in running])
        top = total_BV.flatten().topk(min(2 * beams, total_BV.numel()))
        chosen: list[tuple[float, list[int], int]] = []
        for rank, (score, at) in enumerate(
            zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ):
            row, i = divmod(at, tokenizer.size)
            _, ids, slot = running[row]
            if i == end and not request.ignore_end:
                if rank < beams:
                    ended.append((final(score, step), [*ids, i]))
            elif len(chosen) < beams:
                chosen.append((score, [*ids, i], slot))
        ended = sorted(ended, key=lambda e: -e[0])[:beams]
        # A longer text can only gain by the penalty if that is positive.
        length = request.max_tokens if length_penalty > 0 else step
        hopeless = len(ended) == beams and final(chosen[0][0], length) < ended[-1][0]
        running = _move(slots, chosen, len(text.prompt) + step - 1, 2 * beams)
        if hopeless or step == request.max_tokens:
            break
        position = len(text.prompt) + step - 1
        chunks = [Chunk(slot, position, ids[-1:], 1) for _, ids, slot in running]
        logits_BV = slots.forward(chunks).cpu()
    ended += [(final(score, len(ids)), ids) for score, ids, _ in running]
    return max(ended, key=lambda e: e[0], default=(-math.inf, []))[1]


def _move(
    slots: Backend, chosen: list[tuple[float, list[int], int]], tokens: int, count: int
) -> list[tuple[float, list[int], int]]:
    """Give every chosen text a slot of its own; a parent's second child gets a copy."""
    free = sorted(set(range(count)) - {slot for _, _, slot in chosen})
    taken: set[int] = set()
    moved = []
    for score, ids, slot in chosen:
        mine = slot
        if slot in taken:
            mine = free.pop()
            slots.copy(slot, mine, -(-tokens // BLOCK) * BLOCK)
        taken.add(mine)
        moved.append((score, ids, mine))
    return moved
