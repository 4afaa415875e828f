"""Claim: the memory that `--dry-run` and `finetune plan` name is within 15 % of what is taken.

On a CPU: the peak of the whole process, from reading texts to the finished model, over three steps
of two micro-batches (one where gradients are freed), each validated and saved. 124M and 355M, by
what moves, optimizer, number formats and recomputation of activations.
"""

import json
import tempfile
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
    "124M, lora, bfloat16": ("124M", 4, 256, {"method": "lora", "dtype": "bfloat16"}),
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


def work(name, bases):
    import gpt2lab.training.run as runs
    from gpt2lab.model import GPT2Config
    from gpt2lab.training.footprint import memory
    from gpt2lab.training.recipe import Data, Every, Finetune, Optimizer, Recipe, Train

    size, sequences, context, other = CASES[name]
    freeing = other.get("optimizer") == "adafactor"
    train = {k: v for k, v in other.items() if k not in ("method", "optimizer")}
    with tempfile.TemporaryDirectory() as folder:
        tuned = "method" in other or "weights" in other
        recipe = Recipe(
            model=GPT2Config.named(size),
            finetune=Finetune(f"{bases}/{size}" if tuned else "", other.get("method", "full")),
            data=Data(path=shards(Path(folder))),
            optimizer=Optimizer(name=other.get("optimizer", "adamw")),
            train=Train(**{
                "steps": 3, "batch_tokens": (1 if freeing else 2) * sequences * context,
                "micro_batch": sequences, "context": context, "dtype": "float32", "device": "cpu",
            } | train),
            every=Every(evaluate=1, windows=sequences, save=1, sample=0),
        )  # fmt: skip
        runs.start(recipe, Path(folder) / "run")
    planned = memory(recipe).total / 2**20
    print(json.dumps({"planned": round(planned), "taken": round(peers.peak_mib())}))


def base(folder, size):
    """A model of random weights."""
    import torch

    from gpt2lab.model import GPT2, GPT2Config, checkpoint

    with torch.device("meta"):
        empty = GPT2(GPT2Config.named(size))
    model = empty.to_empty(device="cpu")
    for p in model.parameters():
        torch.nn.init.normal_(p, 0.0, 0.02)
    checkpoint.save(folder, model, None, {})
    print("{}")


def shards(folder):
    """Text of random words, read as `finetune` reads it, which takes memory too."""
    import random

    from gpt2lab.progress import step
    from gpt2lab.tokenizer import train
    from gpt2lab.training.examples import read_examples
    from gpt2lab.training.prepared import prepare

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(2000)]
    texts = [" ".join(draw.choices(words, k=400)) for _ in range(200)]
    (folder / "texts.txt").write_text("<|endoftext|>".join(texts))
    prepare(
        lambda reading: read_examples(folder / "texts.txt", reading), train(texts, 400),
        folder / "shards", held_out=0.05, step=step,
    )  # fmt: skip
    return str(folder / "shards")


def main():
    parser = peers.parser(__doc__)
    parser.add_argument("--only", default="", help="cases whose names hold this; nothing is saved")
    args = parser.parse_args()
    if args.worker:
        what, *rest = args.worker
        {"base": base, "case": work}[what](*rest)
        return
    result = {"machine": peers.machine()}
    with tempfile.TemporaryDirectory() as bases:
        for size in ("124M", "355M"):
            peers.worker(__file__, "base", f"{bases}/{size}", size)
        for name in CASES:
            if args.only not in name:
                continue
            found = peers.worker(__file__, "case", name, bases)
            result[name] = found | {"planned / taken": round(found["planned"] / found["taken"], 3)}
            print(name, result[name], flush=True)
    if not args.only:
        peers.save("train_memory", result)


if __name__ == "__main__":
    main()
