"""What may change in a recipe when a run is resumed."""

from dataclasses import asdict
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.training.recipe import Recipe

# Checkpoints fit no other shape and no other optimizer.
_NEVER = (
    "model.n_layer",
    "model.n_head",
    "model.n_embd",
    "model.n_positions",
    "model.vocab_size",
    "model.activation",
    "model.pad_vocab_to",
    "optimizer.name",
    "finetune.method",
    "finetune.layers",
    "finetune.lora.rank",
    "finetune.lora.alpha",
    "finetune.vocab_size",
    "train.weights",
)
# These decide which text comes when.
_DATA = ("data.", "train.batch_tokens", "train.context", "train.seed")


def require_allowed(before: Recipe, after: Recipe, *, allow_other_data: bool) -> None:
    """Raise UserError if a run of `before` cannot go on as `after`.

    How long it runs, its rates, devices, processes and what happens beside training may change;
    what it reads only when allowed; the model's shape never.
    """
    old, new = _flat(asdict(before)), _flat(asdict(after))
    changed = [name for name in old if old[name] != new[name]]
    for name in changed:
        if name in _NEVER:
            raise UserError(
                f"{name} was {old[name]!r} and is now {new[name]!r}: the run's checkpoints do not "
                "fit; put it back, or start a new run"
            )
    for name in changed:
        if name.startswith(_DATA) and not allow_other_data:
            raise UserError(
                f"{name} was {old[name]!r} and is now {new[name]!r}, which changes what the run "
                "reads; put it back, or pass --override-resume"
            )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
