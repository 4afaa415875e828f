"""The service as OpenAI's client and plain HTTP meet it."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from gpt2lab.generation import Request, generate
from serving.conftest import serving

NAME, PROMPT = "reference-1M", "The government of this country"


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def http(address):
    with httpx.Client(base_url=address, timeout=60) as one:
        yield one


def test_the_client_gets_the_command_lines_text(client, reference):
    ids = tuple(reference.tokenizer.encode(PROMPT))
    alone = generate(reference.model, reference.tokenizer, [Request(ids, 30, seed=5)])[0]
    found = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=30, seed=5)
    assert found.choices[0].text == alone.text and found.object == "text_completion"
    assert found.usage.prompt_tokens == len(ids)
    assert found.usage.completion_tokens == len(alone.ids)
    assert found.usage.total_tokens == len(ids) + len(alone.ids)
    assert found.system_fingerprint.startswith("fp_000000000000_") and found.id.startswith("cmpl-")


@pytest.mark.parametrize(
    "more", [{}, {"n": 3}, {"echo": True, "logprobs": 2}, {"stop": "e"}, {"echo": True, "n": 2}]
)
def test_a_stream_is_the_whole_in_parts(client, more):
    asked = {"model": NAME, "prompt": [PROMPT, "a"], "max_tokens": 20, "seed": 2, **more}
    whole = client.completions.create(**asked)
    stream = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    *parts, last = list(stream)
    assert last.choices == [] and last.usage == whole.usage
    for choice in whole.choices:
        mine = [p.choices[0] for p in parts if p.choices[0].index == choice.index]
        assert "".join(p.text for p in mine) == choice.text
        assert [p.finish_reason for p in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
        if choice.logprobs:
            tokens = [token for p in mine for token in p.logprobs.tokens]
            assert tokens == choice.logprobs.tokens
    assert all(p.usage is None for p in parts)


def test_a_prompt_is_scored_without_a_token(client):
    for stream in (False, True):
        found = client.completions.create(
            model=NAME, prompt=PROMPT, max_tokens=0, echo=True, logprobs=1, stream=stream
        )
        (answer,) = list(found) if stream else [found]
        assert answer.choices[0].text == PROMPT and answer.choices[0].finish_reason == "length"
        assert answer.choices[0].logprobs.token_logprobs[0] is None


def test_neighbours_change_nothing(client):
    def ask(seed):
        found = client.completions.create(
            model=NAME, prompt=PROMPT, max_tokens=10 + seed % 20, seed=seed, logprobs=1
        )
        return found.choices[0].model_dump()

    alone = [ask(seed) for seed in range(12)]
    with ThreadPoolExecutor(48) as pool:
        together = list(pool.map(ask, [*range(12)] * 4))
    assert together == alone * 4


@pytest.mark.parametrize(
    ("more", "kind", "code", "param"),
    [
        ({"temperature": 9}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"max_tokens": 600}, openai.BadRequestError, "context_length_exceeded", "max_tokens"),
        ({"prompt": [9999]}, openai.BadRequestError, "invalid_token", "prompt"),
        ({"extra_body": {"x": 1}}, openai.BadRequestError, "unknown_parameter", "x"),
        ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found", "model"),
        ({"stream": True, "n": 99}, openai.BadRequestError, "invalid_value", "n"),
    ],
)
def test_the_client_raises_what_went_wrong(client, more, kind, code, param):
    with pytest.raises(kind) as caught:
        client.completions.create(**{"model": NAME, "prompt": PROMPT, **more})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error" and len(caught.value.request_id) == 32


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 400, "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff\xfe\xfa", 400, "the body is not JSON: "),
        (b'{"model": NaN}', 400, "the body is not JSON: NaN is no number of JSON"),
        (b'{"model": 1e999}', 400, "model is Infinity; it must be the name of a model"),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400, "the body is not JSON: Exceeds the limit"),
        (b"[" * 100_000, 413, "the body is 100000 lists deep; at most 16 are read"),
        (b'{"user": "' + b"[" * 100 + b'"}', 400, "model is missing"),
        (b" " * 5_000_000, 413, "the body is larger than 4,194,304 bytes"),
        (b'{"model": "\\ud800"}', 400, 'model is "\\ud800"; it must be the name of'),
        (b'{"model": "\\u20ac"}', 404, 'there is no model "\\u20ac"; there are reference-1M'),
    ],
)
def test_bodies_that_are_none(http, data, status, message):
    found = http.post("/v1/completions", content=data)
    assert found.status_code == status and found.headers["x-request-id"]
    error = found.json()["error"]
    assert error["message"].startswith(message), error
    assert set(error) == {"message", "type", "param", "code"}


def test_paths_that_are_none(http):
    for method, path, status in (
        ("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405), ("POST", "/v1/models", 405),
    ):  # fmt: skip
        found = http.request(method, path)
        assert (
            found.status_code == status and "GET /openapi.json" in found.json()["error"]["message"]
        )


def test_models_and_health(client, http):
    (model,) = client.models.list().data
    assert model.id == NAME and client.models.retrieve(NAME) == model
    assert model.model_dump()["max_model_len"] == 512
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b")
    assert http.get("/health/live").json() == {"live": True}
    assert http.get("/health/ready").json() == {"ready": True}
    paths = http.get("/openapi.json").json()["paths"]
    assert "prompt" in json.dumps(paths["/v1/completions"]["post"]["requestBody"])


def test_tokens(http, reference):
    end = http.get("/tokenizer_info").json()["eos_token"]
    for text in (PROMPT, f"a{end}b", ""):
        ids = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
        assert ids == reference.tokenizer.encode(text, specials=True)
        assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}
    assert len(http.post("/tokenize", json={"prompt": end}).json()["tokens"]) == 1
    assert http.post("/detokenize", json={"tokens": [8192]}).json()["error"]["param"] == "tokens"
    assert http.post("/tokenize", content=b'{"prompt": "\\ud800"}').status_code == 400


def test_who_goes_away_frees_the_slot(reference):
    long = {"model": NAME, "prompt": PROMPT, "max_tokens": 500, "logit_bias": {"0": -100}}
    with serving(reference, slots=1, waiting=1) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=long | {"stream": True}) as found:
            next(found.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json=long | {"n": 1}, timeout=0.05)
        found = httpx.post(f"{url}/v1/completions", json=long | {"max_tokens": 2}, timeout=60)
        assert found.status_code == 200


def test_no_room_and_no_time(reference):
    long = {"model": NAME, "prompt": PROMPT, "max_tokens": 500}
    with serving(reference, slots=1, waiting=1, timeout=0.05) as url:
        found = httpx.post(f"{url}/v1/completions", json=long | {"n": 3}, timeout=60)
        assert found.status_code == 503 and found.headers["Retry-After"] == "1"
        assert found.json()["error"]["code"] == "overloaded"
        found = httpx.post(f"{url}/v1/completions", json=long, timeout=60)
        assert found.status_code == 504 and found.headers["x-should-retry"] == "false"
        found = httpx.post(f"{url}/v1/completions", json=long | {"stream": True}, timeout=60)
        assert '"code": "timeout"' in found.text and "[DONE]" not in found.text
