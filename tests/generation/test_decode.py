from unittest import mock

import pytest
import torch
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel

from gpt2lab import UserError
from gpt2lab.generation import Request, Sampling, decode, engine, generate, stream
from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.model.checkpoint import to_hf_tensors

GREEDY = Sampling(temperature=0)


def lively(config: GPT2Config, seed=1) -> GPT2:
    """Random weights large enough that greedy text is not one token for ever."""
    model = GPT2(config, seed=seed).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.mul_({"wte.weight": 1, "wpe.weight": 20}.get(name, 10))
    return model


@pytest.fixture(scope="module")
def model() -> GPT2:
    return lively(GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=48, vocab_size=300))


def twin(model: GPT2) -> GPT2LMHeadModel:
    c = model.config
    theirs = GPT2LMHeadModel(
        TheirConfig(
            n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd,
            n_positions=c.n_positions, vocab_size=c.vocab_size,
        )
    )  # fmt: skip
    tensors = {f"transformer.{k}": t for k, t in to_hf_tensors(model).items()}
    theirs.load_state_dict(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    return theirs.eval()


def check_greedy(model, tokenizer, prompts, count):
    theirs = twin(model)
    requests = [Request(p, max_tokens=count, sampling=GREEDY, ignore_end=True) for p in prompts]
    for prompt, result in zip(prompts, generate(model, tokenizer, requests), strict=True):
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=count, max_new_tokens=count, pad_token_id=0,
        )  # fmt: skip
        assert result.ids == expected[0, len(prompt) :].tolist()
        assert len(set(result.ids)) > 3


def test_greedy_equals_transformers(model, small_tokenizer):
    check_greedy(model, small_tokenizer, [(5,), (1, 2, 3, 4, 5, 6, 7), (9, 9)], 40)


def test_greedy_equals_transformers_at_124m(gpt2):
    check_greedy(lively(GPT2Config.named("124M")), gpt2, [tuple(gpt2.encode("Once upon"))], 24)


RULES = Sampling(
    temperature=1.3,
    top_k=50,
    top_p=0.95,
    repetition_penalty=1.1,
    presence_penalty=0.2,
    logit_bias={7: 1.0},
)


def test_each_of_a_batch_is_what_it_would_be_alone(model, small_tokenizer):
    requests = [
        Request(tuple(range(1, n + 1)), max_tokens=count, sampling=rules, seed=n, logprobs=3)
        for n, count, rules in [
            (1, 30, RULES), (13, 5, RULES), (40, 60, RULES), (7, 0, RULES),
            (48, 20, GREEDY), (3, 70, Sampling()), (2, 45, GREEDY),
        ]
    ]  # fmt: skip
    model = model.double()
    try:
        together = generate(model, small_tokenizer, requests)
        for request, result in zip(requests, together, strict=True):
            (alone,) = generate(model, small_tokenizer, [request])
            assert result.ids == alone.ids
            assert result.text == alone.text
            assert result.finish_reason == alone.finish_reason
            assert result.logprobs == pytest.approx(alone.logprobs, abs=1e-6)
    finally:
        model.float()


def streamed(iterator):
    """The pieces of a stream, and the result it returns."""
    pieces = []
    while True:
        try:
            pieces.append(next(iterator))
        except StopIteration as end:
            return pieces, end.value


def test_streamed_pieces_are_the_text(model, small_tokenizer):
    for seed in range(5):
        request = Request((4, 5), max_tokens=60, sampling=Sampling(), seed=seed)
        (whole,) = generate(model, small_tokenizer, [request])
        pieces, last = streamed(stream(model, small_tokenizer, request))
        assert "".join(pieces) == whole.text == last.text
        assert last.ids == whole.ids


def test_logprobs_are_the_models_own(model, small_tokenizer):
    request = Request((4, 5), max_tokens=10, sampling=RULES, seed=1, logprobs=4)
    (result,) = generate(model, small_tokenizer, [request])
    with torch.no_grad():
        logp = torch.log_softmax(model(torch.tensor([[4, 5, *result.ids]]))[0], -1)
    for step, i in enumerate(result.ids):
        row = logp[1 + step]
        assert result.logprobs[step] == pytest.approx(float(row[i]), abs=1e-4)
        best = row.topk(4)
        assert list(result.top_logprobs[step]) == best.indices.tolist()


def test_past_the_context_by_a_sliding_window(model, small_tokenizer):
    """Beyond 48 tokens the newer half is kept; checked against recomputing from scratch."""
    request = Request(tuple(range(1, 41)), max_tokens=80, sampling=GREEDY, ignore_end=True)
    (result,) = generate(model, small_tokenizer, [request])
    assert len(result.ids) == 80
    ids, kept = list(request.prompt), list(request.prompt)
    for _ in range(80):
        i = int(model(torch.tensor([kept]))[0, -1].argmax())
        ids.append(i)
        if len(kept) == 48:
            kept = ids[-25:]
        else:
            kept.append(i)
    assert result.ids == ids[40:]


