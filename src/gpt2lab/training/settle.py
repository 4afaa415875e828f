"""What a recipe leaves open, decided for the machine at hand."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from gpt2lab.doctor import default_device, fastest_dtype, usable_device
from gpt2lab.training.recipe import Recipe
from gpt2lab.training.start import starting_shape


def settle(recipe: Recipe) -> Recipe:
    """The recipe with everything that depends on this machine decided, so that a resume agrees."""
    device = usable_device(recipe.train.device or default_device().type, "train.device")
    dtype = recipe.train.dtype
    if dtype == "auto" and recipe.train.weights == "bfloat16":
        dtype = "bfloat16"
    elif dtype == "auto":
        dtype = fastest_dtype(device)  # type: ignore[assignment]
    threads = recipe.train.threads or _threads()
    train = replace(recipe.train, device=str(device), dtype=dtype, threads=threads)
    paths = [recipe.data.path, *recipe.data.also]
    path, *also = (str(Path(p).absolute()) if p else "" for p in paths)
    tune, model = recipe.finetune, recipe.model
    if tune.model:
        base = Path(tune.model)
        tune = replace(tune, model=str(base.absolute()) if base.exists() else tune.model)
        model = starting_shape(recipe)
    data = replace(recipe.data, path=path, also=tuple(also))
    return replace(recipe, model=model, finetune=tune, data=data, train=train)


def _threads() -> int:
    """PyTorch's choice for a process alone; torchrun would give each of several just one."""
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return (
        torch.get_num_threads() if neighbours == 1 else max(1, (os.cpu_count() or 1) // neighbours)
    )
