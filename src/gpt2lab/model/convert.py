"""Bringing in a GPT-2 from wherever it was trained; the source's form is recognised by its files.

| source | form |
|---|---|
| folder with `config.json` | Hugging Face: safetensors, sharded, or pickled `.bin` |
| `gpt2-xl`, `hf:owner/name` | Hugging Face hub |
| folder with `hparams.json` | OpenAI's TensorFlow checkpoint |
| `.pt` file | nanoGPT's `ckpt.pt` |
| `.bin` file | llm.c's model file |
| `.gguf` file | llama.cpp's model file, numbers that were rounded stay so |
"""

import pickle
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.model.checkpoint import WEIGHTS, Checkpoint, build, from_hf_config, read_folder, save
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.gguf import read_gguf
from gpt2lab.model.tensorflow import TensorBundle, read_hparams
from gpt2lab.model.tensors import INDEX, LoadedTensors, hf_name, sharded_files
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.hub import IMPORT_FILES, fetch

# nanoGPT and llm.c round GPT-2's 50,257 rows up to this; the added rows are never trained.
GPT2_VOCAB, GPT2_PADDED = 50257, 50304

LLMC_MAGIC = 20240326
_LLMC_TYPES: dict[int, tuple[torch.dtype, np.dtype[Any]]] = {
    3: (torch.float32, np.dtype("<f4")),
    5: (torch.bfloat16, np.dtype("<u2")),
}


def import_model(
    source: str, out: Path, *, tokenizer: str | None = None, overwrite: bool = False
) -> Checkpoint:
    """Read `source` in any known form and write it to `out` as a checkpoint folder.

    tokenizer: folder, file or name of the tokenizer, where the source carries none.
    Raises UserError naming the file and tensor that stand in the way.
    """
    path = Path(source)
    if not path.exists():
        path = fetch(source, IMPORT_FILES)
    model, inside = read_gguf(path) if path.suffix == ".gguf" else (read_model(path), None)
    found = Tokenizer.load(tokenizer) if tokenizer else inside or _tokenizer_beside(path)
    if found and found.size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {found.size} ids, the model only {model.config.vocab_size}; "
            "give the tokenizer the model was trained with"
        )
    metadata = {"imported_from": Path(source).name if Path(source).exists() else source}
    save(out, model, found, metadata, overwrite=overwrite)
    return Checkpoint(model, found, metadata)


def read_model(path: Path) -> GPT2:
    """The model at `path`, in whichever form it is but GGUF."""
    if path.is_dir():
        if (path / "hparams.json").exists():
            return build(read_hparams(path / "hparams.json"), TensorBundle(_prefix(path)))
        return _read_huggingface(path)
    if path.suffix == ".bin":
        return _read_llmc(path)
    if path.suffix in (".pt", ".pth"):
        return _read_nanogpt(path)
    raise UserError(
        f"{path} is no form of GPT-2 that is known: give a Hugging Face or OpenAI folder, "
        "nanoGPT's ckpt.pt, llm.c's .bin or a .gguf"
    )


def _tokenizer_beside(path: Path) -> Tokenizer | None:
    names = ("tokenizer.json", "vocab.json", "encoder.json")
    if path.is_dir() and any((path / name).exists() for name in names):
        return Tokenizer.load(path)
    return None


def _prefix(folder: Path) -> Path:
    """The one TensorFlow checkpoint in a folder."""
    found = sorted(folder.glob("*.index"))
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} files named *.index; one is needed")
    return found[0].with_suffix("")


def _read_huggingface(folder: Path) -> GPT2:
    if (folder / WEIGHTS).exists() or (folder / INDEX).exists():
        return read_folder(folder)
    config = from_hf_config(folder / "config.json")
    pickled, pickled_index = folder / "pytorch_model.bin", folder / "pytorch_model.bin.index.json"
    if pickled.exists():
        files = [pickled]
    elif pickled_index.exists():
        files = sharded_files(pickled_index)
    else:
        raise UserError(f"{folder} has neither {WEIGHTS} nor pytorch_model.bin; copy the weights")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _tensors(file, unpickle(file))
    return build(config, LoadedTensors(files[0], tensors))


