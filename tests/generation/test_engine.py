"""The engine: the same texts whatever path decodes them and whatever runs beside them."""

import copy
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

import gpt2lab
from gpt2lab import UserError
from gpt2lab.generation import (
    Engine,
    Request,
    Sampling,
    backend,
    beam_search,
    engine,
    generate,
    speculate,
)  # fmt: skip
from gpt2lab.generation.backend import Chunk, TorchBackend
from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.model.native import BLOCK
from gpt2lab.tokenizer import Tokenizer

MODELS = Path(__file__).parents[1] / "models"
GREEDY = Sampling(temperature=0)

PROSE = """\
The old man looked at the door for a long time before he answered. "I have been here since the
spring," he said, "and nobody has asked me that." Then he put down his pipe, went to the window and
looked out over the harbour, where the boats were coming home one after the other in the rain. My
account was closed last week and the bank will not tell me why. I called them twice, and each time I
was told to wait. This function returns a list of all names in the module, or None if there are
none. The government of this country has been asked to consider the matter again in the next year.
"""


@pytest.fixture(scope="module")
def reference():
    return gpt2lab.load(str(MODELS / "reference-3M"))


@pytest.fixture(scope="module")
def prompts(reference):
    ids = reference.tokenizer.encode(PROSE)
    rng = random.Random(0)
    starts = [rng.randrange(len(ids) - 30) for _ in range(50)]
    return [tuple(ids[s : s + rng.randint(1, 30)]) for s in starts]


@pytest.fixture(scope="module")
def expected(prompts):
    """What transformers writes after each prompt: 64 tokens each."""
    theirs = GPT2LMHeadModel.from_pretrained(MODELS / "reference-3M", dtype=torch.float32).eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=64, max_new_tokens=64, pad_token_id=0,
        )  # fmt: skip
        found.append(out[0, len(prompt) :].tolist())
    return found


def run(made: Engine, requests):
    running = [made.submit(r) for r in requests]
    while made.busy:
        made.step()
    return [r.text.result() for r in running]


def greedy(prompt, count=64):
    return Request(prompt, max_tokens=count, sampling=GREEDY, ignore_end=True)


PATHS = {
    "one by one": {"slots": 1, "speculate": False},
    "together": {"slots": 16, "speculate": False},
    "guesses from the text": {"slots": 1},
    "guesses of a draft model": {"slots": 1, "draft": "reference-1M"},
    "PyTorch, together": {"slots": 16, "torch": True},
    "PyTorch, one by one": {"slots": 1, "torch": True},
    "PyTorch, recorded steps": {"slots": 16, "torch": True, "recorded": True},
    "short chunks": {"slots": 3, "chunk": 5},
}


@pytest.mark.parametrize("path", PATHS)
def test_greedy_equals_transformers_on_every_path(path, reference, prompts, expected, monkeypatch):
    settings = dict(PATHS[path])
    if settings.pop("torch", False):
        recorded = settings.pop("recorded", False)
        monkeypatch.setattr(engine, "backend", partial(TorchBackend, recorded=recorded))
    monkeypatch.setattr(engine, "CHUNK", settings.pop("chunk", engine.CHUNK))
    if "draft" in settings:
        settings["draft"] = gpt2lab.load(str(MODELS / settings["draft"])).model
    made = Engine(reference.model, reference.tokenizer, **settings)
    results = run(made, map(greedy, prompts))
    assert [r.ids for r in results] == expected


def test_old_guesses_end_with_their_window(reference, monkeypatch):
    """A slide past the context reads a whole window again, after a pass of guesses or not."""
    small = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=16, vocab_size=8192))
    lengths = []

    def watched(logits, guesses, *rest):
        lengths.append((len(logits), len(guesses.ids)))
        return speculate.accept(logits, guesses, *rest)

    monkeypatch.setattr(engine, "accept", watched)
    made = Engine(small, reference.tokenizer, slots=1, draft=small)
    for seed in range(20):
        run(made, [Request(tuple(range(1, 11)), max_tokens=30, seed=seed, ignore_end=True)])
    assert len(lengths) > 20
    assert all(outputs == guesses + 1 for outputs, guesses in lengths)


