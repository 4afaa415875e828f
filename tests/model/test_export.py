"""What is exported opens where it is meant to, computes the same, and can be brought back."""

import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gpt2lab
from gpt2lab import UserError
from gpt2lab.cli.main import main
from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.model import GPT2, GPT2Config, checkpoint
from gpt2lab.model import gguf as room
from gpt2lab.model.checkpoint import to_hf_tensors
from gpt2lab.model.convert import import_model
from gpt2lab.model.gguf import read_gguf, write_gguf
from gpt2lab.training import lora

REFERENCE = Path(__file__).parents[1] / "models" / "reference-3M"
PROMPTS = ("The king said to the queen that", "In the year 1999, ", "\n\n", "naïve café — 猫")


@pytest.fixture(scope="module")
def small(tmp_path_factory, small_tokenizer) -> Path:
    """Two layers of 32, vocabulary 300, of float32 weights that no 16-bit format holds."""
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=300)
    folder = tmp_path_factory.mktemp("small") / "small"
    checkpoint.save(folder, GPT2(config, seed=1), small_tokenizer, {"made": "here"})
    return folder


def same(a: GPT2, b: GPT2) -> bool:
    theirs = dict(b.named_parameters())
    return all(torch.equal(p, theirs[name]) for name, p in a.named_parameters())


# --- Hugging Face


@pytest.mark.parametrize(("form", "shards"), [(None, None), (None, 20_000), ("bf16", 9_000)])
def test_huggingface_folder(tmp_path, small, form, shards):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "out"
    args = [] if form is None else ["--dtype", form]
    args += [] if shards is None else ["--shard-gib", str(shards / 2**30)]
    assert main(["export", str(small), str(out), *args]) == 0
    files = sorted(out.glob("*.safetensors"))
    assert len(files) == 1 if shards is None else len(files) > 3
    assert (out / "model.safetensors.index.json").exists() == (shards is not None)
    ours = gpt2lab.load(small).model
    back = import_model(str(out), tmp_path / "back")
    ids = torch.randint(300, (2, 64), generator=torch.Generator().manual_seed(0))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        if form is None:
            assert same(back.model, ours)
        torch.testing.assert_close(theirs(ids).logits, back.model(ids), rtol=1e-5, atol=1e-5)
    assert json.loads((out / "gpt2lab.json").read_text()) == {"made": "here"}
    assert transformers.AutoTokenizer.from_pretrained(out).encode("the cat") == (
        back.tokenizer.encode("the cat")
    )
    if form == "bf16":
        assert {t.dtype for f in files for t in load_file(f).values()} == {torch.bfloat16}
        assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_numbers_too_large_for_a_format(tmp_path, small, capsys):
    found = gpt2lab.load(small)
    with torch.no_grad():
        found.model.wte.weight[0, 0] = 1e6
    checkpoint.save(tmp_path / "large", found.model, found.tokenizer, {})
    assert main(["export", str(tmp_path / "large"), str(tmp_path / "o"), "--dtype", "f16"]) == 2
    assert "numbers too large for f16" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# --- adapters


