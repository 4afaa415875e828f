"""Training runs that take a second, and what to ask of them."""

import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from gpt2lab.model import GPT2Config
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.loop import Callback
from gpt2lab.training.recipe import Data, Every, Optimizer, Recipe, Train

WORDS = ["the", "cat", "sat", "on", "mat", "and", "dog", "lay", "by", "it", "while", "rain", "fell"]


def sentence(i):
    rng = random.Random(i)
    return " ".join(rng.choice(WORDS) for _ in range(30)) + "."


def recipe(shards, *, steps=12, optimizer=None, every=None, **train) -> Recipe:
    settings = {"batch_tokens": 128, "micro_batch": 2, "dtype": "float32", "device": "cpu"}
    return Recipe(
        model=GPT2Config(
            n_layer=2, n_head=2, n_embd=32, n_positions=16, vocab_size=300, dropout=0.1
        ),
        data=Data(path=str(shards)),
        optimizer=optimizer or Optimizer(name="muon", learning_rate=3e-3, warmup=0.1),
        train=Train(**{"steps": steps, "threads": 2, "peak_tflops": 0.1} | settings | train),
        every=every or Every(evaluate=4, windows=8, save=3),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(run: Path) -> list[tuple[int, float, float]]:
    return [(m["step"], m["loss"], m.get("validation_loss")) for m in read_metrics(run)]


class StopAt(Callback):
    """Ends a run as a crash would: no checkpoint, no farewell."""

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer, record):
        if trainer.progress.step == self.step:
            raise RuntimeError("crash")
