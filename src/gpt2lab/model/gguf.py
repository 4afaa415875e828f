"""GGUF, the file that llama.cpp and Ollama run, written with its authors' package, and read back.

Names and layout are those of llama.cpp's `gpt2` architecture: maps as [n_out, n_in], norms, biases
and positions in float32, and no head, which llama.cpp takes from the token table.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.model.checkpoint import TRANSPOSED, build, expected_shapes
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.quantize import TABLE, require_floats
from gpt2lab.model.tensors import LoadedTensors
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_file
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.vocabulary import Vocabulary, from_visible, to_visible

Form = Literal["f32", "f16", "q8_0"]
ARCHITECTURE = "gpt2"
# q8_0 rounds blocks of 32 numbers of a row.
_BLOCK = 32
_TABLES = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
}
_HEAD = "output.weight"
_BLOCKS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
# Of float16.
_LARGEST = 65504.0
# Bytes of a value by its type in a file's header; 8 is a string, 9 an array.
_VALUES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def write_gguf(path: Path, model: GPT2, tokenizer: Tokenizer, form: Form, name: str) -> None:
    """Write a model as one file that llama.cpp opens.

    form: of the matrices; q8_0 leaves those whose rows are no multiple of 32 long in f16.
    name: what the file calls the model.
    """
    gguf = _package()
    require_floats(model)
    config = model.config
    if config.activation != "gelu_tanh":
        raise UserError(
            "the model has the exact GELU, llama.cpp's GPT-2 the tanh form; it cannot be a GGUF"
        )
    kinds = gguf.GGMLQuantizationType
    wanted = {"f32": kinds.F32, "f16": kinds.F16, "q8_0": kinds.Q8_0}[form]
    types = {}
    for theirs, ours in _names(config):
        kind = wanted
        shape = _own(model, ours).shape
        if len(shape) == 1 or ours == "wpe.weight":
            kind = kinds.F32
        elif wanted is kinds.Q8_0 and shape[1] % _BLOCK:
            kind = kinds.F16
        types[theirs] = (ours, kind)
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        _describe(writer, gguf, config, name, form)
        _write_tokens(writer, tokenizer, config.vocab_size)
        for theirs, (ours, kind) in types.items():
            shape = _own(model, ours).shape
            rows, columns = (1, *shape)[-2:]
            size, bytes_each = gguf.GGML_QUANT_SIZES[kind]
            count = rows * columns // size * bytes_each
            writer.add_tensor_info(theirs, shape, np.dtype(np.float32), count, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for ours, kind in types.values():
            data = _own(model, ours).float().contiguous().cpu().numpy()
            if kind is not kinds.F32 and np.abs(data).max() > _LARGEST:
                raise UserError(f"{ours} has numbers too large for {form}; take f32")
            writer.write_tensor_data(gguf.quants.quantize(data, kind))
        writer.close()


def _own(model: GPT2, name: str) -> Tensor:
    """A weight as the model holds it, which is llama.cpp's layout, without padding."""
    t = model.get_parameter(name).detach()
    return t[: model.config.vocab_size] if name == TABLE else t


def _rows(name: str, t: Tensor) -> Tensor:
    return t.t() if name.endswith(TRANSPOSED) else t


def _names(config: GPT2Config) -> Iterator[tuple[str, str]]:
    """GGUF's name of each tensor, and Hugging Face's."""
    for name in expected_shapes(config):
        if name in _TABLES:
            yield _TABLES[name], name
            continue
        _, layer, rest = name.split(".", 2)
        part, _, leaf = rest.rpartition(".")
        yield f"blk.{layer}.{_BLOCKS[part]}.{leaf}", name


def _describe(writer: Any, gguf: Any, config: GPT2Config, name: str, form: Form) -> None:
    kinds = gguf.LlamaFileType
    writer.add_name(name)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(
        {"f32": kinds.ALL_F32, "f16": kinds.MOSTLY_F16, "q8_0": kinds.MOSTLY_Q8_0}[form]
    )


def _write_tokens(writer: Any, tokenizer: Tokenizer, rows: int) -> None:
    vocabulary = tokenizer.vocabulary
    tokens = [""] * rows
    kinds = [_UNUSED] * rows
    for token, i in vocabulary.ids.items():
        tokens[i], kinds[i] = to_visible(token), _NORMAL
    for text, i in vocabulary.specials.items():
        tokens[i], kinds[i] = text, _CONTROL
    for i in range(vocabulary.size, rows):
        tokens[i] = f"[PAD{i}]"
    end = tokenizer.end_of_text
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{to_visible(a)} {to_visible(b)}" for a, b in vocabulary.merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_unk_token_id(end)
    writer.add_add_bos_token(False)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def read_gguf(path: Path) -> tuple[GPT2, Tokenizer]:
    """The model in float32, and its tokenizer; numbers that were rounded stay so.

    Raises UserError if the file is damaged, or holds another architecture.
    """
    gguf = _package()
    _require_whole_header(path)
    try:
        reader = gguf.GGUFReader(path)
        found = {tensor.name: tensor for tensor in reader.tensors}
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (ValueError, LookupError, OSError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}); fetch it again") from None
    kind = fields.get("general.architecture")
    if kind != ARCHITECTURE:
        raise UserError(f"{path} holds a {kind!r} model; only gpt2 can be read")
    config = _read_config(path, fields, found)
    _require_apart(path, reader.data_offset, found)
    names = dict(_names(config)) | {_HEAD: "lm_head.weight"}
    tensors: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        if theirs not in found and theirs != _HEAD:
            raise UserError(f"{path}: tensor {theirs!r} is missing; fetch the file again")
        if theirs in found:
            tensors[ours] = _rows(ours, _dequantized(gguf, path, found[theirs]))
    for theirs in found:
        if theirs not in names:
            raise UserError(f"{path}: tensor {theirs!r} is not part of a GPT-2 of its shape")
    return build(config, LoadedTensors(path, tensors)), Tokenizer(_read_vocabulary(path, fields))


