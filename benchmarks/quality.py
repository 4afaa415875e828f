"""Claim: in the same minutes on the same cores and text, quickstart's model needs at least 15 %
fewer bits per byte of unseen text than nanoGPT's CPU recipe.

nanoGPT's README gives the recipe (4 x 128, context 64, batch 12, no dropout); it is trained with
its own train.py for the same time, with each of its two vocabularies: characters and GPT-2's
50,257. Iterations are set from a timed trial so that its cosine ends with the time. Both models
are measured on the same documents: each by itself, every token once, windows that advance by half.
"""

import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import peers

RECIPE = {
    "device": "cpu", "compile": False, "block_size": 64, "batch_size": 12, "n_layer": 4,
    "n_head": 4, "n_embd": 128, "dropout": 0.0, "learning_rate": 1e-3, "min_lr": 1e-4,
    "beta2": 0.99, "warmup_iters": 100, "gradient_accumulation_steps": 1, "eval_iters": 20,
    "log_interval": 100, "wandb_log": False,
}  # fmt: skip


def run_train(path: Path, dataset: str, out: Path, iterations: int) -> float:
    settings = RECIPE | {
        "dataset": dataset, "out_dir": str(out), "max_iters": iterations,
        "lr_decay_iters": iterations, "eval_interval": iterations,
    }  # fmt: skip
    flags = [f"--{k}={v}" for k, v in settings.items()]
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "train.py", *flags], cwd=path, check=True, stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    return time.monotonic() - began


def nanogpt_bits(path: Path, checkpoint: Path, documents: list[list[int]]) -> np.ndarray:
    """Bits of each document after its first symbol, under a nanoGPT checkpoint."""
    import torch

    sys.path.insert(0, str(path))
    from model import GPT, GPTConfig

    saved = torch.load(checkpoint, weights_only=False)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict({k.removeprefix("_orig_mod."): v for k, v in saved["model"].items()})
    model.eval()
    context = saved["model_args"]["block_size"]
    bits = np.zeros(len(documents))
    windows = []
    for d, ids in enumerate(documents):
        end = 1
        while end < len(ids):
            stop = min(len(ids), end + (context if end == 1 else context // 2))
            windows.append((d, ids[max(0, stop - context - 1) : stop], stop - end))
            end = stop
    windows.sort(key=lambda w: len(w[1]))
    with torch.inference_mode():
        at = 0
        while at < len(windows):
            length = len(windows[at][1])
            batch = [w for w in windows[at : at + 64] if len(w[1]) == length]
            x = torch.tensor([w[1] for w in batch])
            logits, _ = model(x[:, :-1], x[:, 1:].contiguous())
            logp = torch.log_softmax(logits.float(), -1).gather(2, x[:, 1:, None])[..., 0]
            for (d, _, scored), row in zip(batch, logp, strict=True):
                bits[d] -= float(row[-scored:].double().sum()) / math.log(2)
            at += len(batch)
    return bits


def nanogpt(path, name, train_ids, val_ids, meta, documents, minutes):
    folder = path / "data" / name
    folder.mkdir(exist_ok=True)
    np.array(train_ids, dtype=np.uint16).tofile(folder / "train.bin")
    np.array(val_ids, dtype=np.uint16).tofile(folder / "val.bin")
    if meta:
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    with tempfile.TemporaryDirectory() as out:
        trial = 200
        start_up = run_train(path, name, Path(out), 2)
        rate = trial / (run_train(path, name, Path(out), trial) - start_up)
        iterations = math.ceil(60 * minutes * rate)
        seconds = run_train(path, name, Path(out), iterations) - start_up
        bits = nanogpt_bits(path, Path(out) / "ckpt.pt", documents)
    return bits, {"iterations": iterations, "seconds": round(seconds, 1)}


def main():
    p = peers.parser(__doc__)
    p.add_argument("--minutes", type=float, default=3.0)
    p.add_argument("--gpt2-tokenizer", help="folder with GPT-2's vocabulary", default="gpt2")
    args = p.parse_args()
    from dataclasses import replace

    from gpt2lab.evaluation.scores import Score, ratio
    from gpt2lab.quickstart.run import default_recipe, quickstart
    from gpt2lab.tokenizer import Tokenizer

    path = peers.nanogpt(args.nanogpt).resolve()
    result = {"machine": peers.machine(), "minutes": args.minutes}
    recipe = default_recipe()
    recipe = replace(recipe, train=replace(recipe.train, minutes=args.minutes, threads=2))
    with tempfile.TemporaryDirectory() as out:
        ours = quickstart(Path(out), recipe=recipe)
    text = ours.text
    sizes = np.array([len(t.encode()) for t in text.measured])
    result["text"] = {
        "documents": len(text.measured), "bytes": int(sizes.sum()), "digest": text.digest
    }  # fmt: skip
    best = ours.model_bits.value
    result["gpt2lab"] = {
        "bits_per_byte": round(best, 4),
        "interval": [round(ours.model_bits.low, 4), round(ours.model_bits.high, 4)],
        "seconds": ours.metrics[-1]["seconds"],
        "dtype": ours.metadata["recipe"]["train"]["dtype"],
        "tokens": ours.metadata["tokens"],
    }
    result |= {name: round(value, 4) for name, value in ours.baselines.items()}

    characters = sorted({c for t in [*text.train, *text.held_out] for c in t} | {"\n"})
    number = {c: i for i, c in enumerate(characters)}
    encoded = {
        part: [number[c] for t in texts for c in "\n\n" + t]
        for part, texts in (("train", text.train), ("val", text.held_out))
    }
    meta = {"vocab_size": len(characters), "stoi": number, "itos": dict(enumerate(characters))}
    documents = [[number[c] for c in "\n" + t] for t in text.measured]
    found = {}
    found["characters"] = nanogpt(
        path, "gpt2lab_char", encoded["train"], encoded["val"], meta, documents, args.minutes
    )
    gpt2 = Tokenizer.load(args.gpt2_tokenizer)
    tokens = {
        part: [i for ids in gpt2.encode_batch(texts) for i in (gpt2.end_of_text, *ids)]
        for part, texts in (("train", text.train), ("val", text.held_out))
    }
    documents = [[gpt2.end_of_text, *ids] for ids in gpt2.encode_batch(text.measured)]
    found["50257"] = nanogpt(
        path, "gpt2lab_bpe", tokens["train"], tokens["val"], None, documents, args.minutes
    )
    for name, (bits, facts) in found.items():
        sums = np.stack([bits, sizes.astype(float)], -1)
        m = Score(name, "bits/byte", sums, "", ratio).measurement(text.digest)
        result[f"nanoGPT {name}"] = {
            "bits_per_byte": round(m.value, 4),
            "interval": [round(m.low, 4), round(m.high, 4)],
            **facts,
        }
    peer = min(result[f"nanoGPT {n}"]["bits_per_byte"] for n in found)
    result["fewer_bits_than_nanogpt"] = round(1 - best / peer, 4)
    peers.save("quality", json.loads(json.dumps(result)))


if __name__ == "__main__":  # reading the text spawns processes that import this file
    main()