def test_a_draft_knows_what_it_has_read(reference):
    """A request for one more token asks for no guesses; the next must not find its prompt read."""
    prompt = tuple(reference.tokenizer.encode(PROSE)[:100])
    steps = []
    for shorter in (False, True):
        made = Engine(reference.model, reference.tokenizer, slots=1, draft=reference.model)
        if shorter:
            run(made, [greedy(prompt, 2)])
        running, count = made.submit(greedy(prompt, 60)), 0
        while made.busy:
            made.step()
            count += 1
        steps.append((count, running.text.ids))
    assert steps[0] == steps[1]


def test_recorded_steps_leave_other_rows_alone(reference):
    ids = reference.tokenizer.encode(PROSE)[:40]
    plain, steps = (TorchBackend(reference.model, 4, recorded=r) for r in (False, True))
    length = [10, 11, 12, 13]
    for one in (plain, steps):
        one.forward([Chunk(slot, 0, ids[:n], 1) for slot, n in enumerate(length)])
    for slots in ([0, 2], [3], [0, 1, 2, 3], [1]):
        chunks = [Chunk(s, length[s], [ids[length[s]]], 1) for s in slots]
        assert torch.allclose(plain.forward(chunks), steps.forward(chunks), atol=1e-4)
        length = [n + (s in slots) for s, n in enumerate(length)]


def test_greedy_equals_transformers_with_one_beam(reference, prompts, expected):
    for prompt, ids in list(zip(prompts, expected, strict=True))[:5]:
        found = beam_search(reference.model, reference.tokenizer, greedy(prompt), 1)
        assert found.ids == ids


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 0.0])
def test_beams_equal_transformers(reference, prompts, ends, penalty):
    theirs = GPT2LMHeadModel.from_pretrained(MODELS / "reference-3M", dtype=torch.float32).eval()
    # A frequent token as the end, so that texts end at different lengths.
    end = reference.tokenizer.encode(" the")[0] if ends else reference.tokenizer.end_of_text
    tokenizer = copy.copy(reference.tokenizer)
    tokenizer.__class__ = type("Other", (Tokenizer,), {"end_of_text": property(lambda self: end)})
    for prompt in prompts[:8]:
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=4,
            max_new_tokens=20, pad_token_id=0, eos_token_id=end, early_stopping="never",
            length_penalty=penalty,
        )  # fmt: skip
        request = Request(prompt, max_tokens=20)
        found = beam_search(reference.model, tokenizer, request, 4, length_penalty=penalty)
        assert found.ids == out[0, len(prompt) :].tolist()


def some_requests(tokenizer, count, seed=0):
    rng = random.Random(seed)
    ids = tokenizer.encode(PROSE)
    requests = []
    for n in range(count):
        start = rng.randrange(len(ids) - 60)
        rules = rng.choice([
            GREEDY, Sampling(), Sampling(temperature=0.8, top_k=40), Sampling(top_p=0.9),
            Sampling(repetition_penalty=1.2, frequency_penalty=0.1), Sampling(min_p=0.05),
        ])  # fmt: skip
        requests.append(
            Request(
                tuple(ids[start : start + rng.choice([0, 1, 5, 17, 40, 60])]),
                max_tokens=rng.choice([1, 3, 20, 40]),
                sampling=rules, seed=n, ignore_end=rng.random() < 0.5,
                stop=rng.choice([(), ("the",), (".",)]),
            )
        )  # fmt: skip
    return requests