def _dequantized(gguf: Any, path: Path, tensor: Any) -> Tensor:
    try:
        data: npt.NDArray[Any] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except (RuntimeError, ValueError, LookupError, TypeError):
        kind = tensor.tensor_type.name
        raise UserError(f"{path}: {tensor.name!r} is {kind}, which cannot be read") from None
    shape = tuple(int(n) for n in reversed(tensor.shape))
    return torch.from_numpy(np.array(data, np.float32).reshape(shape))


def _require_apart(path: Path, begin: int, found: dict[str, Any]) -> None:
    """Raise UserError if tensors lie over each other, or over the header."""
    end = begin
    for tensor in sorted(found.values(), key=lambda t: int(t.data_offset)):
        if int(tensor.data_offset) < end:
            raise UserError(f"{path}: {tensor.name!r} lies over what is before it; fetch it again")
        end = int(tensor.data_offset) + int(tensor.n_bytes)


def _require_whole_header(path: Path) -> None:
    """Raise UserError if a file says that it holds more than it can; its reader would go on."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic, _, tensors, count = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            if tensors + count > size:
                raise ValueError("it counts more entries than it has bytes")
            for _ in range(count):
                _skip(file, size, *struct.unpack("<Q", file.read(8)))
                kind = int.from_bytes(file.read(4), "little")
                many = 1
                if kind == _ARRAY:
                    kind, many = struct.unpack("<IQ", file.read(12))
                if many > size:
                    raise ValueError("a list is longer than the file")
                if kind == _STRING:
                    for _ in range(many):
                        _skip(file, size, *struct.unpack("<Q", file.read(8)))
                else:
                    _skip(file, size, many * _VALUES[kind])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}); fetch it again") from None


def _skip(file: BinaryIO, size: int, count: int) -> None:
    if count > size - file.tell():
        raise ValueError("it ends within its header")
    file.seek(count, 1)


def _read_config(path: Path, fields: dict[str, Any], found: dict[str, Any]) -> GPT2Config:
    names = {
        "n_layer": "block_count", "n_head": "attention.head_count", "n_embd": "embedding_length",
        "n_positions": "context_length",
    }  # fmt: skip
    shape: dict[str, Any] = {
        ours: fields.get(f"{ARCHITECTURE}.{theirs}") for ours, theirs in names.items()
    }
    table = found.get("token_embd.weight")
    if table is not None:
        shape["vocab_size"] = int(table.shape[1])
    for name, value in shape.items():
        if type(value) is not int or not 0 < value < 2**24:
            raise UserError(f"{path}: {name} is {value!r}; it must be a positive whole number")
    epsilon = fields.get(f"{ARCHITECTURE}.attention.layer_norm_epsilon", 1e-5)
    if not isinstance(epsilon, float) or abs(epsilon - 1e-5) > 1e-9:
        raise UserError(f"{path}: layer_norm_epsilon is {epsilon}, GPT-2's 1e-5; cannot load it")
    if shape["n_layer"] > len(found):  # before a hostile file can ask for a billion layers
        raise UserError(f"{path} names more layers than it has tensors; fetch it again")
    try:
        return GPT2Config(**shape)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_vocabulary(path: Path, fields: dict[str, Any]) -> Vocabulary:
    tokens, kinds, merges = (
        fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges")
    )
    if not (isinstance(tokens, list) and isinstance(kinds, list) and isinstance(merges, list)):
        raise UserError(f"{path} holds no vocabulary with merges, as GPT-2's is; fetch it again")
    try:
        ids = {from_visible(t): i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True))
               if kind == _NORMAL}  # fmt: skip
        pairs = [tuple(map(from_visible, merge.split(" "))) for merge in merges]
        joined = tuple((left, right) for left, right in pairs)
    except (KeyError, ValueError, AttributeError, TypeError):
        raise UserError(f"{path}: its tokens or merges are not GPT-2's kind") from None
    specials = {t: i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True))
                if kind == _CONTROL}  # fmt: skip
    template = fields.get("tokenizer.chat_template")
    return Vocabulary(
        ids, joined, specials, str(path), template if isinstance(template, str) else None
    )


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF needs its package; pip install 'gpt2lab[export]'") from None
    return gguf
