"""Every token is scored once, after exactly the tokens it should be, whatever shares the passes."""

import math

import numpy as np
import pytest
import torch

from gpt2lab.errors import UserError
from gpt2lab.evaluation import likelihood
from gpt2lab.evaluation.likelihood import Window, continuation, score, windows
from gpt2lab.generation import backend as backends
from gpt2lab.model import GPT2, GPT2Config

BEST = 5


def facts(logits, target, allowed):
    logp = torch.log_softmax(logits.double(), -1)
    p, likelier = logp.exp(), logits > logits[target]
    entropy = -(p * logp).sum()
    variance = (p * (logp + entropy) ** 2).sum()
    counts = [likelier.sum(), (likelier & allowed).sum()]
    best = logp.sort(descending=True)
    of_best = [*best.indices[:BEST], *-best.values[:BEST]]
    return [*counts, -logp[target], entropy, variance, p[likelier].sum(), -logp.max(), *of_best]


def by_hand(model, window, excluded=()):
    """Each scored token by a pass of its own over all that is before it."""
    rows = []
    ids = [int(i) for i in window.ids]
    for at in range(len(ids) - window.scored, len(ids)):
        logits = model(torch.tensor([ids[:at]]))[0, -1].detach()
        allowed = torch.ones(len(logits), dtype=torch.bool)
        allowed[list(excluded)] = False
        rows.append(facts(logits, ids[at], allowed))
    return in_order(rows)


def in_order(rows):
    return np.array(rows, dtype=np.float64)[:, [2, 0, 1, *range(3, 7 + 2 * BEST)]]


def some_windows(seed=0):
    """Lengths of all kinds; some begin alike, by a lot or a little, and some are the same."""
    rng = np.random.default_rng(seed)
    made = [rng.integers(300, size=n) for n in (2, 3, 17, 33, 48, 49, 49, 20)]
    stem, longer = rng.integers(300, size=19), rng.integers(300, size=35)
    made += [np.concatenate([stem, rng.integers(300, size=n)]) for n in (1, 5, 9, 29, 3, 3)]
    made += [np.concatenate([longer, rng.integers(300, size=n)]) for n in (4, 4, 4, 13)]
    made += [made[3], stem, longer]
    counts = [min(len(ids) - 1, int(rng.integers(1, 48))) for ids in made]
    order = rng.permutation(len(made))
    return [Window(made[i].astype(np.int32), counts[i]) for i in order]


@pytest.fixture(params=["compiled", "PyTorch"])
def path(request, monkeypatch):
    if request.param == "PyTorch":
        monkeypatch.setenv("GPT2LAB_NATIVE", "0")
        monkeypatch.setattr(
            backends,
            "backend",
            lambda m, slots, capacity=None: backends.TorchBackend(m, slots, capacity),
        )
        monkeypatch.setattr(likelihood, "backend", backends.backend)
    return request.param


@pytest.mark.parametrize("tokens", [1, 7, 40, 1024])
@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_windows_are_scored_as_alone(tiny, monkeypatch, path, tokens, lanes):
    monkeypatch.setattr(likelihood, "TOKENS", tokens)
    monkeypatch.setattr(likelihood, "LANES", lanes)
    given, excluded = some_windows(), [1, 2, 77, 250]
    found = dict(score(tiny, given, excluded=excluded, best=BEST))
    assert sorted(found) == list(range(len(given)))
    for i, window in enumerate(given):
        expected = by_hand(tiny, window, excluded)
        table = found[i].table_TX
        assert np.abs(table - expected).max() < 2e-5  # ranks and ids are whole numbers
        assert found[i].total == pytest.approx(expected[:, 0].sum(), abs=1e-4)
        assert found[i].greedy == (expected[:, 1] == 0).all()


def test_what_windows_share_is_computed_once(tiny, monkeypatch):
    """Ten options of one question cost its context once, and no pass is for one token alone."""
    passed = []
    whole = likelihood._Run._plan

    def spy(run):
        plan = whole(run)
        passed.append(sum(len(chunk.ids) for _, chunk in plan))
        return plan

    monkeypatch.setattr(likelihood._Run, "_plan", spy)
    rng = np.random.default_rng(0)
    contexts = [rng.integers(300, size=32) for _ in range(3)]
    given = [
        Window(np.concatenate([c, rng.integers(300, size=4)]).astype(np.int32), 4)
        for c in contexts
        for _ in range(10)
    ]
    dict(score(tiny, given))
    # 31 tokens of each context are before the first scored one; of them 16 can be copied.
    most = 3 * (31 + 10 * 4) + 3 * 9 * 15
    assert sum(passed) <= most
    assert len(passed) <= 4


