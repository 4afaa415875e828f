"""A checkpoint for others to open: Hugging Face folders in any float format, whole or in shards."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gpt2lab.errors import UserError
from gpt2lab.model.checkpoint import METADATA, Checkpoint, disk_error, to_hf_config, to_hf_tensors
from gpt2lab.model.quantize import require_floats
from gpt2lab.model.tensors import INDEX
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
    from huggingface_hub import split_torch_state_dict_into_shards

    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    require_floats(model)
    if shard_bytes is not None and shard_bytes < 1:
        raise UserError(f"the size of a shard is {shard_bytes} bytes; it must be at least 1")
    config = to_hf_config(model, tokenizer.end_of_text if tokenizer else None)
    tensors = {f"transformer.{name}": t for name, t in to_hf_tensors(model).items()}
    if form is not None:
        dtype = FORMATS[form]
        config["dtype"] = str(dtype).removeprefix("torch.")
        for name, t in tensors.items():
            tensors[name] = t.to(dtype)
            if not tensors[name].isfinite().all():
                raise UserError(f"{name} has numbers too large for {form}; take bf16 or f32")
    plan = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=shard_bytes or 2**60
    )
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_json(temporary / "config.json", config)
        try:
            for file, names in plan.filename_to_tensors.items():
                part = {name: tensors.pop(name) for name in names}
                save_file(part, temporary / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise disk_error(error) from error
        if plan.is_sharded:
            index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
            write_json(temporary / INDEX, index)
        if tokenizer:
            tokenizer.save(temporary, max_length=model.config.n_positions)
        write_json(temporary / METADATA, dict(checkpoint.metadata))
