"""OpenAI's original checkpoints (`model.ckpt.*`) read without TensorFlow.

A TensorFlow "tensor bundle" is an index, which is a LevelDB table of protocol-buffer records
(tensorflow/core/protobuf/tensor_bundle.proto), and data files of raw little-endian arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.tensors import TensorSource
from gpt2lab.storage import read_json

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_MAX_INDEX = 64 * 2**20
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    19: np.dtype("<f2"),
}  # DT_FLOAT, _DOUBLE, _HALF

_NAMES = {
    "attn/c_attn/w": "attn.c_attn.weight",
    "attn/c_attn/b": "attn.c_attn.bias",
    "attn/c_proj/w": "attn.c_proj.weight",
    "attn/c_proj/b": "attn.c_proj.bias",
    "mlp/c_fc/w": "mlp.c_fc.weight",
    "mlp/c_fc/b": "mlp.c_fc.bias",
    "mlp/c_proj/w": "mlp.c_proj.weight",
    "mlp/c_proj/b": "mlp.c_proj.bias",
    "ln_1/g": "ln_1.weight",
    "ln_1/b": "ln_1.bias",
    "ln_2/g": "ln_2.weight",
    "ln_2/b": "ln_2.bias",
}
_TOP = {
    "wte": "wte.weight",
    "wpe": "wpe.weight",
    "ln_f/g": "ln_f.weight",
    "ln_f/b": "ln_f.bias",
}


class _Damaged(Exception):
    """The index does not follow its format."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: element type, shape, data file and byte range."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


class TensorBundle(TensorSource):
    """The GPT-2 weights of a TensorFlow checkpoint, under their Hugging Face names."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        index = prefix.with_name(prefix.name + ".index")
        self._shards, entries = read_index(index)
        self._entries = {_hf_name(name): e for name, e in entries.items() if _is_weight(name)}
        shapes = {}
        for name, entry in self._entries.items():
            # Conv1D weights carry a leading axis of one.
            squeeze = len(entry.shape) == 3 and entry.shape[0] == 1
            shapes[name] = entry.shape[1:] if squeeze else entry.shape
        super().__init__(index, shapes)

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        file = self._prefix.with_name(
            f"{self._prefix.name}.data-{entry.shard:05d}-of-{self._shards:05d}"
        )
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise UserError(f"{file}: tensor {name!r} is not floating point; it is no GPT-2 weight")
        count = int(np.prod(entry.shape, dtype=np.int64))
        if count * dtype.itemsize != entry.size:
            raise UserError(f"{file}: tensor {name!r} has a size that contradicts its shape")
        try:
            whole = file.stat().st_size
            if entry.offset + entry.size > whole:
                raise UserError(
                    f"{file} ends at byte {whole}, inside tensor {name!r}; the file is truncated, "
                    "fetch it again"
                )
            array = np.fromfile(file, dtype, count, offset=entry.offset)
        except FileNotFoundError:
            raise UserError(f"{file} is missing; copy every file of the checkpoint") from None
        return torch.from_numpy(array.reshape(self.shapes[name]))


def read_hparams(path: Path) -> GPT2Config:
    """OpenAI's hparams.json as a config."""
    table = read_json(path)
    names = {
        "n_vocab": "vocab_size",
        "n_ctx": "n_positions",
        "n_embd": "n_embd",
        "n_head": "n_head",
        "n_layer": "n_layer",
    }
    table = table if isinstance(table, dict) else {}
    missing = [name for name in names if type(table.get(name)) is not int]
    if missing:
        raise UserError(f"{path}: {missing[0]!r} is missing or no whole number")
    return GPT2Config(**{ours: table[theirs] for theirs, ours in names.items()})


def _is_weight(name: str) -> bool:
    """Model variables, not an optimizer's copies of them nor its step counter."""
    return name.startswith("model/") and "Adam" not in name


def _hf_name(name: str) -> str:
    rest = name.removeprefix("model/")
    if rest in _TOP:
        return _TOP[rest]
    layer, _, inner = rest.partition("/")
    if layer.startswith("h") and inner in _NAMES:
        return f"h.{layer[1:]}.{_NAMES[inner]}"
    return name  # unknown: `build` names and refuses it


def read_index(path: Path) -> tuple[int, dict[str, Entry]]:
    """Number of data files, and every tensor's entry by its TensorFlow name."""
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise UserError(f"{path} is larger than {_MAX_INDEX >> 20} MiB; it is no index")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; copy every file of the checkpoint") from None
    try:
        records = dict(_table(data))
        header = dict(_fields(records.pop(b"")))
        if header.get(2, 0) != 0:
            raise _Damaged("big-endian data")
        entries = {name.decode(): _entry(value) for name, value in records.items()}
        return int(header.get(1, 1)), entries
    except (_Damaged, KeyError, IndexError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} is not a TensorFlow checkpoint index ({error!r}); fetch it again"
        ) from None


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise _Damaged("no table footer")
    footer = data[-_FOOTER:]
    _, at = _varint(footer, 0)  # the metaindex block, unused
    _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, at = _varint(footer, at)
    for _, handle in _block(data, offset, size):
        start, at = _varint(handle, 0)
        length, _ = _varint(handle, at)
        yield from _block(data, start, length)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of one block; each key shares a prefix with the one before."""
    if offset + size + 5 > len(data):
        raise _Damaged("a block reaches past the end")
    if data[offset + size] != 0:
        raise _Damaged("compressed blocks")  # TensorFlow writes bundle indexes uncompressed
    block = data[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        added, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + added]
        at += added
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _Damaged("a number is too long")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protocol-buffer message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif kind == 2:
            length, at = _varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise _Damaged(f"wire type {kind}")


def _entry(message: bytes) -> Entry:
    found: dict[int, int] = {}
    shape: list[int] = []
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            for inner, dim in _fields(value):
                if inner == 2 and isinstance(dim, bytes):
                    sizes = dict(_fields(dim))
                    shape.append(int(sizes.get(1, 0)))
        elif isinstance(value, int):
            found[number] = value
    return Entry(
        dtype=found.get(1, 0),
        shape=tuple(shape),
        shard=found.get(3, 0),
        offset=found.get(4, 0),
        size=found.get(5, 0),
    )