def test_an_adapter_is_merged_and_that_of_another_model_refused(tmp_path, small, capsys):
    model = gpt2lab.load(small).model
    lora.attach(model, lora.Shape(rank=4))
    with torch.no_grad():
        for p in lora.numbers(model).values():
            p.normal_(0, 0.05, generator=torch.Generator().manual_seed(p.numel()))
    lora.save(tmp_path / "adapter", model, str(small))
    assert main(["export", str(tmp_path / "adapter"), str(tmp_path / "merged")]) == 0
    ids = torch.randint(300, (1, 32))
    with torch.no_grad():
        expected = model.eval()(ids)
        torch.testing.assert_close(
            gpt2lab.load(tmp_path / "merged").model(ids), expected, rtol=1e-5, atol=1e-5
        )
    assert main(["export", str(tmp_path / "adapter"), str(tmp_path / "o"), "--base",
                 str(REFERENCE)]) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert "the adapter belongs to another model" in error and error.count("\n") < 4
    assert not (tmp_path / "o").exists()
    # Changes that would overflow, or are none.
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    for change, words in (
        ({"lora_alpha": 1e308}, "alpha is 1e.308; it must be"),
        ({"lora_alpha": 10**400}, "too large"), ({"r": 0}, "rank is 0"),
    ):  # fmt: skip
        bad = tmp_path / "bad"
        shutil.copytree(tmp_path / "adapter", bad, dirs_exist_ok=True)
        (bad / "adapter_config.json").write_text(json.dumps(config | change))
        assert main(["export", str(bad), str(tmp_path / "o")]) == 2
        assert re.search(words, capsys.readouterr().err)
    shutil.copytree(tmp_path / "adapter", tmp_path / "bad", dirs_exist_ok=True)
    whole = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    halves = {n: t for n, t in whole.items() if "lora_A" in n}
    for tensors, words in (
        ({}, "holds no change"), (halves, "has no counterpart"),
        ({n: t.double() for n, t in whole.items()}, "float64; save it as float32"),
        ({n: t * 0 + 1e25 for n, t in whole.items()}, "too large to be added"),
    ):  # fmt: skip
        save_file(tensors, tmp_path / "bad" / "adapter_model.safetensors")
        assert main(["export", str(tmp_path / "bad"), str(tmp_path / "o")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert main(["export", str(small), str(tmp_path / "o"), "--base", "x"]) == 2
    assert "--base goes with an adapter" in capsys.readouterr().err


# --- GGUF


@pytest.mark.parametrize("form", ["f32", "f16", "q8_0"])
def test_gguf_there_and_back(tmp_path, small, form):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "small.gguf"
    assert main(["export", str(small), str(path), "--to", "gguf", "--dtype", form]) == 0
    ours = gpt2lab.load(small)
    back = import_model(str(path), tmp_path / "back")
    assert back.tokenizer.digest == ours.tokenizer.digest
    first = dict(ours.model.named_parameters())
    for name, p in back.model.named_parameters():
        meant = first[name].detach()
        if meant.ndim > 1 and name != "wpe.weight":
            kind = {"f32": 0, "f16": 1, "q8_0": 8}[form]
            rows = gguf.quants.quantize(meant.numpy(), gguf.GGMLQuantizationType(kind))
            found = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(kind))
            meant = torch.from_numpy(np.array(found, np.float32))
            limit = {"f32": 0.0, "f16": 1e-4, "q8_0": 2e-3}[form]
            assert (meant - first[name]).abs().max() <= limit
        assert torch.equal(p, meant), name
    again = tmp_path / "again.gguf"
    write_gguf(again, back.model, back.tokenizer, form, "small")
    if form != "q8_0":  # whose scales may be rounded once more
        assert same(read_gguf(again)[0], back.model)


def test_gguf_of_a_vocabulary_with_rows_to_spare_and_a_template(tmp_path, small, small_tokenizer):
    pytest.importorskip("gguf")
    config = GPT2Config(n_layer=1, n_head=2, n_embd=48, n_positions=64, vocab_size=310)
    tokenizer = small_tokenizer.for_chats("{{ messages }}", ("<|user|>",))
    path = tmp_path / "a.gguf"
    write_gguf(path, GPT2(config), tokenizer, "q8_0", "odd")  # rows of 48 are no blocks of 32
    model, found = read_gguf(path)
    assert model.config == config and found.digest == tokenizer.digest
    assert found.vocabulary.chat_template == "{{ messages }}"


def test_gguf_refuses_what_llama_cpp_would_compute_otherwise(tmp_path, small_tokenizer):
    pytest.importorskip("gguf")
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=32, n_positions=64, vocab_size=300, activation="gelu_erf"
    )
    with pytest.raises(UserError, match="has the exact GELU, llama.cpp's GPT-2 the tanh form"):
        write_gguf(tmp_path / "a.gguf", GPT2(config), small_tokenizer, "f32", "x")
    assert not list(tmp_path.iterdir())


def test_damaged_gguf(tmp_path, small):
    """Cut anywhere, or with bytes changed, it is refused in one sentence, or the weights are read
    as they are; nothing else is raised and nothing hangs."""
    pytest.importorskip("gguf")
    path = tmp_path / "small.gguf"
    assert main(["export", str(small), str(path), "--to", "gguf"]) == 0
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    head = 20_000  # of the descriptions before the weights
    bad = tmp_path / "bad.gguf"
    refused = 0
    cuts = [whole[: int(n)] for n in (0, 3, 4, 24, *rng.integers(0, len(whole), 20))]
    flips = []
    for _ in range(60):
        data = bytearray(whole)
        data[int(rng.integers(head))] ^= 1 << int(rng.integers(8))
        flips.append(bytes(data))
    for data in (*cuts, *flips):
        bad.write_bytes(data)
        try:
            read_gguf(bad)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= len(cuts) + 10


