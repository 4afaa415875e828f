import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gpt2lab import UserError
from gpt2lab.model import GPT2, GPT2Config, checkpoint
from gpt2lab.model.quantize import (
    GROUP,
    Rounded,
    convert,
    model_form,
    pack,
    restored,
    round4,
    round8,
    round_rows,
    stored,
    unpack,
)

CONFIG = GPT2Config(n_layer=2, n_head=4, n_embd=48, n_positions=32, vocab_size=301)
IDS = torch.arange(20)[None]


def model() -> GPT2:
    made = GPT2(CONFIG, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(5) if p.ndim == 2 else p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return made


shapes = st.tuples(st.integers(1, 40), st.integers(1, 100), st.integers(0, 10**6))


def weight(shape):
    n, k, seed = shape
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(shapes)
def test_rounding_to_8_bits_is_off_by_half_a_step_at_most(shape):
    w = weight(shape)
    w[0] = 0
    q, scale = round8(w)
    assert int(q.abs().max(dim=1).values[-1]) in (0, 127)
    assert ((q * scale[:, None] - w).abs() <= 0.5001 * scale[:, None]).all()


@settings(max_examples=50, deadline=None)
@given(shapes)
def test_rounding_to_4_bits(shape):
    w = weight(shape)
    q, scale = round4(w)
    assert -8 <= int(q.min()) <= int(q.max()) <= 7
    wide = (q.unflatten(1, (-1, GROUP)) * scale.float()[:, :, None]).flatten(1)
    assert not wide[:, w.shape[1] :].any()
    error = (wide[:, : w.shape[1]] - w).square().sum()
    # No better than levels of the right size spread over the range of each group.
    plain = torch.nn.functional.pad(w, (0, -w.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    step = (plain.abs().amax(dim=2, keepdim=True) / 7).bfloat16().float()
    naive = ((plain / step.clamp(min=1e-30)).round() * step - plain).square().sum()
    assert error <= naive * 1.02 + 1e-9


@settings(max_examples=50, deadline=None)
@given(shapes, st.sampled_from(["int8", "int4"]))
def test_packing_and_storing_lose_nothing(shape, form):
    q, scale = (round4 if form == "int4" else round8)(weight(shape))
    again, scales = unpack(pack(form, q, scale))
    assert torch.equal(again[:, : q.shape[1]], q)
    assert torch.equal(scales, scale)
    assert torch.equal(restored(form, stored(form, q)), q)


def test_activations_are_rounded_row_by_row():
    x = torch.randn(5, 48) * torch.tensor([1.0, 10, 100, 0, 1e-3])[:, None]
    found = round_rows(x, 48)
    assert ((found - x).abs() <= x.abs().amax(1, keepdim=True) / 254 * 1.001).all()
    assert torch.equal(found[2:3], round_rows(x[2:3], 48))


@pytest.mark.parametrize(("form", "limit"), [("int8", 0.05), ("int8-weight", 0.04), ("int4", 0.4)])
def test_saved_and_loaded(form, limit, tmp_path, small_tokenizer):
    source = model()
    made = convert(model(), form)
    assert model_form(made) == form
    checkpoint.save(tmp_path / "rounded", made, None, {})
    loaded = checkpoint.load(tmp_path / "rounded").model
    with torch.inference_mode():
        expected = made(IDS)
        assert torch.equal(loaded(IDS), expected)
        wide = source(IDS)
    assert (expected - wide).norm() / wide.norm() < limit
    checkpoint.save(tmp_path / "wide", source, None, {})
    with torch.inference_mode():
        assert torch.equal(checkpoint.load(tmp_path / "wide", form).model(IDS), expected)
    sizes = [(tmp_path / f / checkpoint.WEIGHTS).stat().st_size for f in ("wide", "rounded")]
    assert sizes[1] < sizes[0] / (2.5 if form == "int8" else 2)


def test_without_the_compiled_pass_it_is_the_same_model(tmp_path, monkeypatch):
    for form in ("int8", "int8-weight", "int4"):
        compiled = convert(model(), form)
        with monkeypatch.context() as m:
            m.setattr("gpt2lab.model.quantize._compiled", lambda device: False)
            plain = convert(model(), form)
            checkpoint.save(tmp_path / form, plain, None, {})
        assert not any(getattr(part, "packed", None) for part in plain.modules())
        with torch.inference_mode():
            error = (compiled(IDS) - plain(IDS)).norm() / plain(IDS).norm()
            assert error < 0.02
            loaded = checkpoint.load(tmp_path / form).model
            assert torch.equal(loaded(IDS), compiled(IDS))


def test_the_table_is_never_in_4_bits():
    made = convert(model(), "int4")
    forms = {n: part.form for n, part in made.named_modules() if isinstance(part, Rounded)}
    assert forms.pop("wte") == "int8"
    assert set(forms.values()) == {"int4"}
    assert len(forms) == 8


def test_words_for_what_cannot_be_done(tmp_path):
    with pytest.raises(UserError, match="dtype 'int3' is not known; it is one of float32"):
        convert(model(), "int3")
    folder = tmp_path / "int8"
    checkpoint.save(folder, convert(model(), "int8"), None, {})
    with pytest.raises(UserError, match="holds int8 weights, which cannot be turned into int4"):
        checkpoint.load(folder, "int4")
    assert model_form(checkpoint.load(folder, "int8-weight").model) == "int8-weight"
    config = json.loads((folder / "config.json").read_text())
    for change in ({"format": "int2"}, {"quant_method": "gptq"}, {"group": 7}):
        config["quantization_config"] = {
            "quant_method": "gpt2lab", "format": "int8", "group": 32
        } | change  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="load the model they were made from"):
            checkpoint.load(folder)


def test_damaged_folders_name_the_tensor(tmp_path):
    folder = tmp_path / "int4"
    checkpoint.save(folder, convert(model(), "int4"), None, {})
    tensors = load_file(folder / checkpoint.WEIGHTS)
    name = "transformer.h.1.mlp.c_fc.weight_scale"
    for damage, words in (
        ({name: tensors[name][:, :1].contiguous()}, "has shape"),
        ({name: tensors[name].to(torch.int32)}, "is int32"),
        ({name: torch.full_like(tensors[name], torch.nan)}, "holds NaN or infinity"),
    ):
        save_file(tensors | damage, folder / checkpoint.WEIGHTS)
        with pytest.raises(UserError, match=f"{name.removeprefix('transformer.')}.*{words}"):
            checkpoint.load(folder)
