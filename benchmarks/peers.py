"""What the benchmark scripts share: peers beside the project, alternating runs, one JSON file."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
NANOGPT = Path(__file__).resolve().parents[2] / "nanoGPT"


def nanogpt(path: Path) -> Path:
    if not (path / "model.py").exists():
        sys.exit(f"no nanoGPT at {path}; clone github.com/karpathy/nanoGPT there or give --nanogpt")
    return path


def nanogpt_model(path: str, *, layers, heads, width, context, vocab):
    """nanoGPT's own model, with biases as GPT-2 has them."""
    sys.path.insert(0, path)
    from model import GPT, GPTConfig

    return GPT(
        GPTConfig(
            block_size=context, vocab_size=vocab, n_layer=layers, n_head=heads, n_embd=width,
            dropout=0.0, bias=True,
        )
    )  # fmt: skip


def random_ids(vocabulary):
    import numpy as np

    return np.random.default_rng(0).integers(vocabulary, size=500_000).astype(np.uint16)


def random_trainer(recipe):
    """Our trainer on random tokens."""
    from gpt2lab.corpus.shards import Tokens
    from gpt2lab.tokenizer import train
    from gpt2lab.training.data import Data, Mixture, Windows
    from gpt2lab.training.loop import Trainer

    windows = Windows(Tokens((random_ids(recipe.model.vocab_size),), ""), recipe.context, (0,))
    data = Data(Mixture([windows], [1.0]), None, train(["abc"], 257))
    return Trainer(recipe, Path("unused"), data, {})


def decode(engine, prompts, new):
    """Our engine on several prompts at once, greedy, to the last of their new tokens."""
    from gpt2lab.generation import Request, Sampling

    greedy = Sampling(temperature=0)
    for prompt in prompts:
        request = Request(tuple(prompt), max_tokens=new, sampling=greedy, ignore_end=True)
        engine.submit(request)
    while engine.busy:
        engine.step()


def machine() -> dict[str, object]:
    """Where the numbers are from, with the idle machine's measured rates."""
    import torch

    from gpt2lab.doctor import matmul_tflops, read_gb_per_second

    cpu = torch.device("cpu")
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "date": date.today().isoformat(),
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "float32_gflops": round(1000 * matmul_tflops(cpu, torch.float32)),
        "bfloat16_gflops": round(1000 * matmul_tflops(cpu, torch.bfloat16)),
        "read_gb_per_s": round(read_gb_per_second(torch.ones(2**26)), 1),
    }


def worker(script: str, *args: str) -> dict[str, float]:
    """Run one measurement in a process of its own; it prints one JSON line last."""
    done = subprocess.run(
        [sys.executable, script, "--worker", *args], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{args} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def alternate(script: str, names: list[str], rounds: int, *args: str) -> dict[str, dict]:
    """A B C A B C ...: medians and spread of every figure of every contender."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            runs[name].append(worker(script, name, *args))
            print(f"round {number + 1} {name}: {runs[name][-1]}", file=sys.stderr)
    return {
        name: {
            key: {
                "median": statistics.median(r[key] for r in found),
                "min": min(r[key] for r in found),
                "max": max(r[key] for r in found),
            }
            for key in found[0]
        }
        for name, found in runs.items()
    }


def save(name: str, result: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    print(f"written to {path}", file=sys.stderr)


def peak_mib() -> int:
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size // (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak() -> None:
    """Let the peak of memory count from now on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def parser(description: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--nanogpt", type=Path, default=NANOGPT, help="nanoGPT's checkout")
    p.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return p
