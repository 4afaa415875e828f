"""Claim: the memory that `--dry-run` and `finetune plan` name is within 15 % of what is taken.

On a CPU: the peak of the process less what it held before the model was made, two steps of two
micro-batches each (one where gradients are freed). 124M and 355M, by what moves, optimizer, number
formats and recomputation of activations.
"""

import json
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

import peers

# Size, sequences, context, and what differs from training all in float32 with AdamW.
CASES = {
    "124M": ("124M", 4, 256, {}),
    "124M, recomputed": ("124M", 4, 256, {"checkpoint_blocks": True}),
    "124M, muon": ("124M", 4, 256, {"optimizer": "muon"}),
    "124M, bfloat16": ("124M", 4, 256, {"dtype": "bfloat16"}),
    "124M, bfloat16, 8 sequences": ("124M", 8, 256, {"dtype": "bfloat16"}),
    "355M, bfloat16, recomputed": (
        "355M", 4, 256, {"dtype": "bfloat16", "checkpoint_blocks": True},
    ),
    "355M": ("355M", 2, 256, {}),
    "124M, lora": ("124M", 4, 256, {"method": "lora"}),
    "124M, lora, recomputed": ("124M", 4, 256, {"method": "lora", "checkpoint_blocks": True}),
    "124M, lora, weights bfloat16": (
        "124M", 4, 256, {"method": "lora", "weights": "bfloat16", "dtype": "bfloat16"},
    ),
    "124M, top": ("124M", 4, 256, {"method": "top"}),
    "124M, bias": ("124M", 4, 256, {"method": "bias"}),
    "124M, adamw8bit": ("124M", 4, 256, {"optimizer": "adamw8bit"}),
    "124M, adafactor": ("124M", 4, 256, {"optimizer": "adafactor"}),
    "355M, lora": ("355M", 2, 256, {"method": "lora"}),
    "355M, lora, weights bfloat16, recomputed": (
        "355M", 2, 256,
        {"method": "lora", "weights": "bfloat16", "dtype": "bfloat16", "checkpoint_blocks": True},
    ),
    "355M, adafactor, weights bfloat16": (
        "355M", 2, 256, {"optimizer": "adafactor", "weights": "bfloat16", "dtype": "bfloat16"},
    ),
    "355M, adafactor, weights bfloat16, recomputed": (
        "355M", 2, 256,
        {"optimizer": "adafactor", "weights": "bfloat16", "dtype": "bfloat16",
         "checkpoint_blocks": True},
    ),
    "355M, top": ("355M", 2, 256, {"method": "top"}),
}  # fmt: skip


def work(name):
    import torch

    from gpt2lab.model import GPT2, GPT2Config, checkpoint
    from gpt2lab.training.footprint import memory
    from gpt2lab.training.recipe import Finetune, Optimizer, Recipe, Train

    size, sequences, context, other = CASES[name]
    freeing = other.get("optimizer") == "adafactor"
    train = {k: v for k, v in other.items() if k not in ("method", "optimizer")}
    with tempfile.TemporaryDirectory() as folder:
        shape = GPT2Config.named(size)
        base = Path(folder) / "base"
        if "method" in other or "weights" in other:
            with torch.device("meta"):
                empty = GPT2(shape)
            model = empty.to_empty(device="cpu")
            for p in model.parameters():
                torch.nn.init.normal_(p, 0.0, 0.02)
            checkpoint.save(base, model, None, {})
            del model
        recipe = Recipe(
            model=shape,
            finetune=Finetune(str(base) if base.exists() else "", other.get("method", "full")),
            optimizer=Optimizer(name=other.get("optimizer", "adamw")),
            train=Train(**{
                "steps": 2, "batch_tokens": (1 if freeing else 2) * sequences * context,
                "micro_batch": sequences, "context": context, "dtype": "float32", "device": "cpu",
            } | train),
        )  # fmt: skip
        tiny = replace(
            recipe,
            model=GPT2Config(n_layer=1, n_head=1, n_embd=64, n_positions=64, vocab_size=1024),
            finetune=Finetune(),
            train=replace(
                recipe.train, batch_tokens=512, micro_batch=4, context=64, weights="float32"
            ),
        )
        peers.random_trainer(tiny)._step()  # libraries are loaded, and take memory, on first use
        peers.forget_peak()
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        trainer = peers.random_trainer(recipe)
        for _ in range(2):
            trainer._step()
    taken = peers.peak_mib() - before / 2**20
    planned = memory(recipe).total / 2**20
    print(json.dumps({"planned": round(planned), "taken": round(taken)}))


def main():
    parser = peers.parser(__doc__)
    parser.add_argument("--only", default="", help="cases whose names hold this; nothing is saved")
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    result = {"machine": peers.machine()}
    for name in CASES:
        if args.only in name:
            found = peers.worker(__file__, name)
            result[name] = found | {"planned / taken": round(found["planned"] / found["taken"], 3)}
            print(name, result[name], flush=True)
    if not args.only:
        peers.save("train_memory", result)


if __name__ == "__main__":
    main()
