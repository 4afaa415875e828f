"""Claim: 1.5B parameters are fine-tuned with LoRA on a CPU in 12 GB of memory, loading included.

The base is a Hugging Face folder in float32, as GPT-2 XL is published; its weights are kept in
bfloat16, blocks are computed again in the backward pass, and a step is two sequences of 1,024
tokens, one at a time. The plan's figure stands beside the peak of the whole process.
"""

import json
import tempfile
import time
from pathlib import Path

import peers


def make_base(folder):
    """Random weights, written tensor by tensor in parts of a file each."""
    import torch
    from safetensors.torch import save_file

    from gpt2lab.model import GPT2Config
    from gpt2lab.model.checkpoint import expected_shapes

    shape = GPT2Config.named("1.5B")
    folder.mkdir()
    names = {"n_layer": 48, "n_head": 25, "n_embd": 1600, "n_positions": 1024, "vocab_size": 50257}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"} | names))
    parts: dict[str, dict] = {}
    for name, size in expected_shapes(shape).items():
        part = name.split(".")[1] if name.startswith("h.") else "rest"
        t = torch.empty(size).normal_(0.0, 0.02)
        parts.setdefault(part, {})[name] = (
            t.fill_(1.0) if ".ln_" in name and "weight" in name else t
        )
        if part != "rest" and name.endswith("mlp.c_proj.bias"):
            save_file(parts[part], folder / f"{part}.safetensors")
            parts[part] = dict.fromkeys(parts[part])
    save_file(parts["rest"], folder / "rest.safetensors")
    where = {name: f"{part}.safetensors" for part, found in parts.items() for name in found}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def work(base):
    from gpt2lab.model import GPT2Config
    from gpt2lab.training.footprint import memory
    from gpt2lab.training.recipe import Finetune, Recipe, Train

    recipe = Recipe(
        model=GPT2Config.named("1.5B"),
        finetune=Finetune(base, "lora"),
        train=Train(
            steps=2, batch_tokens=2048, micro_batch=1, context=1024, dtype="bfloat16",
            weights="bfloat16", checkpoint_blocks=True, device="cpu",
        ),
    )  # fmt: skip
    began = time.perf_counter()
    trainer = peers.random_trainer(recipe)
    loaded = time.perf_counter()
    record = trainer._step()
    result = {
        "load_seconds": loaded - began,
        "step_seconds": time.perf_counter() - loaded,
        "loss": record["loss"],
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
