"""Bodies of /v1/completions: what is refused and how, what the engine is asked, what comes back."""

import pytest
from openai.types import Completion as TheirCompletion
from pydantic import ValidationError

from gpt2lab.generation import Engine, Request, Sampling, generate
from gpt2lab.serving import completions
from gpt2lab.serving.completions import Told, asked, choices, usage
from gpt2lab.serving.errors import ApiError, of_validation
from gpt2lab.serving.schema import Completion, CompletionBody

PROMPT = "The government of this country"


def refusal(body):
    """The error of a body that has the wrong form."""
    with pytest.raises(ValidationError) as caught:
        CompletionBody.model_validate(body)
    return of_validation(caught.value, CompletionBody, body)


@pytest.mark.parametrize(
    ("more", "param", "message"),
    [
        ({"model": None}, "model", "model is null; it must be the name of a model, as GET"),
        ({"temperature": 5}, "temperature", "temperature is 5; it must be a number from 0 to 2"),
        ({"temperature": "1"}, "temperature", 'temperature is "1"; it must be a number from'),
        ({"temperature": float("nan")}, "temperature", "temperature is NaN; it must be"),
        ({"temperature": True}, "temperature", "temperature is true; it must be"),
        ({"n": 1.5}, "n", "n is 1.5; it must be a whole number from 1 to 16"),
        ({"n": 0}, "n", "n is 0; it must be"),
        ({"best_of": 17}, "best_of", "best_of is 17; it must be"),
        ({"max_tokens": -1}, "max_tokens", "max_tokens is -1; it must be a whole number, 0 or"),
        ({"top_p": 0}, "top_p", "top_p is 0; it must be a number above 0"),
        ({"logprobs": 21}, "logprobs", "logprobs is 21; it must be a whole number from 0 to 20"),
        ({"logit_bias": {"5": 101}}, "logit_bias", 'logit_bias is {"5": 101}; it must be an'),
        ({"logit_bias": [5]}, "logit_bias", "logit_bias is [5]; it must be an object"),
        ({"prompt": [1, "a"]}, "prompt", 'prompt is [1, "a"]; it must be a string, a list of'),
        ({"prompt": [True]}, "prompt", "prompt is [true]; it must be a string, a list of"),
        ({"prompt": "a" * 50, "stop": [""]}, "stop", 'stop is [""]; it must be a string of 1 to'),
        ({"stop": ["a"] * 5}, "stop", 'stop is ["a", "a", "a", "a", "a"]; it must be'),
        ({"seed": 2**64}, "seed", "seed is 18446744073709551616; it must be a whole number of at"),
        ({"stream": "yes"}, "stream", 'stream is "yes"; it must be true or false'),
        ({"user": "x" * 513}, "user", f'user is "{"x" * 56}...; it must be a string of at most'),
    ],
)
def test_a_wrong_value_is_one_sentence(more, param, message):
    error = refusal({"model": "m", **more})
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert error.message.startswith(message), error.message


@pytest.mark.parametrize(
    ("body", "code", "param", "message"),
    [
        ({}, "missing_required_parameter", "model", "model is missing; it is needed"),
        ({"model": "m", "temprature": 1}, "unknown_parameter", "temprature",
         "there is no parameter 'temprature'; did you mean temperature?"),
        ({"model": "m", "x": 1}, "unknown_parameter", "x", "there is no parameter 'x'; leave it"),
        ({"model": "m", "stream_options": {"x": 1}}, "unknown_parameter", "stream_options",
         "there is no parameter 'stream_options.x'; leave it out"),
        ([], "invalid_value", None, "the body must be a JSON object"),
        (None, "invalid_value", None, "the body must be a JSON object"),
    ],
)  # fmt: skip
def test_what_is_missing_or_unknown(body, code, param, message):
    error = refusal(body)
    assert (error.code, error.param) == (code, param) and error.message.startswith(message)


