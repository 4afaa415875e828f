"""A checkpoint for others to open: Hugging Face folders in any float format, whole or in shards."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.model.checkpoint import (
    METADATA,
    Checkpoint,
    file_shapes,
    named_tensor,
    to_hf_config,
)
from gpt2lab.model.quantize import require_floats
from gpt2lab.model.tensors import INDEX, write_safetensors
from gpt2lab.storage import atomic_folder, write_json

Floats = Literal["f32", "f16", "bf16"]
FORMATS: dict[Floats, torch.dtype] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}


def write_huggingface(
    folder: Path,
    checkpoint: Checkpoint,
    form: Floats | None = None,
    *,
    shard_bytes: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder that transformers, vLLM and llama.cpp's converter open.

    form: the weights' own if not given. shard_bytes: the most bytes of one file of weights.
    Raises UserError if a weight does not fit the format.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    require_floats(model)
    if shard_bytes is not None and shard_bytes < 1:
        raise UserError(f"the size of a shard is {shard_bytes} bytes; it must be at least 1")
    config = to_hf_config(model, tokenizer.end_of_text if tokenizer else None)
    dtype = model.wpe.weight.dtype if form is None else FORMATS[form]
    config["dtype"] = str(dtype).removeprefix("torch.")
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_json(temporary / "config.json", config)
        write_weights(
            temporary, file_shapes(model.config), dtype, partial(named_tensor, model), shard_bytes
        )  # fmt: skip
        if tokenizer:
            tokenizer.save(temporary, max_length=model.config.n_positions)
        write_json(temporary / METADATA, dict(checkpoint.metadata))


def write_weights(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    get: Callable[[str], Tensor],
    shard_bytes: int | None = None,
) -> None:
    """Write safetensors of one file, or of shards and their index; one tensor is held at a time.

    get: the tensor of a name of `shapes`, in any float format.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    drafts = {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()
    }
    plan = split_torch_state_dict_into_shards(
        drafts, filename_pattern="model{suffix}.safetensors", max_shard_size=shard_bytes or 2**60
    )

    def cast(name: str) -> Tensor:
        return _cast(name, get(name), dtype)

    for file, names in plan.filename_to_tensors.items():
        part = {name: shapes[name] for name in names}
        write_safetensors(folder / file, part, dtype, cast)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / INDEX, index)


def _cast(name: str, t: Tensor, dtype: torch.dtype) -> Tensor:
    cast = t.to(dtype)
    if cast.dtype is not t.dtype and not cast.isfinite().all():
        form = next(form for form, known in FORMATS.items() if known is dtype)
        raise UserError(f"{name} has numbers too large for {form}; take bf16 or f32")
    return cast
