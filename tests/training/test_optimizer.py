import pytest
import torch

from gpt2lab.training.muon import Matrix, Muon, orthogonalise
from gpt2lab.training.optimizer import Optimizers, rate_multiple
from gpt2lab.training.parallel import World
from gpt2lab.training.recipe import Optimizer

F32 = torch.float32


def test_decay_falls_on_matrices_only(tiny):
    for name in ("adamw", "muon"):
        optimizers = Optimizers(tiny, Optimizer(name=name, weight_decay=0.3), World(), F32)
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
    ours = Optimizers(tiny, Optimizer(learning_rate=1e-2, weight_decay=0.1), World(), F32)
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
        ours.step()
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


def test_orthogonalised_matrices_have_singular_values_near_one():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((8, 8), (24, 8), (8, 32)):
        stack = torch.randn(3, rows, columns, generator=generator)
        found = orthogonalise(stack, F32)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6 and values.max() < 1.3
        # It keeps the singular vectors: the polar factor is the same.
        u, _, v = torch.linalg.svd(stack, full_matrices=False)
        aligned = torch.einsum("nri,nrc,nic->ni", u, found, v)
        assert torch.allclose(aligned, values.sort(descending=True).values, atol=0.5)
        assert (aligned > 0.6).all()


def one_orthogonal(x):
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / x.norm()
    for _ in range(5):
        s = x @ x.T
        x = 3.4445 * x - 4.7750 * (s @ x) + 2.0315 * (s @ s @ x)
    return x.T if tall else x


def test_muon_equals_one_matrix_at_a_time():
    """Batched, against the published update written out for a single matrix."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 4), (4, 4), (16, 4), (4, 16), (12, 4)]
    ours = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    plain = [p.detach().clone() for p in ours]
    kinds = {p: Matrix(max(1, p.shape[0] / p.shape[1]) ** 0.5) for p in ours[:-1]}
    kinds[ours[-1]] = Matrix(1.0, fused=True)
    muon = Muon(kinds, World(), lr=0.02, weight_decay=0.1, dtype=F32)
    momenta = [torch.zeros_like(p) for p in plain]
    for _ in range(5):
        for i, p in enumerate(ours):
            p.grad = torch.randn(p.shape, generator=generator)
            momenta[i] = 0.95 * momenta[i] + 0.05 * p.grad
            aim = 0.05 * p.grad + 0.95 * momenta[i]
            if p.shape == (12, 4):  # q, k and v
                found, scale = torch.cat([one_orthogonal(t) for t in aim.split(4)]), 1.0
            else:
                found, scale = one_orthogonal(aim), max(1, p.shape[0] / p.shape[1]) ** 0.5
            plain[i] = plain[i] * (1 - 0.02 * 0.1) - 0.02 * scale * found
        muon.step()
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_small_float16_gradients_are_not_lost():
    stack = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    tiny = orthogonalise(1e-12 * stack, torch.float16).float()
    assert torch.allclose(tiny, orthogonalise(stack, torch.float16).float(), atol=2e-2)
