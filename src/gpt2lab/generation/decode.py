"""Decoding with a KV cache: prompts of any lengths together, each as if it were alone."""

import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.generation.sampling import Sampling, choose
from gpt2lab.model.cache import KVCache
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

FinishReason = Literal["length", "stop", "end_of_text"]


@dataclass(frozen=True)
class Request:
    """One text to continue."""

    prompt: tuple[int, ...]
    """Ids to continue; empty starts a new text, from `<|endoftext|>`."""
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    """Drawn at random, and told in the result, if not given."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not part of it."""
    ignore_end: bool = False
    """Go on past `<|endoftext|>`, as OpenAI's sampler does."""
    logprobs: int | None = None
    """Give each token's log-probability, and those of this many most likely ones."""


@dataclass
class Generation:
    """What the model wrote."""

    ids: list[int]
    """All tokens drawn, with the one that ended the text and those of a stop string."""
    text: str
    """Their text, without `<|endoftext|>` and without the stop string."""
    finish_reason: FinishReason
    seed: int
    logprobs: list[float] | None = None
    """Log-probability of each token under the model itself, nats, before any sampling rule."""
    top_logprobs: list[dict[int, float]] | None = None


class _Row:
    """A request while it is decoded."""

    def __init__(self, request: Request, model: GPT2, tokenizer: Tokenizer) -> None:
        prompt = list(request.prompt) or [tokenizer.end_of_text]
        context = model.config.n_positions
        if len(prompt) > context:
            raise UserError(
                f"the prompt is {len(prompt)} tokens; this model's context is {context}: shorten "
                "the prompt"
            )
        if request.max_tokens < 0:
            raise UserError(f"max_tokens is {request.max_tokens}; it must be 0 or above")
        if any(not s for s in request.stop):
            raise UserError("stop holds an empty string, which would end every text at once")
        for i in prompt:
            tokenizer.token(i)  # refuses ids out of range
        self.request = request
        self.prompt = prompt
        self.ids: list[int] = []
        self.seed = secrets.randbits(63) if request.seed is None else request.seed
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}; it must be from 0 to 2**64 - 1")
        self.reason: FinishReason | None = "length" if request.max_tokens == 0 else None
        self.logprobs: list[float] | None = None if request.logprobs is None else []
        self.top: list[dict[int, float]] | None = None if request.logprobs is None else []
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder()
        self._text = ""
        self._sent = 0

    @property
    def all_ids(self) -> list[int]:
        return self.prompt + self.ids

    def accept(self, logits_V: Tensor) -> str:
        """Draw a token and return the text that is now certain."""
        logits_V = logits_V[: self._tokenizer.size]  # ids beyond it, if any, have no text
        i = choose(logits_V, self.request.sampling, self.prompt, self.ids, self.seed)
        if self.logprobs is not None and self.top is not None:
            logp_V = torch.log_softmax(logits_V.float(), dim=0)
            self.logprobs.append(float(logp_V[i]))
            best = logp_V.topk(min(self.request.logprobs or 0, len(logp_V)))
            self.top.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
        self.ids.append(i)
        ended = i == self._tokenizer.end_of_text and not self.request.ignore_end
        if ended:
            self.reason = "end_of_text"
        else:
            self._text += self._decoder.decode(self._tokenizer.token(i))
            if len(self.ids) == self.request.max_tokens:
                self.reason = "length"
        if self.reason:
            self._text += self._decoder.decode(b"", final=True)
        self._cut_at_stop()
        return self._certain()

    def _cut_at_stop(self) -> None:
        longest = max(map(len, self.request.stop), default=0)
        start = max(0, self._sent - longest)
        found = [at for s in self.request.stop if (at := self._text.find(s, start)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.reason = "stop"

    def _certain(self) -> str:
        """Text not yet given out, less an ending that may turn out to begin a stop string."""
        end = len(self._text)
        if not self.reason:
            held = (
                size
                for s in self.request.stop
                for size in range(min(len(s) - 1, end), 0, -1)
                if self._text.endswith(s[:size])
            )
            end -= max(held, default=0)
        piece = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def result(self) -> Generation:
        assert self.reason is not None
        return Generation(self.ids, self._text, self.reason, self.seed, self.logprobs, self.top)


# Prompts decoded at once: their keys and values of 1,024 tokens take 1.2 GB at 124M in float32.
ROWS = 16


def generate(model: GPT2, tokenizer: Tokenizer, requests: Sequence[Request]) -> list[Generation]:
    """Continue several prompts, sixteen at a time; each result is what its prompt alone would give.

    (Exactly so in exact arithmetic: products of several rows round otherwise than of one, which
    can turn a draw that lies on a border.)
    """
    rows = [_Row(request, model, tokenizer) for request in requests]
    for start in range(0, len(rows), ROWS):
        for _ in _decode(model, rows[start : start + ROWS]):
            pass
    return [row.result() for row in rows]


def stream(model: GPT2, tokenizer: Tokenizer, request: Request) -> Generator[str, None, Generation]:
    """Yield text as it becomes certain; the generator's return value is the `Generation`."""
    row = _Row(request, model, tokenizer)
    for _, piece in _decode(model, [row]):
        if piece:
            yield piece
    return row.result()


@torch.inference_mode()
def _decode(model: GPT2, rows: list[_Row]) -> Iterator[tuple[_Row, str]]:
    """Draw tokens for all rows until each has its reason to stop; yield each row's new text."""
    active = [row for row in rows if row.reason is None]
    if not active:
        return
    was_training = model.training
    model.eval()
    try:
        cache, logits_BV = _prefill(model, active)
        while True:
            for row, logits_V in zip(active, logits_BV, strict=True):
                yield row, row.accept(logits_V)
            going = [b for b, row in enumerate(active) if row.reason is None]
            if not going:
                return
            if len(going) < len(active):
                active = [active[b] for b in going]
                cache = cache.rows(torch.tensor(going, device=cache.length_B.device))
            _slide(model, cache, active)
            ids_B1 = torch.tensor([[row.ids[-1]] for row in active], device=cache.length_B.device)
            logits_BV = model.logits(model.hidden(ids_B1, cache=cache)[:, -1])
    finally:
        model.train(was_training)


def _prefill(model: GPT2, rows: list[_Row]) -> tuple[KVCache, Tensor]:
    """A cache holding every prompt, and the logits after each one's last token."""
    lengths = [len(row.prompt) for row in rows]
    most = max(len(row.prompt) + row.request.max_tokens for row in rows)
    weight = model.wte.weight
    cache = KVCache.empty(
        model.config,
        len(rows),
        capacity=min(most, model.config.n_positions),
        dtype=weight.dtype,
        device=weight.device,
    )
    ids_BT = torch.zeros(len(rows), max(lengths), dtype=torch.long, device=weight.device)
    for b, row in enumerate(rows):
        ids_BT[b, : lengths[b]] = torch.tensor(row.prompt)
    x_BTD = model.hidden(ids_BT, cache=cache)
    length_B = torch.tensor(lengths, device=weight.device)
    cache.set_lengths(length_B)
    return cache, model.logits(x_BTD[torch.arange(len(rows), device=weight.device), length_B - 1])


def _slide(model: GPT2, cache: KVCache, rows: list[_Row]) -> None:
    """Make room in rows whose context is full: keep its newer half, computed afresh.

    Positions are learned and absolute, so old keys cannot be moved; halving makes the cost rare.
    """
    context = model.config.n_positions
    for b, row in enumerate(rows):
        if int(cache.length_B[b]) < context:
            continue
        kept = row.all_ids[-(context // 2) - 1 : -1]
        index = torch.tensor([b], device=cache.length_B.device)
        alone = cache.rows(index)
        alone.set_lengths(torch.zeros_like(alone.length_B))
        if kept:
            model.hidden(torch.tensor([kept], device=index.device), cache=alone)
        cache.put(b, alone)
