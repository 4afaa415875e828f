"""From a body of /v1/completions to requests of the engine, and from their texts to choices."""

import codecs
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2lab.generation import Generation, Request, Sampling
from gpt2lab.generation.request import FinishReason, Text
from gpt2lab.model.config import GPT2Config
from gpt2lab.serving.errors import ApiError, invalid
from gpt2lab.serving.schema import (
    Choice,
    CompletionBody,
    Finish,
    Sampled,
    TokenLogprobs,
    Usage,
)
from gpt2lab.tokenizer.bpe import Tokenizer

# Texts that one body may ask for.
MOST_TEXTS = 128


@dataclass(frozen=True)
class Asked:
    """What a body asks for: `best_of` requests of each prompt, in order."""

    body: CompletionBody
    requests: list[Request]
    best_of: int

    @property
    def tokens(self) -> int:
        """The most that it can cost."""
        each = self.best_of
        read = sum(max(1, len(r.prompt)) for r in self.requests[::each])
        return read + sum(r.max_tokens for r in self.requests)


def asked(body: CompletionBody, tokenizer: Tokenizer, config: GPT2Config) -> Asked:
    """Raises ApiError for what this model cannot do."""
    prompts = _prompts(body, tokenizer)
    best_of = body.n if body.best_of is None else body.best_of
    if best_of < body.n:
        raise invalid("best_of", f"best_of is {best_of}; it must be at least n, which is {body.n}")
    if best_of > body.n and body.stream:
        raise invalid("best_of", "best_of cannot be streamed; leave out stream, or best_of")
    if body.suffix is not None:
        raise invalid("suffix", "models here do not fill in before a suffix; leave it out")
    if best_of * len(prompts) > MOST_TEXTS:
        raise invalid(
            "prompt",
            f"{len(prompts)} prompts with {best_of} texts each are more than {MOST_TEXTS} texts; "
            "send fewer at once",
        )
    for ids in prompts:
        require_room(max(1, len(ids)), body.max_tokens, config.n_positions)
    sampling = sampling_of(body, tokenizer)
    ranked = best_of > body.n
    logprobs = 0 if ranked and body.logprobs is None else body.logprobs
    requests = [
        Request(
            ids, body.max_tokens, sampling, seed=_seed(body.seed, place, number),
            stop=stops(body), logprobs=logprobs,
            prompt_logprobs=body.logprobs if body.echo else None,
        )
        for place, ids in enumerate(prompts)
        for number in range(best_of)
    ]  # fmt: skip
    return Asked(body, requests, best_of)


def sampling_of(body: Sampled, tokenizer: Tokenizer) -> Sampling:
    """The rules that a body sets."""
    bias = {}
    for name, value in body.logit_bias.items():
        if not (name.isascii() and name.isdigit() and int(name[:20]) < tokenizer.size):
            raise invalid(
                "logit_bias", f"logit_bias names token {name[:40]!r}; ids are 0 to "
                f"{tokenizer.size - 1}", "invalid_token",
            )  # fmt: skip
        bias[int(name)] = value
    return Sampling(
        temperature=body.temperature, top_k=body.top_k, top_p=body.top_p, min_p=body.min_p,
        repetition_penalty=body.repetition_penalty, presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty, logit_bias=bias, watermark=body.watermark,
    )  # fmt: skip


def stops(body: Sampled) -> tuple[str, ...]:
    """The strings that end a text."""
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def require_room(prompt: int, output: int, context: int) -> None:
    """Refuse more tokens than the context holds."""
    if prompt + output > context:
        raise ApiError(
            400,
            "context_length_exceeded",
            f"this model's context is {context} tokens, and {prompt + output} are asked for "
            f"({prompt} in the prompt, {output} to be written); shorten either",
            param="prompt" if prompt > context else "max_tokens",
        )


def choices(asked: Asked, texts: Sequence[Generation], tokenizer: Tokenizer) -> list[Choice]:
    """The texts that are given out, in order; of `best_of` those with the best mean log p."""
    body = asked.body
    found: list[Choice] = []
    for start in range(0, len(texts), asked.best_of):
        some = list(zip(asked.requests, texts, strict=True))[start : start + asked.best_of]
        if asked.best_of > body.n:
            some.sort(key=lambda pair: -_mean(pair[1].logprobs))
        for request, text in some[: body.n]:
            told = Told(len(found), request, body, tokenizer)
            found.append(told.part(text.text, text, text.finish_reason))
    return found


