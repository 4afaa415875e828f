"""Checkpoint folders, laid out exactly as Hugging Face's `GPT2LMHeadModel` lays them out.

`config.json`, `model.safetensors` and the tokenizer's files open in transformers, vLLM and
llama.cpp's converter as they are; `gpt2lab.json` beside them records how the weights came to be.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.model.config import Activation, GPT2Config
from gpt2lab.model.memory import give_back, own_copy
from gpt2lab.model.quantize import (
    FLOATS,
    FORMATS,
    GROUP,
    TABLE,
    Rounded,
    check,
    form_of,
    is_matrix,
    replace,
    restored,
    rounded,
    stored,
)
from gpt2lab.model.tensors import (
    INDEX,
    SafeTensors,
    TensorSource,
    sharded_files,
    write_safetensors,
)
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder, read_json, write_json
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.hub import MODEL_FILES, fetch

WEIGHTS = "model.safetensors"
METADATA = "gpt2lab.json"
METHOD = "gpt2lab"
PREFIX = "transformer."

# OpenAI stores these as [n_in, n_out] ("Conv1D"); nn.Linear is the transpose.
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu_erf",
}


@dataclass
class Checkpoint:
    """A model with its tokenizer (None if its folder has none) and what is known of its making."""

    model: GPT2
    tokenizer: Tokenizer | None
    metadata: dict[str, Any] = field(default_factory=dict)

    def require_tokenizer(self, source: str) -> Tokenizer:
        """The tokenizer; UserError if there is none. source: what the model was loaded from."""
        if self.tokenizer is None:
            raise UserError(f"{source} has no tokenizer; put vocab.json and merges.txt there")
        return self.tokenizer


def save(
    folder: str | Path,
    model: GPT2,
    tokenizer: Tokenizer | None,
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint folder in one atomic step; UserError if it exists or the disk refuses."""
    with atomic_folder(Path(folder), overwrite=overwrite) as temporary:
        write_into(temporary, model, tokenizer, metadata)


def write_into(
    folder: Path, model: GPT2, tokenizer: Tokenizer | None, metadata: Mapping[str, Any]
) -> None:
    """Write a checkpoint's files into a folder that exists; OSError if the disk refuses."""
    end_of_text = tokenizer.end_of_text if tokenizer else None
    write_json(folder / "config.json", to_hf_config(model, end_of_text))
    if whole := _rounded_tensors(model):
        tensors = {PREFIX + name: t for name, t in (to_hf_tensors(model) | whole).items()}
        try:
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise disk_error(error) from error
    else:
        write_safetensors(
            folder / WEIGHTS, file_shapes(model.config), model.wpe.weight.dtype,
            partial(named_tensor, model),
        )  # fmt: skip
    if tokenizer:
        tokenizer.save(folder, max_length=model.config.n_positions)
    write_json(folder / METADATA, dict(metadata))


def disk_error(error: SafetensorError) -> OSError:
    """The OSError inside a safetensors error, which names its number only in the text."""
    digits = str(error).partition("os error ")[2].split(")")[0]
    return OSError(int(digits) if digits.isdigit() else 0, str(error))


def to_hf_config(model: GPT2, end_of_text: int | None) -> dict[str, Any]:
    """The model's shape as transformers' `GPT2Config` writes it."""
    c = model.config
    activation = "gelu_new" if c.activation == "gelu_tanh" else "gelu"
    rounded = model.get_submodule("h.0.attn.c_attn")
    rounding = {}
    if isinstance(rounded, Rounded):
        facts = {"quant_method": METHOD, "format": rounded.form, "group": GROUP}
        rounding = {"quantization_config": facts}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "n_ctx": c.n_positions,
        "n_positions": c.n_positions,
        "vocab_size": c.vocab_size,
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": str(model.wpe.weight.dtype).removeprefix("torch."),
    } | rounding


def from_hf_config(path: Path) -> GPT2Config:
    """Read transformers' config.json; UserError if it describes no GPT-2."""
    table = read_json(path)
    kind = table.get("model_type") if isinstance(table, dict) else None
    if kind != "gpt2":
        raise UserError(f"{path}: model_type is {kind!r}, not 'gpt2'; only GPT-2 can be loaded")
    activation = table.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise UserError(f"{path}: activation_function {activation!r} is not GPT-2's gelu_new")
    if table.get("layer_norm_epsilon", 1e-5) != 1e-5 or table.get("tie_word_embeddings") is False:
        raise UserError(f"{path}: layer_norm_epsilon or an untied head differ from GPT-2's")
    unlike = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    }
    for name, usual in unlike.items():
        if table.get(name, usual) is not usual:
            raise UserError(f"{path}: {name} is {table[name]}, which GPT-2 has not; cannot load it")
    fields = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    shape = {name: table[name] for name in fields if name in table}
    for name, value in shape.items():
        if type(value) is not int or not 0 < value < 2**24:
            raise UserError(f"{path}: {name} is {value!r}; it must be a positive whole number")
    config = GPT2Config(**shape, activation=_ACTIVATIONS[activation])
    if table.get("n_inner") not in (None, 4 * config.n_embd):
        raise UserError(f"{path}: n_inner {table['n_inner']} is not 4 * n_embd as in GPT-2")
    return config


