"""What a run will take, before it is started: tokens, FLOPs, memory per device, time.

Time is measured on this machine with models of one and two blocks, whose difference is what a block
costs.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpt2lab.corpus.shards import has_split, open_split
from gpt2lab.doctor import DTYPES, Peak, peak
from gpt2lab.errors import UserError
from gpt2lab.model.transformer import GPT2
from gpt2lab.training.footprint import memory, require_memory
from gpt2lab.training.loss import NextTokenLoss
from gpt2lab.training.optimizer import Optimizers
from gpt2lab.training.parallel import World
from gpt2lab.training.recipe import Parallel, Recipe
from gpt2lab.training.settle import settle

PF_S_DAY = 1e15 * 86_400
# What is measured is measured with so many tokens a pass on a CPU, so that it takes seconds.
_CPU_TOKENS = 1024


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
