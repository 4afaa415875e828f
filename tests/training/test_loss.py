from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gpt2lab.training import loss as loss_module
from gpt2lab.training.loss import IGNORED, linear_cross_entropy


def reference(x, weight, y, vocab):
    return F.cross_entropy(F.linear(x, weight)[..., :vocab].flatten(0, 1), y.flatten())


@pytest.mark.parametrize(("rows", "vocab"), [(40, 101), (7, 101), (1, 101), (40, 128)])
def test_value_and_gradients_equal_the_plain_form(monkeypatch, rows, vocab):
    monkeypatch.setitem(loss_module.CHUNK_ELEMENTS, "cpu", rows * vocab)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 10, 16, generator=generator)
    weight = torch.randn(128, 16, generator=generator)
    y = torch.randint(vocab, (4, 10), generator=generator)
    results = []
    for function in (linear_cross_entropy, reference):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        value = function(a, w, y, vocab)
        (3 * value).backward()
        results.append((value, a.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not results[0][2][vocab:].any()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_targets_that_are_not_counted(share):
    """As PyTorch leaves them out; with none left, nothing moves."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 10, 16, generator=generator)
    weight = torch.randn(101, 16, generator=generator)
    y = torch.randint(101, (4, 10), generator=generator)
    y[torch.rand(4, 10, generator=generator) < share] = IGNORED
    results = []
    for function in (partial(linear_cross_entropy, some=True), reference):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        value = function(a, w, y, 101)
        value.backward()
        results.append((value, a.grad, w.grad))
    if share == 1:
        value, grad_x, grad_weight = results[0]
        assert value == 0 and not grad_x.any() and not grad_weight.any()
        return
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_extreme_logits_stay_finite():
    x = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    weight = torch.eye(2).requires_grad_()
    value = linear_cross_entropy(x, weight, torch.tensor([[1]]), 2)
    value.backward()
    assert value.item() == pytest.approx(2e4)
    assert torch.isfinite(x.grad).all()


def test_without_gradients_the_value_is_the_same():
    x, weight = torch.randn(2, 5, 8), torch.randn(30, 8)
    y = torch.randint(30, (2, 5))
    with torch.no_grad():
        value = linear_cross_entropy(x, weight, y, 30)
    assert torch.allclose(value, reference(x, weight, y, 30), atol=1e-5)


@pytest.mark.parametrize("part", [37, 2**14])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_products_stay_close(monkeypatch, dtype, part):
    monkeypatch.setattr(loss_module, "VOCABULARY_PART", part)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 32, 64, generator=generator)
    weight = 0.05 * torch.randn(500, 64, generator=generator)
    y = torch.randint(500, (4, 32), generator=generator)
    low, w = x.to(dtype).requires_grad_(), weight.clone().requires_grad_()
    value = linear_cross_entropy(low, w, y, 500)
    (1024 * value).backward()
    a, w32 = x.clone().requires_grad_(), weight.clone().requires_grad_()
    exact = reference(a, w32, y, 500)
    (1024 * exact).backward()
    assert value.item() == pytest.approx(exact.item(), rel=5e-3)
    assert w.grad.dtype is torch.float32
    assert F.cosine_similarity(w.grad.flatten(), w32.grad.flatten(), dim=0) > 0.999
    assert F.cosine_similarity(low.grad.float().flatten(), a.grad.flatten(), dim=0) > 0.999


def test_logits_are_never_whole(monkeypatch):
    """The largest tensor made is the chunk, not tokens x vocabulary."""
    monkeypatch.setitem(loss_module.CHUNK_ELEMENTS, "cpu", 64 * 1000)
    largest = 0
    empty = torch.empty

    def spy(*size, **kwargs):
        nonlocal largest
        tensor = empty(*size, **kwargs)
        largest = max(largest, tensor.numel())
        return tensor

    monkeypatch.setattr(torch, "empty", spy)
    x = torch.randn(1, 2048, 8, requires_grad=True)
    weight = torch.randn(1000, 8, requires_grad=True)
    linear_cross_entropy(x, weight, torch.randint(1000, (1, 2048)), 1000).backward()
    assert 0 < largest <= 64 * 1024
