"""Claim: the fast recipes' optimisation reaches AdamW-cosine's final validation loss with at most
55 % of its tokens and 60 % of its time, the architecture being exactly the same.

At CPU scale: 4 blocks, width 128, context 128, 2,048-token vocabulary, 2,048-token batches, on the
shared corpus, several seeds. The baseline's rate, warm-up and beta2 were tuned first (LOG.md).
Every choice of the fast recipe is also left out once. Runs go two at a time, a thread each.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peers

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpus"
STEPS = 1000
ADAMW = {"name": "adamw", "learning_rate": 3e-3, "warmup": 0.1, "schedule": "cosine"}
FAST = {
    "name": "muon", "learning_rate": 1.2e-2, "muon_learning_rate": 0.02, "weight_decay": 0.1,
    "schedule": "wsd", "warmup": 0.02, "decay": 0.5, "final": 0.0,
}  # fmt: skip
CONTENDERS = {
    "adamw, cosine": (1.0, ADAMW),
    "fast, 55 % of the tokens": (0.55, FAST),
    "fast, 40 % of the tokens": (0.40, FAST),
    "fast, cosine in place of warm-up, stable, decay": (
        0.55, FAST | {"schedule": "cosine", "final": 0.1}
    ),
    "fast, adamw in place of muon": (
        0.55, FAST | {"name": "adamw", "learning_rate": 3e-3, "warmup": 0.1}
    ),
    "fast, weight decay 0.01 in place of 0.1": (0.55, FAST | {"weight_decay": 0.01}),
}  # fmt: skip


def work(folder, name, seed):
    from gpt2lab.corpus.shards import open_split
    from gpt2lab.model import GPT2Config
    from gpt2lab.tokenizer import Tokenizer
    from gpt2lab.training.data import Data, Mixture, Windows
    from gpt2lab.training.loop import Trainer
    from gpt2lab.training.recipe import Every, Optimizer, Recipe, Train
    from gpt2lab.training.settle import settle

    share, optimizer = CONTENDERS[name]
    recipe = settle(
        Recipe(
            model=GPT2Config(n_layer=4, n_head=4, n_embd=128, n_positions=128, vocab_size=2048),
            optimizer=Optimizer(**optimizer),
            train=Train(
                steps=round(share * STEPS), batch_tokens=2048, micro_batch=16, seed=int(seed),
                threads=1, device="cpu",
            ),
            every=Every(windows=1500),
        )
    )  # fmt: skip
    folder = Path(folder)
    mixture = Mixture([Windows(open_split(folder, "train"), 128, (recipe.train.seed, 0))], [1.0])
    data = Data(mixture, open_split(folder, "val"), Tokenizer.load(folder / "tokenizer"))
    trainer = Trainer(recipe, Path("unused"), data, {})
    began = time.perf_counter()
    while trainer.fraction < 1:
        trainer._step()
    seconds = time.perf_counter() - began
    found = {"loss": trainer.evaluate(), "seconds": seconds, "dtype": recipe.train.dtype}
    print(json.dumps(found))


def shards(folder):
    """The shared corpus, with a vocabulary of its own."""
    for words in (
        ["tokenizer", "train", str(SHARED), f"{folder}/tokenizer", "--vocab-size", "2048"],
        ["corpus", "shard", str(SHARED), f"{folder}/shards", "--tokenizer", f"{folder}/tokenizer",
         "--held-out", "0.03"],
    ):  # fmt: skip
        subprocess.run([sys.executable, "-m", "gpt2lab", *words], check=True)
    return f"{folder}/shards"


def main():
    p = peers.parser(__doc__)
    p.add_argument("--seeds", type=int, default=3)
    args = p.parse_args()
    if args.worker:
        work(*args.worker)
        return
    result = {"machine": peers.machine(), "seeds": args.seeds, "steps of the baseline": STEPS}
    with tempfile.TemporaryDirectory() as folder:
        path = shards(folder)
        jobs = [(name, seed) for seed in range(args.seeds) for name in CONTENDERS]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda j: peers.worker(__file__, path, j[0], str(j[1])), jobs))
    for name, (share, _) in CONTENDERS.items():
        mine = [f for (other, _), f in zip(jobs, found, strict=True) if other == name]
        losses = [round(f["loss"], 4) for f in mine]
        result[name] = {
            "share of tokens": share,
            "loss": round(statistics.fmean(losses), 4),
            "losses": losses,
            "seconds": round(statistics.median(f["seconds"] for f in mine), 1),
            "dtype": mine[0]["dtype"],
        }
    base = result["adamw, cosine"]
    for name in list(CONTENDERS)[1:]:
        result[name]["share of time"] = round(result[name]["seconds"] / base["seconds"], 3)
        worst, aim = max(result[name]["losses"]), min(base["losses"])
        result[name]["every seed below the baseline's best"] = worst < aim
    peers.save("tokens_to_loss", result)


if __name__ == "__main__":
    main()
