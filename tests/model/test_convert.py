import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2lab import UserError
from gpt2lab.model import GPT2, GPT2Config, checkpoint
from gpt2lab.model.convert import LLMC_MAGIC, import_model, read_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
IDS = torch.arange(30)[None] % 97


@pytest.fixture
def source() -> GPT2:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=97)
    model = GPT2(config, seed=9).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


# --- Hugging Face's pickled form


def test_pickled_weights(tmp_path, source):
    checkpoint.save(tmp_path / "st", source, None, {})
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "st")
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(tmp_path / "st" / "config.json", folder)
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    import_model(str(folder), tmp_path / "out")
    assert torch.equal(checkpoint.load(tmp_path / "out").model(IDS), source(IDS))


def test_old_transformers_buffers_are_ignored(tmp_path, source):
    checkpoint.save(tmp_path / "st", source, None, {})
    tensors = checkpoint.to_hf_tensors(source)
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    (tmp_path / "st" / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "st" / "pytorch_model.bin")
    assert torch.equal(read_model(tmp_path / "st")(IDS), source(IDS))


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_with_code_are_refused_and_not_run(tmp_path, source, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path / "m", source, None, {})
    (tmp_path / "m" / "model.safetensors").unlink()
    path = tmp_path / "m" / "pytorch_model.bin"
    if legacy:
        path.write_bytes(pickle.dumps({"wte.weight": Bomb()}))
    else:
        torch.save({"wte.weight": Bomb()}, path)
    with pytest.raises(UserError, match=r"pytorch_model.bin is refused"):
        read_model(tmp_path / "m")
    assert not (tmp_path / "exploded").exists()


def test_truncated_pickle(tmp_path, source):
    path = tmp_path / "ckpt.pt"
    torch.save({"model": checkpoint.to_hf_tensors(source)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"ckpt.pt is (refused|not a whole PyTorch file)"):
        read_model(path)


# --- nanoGPT


def nanogpt(tmp_path, model: GPT2, *, bias: bool, rows: int | None = None) -> Path:
    """A file as nanoGPT's train.py writes it after torch.compile."""
    state = {f"_orig_mod.transformer.{k}": t for k, t in model.state_dict().items()}
    if not bias:
        state = {k: t for k, t in state.items() if not k.endswith(".bias")}
    if rows:
        wte = state["_orig_mod.transformer.wte.weight"]
        state["_orig_mod.transformer.wte.weight"] = torch.cat(
            [wte, torch.zeros(rows - len(wte), wte.shape[1])]
        )
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    c = model.config
    args = {
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "block_size": c.n_positions,
        "vocab_size": rows or c.vocab_size,
        "bias": bias,
        "dropout": 0.0,
    }
    path = tmp_path / "ckpt.pt"
    best = torch.tensor(2.0)
    torch.save({"model": state, "model_args": args, "iter_num": 5, "best_val_loss": best}, path)
    return path


def test_nanogpt_with_biases(tmp_path, source):
    model = read_model(nanogpt(tmp_path, source, bias=True))
    assert model.config.activation == "gelu_erf"
    exact = GPT2(GPT2Config(**{**vars(source.config), "activation": "gelu_erf"})).eval()
    exact.load_state_dict(source.state_dict())
    assert torch.equal(model(IDS), exact(IDS))
    assert not torch.allclose(model(IDS), source(IDS), atol=1e-6)


def test_nanogpt_without_biases(tmp_path, source):
    with torch.no_grad():
        for name, p in source.named_parameters():
            if name.endswith(".bias"):
                p.zero_()
    model = read_model(nanogpt(tmp_path, source, bias=False))
    for name, p in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], p), name


def test_nanogpt_padding_is_cut(tmp_path):
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=16, vocab_size=50257)
    source = GPT2(config).eval()
    model = read_model(nanogpt(tmp_path, source, bias=True, rows=50304))
    assert model.config.vocab_size == 50257
    assert torch.equal(model.wte.weight, source.wte.weight)


