"""Claim: the memory that `train --dry-run` names is within 15 % of what training then takes.

On a CPU: the peak of the process less what it held before the model was made, three steps of two
micro-batches each. 124M and 355M, by optimizer, dtype and recomputation of activations.
"""

import json
import resource
from dataclasses import replace
from pathlib import Path

import peers

CASES = {
    # size, optimizer, dtype, sequences, context, recompute
    "124M": ("124M", "adamw", "float32", 4, 512, False),
    "124M, recomputed": ("124M", "adamw", "float32", 4, 512, True),
    "124M, muon": ("124M", "muon", "float32", 4, 512, False),
    "124M, bfloat16": ("124M", "adamw", "bfloat16", 4, 512, False),
    "124M, bfloat16, 8 sequences": ("124M", "adamw", "bfloat16", 8, 512, False),
    "355M, bfloat16, recomputed": ("355M", "adamw", "bfloat16", 4, 512, True),
    "355M": ("355M", "adamw", "float32", 2, 512, False),
}


def work(name):
    from gpt2lab.model import GPT2Config
    from gpt2lab.training.plan import memory
    from gpt2lab.training.recipe import Optimizer, Recipe, Train

    size, optimizer, dtype, sequences, context, recompute = CASES[name]
    recipe = Recipe(
        model=GPT2Config.named(size),
        optimizer=Optimizer(name=optimizer),
        train=Train(
            steps=3, batch_tokens=2 * sequences * context, micro_batch=sequences, context=context,
            dtype=dtype, device="cpu", checkpoint_blocks=recompute,
        ),
    )  # fmt: skip
    tiny = replace(
        recipe,
        model=GPT2Config(n_layer=1, n_head=1, n_embd=64, n_positions=64, vocab_size=1024),
        train=replace(recipe.train, batch_tokens=512, micro_batch=4, context=64),
    )
    peers.random_trainer(tiny)._step()  # libraries are loaded, and take memory, on first use
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    trainer = peers.random_trainer(recipe)
    for _ in range(3):
        trainer._step()
    taken = peers.peak_mib() - before
    planned = memory(recipe).total / 2**20
    print(json.dumps({"planned": round(planned), "taken": round(taken)}))


def main():
    args = peers.parser(__doc__).parse_args()
    if args.worker:
        work(*args.worker)
        return
    result = {"machine": peers.machine()}
    for name in CASES:
        found = peers.worker(__file__, name)
        result[name] = found | {"planned / taken": round(found["planned"] / found["taken"], 3)}
    peers.save("train_memory", result)


if __name__ == "__main__":
    main()