def test_gguf_that_says_what_it_is_not(tmp_path, small, small_tokenizer):
    gguf = pytest.importorskip("gguf")
    model = gpt2lab.load(small).model
    bomb = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
    (tmp_path / "bomb.gguf").write_bytes(bomb + struct.pack("<IIQ", 9, 0, 2**60))
    with pytest.raises(UserError, match="a list is longer than the file"):
        read_gguf(tmp_path / "bomb.gguf")

    def written(**change):
        path = tmp_path / "odd.gguf"
        writer = gguf.GGUFWriter(path, "gpt2")
        room._describe(writer, gguf, model.config, "odd", "f32")
        room._write_tokens(writer, small_tokenizer, model.config.vocab_size)
        if "epsilon" in change:
            writer.kv_data[0]["gpt2.attention.layer_norm_epsilon"].value = change["epsilon"]
        tensors = to_hf_tensors(model)
        for theirs, ours in room._names(model.config):
            writer.add_tensor(theirs, room._rows(ours, tensors[ours]).contiguous().numpy())
        for name, t in change.get("more", {}).items():
            writer.add_tensor(name, t.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    table = model.wte.weight.detach()[: model.config.vocab_size]
    assert same(read_gguf(written(more={"output.weight": table.clone()}))[0], model)
    with pytest.raises(UserError, match="'lm_head.weight' differs from 'wte.weight'"):
        read_gguf(written(more={"output.weight": table + 1}))
    with pytest.raises(UserError, match="'blk.0.attn_gate.weight' is not part of a GPT-2"):
        read_gguf(written(more={"blk.0.attn_gate.weight": torch.ones(4, 4)}))
    with pytest.raises(UserError, match="layer_norm_epsilon is 0.1"):
        read_gguf(written(epsilon=0.1))
    with pytest.raises(UserError, match="is I8, which cannot be read|shape"):
        read_gguf(written(more={"output.weight": table.to(torch.int8)}))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["f32", "f16", "q8_0"])
def test_llama_cpp_writes_the_same(tmp_path, form):
    """Greedy texts of llama.cpp and ours, of the weights as the file holds them."""
    llama_cpp = pytest.importorskip("llama_cpp")
    path = tmp_path / "model.gguf"
    assert main(["export", str(REFERENCE), str(path), "--to", "gguf", "--dtype", form]) == 0
    model, tokenizer = read_gguf(path)
    theirs = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, verbose=False)
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        assert theirs.tokenize(prompt.encode(), add_bos=False) == ids
        theirs.reset()
        theirs.eval(ids)
        with torch.no_grad():
            ours = model(torch.tensor([ids]))[0].numpy()
        # llama.cpp rounds GELU to a table of float16 numbers, and with q8_0 what it multiplies.
        limit = {"f32": 0.02, "f16": 0.03, "q8_0": 0.3}[form]
        assert np.abs(np.array(theirs.scores[: len(ids)]) - ours).max() < limit
        if form == "q8_0":
            continue
        greedy = Request(tuple(ids), max_tokens=40, sampling=Sampling(temperature=0.0))
        (meant,) = generate(model, tokenizer, [greedy])
        found = []
        for token in theirs.generate(ids, temp=0.0, reset=True):
            found.append(token)
            if len(found) == len(meant.ids):
                break
        assert found == meant.ids


# --- ONNX


def test_onnx(tmp_path, small):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "onnx"
    assert main(["export", str(small), str(out), "--to", "onnx"]) == 0
    session = onnxruntime.InferenceSession(out / "model.onnx")
    model = gpt2lab.load(small).model
    for batch, length in ((1, 1), (1, 7), (3, 20), (2, 64)):
        ids = torch.randint(300, (batch, length))
        (found,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            assert np.abs(found - model(ids).numpy()).max() < 1e-4


# --- what is refused


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--to", "gguf", "--dtype", "bf16"], "--dtype bf16 goes not with --to gguf"),
        (["--to", "onnx", "--dtype", "f16"], "--dtype f16 goes not with --to onnx"),
        (["--shard-gib", "0"], "shard-gib is 0.0; it must be"),
    ],
)
def test_what_cannot_be_exported(tmp_path, small, capsys, args, words):
    assert main(["export", str(small), str(tmp_path / "out"), *args]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_not_replaced(tmp_path, small, capsys):
    for source, out in ((small, small), (small, small.parent)):
        before = sorted(small.iterdir())
        assert main(["export", str(source), str(out), "--to", "hf", "--overwrite"]) == 2
        assert "holds the model that is read" in capsys.readouterr().err
        assert sorted(small.iterdir()) == before
    assert main(["export", str(small), str(tmp_path), "--to", "gguf", "--overwrite"]) == 2
    assert "is a folder; name the file" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(tmp_path, small, capsys):
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    assert main(["export", str(small), str(out), "--to", "gguf"]) == 2
    assert "exists" in capsys.readouterr().err and out.read_text() == "mine"
    assert main(["export", str(small), str(out), "--to", "gguf", "--overwrite"]) == 0


def test_rounded_weights_are_not_exported(tmp_path, small, capsys):
    rounded = gpt2lab.load(small, "int8")
    checkpoint.save(tmp_path / "rounded", rounded.model, rounded.tokenizer, {})
    assert main(["export", str(tmp_path / "rounded"), str(tmp_path / "o")]) == 2
    assert "rounded to int8 or int4" in capsys.readouterr().err
