"""The memory that a run will take, counted from what each part of a step keeps."""

from dataclasses import dataclass

import torch

from gpt2lab.doctor import DTYPES, memory_bytes
from gpt2lab.errors import UserError
from gpt2lab.model.attention import batched
from gpt2lab.training.loss import CHUNK_ELEMENTS, VOCABULARY_PART
from gpt2lab.training.recipe import Recipe

# Measured: the process before there is a model, and what is lost between pieces, of the rest.
_PROGRAM, _BETWEEN = 512 << 20, 0.15


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Of one micro-batch, and the largest temporaries of its passes."""
    loss: int
    """Logits held at a time, and gradients of the head on their way."""
    program: int = 0
    """On a CPU, Python and its libraries, and what is freed but lies between what is not."""

    @property
    def total(self) -> int:
        """All of it: the peak falls at the end of the forward pass."""
        held = self.weights + self.gradients + self.optimizer + self.activations + self.loss
        return held + self.program


def memory(recipe: Recipe, processes: int = 1) -> Memory:
    """What one of so many devices holds while training; the recipe has been through `settle`."""
    model, train, spread = recipe.model, recipe.train, recipe.parallel
    if processes < 1 or processes % spread.tensor:
        raise UserError(
            f"parallel.tensor {spread.tensor} does not divide --processes {processes}; change one"
        )
    data = processes // spread.tensor
    exact = 8 if train.dtype == "float64" else 4
    low = 2 if train.dtype in ("bfloat16", "float16") else exact
    kept = 2 if train.weights == "bfloat16" else exact
    per_block = 12 * model.n_embd**2 + 13 * model.n_embd
    blocks = model.n_layer * per_block // spread.tensor
    tables = (model.padded_vocab_size + model.n_positions + 2) * model.n_embd  # and the last norm
    mine = blocks + tables
    moving, moved = _moving(recipe, mine)
    micro_batches = recipe.sequences // (train.micro_batch * data)
    weights = kept * mine + (exact * moving if recipe.finetune.method == "lora" else 0)
    gradients = moved * moving
    activations = _activations(recipe, exact, low)
    if recipe.optimizer.name == "adafactor" and processes == 1 and micro_batches == 1:
        # All are freed but the table's, which comes twice, as input and as head, when most
        # activations are gone.
        table = min(moving, model.padded_vocab_size * model.n_embd)
        gradients = max(0, 2 * moved * table - activations)
    if spread.strategy == "fsdp" and data > 1:
        # Own parts, the tables whole, and two blocks: one computed with, one on its way.
        gathered = min(2, model.n_layer) if spread.reshard else model.n_layer
        weights = exact * (mine // data + tables) + low * gathered * (per_block // spread.tensor)
        gradients = exact * (mine if micro_batches > 1 else mine // data + tables)
        moving //= data
    elif low < kept:
        # Autocast's copies; those of weights that do not move are gone with their block.
        passing = recipe.finetune.method == "lora" and train.checkpoint_blocks
        weights += low * (per_block if passing else blocks)
    optimizer = _optimizer(recipe, moving, blocks, tables, exact)
    loss = _loss(recipe, exact, low)
    program = 0
    if (train.device or "cpu").startswith("cpu"):
        held = weights + gradients + optimizer + activations + loss
        program = _PROGRAM + int(_BETWEEN * held)
    return Memory(weights, gradients, optimizer, activations, loss, program)


def _moving(recipe: Recipe, every: int) -> tuple[int, int]:
    """How many numbers move, of so many weights, and the bytes of a gradient of one."""
    model, tune = recipe.model, recipe.finetune
    exact = 8 if recipe.train.dtype == "float64" else 4
    kept = 2 if recipe.train.weights == "bfloat16" else exact
    d = model.n_embd
    if tune.method == "lora":
        # n_in + n_out of a block's four maps: d + 3d, d + d, d + 4d, 4d + d.
        return model.n_layer * tune.lora.rank * 16 * d, exact
    if tune.method == "top":
        return tune.layers * (12 * d * d + 13 * d) + 2 * d, kept
    if tune.method == "bias":
        return model.n_layer * 11 * d + d, kept
    return every, kept


def _optimizer(recipe: Recipe, moving: int, blocks: int, tables: int, exact: int) -> int:
    """Bytes of the optimizer's own numbers."""
    name = recipe.optimizer.name
    if name == "adafactor":
        d = recipe.model.n_embd
        return 4 * (recipe.model.n_layer * (4 + 2 + 5 + 5 + 11) * d + recipe.model.vocab_size)
    if name == "adamw8bit":
        return 2 * moving + 8 * moving // 256
    if name == "muon":  # one momentum in place of two
        return 2 * exact * moving - exact * blocks * moving // (blocks + tables)
    return 2 * exact * moving