@pytest.mark.parametrize("form", ["float32", "int8", "int4"])
def test_64_requests_give_the_same_alone_and_in_any_company(form):
    made = gpt2lab.load(str(MODELS / "reference-1M"), form)
    requests = some_requests(made.tokenizer, 64)
    alone = [generate(made.model, made.tokenizer, [r])[0] for r in requests]
    for seed, slots in ((1, 16), (2, 5)):
        rng = random.Random(seed)
        order = rng.sample(range(64), 64)
        one = Engine(made.model, made.tokenizer, slots=slots)
        running = {}
        while order or one.busy:
            for _ in range(rng.randint(0, 4)):
                if order:
                    n = order.pop()
                    running[n] = one.submit(requests[n])
            one.step()
        for n, request in enumerate(requests):
            assert running[n].text.result() == alone[n], request


def test_what_is_shared_is_not_computed_again(reference, prompts):
    ids = tuple(reference.tokenizer.encode(PROSE)[:100])
    read = []

    class Counting(backend.NativeBackend):
        def forward(self, chunks):
            read.append(sum(len(c.ids) for c in chunks))
            return super().forward(chunks)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(engine, "backend", Counting)
        one = Engine(reference.model, reference.tokenizer, slots=4, speculate=False)
    first = run(one, [greedy(ids, 4)])[0]
    assert read == [100, 1, 1, 1]
    read.clear()
    # In the same slot, in others by copying while the first runs, and with another continuation.
    again = run(one, [greedy(ids, 4), greedy(ids, 4), greedy((*ids[:50], 7), 4)])
    assert read[0] == (100 - 96) * 2 + 51 - 48
    assert again[0].ids == again[1].ids == first.ids
    assert again[2].ids == generate(reference.model, reference.tokenizer,
                                    [greedy((*ids[:50], 7), 4)])[0].ids  # fmt: skip


