"""Adafactor is PyTorch's; freed gradients move the same weights; random rounding keeps sums."""

import pytest
import torch
from torch import nn

from gpt2lab.training import adafactor
from gpt2lab.training.adafactor import Adafactor, round_at_random


def model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8), nn.LayerNorm(8))
    return layers.to(dtype)


def groups(layers, decay=0.1):
    return [
        {"params": [p for p in layers.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in layers.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]


def take_steps(layers, optimizer, steps=6, parts=1):
    torch.manual_seed(7)
    for _ in range(steps):
        for part in range(parts):
            optimizer.moving = part == parts - 1
            x = torch.randn(16, 24, dtype=next(layers.parameters()).dtype)
            (layers(x) * torch.randn(16, 8).to(x.dtype)).sum().div(parts).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("part", [2**22, 24])
def test_same_steps_as_pytorch(monkeypatch, part):
    """Also where a matrix is worked on in parts."""
    monkeypatch.setattr(adafactor, "_PART", part)
    ours, theirs = model(), model()
    take_steps(ours, Adafactor(groups(ours), lr=1e-2, freeing=False))
    take_steps(theirs, torch.optim.Adafactor(groups(theirs), lr=1e-2))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_freed_at_once_move_the_same(dtype):
    held, freed = model(dtype=dtype), model(dtype=dtype)
    take_steps(held, Adafactor(groups(held), lr=1e-2, freeing=False, seed=3), parts=2)
    optimizer = Adafactor(groups(freed), lr=1e-2, freeing=True, seed=3)
    take_steps(freed, optimizer, parts=2)
    for a, b in zip(held.parameters(), freed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_is_gone_when_its_weight_has_moved_and_its_norm_is_kept():
    layers = model()
    optimizer = Adafactor(groups(layers), lr=1e-2, freeing=True)
    x = torch.randn(16, 24)
    layers(x).square().sum().backward()  # not the last of its step
    norms = [p.grad.norm().square() for p in layers.parameters()]
    assert not optimizer.squares
    optimizer.moving = True
    (0 * layers(x).sum()).backward()
    assert all(p.grad is None for p in layers.parameters())
    torch.testing.assert_close(torch.stack(optimizer.squares).sum(), torch.stack(norms).sum())


def test_rounding_at_random_is_right_on_average():
    generator = torch.Generator().manual_seed(0)
    exact = torch.full((200_000,), 1.0 + 0.3 / 128)
    rounded = round_at_random(exact, generator).float()
    assert set(rounded.unique().tolist()) == {1.0, 1.0 + 1 / 128}
    assert rounded.mean().item() == pytest.approx(exact[0].item(), abs=0.3 / 128 / 20)
    below = round_at_random(-exact, generator).float()
    assert below.mean().item() == pytest.approx(-exact[0].item(), abs=0.3 / 128 / 20)
    whole = torch.tensor([0.0, -2.0, 3.5, float(torch.finfo(torch.bfloat16).max)])
    assert torch.equal(round_at_random(whole, generator).float(), whole), "exact ones stay"


def test_small_moves_are_not_lost_in_bfloat16():
    """A weight of 1 moves by 1e-4 a step, far below bfloat16's spacing of 1/128 there."""
    weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimizer = Adafactor([{"params": [weight]}], lr=1e-4, freeing=False)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.float().mean().item() == pytest.approx(1 - 100 * 1e-4, abs=2e-3)