def _activations(recipe: Recipe, exact: int, low: int) -> int:
    """Bytes that the forward pass of a micro-batch leaves for the backward pass."""
    model, train, tensor = recipe.model, recipe.train, recipe.parallel.tensor
    tune, width = recipe.finetune, recipe.model.n_embd
    tokens = train.micro_batch * recipe.context
    residual = 2 if train.weights == "bfloat16" else exact
    # Of a block: its input and its middle; two norms' outputs, q, k, v, the heads' output twice,
    # and the MLP's inner layer before and after GELU.
    floats = 2 + 3 + 2 + 8
    if tune.method == "bias":  # what goes into frozen maps is not needed again
        floats = 3 + 1 + 4
    kept = tokens * width * (2 * residual + low * floats // tensor)
    if tune.method == "lora":
        dropped = 7 if tune.lora.dropout else 0  # a byte for each number that goes into a map
        kept += tokens * (dropped * width + low * 4 * tune.lora.rank)
    device = (train.device or "cpu").partition(":")[0]
    if batched(device, DTYPES[train.dtype], recipe.context, model.dropout):
        kept += tokens * model.n_head * recipe.context * low // tensor
    layers = tune.layers if tune.method == "top" else model.n_layer
    if train.checkpoint_blocks:
        activations = layers * tokens * width * residual + kept
    else:
        activations = layers * kept
    activations += 2 * tokens * width * exact  # into the last norm, and the gradient out of it
    activations += 3 * tokens * 4 * width * low // tensor  # temporaries of the MLP
    if recipe.optimizer.name == "muon":
        # When the passes are over: all matrices of the largest shape, whole, three times.
        activations += 3 * exact * model.n_layer * 4 * model.n_embd**2
    return activations


def _loss(recipe: Recipe, exact: int, low: int) -> int:
    """Bytes of logits, and of the head's gradient and copies."""
    model, device = recipe.model, (recipe.train.device or "cpu").partition(":")[0]
    tokens = recipe.train.micro_batch * recipe.context
    rows = min(
        tokens, max(1, CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"]) // model.vocab_size)
    )
    logits = rows * model.vocab_size * (exact + (low if low < exact else 0))
    # The head in the format it is multiplied in, or as a CPU's library lays it out for itself.
    head = model.vocab_size * model.n_embd * (low if low < exact else 0)
    if recipe.finetune.method == "full":
        head += model.vocab_size * model.n_embd * exact
        if low < exact:
            head += min(VOCABULARY_PART, model.vocab_size) * model.n_embd * (low + exact)
    return logits + head


def require_memory(recipe: Recipe, processes: int = 1) -> None:
    """Raise UserError if weights, gradients and optimizer alone exceed what a device has."""
    device = torch.device(recipe.train.device or "cpu")
    there = memory_bytes(device)
    held = memory(recipe, processes)
    least = held.weights + held.gradients + held.optimizer
    if there is not None and least > there:
        raise UserError(
            f"a model of {recipe.model.n_params:,} parameters takes {least / 2**30:,.0f} GiB of "
            f"{device.type} memory to train, and there are {there / 2**30:,.0f}; take a smaller "
            'one, or parallel.strategy = "fsdp" and more processes'
        )