def to_hf_tensors(model: GPT2) -> dict[str, Tensor]:
    """The weights under transformers' names and layout, without vocabulary padding."""
    return {name: to_hf_tensor(model, name) for name, _ in model.named_parameters()}


def named_tensor(model: GPT2, key: str) -> Tensor:
    """A weight as a file of transformers names it."""
    return to_hf_tensor(model, key.removeprefix(PREFIX))


def to_hf_tensor(model: GPT2, name: str) -> Tensor:
    """One of them."""
    t = model.get_parameter(name).detach()
    if name == TABLE:
        t = t[: model.config.vocab_size]
    elif name.endswith(TRANSPOSED):
        t = t.t()
    return t.contiguous()


def _rounded_tensors(model: GPT2) -> dict[str, Tensor]:
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, Rounded):
            q_NK, scale = module.plain()
            tensors[f"{name}.weight"] = stored(module.form, q_NK)
            tensors[f"{name}.weight_scale"] = scale.contiguous()
    return tensors


def _rounded_shapes(config: GPT2Config, form: str) -> dict[str, tuple[int, ...]]:
    """Shapes in a folder of rounded weights: [n_out, n_in], bytes of two for int4, and scales."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_shapes(config).items():
        if not is_matrix(name):
            shapes[name] = shape
            continue
        n, k = shape if name == TABLE else shape[::-1]
        four = form_of(name, form) == "int4"
        groups = -(-k // GROUP)
        shapes[name] = (n, groups * GROUP // 2) if four else (n, k)
        shapes[f"{name}_scale"] = (n, groups) if four else (n,)
    return shapes


def _stored_form(path: Path) -> str | None:
    """The format of a folder of rounded weights; None for floats."""
    table = read_json(path)
    found = table.get("quantization_config") if isinstance(table, dict) else None
    if found is None:
        return None
    form = found.get("format") if isinstance(found, dict) else None
    known = form in FORMATS and form not in FLOATS and found.get("quant_method") == METHOD
    if not known or found.get("group") != GROUP:
        raise UserError(f"{path}: weights quantized as {found}; load the model they were made from")
    return str(form)


def expected_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a GPT-2 of this shape under its Hugging Face name, with its shape."""
    d = config.n_embd
    block = {
        "ln_1.weight": (d,),
        "ln_1.bias": (d,),
        "attn.c_attn.weight": (d, 3 * d),
        "attn.c_attn.bias": (3 * d,),
        "attn.c_proj.weight": (d, d),
        "attn.c_proj.bias": (d,),
        "ln_2.weight": (d,),
        "ln_2.bias": (d,),
        "mlp.c_fc.weight": (d, 4 * d),
        "mlp.c_fc.bias": (4 * d,),
        "mlp.c_proj.weight": (4 * d, d),
        "mlp.c_proj.bias": (d,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocab_size, d),
        "wpe.weight": (config.n_positions, d),
    }
    for layer in range(config.n_layer):
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | {"ln_f.weight": (d,), "ln_f.bias": (d,)}


def file_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The same under the names that transformers' files have."""
    return {PREFIX + name: shape for name, shape in expected_shapes(config).items()}


def _is_buffer(name: str) -> bool:
    """Old transformers saved each block's causal mask; it is not a weight."""
    return name.endswith((".attn.bias", ".attn.masked_bias"))


def build(
    config: GPT2Config,
    source: TensorSource,
    form: str = "float32",
    held: str | None = None,
    device: torch.device | str = "cpu",
) -> GPT2:
    """A model of shape `config` with the weights of `source`, every tensor checked first.

    form: the model's number format (`quantize.FORMATS`); held: the one that `source` has rounded
    its weights to, if it has. Weights are converted one by one, so that no second model is needed.
    Raises UserError naming the file and tensor that is missing, misshapen or unknown.
    """
    _check_tensors(config, source, held)
    with torch.device("meta"):
        model = GPT2(config)
    names, rows = list(expected_shapes(config)), config.vocab_size
    rounding = form not in FLOATS
    for name in names:
        if not (rounding and is_matrix(name)):
            dtype = FLOATS.get(form, torch.float32)
            _set(model, name, _float(config, source, name).to(device, dtype))
    for name in filter(is_matrix, names if rounding else ()):
        of = form_of(name, form)
        if held:
            whole, scale = _rounded(source, name, of)
            replace(model, name, of, whole.to(device), scale.to(device))
        else:
            weight_NK = _float(config, source, name).to(device)
            replace(model, name, of, *rounded(of, weight_NK[: rows if name == TABLE else None]))
    return model.requires_grad_(True).eval()


