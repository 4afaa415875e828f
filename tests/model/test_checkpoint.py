import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

import gpt2lab
from gpt2lab import UserError
from gpt2lab.model import GPT2, GPT2Config, checkpoint


@pytest.fixture
def folder(tmp_path, tiny, small_tokenizer):
    checkpoint.save(tmp_path / "model", tiny, small_tokenizer, {"step": 3})
    return tmp_path / "model"


def test_round_trip_is_exact(folder, tiny, small_tokenizer):
    loaded = gpt2lab.load(str(folder))
    for name, p in tiny.state_dict().items():
        assert torch.equal(p, loaded.model.state_dict()[name]), name
    assert loaded.tokenizer.digest == small_tokenizer.digest
    assert loaded.metadata == {"step": 3}
    assert loaded.model.config == tiny.config
    files = {p.name for p in folder.iterdir()}
    assert files == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "gpt2lab.json",
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_floats_of_any_kind_open_again(tmp_path, tiny, dtype):
    checkpoint.save(tmp_path / "model", tiny.to(dtype), None, {})
    again = checkpoint.load(tmp_path / "model").model
    assert torch.equal(again.wte.weight, tiny.wte.weight.float())
    assert again.wte.weight.dtype is torch.float32


def test_transformers_opens_it_unchanged(folder, tiny):
    theirs, report = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    ids = torch.arange(40)[None]
    assert torch.allclose(theirs(ids).logits, tiny(ids), atol=1e-5)


def test_what_transformers_saves_opens_here(folder, tiny, tmp_path):
    theirs = GPT2LMHeadModel.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    ids = torch.arange(40)[None]
    for name in ("whole", "sharded"):
        model = gpt2lab.load(str(tmp_path / name)).model
        assert torch.equal(model(ids), tiny(ids))


def test_padding_is_not_saved(tmp_path):
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, n_positions=8, vocab_size=300, pad_vocab_to=64
    )
    checkpoint.save(tmp_path / "m", GPT2(config), None, {})
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert tensors["transformer.wte.weight"].shape == (300, 16)
    assert gpt2lab.load(str(tmp_path / "m")).model.config == config.unpadded()


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_missing_misshapen_and_foreign_tensors_are_named(folder, tmp_path):
    cases = {
        "missing": lambda t: t.pop("transformer.h.1.mlp.c_fc.bias"),
        "has shape \\[3, 3\\]": lambda t: t.update(
            {"transformer.h.1.mlp.c_fc.bias": torch.ones(3, 3)}
        ),
        "not part of a GPT-2": lambda t: t.update({"transformer.h.1.mlp.extra": torch.ones(3)}),
        "head is tied": lambda t: t.update({"lm_head.weight": torch.ones(300, 32)}),
    }
    for number, (words, change) in enumerate(cases.items()):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(folder, copy)
        rewrite(copy, change)
        with pytest.raises(UserError, match=words) as caught:
            gpt2lab.load(str(copy))
        message = str(caught.value)
        assert "model.safetensors" in message
        assert any(n in message for n in ("h.1.mlp.c_fc.bias", "h.1.mlp.extra", "lm_head.weight"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "ln_f.bias"])
def test_weights_that_are_no_numbers(folder, name, number):
    rewrite(folder, lambda t: t[f"transformer.{name}"].view(-1)[3:4].fill_(number))
    for dtype in (None, "int8"):
        with pytest.raises(UserError, match=f"tensor '{name}' holds NaN or infinity"):
            gpt2lab.load(str(folder), dtype)


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors is not a whole safetensors file"):
        gpt2lab.load(str(folder))
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        gpt2lab.load(str(folder))
    path.unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        gpt2lab.load(str(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_layer": 10**9}, "n_layer is 1000000000"),
        ({"n_layer": 4000}, "says 4000 layers"),
        ({"n_layer": 3}, "h.2.ln_1.weight.* is missing"),
        ({"n_head": 5}, "not divisible"),
        ({"n_embd": "32"}, "n_embd is '32'"),
        ({"activation_function": "relu"}, "'relu' is not GPT-2's"),
        ({"n_inner": 5}, "n_inner 5"),
        ({"tie_word_embeddings": False}, "untied"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"n_embd": None}, "n_embd is None"),
        ({"activation_function": []}, "is not GPT-2's"),
    ],
)
def test_configs_that_do_not_fit(folder, change, words):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        gpt2lab.load(str(folder))


def test_index_that_leads_outside(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "evil.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "../evil.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lies outside its folder"):
        gpt2lab.load(str(folder))


def test_tokenizer_larger_than_the_model(folder, gpt2):
    gpt2.save(folder)
    with pytest.raises(UserError, match="50257 ids, the model only 300"):
        gpt2lab.load(str(folder))


def test_failed_save_leaves_nothing(tmp_path, tiny, small_tokenizer, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_safetensors", full)
    with pytest.raises(UserError, match="the disk is full"):
        checkpoint.save(tmp_path / "m", tiny, small_tokenizer, {})
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept(folder, tiny):
    with pytest.raises(UserError, match="--overwrite"):
        checkpoint.save(folder, tiny, None, {})
