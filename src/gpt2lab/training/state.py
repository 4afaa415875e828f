"""Checkpoints of a run: a model folder plus what exact resume needs, written atomically.

`state/` holds safetensors and JSON only: resuming a run from a stranger runs none of their code,
which torch.distributed.checkpoint's pickled index would.
"""

import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2lab.errors import UserError
from gpt2lab.model import checkpoint
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder, read_json, write_json
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training.optimizer import Optimizers

CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"step-(\d{7,})")


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Wall-clock seconds spent, over all resumes."""
    best_loss: float = float("inf")
    """Lowest validation loss so far, nats per token."""
    best_step: int = 0


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [p for p in (run / CHECKPOINTS).glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def save(
    run: Path,
    model: GPT2,
    tokenizer: Tokenizer | None,
    metadata: dict[str, Any],
    optimizers: Optimizers,
    scaler: torch.amp.GradScaler,
    progress: Progress,
) -> Path:
    """Write `checkpoints/step-N`, then remove all but it and the best; return its path."""
    folder = run / CHECKPOINTS / f"step-{progress.step:07d}"
    with atomic_folder(folder, overwrite=True) as temporary:
        checkpoint.write_into(temporary, model, tokenizer, metadata)
        state = temporary / "state"
        state.mkdir()
        tensors = {f"optimizer/{k}": t.contiguous() for k, t in optimizers.named_state()}
        tensors["rng/cpu"] = torch.get_rng_state()
        device = model.wte.weight.device
        if device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(device)
        try:
            save_file(tensors, state / "state.safetensors")
        except SafetensorError as error:
            raise checkpoint.disk_error(error) from error
        write_json(state / "progress.json", asdict(progress) | {"scaler": scaler.state_dict()})
    for torn in folder.parent.glob(".step-*.tmp"):  # left by a run killed while saving
        shutil.rmtree(torn, ignore_errors=True)
    for old in list_checkpoints(run):
        if old != folder and old.name != f"step-{progress.best_step:07d}":
            shutil.rmtree(old, ignore_errors=True)
    return folder


def load(
    folder: Path, model: GPT2, optimizers: Optimizers, scaler: torch.amp.GradScaler
) -> Progress:
    """Restore weights, optimizers, scaler and random state in place; return where the run was."""
    saved = checkpoint.read_folder(folder, model.wte.weight.dtype)
    if saved.config != replace(model.config.unpadded(), dropout=0.0):
        raise UserError(
            f"{folder} holds a model of another shape than the run's recipe; undo the edit"
        )
    with torch.no_grad():
        for name, p in model.named_parameters():
            value = saved.get_parameter(name)
            p[: len(value)].copy_(value)
    file = folder / "state" / "state.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(file)
        optimizers.load_named_state(
            {k.removeprefix("optimizer/"): t for k, t in tensors.items() if k[:4] != "rng/"}
        )
        torch.set_rng_state(tensors["rng/cpu"])
        device = model.wte.weight.device
        if device.type == "cuda" and "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"], device)
        table = read_json(folder / "state" / "progress.json")
        scaler.load_state_dict(table.pop("scaler"))
        return Progress(**table)
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{file} cannot be resumed from ({error}); remove {folder}") from None