def test_not_nanogpt(tmp_path):
    torch.save({"model": {}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x.pt has no model_args"):
        read_model(tmp_path / "x.pt")


# --- llm.c


def llmc(path: Path, model: GPT2, version: int, padded: int) -> None:
    """Write llm.c's model file as its train_gpt2.py does."""
    c = model.config
    header = np.zeros(256, "<i4")
    header[:8] = [
        LLMC_MAGIC, version, c.n_positions, c.vocab_size, c.n_layer, c.n_head, c.n_embd, padded
    ]  # fmt: skip
    state = model.state_dict()
    wte = torch.cat([state["wte.weight"], torch.zeros(padded - c.vocab_size, c.n_embd)])
    order = [wte, state["wpe.weight"]]
    for name in (
        "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
        "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias",
        "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
    ):  # fmt: skip
        order += [state[f"h.{layer}.{name}"] for layer in range(c.n_layer)]
    order += [state["ln_f.weight"], state["ln_f.bias"]]
    with path.open("wb") as file:
        file.write(header.tobytes())
        for t in order:
            if version == 5:
                file.write(t.bfloat16().view(torch.int16).numpy().tobytes())
            else:
                file.write(t.numpy().tobytes())


@pytest.mark.parametrize("version", [3, 5])
def test_llmc(tmp_path, source, version):
    llmc(tmp_path / "m.bin", source, version, padded=128)
    model = read_model(tmp_path / "m.bin")
    expected = source if version == 3 else source.bfloat16().float()
    assert torch.equal(model(IDS), expected(IDS))


def test_llmc_damaged(tmp_path, source):
    path = tmp_path / "m.bin"
    llmc(path, source, 3, padded=128)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"m.bin has \d+ bytes, its header asks for \d+"):
        read_model(path)
    path.write_bytes(struct.pack("<i", LLMC_MAGIC) + struct.pack("<i", 9) + whole[8:])
    with pytest.raises(UserError, match="version 9"):
        read_model(path)
    path.write_bytes(b"PK" + whole[2:])
    with pytest.raises(UserError, match="not llm.c's model file"):
        read_model(path)


# --- OpenAI's TensorFlow checkpoint; the fixture was written by TensorFlow 2.21 itself


@pytest.fixture
def openai(tmp_path) -> Path:
    shutil.copytree(FIXTURES / "tensorflow", tmp_path / "tf")
    return tmp_path / "tf"


def test_tensorflow_checkpoint(openai, tmp_path):
    expected = np.load(openai / "expected.npz")
    model = read_model(openai)
    hf = checkpoint.to_hf_tensors(model)
    assert len(expected) == len(hf)
    for name, t in hf.items():
        assert np.array_equal(t.numpy(), expected[name]), name
    import_model(str(openai), tmp_path / "out")
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "out").config.n_layer == 2


def test_tensorflow_damaged(openai):
    data = openai / "model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"data-00000-of-00001 ends at byte \d+, inside tensor"):
        read_model(openai)
    data.unlink()
    with pytest.raises(UserError, match="data-00000-of-00001 is missing"):
        read_model(openai)
    index = openai / "model.ckpt.index"
    whole = index.read_bytes()
    index.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="not a TensorFlow checkpoint index"):
        read_model(openai)
    index.unlink()
    with pytest.raises(UserError, match=r"0 files named \*.index"):
        read_model(openai)


def test_every_damaged_byte_of_an_index_is_survived(openai):
    """Flip each byte in turn: a sentence or a model, never another error, never a hang."""
    index = openai / "model.ckpt.index"
    whole = index.read_bytes()
    for at in range(0, len(whole), 7):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read_model(openai)
        except UserError as error:
            assert "\n" not in str(error)


def test_hparams_missing_a_field(openai):
    (openai / "hparams.json").write_text('{"n_vocab": 97}')
    with pytest.raises(UserError, match="'n_ctx' is missing"):
        read_model(openai)


def test_unknown_form(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="no form of GPT-2 that is known"):
        read_model(tmp_path / "model.onnx")


def test_import_with_a_tokenizer(tmp_path, source, small_tokenizer):
    small_tokenizer.save(tmp_path / "tok")
    path = nanogpt(tmp_path, source, bias=True)
    with pytest.raises(UserError, match="300 ids, the model only 97"):
        import_model(str(path), tmp_path / "out", tokenizer=str(tmp_path / "tok"))
    assert not (tmp_path / "out").exists()