def test_windows_over_a_long_text():
    ids = np.arange(100, dtype=np.int32)
    for context in (1, 7, 48, 200):
        for stride in {1, max(1, context // 2), context}:
            made = list(windows(ids, context, stride))
            assert sum(w.scored for w in made) == 99
            assert all(len(w.ids) <= context + 1 for w in made)
            scored = [i for w in made for i in w.ids[len(w.ids) - w.scored :].tolist()]
            assert scored == list(range(1, 100))
            assert all(len(w.ids) == context + 1 for w in made[1:])
    assert not list(windows(ids[:1], 5, 5))


def test_a_continuation_is_cut_on_the_left():
    config = GPT2Config(n_layer=1, n_head=1, n_embd=4, n_positions=8, vocab_size=99)
    window = continuation(range(50), range(50, 55), config)
    assert window.ids.tolist() == list(range(46, 55))
    assert window.scored == 5
    with pytest.raises(UserError, match="9 tokens long, the model's context 8"):
        continuation([1], range(9), config)
    with pytest.raises(UserError, match="no text to score"):
        continuation([1], [], config)


def test_a_model_that_gives_nan_is_named(tiny, path):
    with torch.no_grad():
        tiny.ln_f.bias[0] = math.nan
    with pytest.raises(UserError, match="gives NaN or infinity"):
        list(score(tiny, some_windows()))


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int8-weight", "int4"])
def test_formats_are_scored_by_the_same_sums(form):
    from gpt2lab.model.quantize import convert

    config = GPT2Config(n_layer=2, n_head=4, n_embd=64, n_positions=96, vocab_size=517)
    model = convert(GPT2(config, seed=2).eval(), form)
    rng = np.random.default_rng(1)
    given = [Window(rng.integers(517, size=90).astype(np.int32), 80) for _ in range(3)]
    fast = dict(score(model, given))
    slow = backends.TorchBackend(model, 1)
    for i, window in enumerate(given):
        ids = window.ids.tolist()
        table = slow.score([backends.Chunk(0, 0, ids[:-1], 80)], ids[-80:], torch.ones(517)).numpy()
        # Rounded activations differ by a step where PyTorch's sums round otherwise.
        tolerance = 5e-3 if form in ("int8", "int4") else 2e-2 if form == "bfloat16" else 1e-4
        assert np.abs(table[:, 0] - fast[i].nats).max() < tolerance


def test_memory_is_bounded(tiny, monkeypatch):
    """Lanes get no more keys and values than CACHE bytes."""
    monkeypatch.setattr(likelihood, "CACHE", 3 * 2 * 2 * 32 * (48 + 16) * 4)
    made = []
    whole = backends.backend
    monkeypatch.setattr(likelihood, "backend", lambda *a: made.append(a) or whole(*a))
    dict(score(tiny, some_windows()))
    assert made[0][1] == 3


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_facts_of_a_sharp_prediction_lose_no_digits(form, path):
    """Logits far from nought, as GPT-2's are: sums of e^v v^2 would have none left of float32's."""
    from gpt2lab.model.quantize import convert

    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, n_positions=40, vocab_size=3001)
    model = GPT2(config, seed=3).eval()
    with torch.no_grad():
        model.ln_f.bias[:] = -20 * torch.sign(model.wte.weight.mean(0))
        model.wte.weight *= 4
        model.wte.weight -= 5 * torch.sign(model.ln_f.bias)
    model = convert(model, form)
    window = Window(np.arange(30, dtype=np.int32), 20)
    ((_, found),) = score(model, [window], best=2000)
    with torch.inference_mode():
        logits = backends.TorchBackend(model, 1).forward([backends.Chunk(0, 0, range(29), 20)])
    assert logits.max() < -100
    every = torch.ones(3001, dtype=torch.bool)
    expected = in_order([facts(row, 10 + i, every) for i, row in enumerate(logits)])
    # int8's rounding of activations turns where PyTorch's sums round otherwise.
    places, atol = [0, 3, 4, 5, 6], 2e-3 if form == "float32" else 0.3
    np.testing.assert_allclose(found.table_TX[:, places], expected[:, places], atol=atol)
    assert found.best_ids.shape == (20, 2000)
    assert all(len(set(row)) == 2000 for row in found.best_ids.tolist())
    assert (np.diff(found.best_nats) >= 0).all()
