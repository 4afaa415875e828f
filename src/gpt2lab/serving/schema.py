"""Bodies of requests, in OpenAI's form and with what GPT-2's samplers have beyond it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

# As OpenAI has them, but for 20 log-probabilities instead of 5 and 16 choices instead of 128.
MOST_STOPS, LONGEST_STOP, MOST_CHOICES, MOST_LOGPROBS, MAX_TOKENS = 4, 256, 16, 20, 16


def limited(must_be: str, **limits: Any) -> Any:
    """A field whose limits are told in one phrase."""
    return Field(json_schema_extra={"must_be": must_be}, **limits)


Finite = Annotated[float, Field(allow_inf_nan=False)]
Bias = Annotated[float, Field(allow_inf_nan=False, ge=-100, le=100)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class Body(BaseModel):
    """What every body shares: unknown fields are refused, and types are what they say."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Body):
    """What a stream tells beside its text."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Taken, and not done: texts of so small models need no hiding of their lengths."""


class Sampled(Body):
    """How texts are drawn."""

    model: str = limited("the name of a model, as GET /v1/models lists them", max_length=200)
    max_tokens: int = limited("a whole number, 0 or above", default=MAX_TOKENS, ge=0)
    n: int = limited(f"a whole number from 1 to {MOST_CHOICES}", default=1, ge=1, le=MOST_CHOICES)
    temperature: Finite = limited("a number from 0 to 2", default=1, ge=0, le=2)
    top_p: Finite = limited("a number above 0, and at most 1", default=1, gt=0, le=1)
    top_k: int = limited("a whole number; 0 keeps all tokens", default=0, ge=0, lt=2**31)
    min_p: Finite = limited("a number from 0 to 1", default=0, ge=0, le=1)
    repetition_penalty: Finite = limited("a number from 0.01 to 100", default=1, ge=0.01, le=100)
    presence_penalty: Finite = limited("a number from -2 to 2", default=0, ge=-2, le=2)
    frequency_penalty: Finite = limited("a number from -2 to 2", default=0, ge=-2, le=2)
    logit_bias: dict[str, Bias] = limited(
        "an object of at most 1,024 token ids, each with a number from -100 to 100",
        default_factory=dict, max_length=1024,
    )  # fmt: skip
    seed: int | None = limited(
        "a whole number of at most 64 bits", default=None, ge=-(2**63), lt=2**64
    )
    stop: Stop | list[Stop] = limited(
        f"a string of 1 to {LONGEST_STOP} characters, or a list of at most {MOST_STOPS}",
        default_factory=list,
    )
    stream: bool = limited("true or false", default=False)
    stream_options: StreamOptions = limited(
        "an object with include_usage, true or false", default_factory=StreamOptions
    )
    watermark: int | None = limited(
        "a whole number from 0 to 2^63 - 1", default=None, ge=0, lt=2**63
    )
    user: str | None = limited("a string of at most 512 characters", default=None, max_length=512)

    @field_validator("*", mode="before")
    @classmethod
    def null_is_absent(cls, value: Any, info: ValidationInfo) -> Any:
        """OpenAI's clients may send null for what is not given."""
        field = cls.model_fields[str(info.field_name)]
        if value is None and not field.is_required():
            return field.get_default(call_default_factory=True)
        return value

    @field_validator("stop")
    @classmethod
    def few_stops(cls, value: str | list[str]) -> str | list[str]:
        """As many as OpenAI takes."""
        if len(value) > MOST_STOPS and isinstance(value, list):
            raise ValueError
        return value


class CompletionBody(Sampled):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] | None = limited(
        "a string, a list of strings, a list of token ids, or a list of such lists", default=None
    )
    best_of: int | None = limited(
        f"a whole number from 1 to {MOST_CHOICES}", default=None, ge=1, le=MOST_CHOICES
    )
    echo: bool = limited("true or false", default=False)
    logprobs: int | None = limited(
        f"a whole number from 0 to {MOST_LOGPROBS}", default=None, ge=0, le=MOST_LOGPROBS
    )
    suffix: str | None = limited("a string", default=None)
    return_token_ids: bool = limited("true or false", default=False)


class TokenizeBody(Body):
    """POST /tokenize, as lm-eval sends it: control tokens in the text are told apart."""

    prompt: str = limited("a string")
    model: str | None = limited("the name of a model", default=None, max_length=200)
    add_special_tokens: bool = limited("true or false", default=False)


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: list[int] = limited("a list of token ids")
    model: str | None = limited("the name of a model", default=None, max_length=200)


Finish = Literal["stop", "length"]


class TokenLogprobs(BaseModel):
    """Log-probabilities of a choice's tokens; of a prompt's first one there are none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Choice(BaseModel):
    """One text."""

    index: int
    text: str
    finish_reason: Finish | None
    logprobs: TokenLogprobs | None = None
    token_ids: list[int] | None = None


class Usage(BaseModel):
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The answer of /v1/completions, whole or, in a stream, a part of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage | None = None
