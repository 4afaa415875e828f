"""Ways to fine-tune, the memory that each takes, and the first that fits."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from gpt2lab.corpus.compressed import available_memory
from gpt2lab.doctor import memory_bytes
from gpt2lab.errors import UserError
from gpt2lab.training.footprint import memory
from gpt2lab.training.recipe import Method, Recipe

Name = Literal["adamw", "adamw8bit", "adafactor"]
Weights = Literal["float32", "bfloat16"]
# Of what there is; the rest is for libraries, the desktop, and what no plan foresees.
_USABLE = 0.9


@dataclass(frozen=True)
class Way:
    """A method with what it moves weights by, and keeps them in."""

    method: Method
    optimizer: Name = "adamw"
    weights: Weights = "float32"
    checkpoint_blocks: bool = False


# In the order in which they are taken: what is exact and fast before what saves memory.
WAYS = (
    Way("full"),
    Way("full", checkpoint_blocks=True),
    Way("lora"),
    Way("lora", checkpoint_blocks=True),
    Way("lora", weights="bfloat16"),
    Way("lora", weights="bfloat16", checkpoint_blocks=True),
    Way("full", "adafactor", "bfloat16"),
    Way("full", "adafactor", "bfloat16", checkpoint_blocks=True),
    Way("top"),
    Way("bias"),
    Way("bias", checkpoint_blocks=True),
    Way("full", "adamw8bit"),
    Way("full", "adamw8bit", checkpoint_blocks=True),
    Way("full", "adafactor"),
    Way("full", "adafactor", checkpoint_blocks=True),
)


@dataclass(frozen=True)
class Choice:
    """A way, how many sequences it can take at a time, and its memory in bytes."""

    way: Way
    micro_batch: int
    memory: int
    fits: bool


def room(device: torch.device) -> int:
    """Bytes that a run may take on a device."""
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[0]
    else:
        there = min(memory_bytes(device) or available_memory(), available_memory())
    return int(_USABLE * there)


def applied(recipe: Recipe, way: Way, micro_batch: int) -> Recipe:
    """The recipe gone about in this way."""
    dtype = "bfloat16" if way.weights == "bfloat16" else recipe.train.dtype
    if way.optimizer == "adafactor" and dtype == "float16":  # which needs gradients all at once
        dtype = "float32"
    train = replace(
        recipe.train,
        weights=way.weights,
        dtype=dtype,
        checkpoint_blocks=way.checkpoint_blocks,
        micro_batch=micro_batch,
    )
    return replace(
        recipe,
        train=train,
        finetune=replace(recipe.finetune, method=way.method),
        optimizer=replace(recipe.optimizer, name=way.optimizer),
    )


def choices(recipe: Recipe, limit: int) -> list[Choice]:
    """Every way, with the most sequences at a time that fit into `limit` bytes, or one.

    recipe: settled but for what a way says.
    """
    return [_choice(recipe, way, limit) for way in WAYS]


def _choice(recipe: Recipe, way: Way, limit: int) -> Choice:
    taken = 0
    for sequences in _halves(recipe.sequences):
        taken = memory(applied(recipe, way, sequences)).total
        if taken <= limit:
            return Choice(way, sequences, taken, True)
    return Choice(way, 1, taken, False)


def _halves(count: int) -> Iterator[int]:
    """The divisors of a batch that halving it leads to, and 1."""
    while count > 1:
        yield count
        if count % 2:
            break
        count //= 2
    yield 1


def choose(found: list[Choice], **wanted: Any) -> Choice:
    """The first way that fits and is as wanted (`method`, `optimizer`, ...; None is any).

    Raises UserError with the least memory that any would take, if none fits.
    """
    asked = {name: value for name, value in wanted.items() if value is not None}
    if asked.get("optimizer") == "adamw8bit" and not has_8bit():
        raise UserError("adamw8bit takes bitsandbytes; pip install 'gpt2lab[8bit]'")
    likely = [
        choice
        for choice in found
        if all(getattr(choice.way, name) == value for name, value in asked.items())
        and (choice.way.optimizer != "adamw8bit" or has_8bit())
    ]
    if not likely:
        shown = ", ".join(f"{name} {value}" for name, value in asked.items())
        raise UserError(f"no way to fine-tune has {shown}; see gpt2lab finetune plan")
    fitting = [choice for choice in likely if choice.fits]
    if not fitting:
        least = min(choice.memory for choice in likely) / 2**30
        raise UserError(
            f"fine-tuning takes at least {least:,.1f} GiB of memory in this way, more than there "
            "is; leave the method open, shorten --context, or take a smaller model"
        )
    return fitting[0]


def has_8bit() -> bool:
    """Whether the library of 8-bit optimizers is there."""
    return importlib.util.find_spec("bitsandbytes") is not None