def forced(model, tokenizer, text, *, stop=(), count=None):
    """Generate exactly `text`, from a backend that wants one token after the other."""

    class Script:
        config, slots, device = model.config, 1, torch.device("cpu")

        def __init__(self):
            self.ids = iter(tokenizer.encode(text))

        def forward(self, chunks):
            out = torch.zeros(1, model.config.vocab_size)
            out[0, next(self.ids)] = 50.0
            return out

    request = Request(
        (1,), max_tokens=count or len(tokenizer.encode(text)), sampling=GREEDY, stop=stop
    )
    with mock.patch.object(engine, "backend", lambda *_: Script()):
        pieces, last = streamed(stream(model, tokenizer, request))
    assert "".join(pieces) == last.text
    return last


def test_stop_strings_across_tokens(model, small_tokenizer):
    text = "The cat sat.\n\nThe dog lay down"
    assert forced(model, small_tokenizer, text).text == text
    result = forced(model, small_tokenizer, text, stop=("\n\nThe",))
    assert result.text == "The cat sat."
    assert result.finish_reason == "stop"
    assert forced(model, small_tokenizer, text, stop=("zzz", "dog")).text == "The cat sat.\n\nThe "
    near = forced(model, small_tokenizer, text, stop=("down!",))
    assert near.text == text
    assert near.finish_reason == "length"


def test_the_earliest_of_several_stops(model, small_tokenizer):
    assert forced(model, small_tokenizer, "abcabd", stop=("bd", "ca")).text == "ab"


def test_characters_are_not_split_when_tokens_run_out(model, small_tokenizer):
    ids = small_tokenizer.encode("é🦜")
    assert len(ids) >= 5
    whole = forced(model, small_tokenizer, "é🦜")
    assert whole.text == "é🦜"
    cut = forced(model, small_tokenizer, "é🦜", count=len(ids) - 1)
    assert cut.text.startswith("é")
    assert "\ufffd" in cut.text


def test_end_of_text_ends(model, small_tokenizer):
    end = small_tokenizer.end_of_text
    rules = Sampling(temperature=0, logit_bias={end: 1e4})
    (result,) = generate(model, small_tokenizer, [Request((1,), max_tokens=5, sampling=rules)])
    assert result.ids == [end]
    assert result.text == ""
    assert result.finish_reason == "end_of_text"
    request = Request((1,), max_tokens=5, sampling=rules, ignore_end=True)
    (result,) = generate(model, small_tokenizer, [request])
    assert result.ids == [end] * 5
    assert result.finish_reason == "length"


def test_an_empty_prompt_starts_a_text(model, small_tokenizer):
    (a,) = generate(model, small_tokenizer, [Request((), max_tokens=5, sampling=GREEDY)])
    end = small_tokenizer.end_of_text
    (b,) = generate(model, small_tokenizer, [Request((end,), max_tokens=5, sampling=GREEDY)])
    assert a.ids == b.ids


def test_ids_beyond_the_tokenizer_are_never_drawn(small_tokenizer):
    wide = lively(GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=4000))
    (result,) = generate(wide, small_tokenizer, [Request((1,), max_tokens=30, seed=1)])
    assert max(result.ids) < small_tokenizer.size


def test_many_prompts_go_in_groups(model, small_tokenizer, monkeypatch):
    requests = [Request((n + 1,), max_tokens=6, sampling=GREEDY) for n in range(7)]
    whole = generate(model, small_tokenizer, requests)
    monkeypatch.setattr(decode, "SLOTS", 3)
    assert [r.ids for r in generate(model, small_tokenizer, requests)] == [r.ids for r in whole]


def test_a_seed_is_drawn_and_told(model, small_tokenizer):
    (a,) = generate(model, small_tokenizer, [Request((1,), max_tokens=20)])
    (b,) = generate(model, small_tokenizer, [Request((1,), max_tokens=20, seed=a.seed)])
    assert a.ids == b.ids


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(tuple([1] * 49)), "prompt is 49 tokens; this model's context is 48"),
        (Request((300,)), "token id 300 is outside"),
        (Request((1,), max_tokens=-1), "max_tokens is -1"),
        (Request((1,), stop=("",)), "empty string"),
        (Request((1,), seed=-1), "seed is -1"),
        (Request((1,), seed=2**64), "seed is 18446744073709551616"),
        (Request((1,), sampling=Sampling(logit_bias={300: 1})), "logit_bias names token 300; ids"),
    ],
)
def test_requests_that_cannot_be_met(model, small_tokenizer, request_, words):
    with pytest.raises(UserError, match=words):
        generate(model, small_tokenizer, [request_])
