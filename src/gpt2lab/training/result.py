"""What a run leaves when it has ended: its last or its best checkpoint as a model of its own."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from gpt2lab.model import checkpoint
from gpt2lab.model.export import write_weights
from gpt2lab.model.tensors import SafeTensors
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder, write_json
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training import lora, saved

MODEL, ADAPTER = "model", "adapter"


def write_result(
    run: Path, model: GPT2, tokenizer: Tokenizer, best_step: int | None, base: str
) -> Path:
    """Write `model`, and `adapter` for one with LoRA's changes; return the folder of the first.

    model: the run's, into which the best changes are read.
    best_step: the step of the checkpoint to take; the last one's if None.
    base: the model that changes belong to.
    """
    kept = saved.list_checkpoints(run)
    chosen = next((c for c in kept if saved.step_of(c) == best_step), kept[-1])
    changed = bool(lora.changes(model))
    with atomic_folder(run / (ADAPTER if changed else MODEL), overwrite=True) as folder:
        shutil.copytree(chosen, folder, dirs_exist_ok=True, ignore=_not_state)
    if changed:
        lora.read_into(run / ADAPTER, model)
        _write_merged(run, model, tokenizer, checkpoint.folder_of(base))
    return run / MODEL


def _write_merged(run: Path, model: GPT2, tokenizer: Tokenizer, base: Path) -> None:
    """The base's weights as they are on the disk, each with its change, in float32.

    No second model is held. The run's own weights may be bfloat16, which would round away most of
    what was learned.
    """
    files = checkpoint.weight_files(base)
    source, maps = SafeTensors(files[0], files), lora.changes(model)

    def get(key: str) -> Tensor:
        name = key.removeprefix(checkpoint.PREFIX)
        weight = source[name].float()
        path = name.removesuffix(".weight")
        return weight + maps[path].change().t().cpu() if path in maps else weight

    config = checkpoint.to_hf_config(model, tokenizer.end_of_text) | {"dtype": "float32"}
    shapes = checkpoint.file_shapes(model.config)
    with atomic_folder(run / MODEL, overwrite=True) as folder:
        write_json(folder / "config.json", config)
        write_weights(folder, shapes, torch.float32, get)
        tokenizer.save(folder, max_length=model.config.n_positions)
        shutil.copy(run / ADAPTER / checkpoint.METADATA, folder)


def _not_state(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "state"]