def test_null_is_what_is_not_given():
    every = dict.fromkeys(set(CompletionBody.model_fields) - {"model"})
    assert CompletionBody.model_validate({"model": "m", **every}) == CompletionBody(model="m")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ({"prompt": []}, "invalid_value", "prompt is an empty list; leave it out to begin"),
        ({"prompt": [[]]}, "invalid_token", "prompt has an empty list of token ids"),
        ({"prompt": [[5], []]}, "invalid_token", "prompt has an empty list of token ids"),
        ({"prompt": [8192]}, "invalid_token", "prompt has token 8192; ids are 0 to 8191"),
        ({"prompt": [-1]}, "invalid_token", "prompt has token -1"),
        ({"prompt": "a\ud800"}, "invalid_value", "character 2 of the prompt is half of a surrog"),
        ({"prompt": [5] * 500}, "context_length_exceeded",
         "this model's context is 512 tokens, and 516 are asked for (500 in the prompt, 16 to"),
        ({"max_tokens": 512}, "context_length_exceeded", "this model's context is 512 tokens, and"),
        ({"n": 3, "best_of": 2}, "invalid_value", "best_of is 2; it must be at least n, which is"),
        ({"best_of": 2, "stream": True}, "invalid_value", "best_of cannot be streamed"),
        ({"suffix": "x"}, "invalid_value", "models here do not fill in before a suffix"),
        ({"prompt": ["a"] * 65, "n": 2}, "invalid_value", "65 prompts with 2 texts each are more"),
        ({"logit_bias": {"x": 1}}, "invalid_token", "logit_bias names token 'x'; ids are 0 to 81"),
        ({"logit_bias": {"8192": 1}}, "invalid_token", "logit_bias names token '8192'"),
        ({"logit_bias": {"9" * 5000: 1}}, "invalid_token", "logit_bias names token '999"),
        ({"logit_bias": {"²": 1}}, "invalid_token", "logit_bias names token '²'"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_do(reference, more, code, message):
    body = CompletionBody(model="m", **more)
    with pytest.raises(ApiError) as caught:
        asked(body, reference.tokenizer, reference.model.config)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert caught.value.message.startswith(message), caught.value.message


def complete(reference, **fields):
    body = CompletionBody(model="m", **fields)
    made = asked(body, reference.tokenizer, reference.model.config)
    texts = generate(reference.model, reference.tokenizer, made.requests)
    found = choices(made, texts, reference.tokenizer)
    whole = Completion(id="x", created=0, model="m", system_fingerprint="f", choices=found)
    if not body.echo:  # OpenAI's types do not say that the first token has none, though it has
        TheirCompletion.model_validate(whole.model_dump())
    return found, usage(made, texts), texts, made


def test_a_body_says_all_that_a_request_does(reference):
    body = CompletionBody(
        model="m", prompt=[[5, 6]], max_tokens=7, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1,
        repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.3, logit_bias={"9": -5},
        seed=-1, stop=["a", "b"], logprobs=2, echo=True, watermark=3,
    )  # fmt: skip
    rules = Sampling(0.5, 4, 0.9, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.2,
                     frequency_penalty=0.3, logit_bias={9: -5}, watermark=3)  # fmt: skip
    assert asked(body, reference.tokenizer, reference.model.config).requests == [
        Request((5, 6), 7, rules, 2**64 - 1, ("a", "b"), logprobs=2, prompt_logprobs=2)
    ]


def test_prompts_of_all_forms(reference):
    encode = reference.tokenizer.encode
    for given, wanted in (
        (None, [()]),
        ("", [()]),
        (PROMPT, [tuple(encode(PROMPT))]),
        ("<|endoftext|>", [tuple(encode("<|endoftext|>"))]),  # plain text, as in GPT-2's encoder
        (["a", "b"], [tuple(encode("a")), tuple(encode("b"))]),
        ([5, 6], [(5, 6)]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
    ):
        body = CompletionBody(model="m", prompt=given)
        made = asked(body, reference.tokenizer, reference.model.config)
        assert [r.prompt for r in made.requests] == wanted


def test_a_seed_is_each_choices_own_and_the_first_ones_is_the_command_lines(reference):
    ids = tuple(reference.tokenizer.encode(PROMPT))
    alone = generate(reference.model, reference.tokenizer, [Request(ids, 12, seed=4)])[0]
    found, *_ = complete(reference, prompt=[PROMPT, PROMPT], n=3, max_tokens=12, seed=4)
    texts = [choice.text for choice in found]
    assert texts[0] == alone.text and len(set(texts)) == 6
    assert [choice.index for choice in found] == list(range(6))
    again, *_ = complete(reference, prompt=[PROMPT], n=2, max_tokens=12, seed=4)
    assert [choice.text for choice in again] == texts[:2]


def test_the_best_of_several_are_those_with_the_best_mean(reference):
    asked_for = {"prompt": ["a", PROMPT], "n": 2, "best_of": 5, "max_tokens": 9, "seed": 1}
    found, counted, texts, _ = complete(reference, **asked_for)
    for place in (0, 1):
        some = texts[5 * place : 5 * place + 5]
        means = sorted((sum(t.logprobs) / len(t.logprobs) for t in some), reverse=True)
        by_text = {t.text: sum(t.logprobs) / len(t.logprobs) for t in some}
        assert [by_text[c.text] for c in found[2 * place : 2 * place + 2]] == means[:2]
    assert all(choice.logprobs is None for choice in found)
    assert counted.completion_tokens == sum(len(t.ids) for t in texts)
    assert counted.prompt_tokens == 1 + len(reference.tokenizer.encode(PROMPT))


def test_echo_scores_the_prompt(reference):
    ids = reference.tokenizer.encode(PROMPT)
    for count in (0, 1, 6):
        (choice,), *_ = complete(
            reference, prompt=PROMPT, max_tokens=count, echo=True, logprobs=3, temperature=0
        )
        told = choice.logprobs
        assert len(told.tokens) == len(told.top_logprobs) == len(told.text_offset)
        assert len(told.tokens) == len(ids) + count and choice.text.startswith(PROMPT)
        assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
        for place, (own, top) in enumerate(
            zip(told.token_logprobs, told.top_logprobs, strict=True)
        ):
            if top is not None:
                assert 3 <= len(top) <= 4 and own in top.values()
                if place >= len(ids):
                    assert own == max(top.values())  # greedy, bit for bit
        for token, start in zip(told.tokens, told.text_offset, strict=True):
            assert choice.text[start:].startswith(token)


def test_logprobs_end_where_a_text_was_cut(reference):
    (whole,), *_ = complete(reference, prompt=PROMPT, max_tokens=30, temperature=0, logprobs=0)
    stop = whole.text[8:11]
    (cut,), *_ = complete(
        reference, prompt=PROMPT, max_tokens=30, temperature=0, logprobs=0, stop=stop, echo=True
    )
    assert cut.text == PROMPT + whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop" and cut.logprobs.top_logprobs is None
    assert all(start < len(cut.text) for start in cut.logprobs.text_offset)
    assert cut.text.startswith("".join(cut.logprobs.tokens[:-1]))


def test_tokens_of_parts_of_characters_have_names_and_places(reference):
    text = "a\u20ac b\U0001f600"
    ids = reference.tokenizer.encode(text)
    (choice,), *_ = complete(reference, prompt=ids, max_tokens=0, echo=True, logprobs=0)
    names, offsets = choice.logprobs.tokens, choice.logprobs.text_offset
    assert [name for name in names if name.startswith("bytes:\\x")] and choice.text == text
    assert len(names) == len(ids) and offsets == sorted(offsets) and offsets[-1] < len(text)
    for name, start in zip(names, offsets, strict=True):
        assert name.startswith("bytes:") or text[start:].startswith(name)


def test_a_prompt_that_ends_inside_a_character_is_a_text_of_its_own(reference):
    ids = reference.tokenizer.encode("a\U0001f600")[:-1]
    (choice,), *_ = complete(reference, prompt=ids, max_tokens=9, echo=True, logprobs=0, seed=0)
    offsets = choice.logprobs.text_offset
    assert offsets == sorted(offsets) and choice.text[: offsets[len(ids)]] == "a\ufffd"
    assert len(offsets) == len(ids) + 9


@pytest.mark.parametrize(
    "more", [{}, {"echo": True}, {"stop": [" the", "\n"]}, {"logprobs": None, "echo": True}]
)
def test_parts_are_the_whole(reference, more):
    """Whatever a stream tells bit by bit is what one answer tells at once."""
    fields = {"prompt": PROMPT, "max_tokens": 40, "logprobs": 2, "seed": 3} | more
    (whole,), _, _, made = complete(reference, **fields, return_token_ids=True)
    one = Engine(reference.model, reference.tokenizer)
    running = one.submit(made.requests[0])
    told = Told(0, made.requests[0], made.body, reference.tokenizer)
    parts = []
    while one.busy:
        for _, piece in one.step():
            parts.append(told.part(piece, running.text, running.text.reason))
    assert [p.finish_reason for p in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].finish_reason == whole.finish_reason
    assert "".join(p.text for p in parts) == whole.text
    assert [i for p in parts for i in p.token_ids] == whole.token_ids
    if whole.logprobs is None:
        assert all(p.logprobs is None for p in parts)
        return
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        found = [x for p in parts for x in getattr(p.logprobs, name)]
        assert found == getattr(whole.logprobs, name), name


def test_names_of_alternatives_are_their_own(reference, monkeypatch):
    monkeypatch.setattr(completions, "token_name", lambda i, tokenizer: "same")
    found = completions._named({5: -1.0, 6: -2.0}, 7, -3.0, reference.tokenizer)
    assert found == {"same": -1.0, "token_id:6": -2.0, "token_id:7": -3.0}


def test_ids_come_back_if_they_are_asked_for(reference):
    (choice,), _, (text,), _ = complete(reference, prompt=[5], max_tokens=4, return_token_ids=True)
    assert choice.token_ids == text.ids and len(text.ids) <= 4
