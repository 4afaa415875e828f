"""Claim: 1.5B parameters are fine-tuned with LoRA on a CPU in 12 GB of memory, from text to model.

The base is a Hugging Face folder in float32, as GPT-2 XL is published; its weights are kept in
bfloat16, blocks are computed again in the backward pass, and a step is two sequences of 1,024
tokens, one at a time; it is validated, saved and merged. The plan's figure stands beside the peak
of the whole process.
"""

import json
import tempfile
import time
from pathlib import Path

import peers
import train_memory


def make_base(folder):
    """Random weights, written one by one."""
    import torch

    from gpt2lab.model import GPT2Config
    from gpt2lab.model.checkpoint import expected_shapes
    from gpt2lab.model.export import write_weights

    shapes = expected_shapes(GPT2Config.named("1.5B"))
    folder.mkdir()
    names = {"n_layer": 48, "n_head": 25, "n_embd": 1600, "n_positions": 1024, "vocab_size": 50257}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"} | names))

    def draw(name):
        norm = ".ln_" in name and "weight" in name
        return torch.ones(shapes[name]) if norm else torch.empty(shapes[name]).normal_(0.0, 0.02)

    write_weights(folder, shapes, torch.float32, draw)


def work(base):
    from gpt2lab.model import GPT2Config
    from gpt2lab.training import run as runs
    from gpt2lab.training.callbacks import read_metrics
    from gpt2lab.training.footprint import memory
    from gpt2lab.training.recipe import Data, Every, Finetune, Recipe, Train

    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(
            model=GPT2Config.named("1.5B"),
            finetune=Finetune(base, "lora"),
            data=Data(path=train_memory.shards(Path(folder))),
            train=Train(
                steps=2, batch_tokens=2048, micro_batch=1, context=1024, dtype="bfloat16",
                weights="bfloat16", checkpoint_blocks=True, device="cpu",
            ),
            every=Every(evaluate=2, windows=1, save=2, sample=0),
        )  # fmt: skip
        began = time.perf_counter()
        made = runs.start(recipe, Path(folder) / "run")
        last = read_metrics(Path(folder) / "run")[-1]
        result = {
            "minutes": (time.perf_counter() - began) / 60,
            "tokens_per_second": last["tokens_per_s"],
            "loss": last["loss"],
            "model_gib": (made / "model.safetensors").stat().st_size / 2**30,
            "peak_gib": peers.peak_mib() / 1024,
            "planned_gib": memory(recipe).total / 2**30,
        }
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


def main():
    args = peers.parser(__doc__).parse_args()
    if args.worker:
        if args.worker[0] == "base":
            make_base(Path(args.worker[1]))
            print("{}")
        else:
            work(args.worker[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        base = str(Path(folder) / "base")
        peers.worker(__file__, "base", base)
        found = peers.worker(__file__, "step", base)
    peers.save("large_lora", {"machine": peers.machine()} | found)


if __name__ == "__main__":
    main()
