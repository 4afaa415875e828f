import pytest
import torch

from gpt2lab.training.optimizer import Optimizers, rate_multiple
from gpt2lab.training.recipe import Optimizer


def test_decay_falls_on_matrices_only(tiny):
    for name in ("adamw", "muon"):
        optimizers = Optimizers(tiny, Optimizer(name=name, weight_decay=0.3))
        names = {p: n for n, p in tiny.named_parameters()}
        seen = {}
        for part in optimizers.parts:
            for group in part.param_groups:
                seen |= {
                    names[p]: (type(part).__name__, group["weight_decay"]) for p in group["params"]
                }
        assert len(seen) == len(names)
        for parameter, (kind, decay) in seen.items():
            matrix = tiny.get_parameter(parameter).ndim == 2
            assert decay == (0.3 if matrix else 0.0)
            in_block = parameter.startswith("h.")
            assert kind == ("Muon" if name == "muon" and matrix and in_block else "AdamW")


def test_ten_steps_equal_pytorchs_plain_adamw(tiny):
    """Reference and fused twins: ten optimizer steps on the same gradients."""
    import copy

    twin = copy.deepcopy(tiny)
    ours = Optimizers(tiny, Optimizer(learning_rate=1e-2, weight_decay=0.1))
    matrices = [p for p in twin.parameters() if p.ndim == 2]
    vectors = [p for p in twin.parameters() if p.ndim < 2]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2, betas=(0.9, 0.95), foreach=False, fused=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        for a, b in zip(tiny.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.set_rate(0.5 if ours._settings.decay == 0 else 0.01)
        for group, peak in zip(plain.param_groups, [1e-2, 1e-2], strict=True):
            group["lr"] = peak * rate_multiple(0.01, ours._settings)
        for part in ours.parts:
            part.step()
        plain.step()
    for a, b in zip(tiny.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_cosine():
    settings = Optimizer(schedule="cosine", warmup=0.1, final=0.1)
    assert rate_multiple(0.0, settings) == 0
    assert rate_multiple(0.05, settings) == pytest.approx(0.5)
    assert rate_multiple(0.1, settings) == pytest.approx(1.0)
    assert rate_multiple(0.55, settings) == pytest.approx(0.55)
    assert rate_multiple(1.0, settings) == pytest.approx(0.1)
    assert rate_multiple(7.0, settings) == pytest.approx(0.1)


def test_warm_up_stable_decay():
    settings = Optimizer(schedule="wsd", warmup=0.1, decay=0.2, final=0.0)
    assert rate_multiple(0.05, settings) == pytest.approx(0.5)
    assert [rate_multiple(f, settings) for f in (0.1, 0.5, 0.8)] == pytest.approx([1.0] * 3)
    assert rate_multiple(0.9, settings) == pytest.approx(0.5)
    assert rate_multiple(1.0, settings) == pytest.approx(0.0)


def test_no_warm_up_and_no_decay():
    settings = Optimizer(schedule="wsd", warmup=0.0, decay=0.0)
    assert rate_multiple(0.0, settings) == rate_multiple(1.0, settings) == 1.0
