"""What a run will take, before it is started: tokens, FLOPs, memory per device, time.

Memory is counted from what each part of a step keeps; time is measured on this machine with models
of one and two blocks, whose difference is what a block costs.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpt2lab.corpus.shards import has_split, open_split
from gpt2lab.doctor import DTYPES, Peak, memory_bytes, peak
from gpt2lab.errors import UserError
from gpt2lab.model.attention import batched
from gpt2lab.model.transformer import GPT2
from gpt2lab.training.loss import CHUNK_ELEMENTS, VOCABULARY_PART, NextTokenLoss
from gpt2lab.training.optimizer import Optimizers
from gpt2lab.training.parallel import World
from gpt2lab.training.recipe import Parallel, Recipe
from gpt2lab.training.settle import settle

PF_S_DAY = 1e15 * 86_400
# What is measured is measured with so many tokens a pass on a CPU, so that it takes seconds.
_CPU_TOKENS = 1024


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

    @property
    def total(self) -> int:
        """All of it: the peak falls at the end of the forward pass."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss


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
    per_block = 12 * model.n_embd**2 + 13 * model.n_embd
    blocks = model.n_layer * per_block // spread.tensor
    tables = (model.padded_vocab_size + model.n_positions + 2) * model.n_embd  # and the last norm
    mine = blocks + tables
    micro_batches = recipe.sequences // (train.micro_batch * data)
    weights = gradients = exact * mine
    if spread.strategy == "fsdp" and data > 1:
        # Own parts, the tables whole, and two blocks: one computed with, one on its way.
        gathered = min(2, model.n_layer) if spread.reshard else model.n_layer
        weights = exact * (mine // data + tables) + low * gathered * (per_block // spread.tensor)
        gradients = exact * (mine if micro_batches > 1 else mine // data + tables)
        mine //= data
    elif low < exact:
        weights += low * blocks  # autocast's copies
    optimizer = exact * 2 * mine
    if recipe.optimizer.name == "muon":  # one momentum in place of two
        optimizer -= exact * blocks * mine // (blocks + tables)
    tokens = train.micro_batch * recipe.context
    width = model.n_embd
    # Saved for the backward pass of a block: its input and its middle, in full; two norms' outputs,
    # q, k, v, the heads' output twice, and the MLP's inner layer before and after GELU.
    kept = tokens * width * (2 * exact + low * (2 + 3 + 2 + 8) // spread.tensor)
    device = (train.device or "cpu").partition(":")[0]
    if batched(device, DTYPES[train.dtype], recipe.context, model.dropout):
        kept += tokens * model.n_head * recipe.context * low // spread.tensor
    if train.checkpoint_blocks:
        activations = model.n_layer * tokens * width * exact + kept
    else:
        activations = model.n_layer * kept
    activations += 2 * tokens * width * exact  # into the last norm, and the gradient out of it
    activations += 3 * tokens * 4 * width * low // spread.tensor  # temporaries of the MLP
    if recipe.optimizer.name == "muon":
        # When the passes are over: all matrices of the largest shape, whole, three times.
        activations = max(activations, 3 * exact * model.n_layer * 4 * model.n_embd**2)
    rows = min(
        tokens, max(1, CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"]) // model.vocab_size)
    )
    logits = rows * model.vocab_size * (exact + (low if low < exact else 0))
    head = model.vocab_size * width * (exact + (low if low < exact else 0))
    if low < exact:
        head += min(VOCABULARY_PART, model.vocab_size) * width * (low + exact)
    return Memory(weights, gradients, optimizer, activations, logits + head)


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


def measured_seconds(recipe: Recipe) -> tuple[float, float]:
    """Seconds for a token's forward and backward pass, and for an optimizer step, on this machine.

    For the recipe's model, extrapolated from one and two of its blocks.
    """
    one, two = (_seconds(recipe, layers) for layers in (1, 2))
    more = recipe.model.n_layer - 1
    per_token, step = (a + more * max(0.0, b - a) for a, b in zip(one, two, strict=True))
    return per_token, step


def _seconds(recipe: Recipe, layers: int) -> tuple[float, float]:
    train = recipe.train
    device, dtype = torch.device(train.device or "cpu"), DTYPES[train.dtype]
    config = replace(recipe.model, n_layer=layers)
    model = GPT2(config).to(device, torch.float64 if train.dtype == "float64" else None).train()
    model.checkpoint_blocks = train.checkpoint_blocks
    loss = NextTokenLoss(model, dtype, None)
    optimizers = Optimizers(model, recipe.optimizer, World(), dtype)
    sequences = train.micro_batch
    if device.type == "cpu":
        sequences = max(1, min(sequences, _CPU_TOKENS // recipe.context))
    ids_BT = torch.randint(config.vocab_size, (sequences, recipe.context + 1), device=device)

    def passes() -> None:
        loss(ids_BT[:, :-1], ids_BT[:, 1:]).backward()

    def best(work: Any) -> float:
        found = []
        for _ in range(2):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - began)
        return min(found)

    per_token = best(passes) / (sequences * recipe.context)
    for part in optimizers.parts:
        part.step()  # the first takes longer
    step = best(lambda: [part.step() for part in optimizers.parts])
    return per_token, step


def plan(recipe: Recipe, processes: int = 1) -> dict[str, Any]:
    """What `--dry-run` prints, for so many processes on devices like this one."""
    recipe = settle(recipe)
    model, train = recipe.model, recipe.train
    if train.threads:
        torch.set_num_threads(train.threads)
    flops = model.flops_per_token(recipe.context)
    device = torch.device(train.device or "cpu")
    tflops = train.peak_tflops
    best = Peak(tflops, "recipe") if tflops else peak(device, DTYPES[train.dtype])
    held = memory(recipe, processes)
    available = _tokens(recipe)
    # What is measured: two blocks, by one process.
    blocks = replace(model, n_layer=min(2, model.n_layer))
    require_memory(replace(recipe, model=blocks, parallel=Parallel()))
    per_token, step = measured_seconds(recipe)
    per_step = per_token * train.batch_tokens / processes + step
    steps = train.steps
    if train.minutes is not None:
        steps = max(1, round(60 * train.minutes / per_step))
    tokens = steps * train.batch_tokens if steps else None
    return {
        "parameters": model.n_params,
        "parameters_without_embeddings": model.n_params_blocks,
        "processes": processes,
        "dtype": train.dtype,
        "device": train.device,
        "flops_per_token": flops,
        "tokens_per_step": train.batch_tokens,
        "steps": steps,
        "total_tokens": tokens,
        "train_tokens": available,
        "epochs": round(tokens / available, 2) if tokens and available else None,
        "total_flops": f"{flops * tokens:.3g}" if tokens else None,
        "pf_s_days": float(f"{flops * tokens / PF_S_DAY:.3g}") if tokens else None,
        "memory_gib_weights": _gib(held.weights),
        "memory_gib_gradients": _gib(held.gradients),
        "memory_gib_optimizer": _gib(held.optimizer),
        "memory_gib_activations": _gib(held.activations),
        "memory_gib_loss": _gib(held.loss),
        "memory_gib_per_device": _gib(held.total),
        "peak_tflops": round(best.tflops, 3),
        "tokens_per_s_measured": round(train.batch_tokens / per_step),
        "mfu": round(flops * train.batch_tokens / per_step / processes / best.tflops / 1e12, 3),
        "seconds_estimate": round(steps * per_step) if steps else None,
    }


def _gib(count: int) -> float:
    return round(count / 2**30, 2)


def _tokens(recipe: Recipe) -> int | None:
    """Tokens in the recipe's shards; None for text, which is counted when it is tokenised."""
    folders = [Path(p) for p in (recipe.data.path, *recipe.data.also) if p]
    for path in folders:
        if not path.exists():
            raise UserError(f"data: {path} does not exist; check the path")
    if not folders or not all(f.is_dir() and has_split(f, "train") for f in folders):
        return None
    return sum(len(open_split(folder, "train")) for folder in folders)