def _rounded(source: TensorSource, name: str, form: str) -> tuple[Tensor, Tensor]:
    """A weight's whole numbers and scales from a folder of rounded weights."""
    whole, scale = source[name], source[f"{name}_scale"]
    wanted = (torch.uint8, torch.bfloat16) if form == "int4" else (torch.int8, torch.float32)
    for key, t, dtype in ((name, whole, wanted[0]), (f"{name}_scale", scale, wanted[1])):
        if t.dtype is not dtype:
            kinds = (str(d).removeprefix("torch.") for d in (t.dtype, dtype))
            raise UserError(f"{source.where}: tensor {key!r} is {' and should be '.join(kinds)}")
    _check_finite(source, f"{name}_scale", scale)
    return restored(form, whole), scale


def _float(config: GPT2Config, source: TensorSource, name: str) -> Tensor:
    """A tensor in the model's layout."""
    t = source[name]
    _check_finite(source, name, t)
    t = t.t() if name.endswith(TRANSPOSED) else t
    if name == TABLE and config.padded_vocab_size > config.vocab_size:
        t = torch.cat([t, t.new_zeros(config.padded_vocab_size - config.vocab_size, t.shape[1])])
    return t


def _check_finite(source: TensorSource, name: str, t: Tensor) -> None:
    if not all(math.isfinite(end) for end in t.aminmax()):
        raise UserError(f"{source.where}: tensor {name!r} holds NaN or infinity; save it again")


def _set(model: GPT2, name: str, t: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, torch.nn.Parameter(own_copy(t)))


def _check_tensors(config: GPT2Config, source: TensorSource, held: str | None) -> None:
    if config.n_layer > len(source):  # before a hostile config can ask for a billion layers
        raise UserError(
            f"{source.where}: config says {config.n_layer} layers, but only {len(source)} tensors "
            "are there; the files do not belong together"
        )
    wanted = _rounded_shapes(config, held) if held else expected_shapes(config)
    for name, shape in wanted.items():
        if name not in source.shapes:
            raise UserError(
                f"{source.where}: tensor {name!r} is missing; fetch or save the checkpoint again"
            )
        if source.shapes[name] != shape:
            raise UserError(
                f"{source.where}: tensor {name!r} has shape {list(source.shapes[name])}, but the "
                f"config asks for {list(shape)}; the files do not belong together"
            )
    for name in source.shapes:
        if name not in wanted and not _is_buffer(name) and name != "lm_head.weight":
            raise UserError(f"{source.where}: tensor {name!r} is not part of a GPT-2")
    if "lm_head.weight" in source.shapes and not torch.equal(
        source["lm_head.weight"], source["wte.weight"]
    ):
        raise UserError(
            f"{source.where}: 'lm_head.weight' differs from 'wte.weight'; GPT-2's head is tied, "
            "so this model cannot be held"
        )


def read_folder(folder: Path, dtype: str | None = None, device: torch.device | str = "cpu") -> GPT2:
    """The model of a Hugging Face folder with safetensors, whole or sharded, in a number format.

    dtype: one of `quantize.FORMATS`; without it the format of a folder of rounded weights, else
    float32.
    """
    config, held = from_hf_config(folder / "config.json"), _stored_form(folder / "config.json")
    form = dtype or held or "float32"
    check(form)
    if held and {form, held} not in ({held}, {"int8", "int8-weight"}):
        raise UserError(
            f"{folder} holds {held} weights, which cannot be turned into {form}; load the model "
            "they were made from"
        )
    files = weight_files(folder)
    return build(config, SafeTensors(files[0], files), form, held, device)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder, in order."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        return sharded_files(folder / INDEX)
    raise UserError(
        f"{folder} has no {WEIGHTS}; if it holds another form, run: gpt2lab import {folder} OUT"
    )


def folder_of(source: str | Path) -> Path:
    """The folder of a checkpoint: as given, a run's finished model, or fetched by its name."""
    folder = Path(source)
    if not folder.exists():
        folder = fetch(str(source), MODEL_FILES)
    if not folder.is_dir():
        raise UserError(f"{source} is a file; to bring it in, run: gpt2lab import {source} OUT")
    if (folder / "model" / "config.json").exists() and not (folder / "config.json").exists():
        return folder / "model"
    return folder


def load(
    source: str | Path, dtype: str | None = None, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Load a checkpoint folder, a published size by name, or `hf:owner/name`.

    dtype: `float32` (the default for folders of floats), `bfloat16`, `int8`, `int8-weight` or
    `int4`; see `gpt2lab.model.quantize`. device: where the weights go.

    Raises UserError with what to put where, if the source cannot be read.
    """
    folder = folder_of(source)
    model = read_folder(folder, dtype, device)
    give_back()
    has_tokenizer = any((folder / name).exists() for name in ("tokenizer.json", "vocab.json"))
    tokenizer = Tokenizer.load(folder) if has_tokenizer else None
    if tokenizer and tokenizer.size > model.config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.size} ids, the model only "
            f"{model.config.vocab_size}; the files do not belong together"
        )
    metadata = read_json(folder / METADATA) if (folder / METADATA).exists() else {}
    return Checkpoint(model, tokenizer, metadata)
