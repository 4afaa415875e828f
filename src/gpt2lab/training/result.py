"""What a run leaves when it has ended: its last or its best checkpoint as a model of its own."""

import shutil
from pathlib import Path

from gpt2lab.model import checkpoint
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder, read_json
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training import lora, state

MODEL, ADAPTER = "model", "adapter"


def write_result(run: Path, model: GPT2, tokenizer: Tokenizer, best_step: int | None) -> Path:
    """Write `model`, and `adapter` for one with LoRA's changes; return the folder of the first.

    model: the run's, into which the best changes are read.
    best_step: the step of the checkpoint to take; the last one's if None.
    """
    kept = state.list_checkpoints(run)
    chosen = next((c for c in kept if state.step_of(c) == best_step), kept[-1])
    changed = bool(lora.changes(model))
    with atomic_folder(run / (ADAPTER if changed else MODEL), overwrite=True) as folder:
        shutil.copytree(chosen, folder, dirs_exist_ok=True, ignore=_not_state)
    if changed:
        lora.read_into(run / ADAPTER, model)
        metadata = read_json(run / ADAPTER / checkpoint.METADATA)
        checkpoint.save(run / MODEL, lora.merge(model), tokenizer, metadata, overwrite=True)
    return run / MODEL


def _not_state(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "state"]
