"""Where weights come from: tensors by name, in memory or in safetensors files, read one by one."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.model.memory import scratch
from gpt2lab.storage import read_json

INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorSource(Mapping[str, Tensor]):
    """Tensors by Hugging Face name, read one at a time; `shapes` are known before any is read."""

    def __init__(self, where: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.where = where
        self.shapes = shapes

    def __getitem__(self, name: str) -> Tensor:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class LoadedTensors(TensorSource):
    """Tensors that are in memory already."""

    def __init__(self, where: Path, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(where, {name: tuple(t.shape) for name, t in tensors.items()})
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]


class _Place(NamedTuple):
    file: Path
    start: int
    size: int
    dtype: torch.dtype


class SafeTensors(TensorSource):
    """One or several safetensors files.

    Tensors are read, not mapped: mapped pages count as memory until the last tensor is gone.
    """

    def __init__(self, where: Path, files: list[Path]) -> None:
        self._places: dict[str, _Place] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            try:
                with safe_open(file, framework="pt"):  # refuses headers that do not fit the file
                    pass
                with file.open("rb") as opened:
                    header, begin = _header(opened)
            except FileNotFoundError:
                raise UserError(f"{file} is missing; copy every file of the checkpoint") from None
            except (SafetensorError, OSError, ValueError) as error:
                raise UserError(
                    f"{file} is not a whole safetensors file ({error}); fetch or save it again"
                ) from None
            for key, entry in header.items():
                name, kind = hf_name(key), entry["dtype"]
                if kind not in _DTYPES:
                    raise UserError(f"{file}: tensor {key!r} is {kind}, which no GPT-2 is saved in")
                start, end = entry["data_offsets"]
                shapes[name] = tuple(entry["shape"])
                self._places[name] = _Place(file, begin + start, end - start, _DTYPES[kind])
        super().__init__(where, shapes)

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        data = scratch(place.size)
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.start)
            view = memoryview(cast(Any, data.numpy()))
            while view:
                count = file.readinto(view)
                if not count:
                    raise UserError(f"{place.file} ends within {name!r}; fetch or save it again")
                view = view[count:]
        return data.view(place.dtype).view(self.shapes[name])


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    get: Callable[[str], Tensor],
) -> None:
    """Write a safetensors file of tensors that are made one by one; only one is held at a time.

    get: the tensor of a name, of its shape and of `dtype`. Raises OSError if the disk refuses.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    kind = next(kind for kind, known in _DTYPES.items() if known is dtype)
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in shapes.items():
            t = get(name).detach().cpu().contiguous()
            if t.dtype is not dtype or tuple(t.shape) != shape:
                raise ValueError(f"{name} is {t.dtype} {list(t.shape)}, not {dtype} {list(shape)}")
            file.write(cast(Any, t.view(-1).view(torch.uint8).numpy()))


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The tensors' entries of a file that safetensors has accepted, and where their data begins."""
    size = int.from_bytes(file.read(8), "little")
    table = json.loads(file.read(size))
    table.pop("__metadata__", None)
    return table, 8 + size


def hf_name(key: str) -> str:
    """A tensor's name without the prefixes that trainers and wrappers leave on it."""
    for prefix in ("_orig_mod.", "module.", "transformer."):
        key = key.removeprefix(prefix)
    return key


def sharded_files(index: Path) -> list[Path]:
    """The files an index names, in order; names that lead out of the folder are refused."""
    table = read_json(index)
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map; fetch it again")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if not name or Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which lies outside its folder; refused")
    return [index.with_name(name) for name in names]
