"""What is asked for, what comes back, and the text in between."""

import secrets
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.generation.sampling import Sampling
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.native import FACTS
from gpt2lab.tokenizer.bpe import Tokenizer

FinishReason = Literal["length", "stop", "end_of_text", "cancelled"]


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
    prompt_logprobs: int | None = None
    """The same of the prompt's tokens, which then are all computed."""
    stride: int | None = None
    """Oldest tokens forgotten each time the context is full; half the context if not given.

    GPT-2's positions are absolute, so what is kept is computed afresh: a longer stride is faster,
    a shorter one remembers more.
    """


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
    prompt_logprobs: list[float | None] | None = None
    """Of each token of the prompt, nats; of the first, which nothing is before, None."""
    prompt_top_logprobs: list[dict[int, float] | None] | None = None


def check(request: Request, config: GPT2Config, tokenizer: Tokenizer) -> None:
    """Refuse a request that this model cannot meet with a UserError."""
    context = config.n_positions
    if tokenizer.size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.size} ids, the model only {config.vocab_size}; the two "
            "do not belong together"
        )
    if len(request.prompt) > context:
        raise UserError(
            f"the prompt is {len(request.prompt)} tokens; this model's context is {context}: "
            "shorten the prompt"
        )
    if request.max_tokens < 0:
        raise UserError(f"max_tokens is {request.max_tokens}; it must be 0 or above")
    if any(not s for s in request.stop):
        raise UserError("stop holds an empty string, which would end every text at once")
    if request.stride is not None and not 0 < request.stride <= context:
        raise UserError(
            f"stride is {request.stride}; it must be from 1 to the context of {context}"
        )
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(request, name)
        if count is not None and not 0 <= count <= tokenizer.size:
            raise UserError(f"{name} is {count}; it must be from 0 to {tokenizer.size}")
    if request.seed is not None and not 0 <= request.seed < 2**64:
        raise UserError(f"seed is {request.seed}; it must be from 0 to 2**64 - 1")
    for i in request.prompt:
        tokenizer.token(i)  # refuses ids out of range
    for i in request.sampling.logit_bias:
        if not 0 <= i < tokenizer.size:
            raise UserError(f"logit_bias names token {i}; ids are 0 to {tokenizer.size - 1}")


class Text:
    """A request while it is decoded: its tokens, and the text that is certain so far.

    Raises UserError for a request that this model cannot meet.
    """

    def __init__(self, request: Request, config: GPT2Config, tokenizer: Tokenizer) -> None:
        check(request, config, tokenizer)
        self.request = request
        self.prompt = list(request.prompt) or [tokenizer.end_of_text]
        self.stride = request.stride or max(1, config.n_positions // 2)
        self.ids: list[int] = []
        self.seed = secrets.randbits(63) if request.seed is None else request.seed
        self.prompt_logprobs: list[float | None] | None = None
        self.prompt_top_logprobs: list[dict[int, float] | None] | None = None
        if request.prompt_logprobs is not None:
            self.prompt_logprobs, self.prompt_top_logprobs = [None], [None]
        self.reason: FinishReason | None = None
        self._end_if_done()
        self.logprobs: list[float] | None = None if request.logprobs is None else []
        self.top_logprobs: list[dict[int, float]] | None = None if request.logprobs is None else []
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder()
        self._text = ""
        self._sent = 0

    @property
    def unscored(self) -> int:
        """Tokens of the prompt whose log-probabilities are still to come."""
        return 0 if self.prompt_logprobs is None else len(self.prompt) - len(self.prompt_logprobs)

    def score(self, facts_TX: Tensor) -> None:
        """Take what the model thinks of the prompt's next tokens: rows as of `describe`."""
        assert self.prompt_logprobs is not None and self.prompt_top_logprobs is not None
        best = self.request.prompt_logprobs or 0
        for nats, rank, *more in facts_TX.tolist():
            i = self.prompt[len(self.prompt_logprobs)]
            ids, costs = more[FACTS - 2 : FACTS - 2 + best], more[FACTS - 2 + best :]
            # Of a vocabulary that was padded, ids that the tokenizer does not have are none.
            pairs = zip(map(int, ids), costs, strict=True)
            top = {j: -cost for j, cost in pairs if j < self._tokenizer.size}
            if best and rank == 0:
                # The compiled pass may round a token's own number otherwise than in the list.
                top = {i: -nats} | {j: min(p, -nats) for j, p in top.items() if j != i}
                top = dict(list(top.items())[:best])
            self.prompt_logprobs.append(-nats)
            self.prompt_top_logprobs.append(top)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self.request.max_tokens == 0 and not self.unscored:
            self.reason = "length"

    def accept(self, i: int, logits_V: Tensor | None) -> str:
        """Take the next token; return the text that is now certain.

        logits_V: what it was drawn from, where log-probabilities are wanted.
        """
        if self.logprobs is not None and self.top_logprobs is not None and logits_V is not None:
            logp_V = torch.log_softmax(logits_V.float(), dim=0)
            self.logprobs.append(float(logp_V[i]))
            best = logp_V.topk(min(self.request.logprobs or 0, len(logp_V)))
            self.top_logprobs.append(
                dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            )
        self.ids.append(i)
        if i == self._tokenizer.end_of_text and not self.request.ignore_end:
            self.reason = "end_of_text"
        else:
            self._text += self._decoder.decode(self._tokenizer.token(i))
            if len(self.ids) == self.request.max_tokens:
                self.reason = "length"
        if self.reason:
            self._text += self._decoder.decode(b"", final=True)
        self._cut_at_stop()
        return self._certain()

    def cancel(self) -> None:
        """End the text with what has been given out of it."""
        if self.reason is None:
            self.reason = "cancelled"
            self._text = self._text[: self._sent]

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
        """What was written; the text must have ended."""
        assert self.reason is not None
        return Generation(
            self.ids, self._text, self.reason, self.seed, self.logprobs, self.top_logprobs,
            self.prompt_logprobs, self.prompt_top_logprobs,
        )  # fmt: skip