def unpickle(path: Path) -> Any:
    """Load a PyTorch file as data only: a pickle that wants to run code is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; copy every file of the checkpoint") from None
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "Unsupported" in line), "")
        reason = reason.strip().rstrip(".") or "it is no PyTorch file, or it asks to run code"
        raise UserError(
            f"{path} is refused ({reason}); have its author save it as safetensors"
        ) from None
    except (
        RuntimeError, EOFError, ValueError, LookupError, OSError, AttributeError, TypeError
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a whole PyTorch file ({reason}); fetch or save it again"
        ) from None


def _is_zip(path: Path) -> bool:
    return zipfile.is_zipfile(path)


def _tensors(path: Path, table: Any) -> dict[str, Tensor]:
    if not isinstance(table, dict) or not all(isinstance(t, Tensor) for t in table.values()):
        raise UserError(f"{path} does not hold a table of tensors; it is no model's weights")
    return {hf_name(str(key)): t for key, t in table.items()}


def _read_nanogpt(path: Path) -> GPT2:
    """NanoGPT's ckpt.pt: nn.Linear layout, exact GELU, biases optional."""
    file = unpickle(path)
    args = file.get("model_args") if isinstance(file, dict) else None
    names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    if not isinstance(args, dict) or any(type(args.get(name)) is not int for name in names):
        raise UserError(f"{path} has no model_args; it is not nanoGPT's ckpt.pt")
    config = GPT2Config(
        n_layer=args["n_layer"],
        n_head=args["n_head"],
        n_embd=args["n_embd"],
        n_positions=args["block_size"],
        vocab_size=args["vocab_size"],
        activation="gelu_erf",  # nanoGPT calls nn.GELU(), the exact form, not GPT-2's
    )
    tensors = _tensors(path, file.get("model"))
    for name in list(tensors):
        if name.endswith("attn.c_attn.weight") or name.endswith(("c_proj.weight", "c_fc.weight")):
            tensors[name] = tensors[name].t()
    if args.get("bias") is False:
        for name, t in list(tensors.items()):
            if name.startswith(("h.", "ln_f")) and name.endswith(".weight"):
                width = t.shape[-1]  # [n_in, n_out] by now
                tensors.setdefault(name.removesuffix("weight") + "bias", torch.zeros(width))
    return build(*_cut_padding(config, path, tensors))


def _cut_padding(
    config: GPT2Config, path: Path, tensors: dict[str, Tensor]
) -> tuple[GPT2Config, LoadedTensors]:
    if config.vocab_size == GPT2_PADDED:
        config = replace(config, vocab_size=GPT2_VOCAB)
        for name in ("wte.weight", "lm_head.weight"):
            if name in tensors and tensors[name].shape[0] == GPT2_PADDED:
                tensors[name] = tensors[name][:GPT2_VOCAB]
    return config, LoadedTensors(path, tensors)


def _read_llmc(path: Path) -> GPT2:
    """llm.c's .bin: 256 int32 of header, then the tensors of all layers stacked (train_gpt2.py)."""
    header = np.fromfile(path, "<i4", 256)
    if len(header) < 256 or header[0] != LLMC_MAGIC:
        raise UserError(
            f"{path} is not llm.c's model file: it should begin with {LLMC_MAGIC}; for a Hugging "
            "Face pytorch_model.bin give its folder"
        )
    version, n_positions, vocab, n_layer, n_head, n_embd, padded = map(int, header[1:8])
    if version not in _LLMC_TYPES:
        raise UserError(f"{path}: llm.c version {version} is not 3 (float32) or 5 (bfloat16)")
    config = GPT2Config(
        n_layer=n_layer, n_head=n_head, n_embd=n_embd, n_positions=n_positions, vocab_size=vocab
    )
    dtype, stored = _LLMC_TYPES[version]
    d, layers = n_embd, n_layer
    stacked: list[tuple[str, tuple[int, ...]]] = [
        ("ln_1.weight", (d,)),
        ("ln_1.bias", (d,)),
        ("attn.c_attn.weight", (3 * d, d)),
        ("attn.c_attn.bias", (3 * d,)),
        ("attn.c_proj.weight", (d, d)),
        ("attn.c_proj.bias", (d,)),
        ("ln_2.weight", (d,)),
        ("ln_2.bias", (d,)),
        ("mlp.c_fc.weight", (4 * d, d)),
        ("mlp.c_fc.bias", (4 * d,)),
        ("mlp.c_proj.weight", (d, 4 * d)),
        ("mlp.c_proj.bias", (d,)),
    ]
    layout: list[tuple[str, tuple[int, ...]]] = [
        ("wte.weight", (padded, d)),
        ("wpe.weight", (n_positions, d)),
        *((f"h.*.{name}", (layers, *shape)) for name, shape in stacked),
        ("ln_f.weight", (d,)),
        ("ln_f.bias", (d,)),
    ]
    wanted = 1024 + stored.itemsize * sum(int(np.prod(s, dtype=np.int64)) for _, s in layout)
    if path.stat().st_size != wanted:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes, its header asks for {wanted}; it is "
            "truncated or damaged, fetch or write it again"
        )
    tensors: dict[str, Tensor] = {}
    at = 1024
    for name, shape in layout:
        count = int(np.prod(shape, dtype=np.int64))
        array = np.fromfile(path, stored, count, offset=at).reshape(shape)
        at += array.nbytes
        t = torch.from_numpy(array.view("<i2") if dtype is torch.bfloat16 else array)
        t = t.view(torch.bfloat16) if dtype is torch.bfloat16 else t
        if not name.startswith("h.*."):
            tensors[name] = t[:vocab] if name == "wte.weight" else t
            continue
        for layer in range(layers):
            one = t[layer]
            tensors[name.replace("*", str(layer))] = one.t() if one.ndim == 2 else one
    return build(config, LoadedTensors(path, tensors))