def usage(asked: Asked, texts: Sequence[Generation]) -> Usage:
    """Each prompt counts once, and every token that was drawn, of choices left out as well."""
    read = sum(max(1, len(r.prompt)) for r in asked.requests[:: asked.best_of])
    written = sum(len(text.ids) for text in texts)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class Told:
    """A choice as it comes: each part tells what the parts before did not."""

    def __init__(
        self, index: int, request: Request, body: CompletionBody, tokenizer: Tokenizer
    ) -> None:
        self._index, self._body, self._tokenizer = index, body, tokenizer
        self._prompt = list(request.prompt) if body.echo else []
        self._before = tokenizer.decode(self._prompt)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sent = self._place = self._tokens = self._ids = 0

    def part(self, text: str, so_far: Generation | Text, reason: FinishReason | None) -> Choice:
        """What is new.

        text: what the text gained. so_far: its tokens. reason: why it ended, if it has.
        """
        if not self._sent:
            text = self._before + text
        self._sent += len(text)
        ids, self._ids = so_far.ids[self._ids :], len(so_far.ids)
        finish: Finish | None = None
        if reason is not None:
            finish = "length" if reason == "length" else "stop"
        return Choice(
            index=self._index, text=text, finish_reason=finish,
            logprobs=None if self._body.logprobs is None else self._logprobs(so_far, reason),
            token_ids=ids if self._body.return_token_ids else None,
        )  # fmt: skip

    def _logprobs(self, so_far: Generation | Text, reason: FinishReason | None) -> TokenLogprobs:
        """Of the tokens that begin in the text so far; those of a stop string do not."""
        ids, own = list(so_far.ids), list[float | None](so_far.logprobs or [])
        top: list[dict[int, float] | None] = list(so_far.top_logprobs or [])
        if self._prompt:
            ids = self._prompt + ids
            own = (so_far.prompt_logprobs or []) + own
            top = (so_far.prompt_top_logprobs or []) + top
        all_of_it = reason is not None and reason != "stop"
        first, offsets = self._tokens, []
        while self._tokens < len(ids) and (all_of_it or self._place < self._sent):
            if self._tokens == len(self._prompt):  # which is a text of its own
                self._decoder.reset()
                self._place = len(self._before)
                if not all_of_it and self._place >= self._sent:
                    break
            offsets.append(self._place)
            self._place += len(self._decoder.decode(self._tokenizer.token(ids[self._tokens])))
            self._tokens += 1
        some = slice(first, self._tokens)
        told = None
        if self._body.logprobs:
            pairs = zip(ids[some], own[some], top[some], strict=True)
            told = [None if t is None else _named(t, i, p, self._tokenizer) for i, p, t in pairs]
        return TokenLogprobs(
            tokens=[token_name(i, self._tokenizer) for i in ids[some]],
            token_logprobs=own[some], top_logprobs=told, text_offset=offsets,
        )  # fmt: skip


def _named(
    top: dict[int, float], i: int, own: float | None, tokenizer: Tokenizer
) -> dict[str, float]:
    """Likeliest tokens by their text, and the one that came; each by a name of its own."""
    found: dict[str, float] = {}
    for j, value in {**top, **({} if own is None or i in top else {i: own})}.items():
        name = token_name(j, tokenizer)
        found[f"token_id:{j}" if name in found else name] = value
    return found


def token_name(i: int, tokenizer: Tokenizer) -> str:
    """A token's text; of one that is part of a character, its bytes."""
    data = tokenizer.token(i)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _prompts(body: CompletionBody, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    given = body.prompt
    if given is None:
        return [()]
    if isinstance(given, str):
        return [tuple(encoded(given, tokenizer))]
    if not given:
        raise invalid("prompt", "prompt is an empty list; leave it out to begin a new text")
    if isinstance(given[0], int):
        return [_ids(given, tokenizer)]
    return [
        tuple(encoded(one, tokenizer)) if isinstance(one, str) else _ids(one, tokenizer)
        for one in given
    ]


def encoded(text: str, tokenizer: Tokenizer, *, specials: bool = False) -> list[int]:
    """A text's tokens; specials: whether control tokens written in it are such."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            "prompt", f"character {error.start + 1} of the prompt is half of a surrogate pair; "
            "send whole characters",
        ) from None  # fmt: skip
    return tokenizer.encode(text, specials=specials)


def require_known(ids: Sequence[int], tokenizer: Tokenizer, param: str) -> None:
    """Refuse ids that are none."""
    for i in ids:
        if not 0 <= i < tokenizer.size:
            raise invalid(
                param, f"{param} has token {i}; ids are 0 to {tokenizer.size - 1}", "invalid_token"
            )


def _ids(ids: list[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    if not ids:
        raise invalid("prompt", "prompt has an empty list of token ids", "invalid_token")
    require_known(ids, tokenizer, "prompt")
    return tuple(ids)


def _seed(seed: int | None, place: int, number: int) -> int | None:
    """A choice's own: the first one's is what was asked for, so that it is `generate`'s text."""
    if seed is None or place == number == 0:
        return None if seed is None else seed % 2**64
    told = f"{seed} {place} {number}".encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big")


def _mean(logprobs: Sequence[float] | None) -> float:
    return sum(logprobs) / len(logprobs) if logprobs else 0.0