@pytest.mark.parametrize("compiled", [True, False])
def test_log_probabilities_of_a_prompt_are_the_models(reference, prompts, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(engine, "backend", TorchBackend)
    ids = tuple(reference.tokenizer.encode(PROSE * 4))[:400]
    with torch.inference_mode():
        logp_TV = reference.model(torch.tensor([ids])).float().log_softmax(-1)[0]
    # Beside others, after others that begin alike, in chunks, with text after it and without.
    asked = [Request(ids, count, GREEDY, prompt_logprobs=best) for count, best in ((0, 3), (4, 0))]
    made = Engine(reference.model, reference.tokenizer, slots=3)
    first = made.submit(greedy(ids, 1))
    while made.busy:
        made.step()
    running = [made.submit(r) for r in (*asked, *(greedy(p, 20) for p in prompts[:6]))]
    while made.busy:
        made.step()
    assert first.text.reason == "length" and [len(r.text.ids) for r in running[:2]] == [0, 4]
    for one, request in zip(running, asked, strict=False):
        found, own = one.text.result(), logp_TV[torch.arange(399), torch.tensor(ids[1:])]
        assert found.prompt_logprobs[0] is None and found.prompt_top_logprobs[0] is None
        assert torch.allclose(torch.tensor(found.prompt_logprobs[1:]), own, atol=1e-4)
        for t, top in enumerate(found.prompt_top_logprobs[1:]):
            assert len(top) == request.prompt_logprobs
            if top:
                best_K = logp_TV[t].topk(3)
                assert list(top.values()) == sorted(top.values(), reverse=True)
                assert torch.allclose(torch.tensor(list(top.values())), best_K.values, atol=1e-4)
                is_best = found.prompt_logprobs[t + 1] == max(top.values())
                assert is_best == (logp_TV[t].argmax() == ids[t + 1])
    assert (
        running[1].text.ids
        == generate(reference.model, reference.tokenizer, [greedy(ids, 4)])[0].ids
    )


def test_a_prompt_of_one_token_has_nothing_to_score(reference):
    for prompt in ((), (5,)):
        request = Request(prompt, 0, prompt_logprobs=2)
        found = generate(reference.model, reference.tokenizer, [request])[0]
        assert found.prompt_logprobs == [None] and found.finish_reason == "length"


def test_ids_that_only_pad_a_vocabulary_are_no_alternatives(small_tokenizer):
    size = small_tokenizer.size
    config = GPT2Config(n_layer=1, n_head=1, n_embd=16, n_positions=64, vocab_size=size + 200)
    torch.manual_seed(0)
    request = Request(tuple(range(40)), 0, prompt_logprobs=60)
    (found,) = generate(GPT2(config).eval(), small_tokenizer, [request])
    told = [j for top in found.prompt_top_logprobs[1:] for j in top]
    assert told and max(told) < size


def test_a_cancelled_prompt_is_not_read_on(reference):
    made = Engine(reference.model, reference.tokenizer, slots=2)
    ids = tuple(reference.tokenizer.encode(PROSE * 4))[:500]
    one, other = (made.submit(Request(ids, 0, prompt_logprobs=0)) for _ in range(2))
    made.step()
    made.cancel(one)
    while made.busy:
        made.step()
    assert one.text.unscored and not other.text.unscored


def test_what_one_owner_wrote_is_computed_again_for_another(reference):
    made = Engine(reference.model, reference.tokenizer, slots=4)
    ids = tuple(reference.tokenizer.encode(PROSE))
    for owner, cached in (("a", 0), ("a", len(ids) // BLOCK * BLOCK), ("b", 0), ("", 0)):
        running = made.submit(greedy(ids, 2), owner)
        made._enter()
        assert running.cached == cached, owner
        while made.busy:
            made.step()


def test_long_prompts_are_read_beside_others(reference):
    ids = tuple(reference.tokenizer.encode(PROSE * 4)[:400])
    one = Engine(reference.model, reference.tokenizer, slots=2)
    short = one.submit(greedy(ids[:3], 10))
    one.step()
    long = one.submit(greedy(ids, 10))
    one.step()
    assert len(short.text.ids) == 2
    assert not long.text.ids
    one.step()
    assert (len(short.text.ids), len(long.text.ids)) == (3, 1)


def test_cancelled_requests_free_their_slots(reference, prompts):
    one = Engine(reference.model, reference.tokenizer, slots=2)
    running = [one.submit(greedy(p, 60)) for p in prompts[:5]]
    one.step()
    one.step()
    for r in (running[0], running[1], running[4]):
        one.cancel(r)
    while one.busy:
        one.step()
    results = [r.text.result() for r in running]
    assert [r.finish_reason for r in results] == ["cancelled"] * 2 + ["length"] * 2 + ["cancelled"]
    assert [len(r.ids) for r in results] == [2, 2, 60, 60, 0]
    assert len(one._free) == 2


def test_past_the_context_by_any_stride(small_tokenizer):
    model = GPT2(GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=48, vocab_size=300), seed=1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.mul_({"wte.weight": 1, "wpe.weight": 20}.get(name, 10))
    for stride in (1, 10, 48):
        request = Request(
            (1, 2, 3), max_tokens=200, sampling=GREEDY, ignore_end=True, stride=stride
        )
        (result,) = generate(model, small_tokenizer, [request])
        window, ids = [1, 2, 3], []
        with torch.inference_mode():
            for _ in range(200):
                if len(window) > 48:
                    window = window[stride:]
                ids.append(int(model(torch.tensor([window]))[0, -1].argmax()))
                window.append(ids[-1])
        assert result.ids == ids
    with pytest.raises(UserError, match="stride is 49; it must be from 1 to the context of 48"):
        generate(model, small_tokenizer, [Request((1,), stride=49)])


def pair(small_tokenizer):
    """Two models of a vocabulary whose first ids have nearly all probability, for counting."""
    models = []
    for seed, certain in ((3, 30), (4, 8)):
        model = GPT2(
            GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=16, vocab_size=300), seed=seed
        ).eval()
        with torch.no_grad():
            model.wte.weight[:5] *= certain
        models.append(model)
    return models


@pytest.mark.parametrize("rules", [Sampling(), Sampling(temperature=0.7, top_k=3)])
def test_draft_models_do_not_change_the_distribution(small_tokenizer, rules):
    """Chi-squared on pairs of tokens, against the model's own probabilities."""
    model, draft = pair(small_tokenizer)
    n = 6000
    one = Engine(model, small_tokenizer, slots=1, draft=draft)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(n):
        request = Request((1, 2), max_tokens=3, sampling=rules, seed=seed, ignore_end=True)
        (result,) = run(one, [request])
        counts[tuple(result.ids[:2])] = counts.get(tuple(result.ids[:2]), 0) + 1
    from gpt2lab.generation.sampling import Rules
    from gpt2lab.generation.speculate import probabilities

    with torch.inference_mode():
        ids = range(small_tokenizer.size)
        first = probabilities(model(torch.tensor([[1, 2]]))[:, -1, :small_tokenizer.size],
                              Rules.of([rules]))[0]  # fmt: skip
        rows = torch.tensor([[1, 2, i] for i in ids])
        second = probabilities(
            model(rows)[:, -1, : small_tokenizer.size], Rules.of([rules] * len(rows))
        )
    expected = (first[:, None] * second * n).flatten().double().numpy()
    found = np.zeros_like(expected)
    for (a, b), count in counts.items():
        found[a * small_tokenizer.size + b] = count
    large = expected >= 10
    found = np.append(found[large], found[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    keep = expected > 0
    chi = float(((found - expected)[keep] ** 2 / expected[keep]).sum())
    degrees = int(keep.sum()) - 1
    assert degrees >= 4
    # 99.9 % point of the chi-squared distribution (Wilson and Hilferty).
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert chi < limit


def test_guesses_from_the_text_change_nothing(reference):
    ids = tuple(reference.tokenizer.encode("one two three four one two three four one two"))
    for seed in range(5):
        request = Request(ids, max_tokens=60, sampling=Sampling(temperature=0.6), seed=seed)
        found = [
            run(Engine(reference.model, reference.tokenizer, slots=1, speculate=s), [request])
            for s in (False, True)
        ]
        assert found[0] == found[1]


def test_a_draft_of_another_vocabulary_is_refused(reference):
    other = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=512, vocab_size=300))
    with pytest.raises(UserError, match="the draft model has 300 ids"):
        Engine(reference.model, reference.tokenizer, draft=other)


@pytest.mark.slow
def test_20000_requests_leave_nothing_behind():
    made = gpt2lab.load(str(MODELS / "reference-1M"), "int8")
    one = Engine(made.model, made.tokenizer, slots=16)
    rng = random.Random(0)

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    sizes = []
    left = 20_000
    while left or one.busy:
        while left and len(one._waiting) < 16:
            prompt = tuple(rng.randrange(8000) for _ in range(rng.randint(1, 40)))
            one.submit(Request(prompt, max_tokens=rng.randint(1, 8), seed=left))
            left -= 1
            if left % 2000 == 0:
                sizes.append(resident())
        one.step()
    assert len(one._free) == 16
    assert max(sizes[1:]) - sizes[1] < 10, sizes


@pytest.mark.parametrize("count", [-1, 10**9])
def test_logprobs_out_of_range(reference, count):
    made = Engine(reference.model, reference.tokenizer)
    with pytest.raises(UserError, match=f"logprobs is {count}; it must be from 0 to"):
        made.submit(Request((1,), logprobs=count))


def test_a_tokenizer_of_another_model(reference):
    small = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=16, vocab_size=100))
    with pytest.raises(UserError, match="the tokenizer has 8192 ids, the model only 100"):
        generate(small, reference.tokenizer, [Request((1,))])


def test_what_a_cancelled_text_was(reference, prompts):
    made = Engine(reference.model, reference.tokenizer, slots=1)
    stop = reference.tokenizer.decode(list(range(300, 400)))
    running = made.submit(Request(prompts[0], max_tokens=40, stop=(stop,), seed=1))
    given = "".join(piece for _ in range(10) for _, piece in made.step())
    made.cancel(running)
    assert running.text.result().text == given
