"""The compiled pass against PyTorch's, and against itself in other company."""

import ctypes
import platform

import pytest
import torch

from gpt2lab import UserError
from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.model.native import Model, NotBuiltError, Slots, build, call
from gpt2lab.model.quantize import FORMATS, convert

CONFIGS = (
    GPT2Config(n_layer=3, n_head=4, n_embd=64, n_positions=64, vocab_size=301),
    # Widths that are no multiple of a vector, a head of 8, a padded table, the other GELU.
    GPT2Config(
        n_layer=2, n_head=5, n_embd=40, n_positions=50, vocab_size=77, pad_vocab_to=32,
        activation="gelu_erf",
    ),
    GPT2Config(n_layer=1, n_head=2, n_embd=192, n_positions=96, vocab_size=1000),
    GPT2Config(n_layer=1, n_head=1, n_embd=7, n_positions=40, vocab_size=5),
)  # fmt: skip
T = 37


def lively(config: GPT2Config) -> GPT2:
    model = GPT2(config, seed=1).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.mul_(5) if p.ndim == 2 else p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model


def whole(model: GPT2, ids) -> torch.Tensor:
    """Logits after every token, in one pass."""
    n = len(ids)
    slots = Slots(model.config, 2)
    return Model(model).forward(slots, ids, [1] * n, range(n), range(n))


def text(config: GPT2Config) -> list[int]:
    return torch.randint(
        config.vocab_size, (T,), generator=torch.Generator().manual_seed(0)
    ).tolist()


# A rounding that falls the other way moves one activation by 1/127 of the largest.
NEAR = {"float32": 2e-6, "bfloat16": 0.02, "int8": 0.03, "int8-weight": 2e-6, "int4": 0.03}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"width {c.n_embd}")
@pytest.mark.parametrize("form", FORMATS)
def test_equals_pytorch(config, form):
    model = convert(lively(config), form)
    ids = text(config)
    expected = model(torch.tensor([ids]))[0].float()
    error = (whole(model, ids) - expected).norm() / expected.norm()
    assert error < NEAR[form]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_does_not_depend_on_its_company(form, threads):
    """Bit for bit: token by token, beside others, in chunks, on any number of threads."""
    config = CONFIGS[0]
    model = convert(lively(config), form)
    ids, one = text(config), Model(model)
    expected = whole(model, ids)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        slots = Slots(config, 4)
        for t, i in enumerate(ids):
            others = [(3, 9), (0, 8)][: t % 3]  # slot, id
            row = [(2, i), *others]
            out = one.forward(
                slots, [i for _, i in row], [s for s, _ in row], [t] * len(row), [0]
            )  # fmt: skip
            assert torch.equal(out[0], expected[t])
        start = 0
        for n in (7, 1, 13, 16):
            at = range(start, start + n)
            out = one.forward(slots, ids[start : start + n], [1] * n, at, range(n))
            assert torch.equal(out, expected[start : start + n])
            start += n
    finally:
        torch.set_num_threads(before)


def test_a_slot_can_begin_as_another_does():
    config = CONFIGS[0]
    model, ids = lively(config), text(config)
    slots, one = Slots(config, 3), Model(model)
    one.forward(slots, ids[:20], [0] * 20, range(20), [])
    slots.copy(0, 2, 16)
    out = one.forward(slots, ids[16:], [2] * 21, range(16, T), [20])
    assert torch.equal(out[0], whole(model, ids)[-1])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="builds for x86-64")
@pytest.mark.parametrize("target", ["x86-64", "haswell"])
def test_other_processors_code_counts_alike(target, tmp_path, monkeypatch):
    """Without AVX-512 the products of bytes are other instructions, with the same whole numbers."""
    flags = [f"-march={target}" if f.startswith("-march") else f for f in build.FLAGS]
    monkeypatch.setattr(build, "FLAGS", flags)
    build._compile(["c++"], tmp_path / "pass.so")
    library = ctypes.CDLL(str(tmp_path / "pass.so"))
    for form in ("int8", "int4", "float32"):
        model = convert(lively(CONFIGS[2]), form)
        ids = text(CONFIGS[2])
        expected = whole(model, ids)
        with monkeypatch.context() as m:
            m.setattr(call, "library", lambda: library)
            found = whole(model, ids)
        limit = 1e-5 if form == "float32" else 0.03
        assert (found - expected).norm() / expected.norm() < limit


def test_positions_beyond_the_context():
    model = Model(lively(CONFIGS[1]))
    with pytest.raises(UserError, match="position 50 is beyond the context of 50"):
        model.forward(Slots(CONFIGS[1], 1), [1], [0], [50], [0])


@pytest.mark.parametrize("i", [-1, 77])
def test_ids_out_of_range(i):
    with pytest.raises(UserError, match="an id is not from 0 to 76"):
        Model(lively(CONFIGS[1])).forward(Slots(CONFIGS[1], 1), [i], [0], [0], [0])


def test_models_that_it_cannot_compute():
    hooked = lively(CONFIGS[0])
    hooked.h[1].register_forward_hook(lambda *_: None)
    with pytest.raises(NotBuiltError, match="hook"):
        Model(hooked)
    with pytest.raises(NotBuiltError, match="float64"):
        Model(lively(CONFIGS[0]).double())
    changed = lively(CONFIGS[0])
    changed.h[0].mlp.c_fc = torch.nn.Sequential(changed.h[0].mlp.c_fc)
    with pytest.raises(NotBuiltError, match="Sequential"):
        Model(changed)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GPT2LAB_NATIVE": "0"}, "GPT2LAB_NATIVE is 0"),
        ({"CXX": "false"}, "false"),
        ({"CXX": "/no/such/compiler"}, "/no/such/compiler"),
        ({"PATH": "", "CXX": ""}, "no C\\+\\+ compiler; install g\\+\\+"),
    ],
)
def test_machines_without_it(variables, words, monkeypatch, tmp_path):
    for name, value in ({"XDG_CACHE_HOME": str(tmp_path)} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotBuiltError, match=words):
        build.library.__wrapped__()
    monkeypatch.setattr(build, "library", build.library.__wrapped__)
    assert build.status().startswith("no: ")


def test_without_a_home(monkeypatch):
    """A user without a home folder has PyTorch's operators; a compiler may have options."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build.Path, "home", homeless)
    with pytest.raises(NotBuiltError, match="home directory"):
        build.library.__wrapped__()


def test_a_compiler_with_options(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "c++ -DNOTHING=1")
    build.library.__wrapped__()


def test_it_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library.__wrapped__()
    (made,) = (tmp_path / "gpt2lab").iterdir()
    monkeypatch.setattr(build, "_compile", None)
    build.library.__wrapped__()
    monkeypatch.setattr(build, "processor", lambda: b"another")
    with pytest.raises(TypeError):
        build.library.__wrapped__()
    assert made.stat().st_size > 10_000
