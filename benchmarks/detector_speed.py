"""Documents a second: our one pass beside a loop over transformers that computes the same numbers.

python benchmarks/detector_speed.py [--documents 24] [--rounds 3] [--threads 2]

124M parameters of random weights (the work does not depend on them), documents of 200 tokens. Per
token: log p, rank, entropy, variance of log p, probability of likelier tokens, the ten likeliest
tokens. The loop is GLTR's and Fast-DetectGPT's: a document at a time, softmax over its logits; it
is also run with eight documents of one length at a time. Rounds alternate.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel

from gpt2lab.evaluation.likelihood import Window, score
from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.model.checkpoint import to_hf_tensors
from gpt2lab.storage import write_json

HERE = Path(__file__).parent
BEST, TOKENS = 10, 200


@torch.inference_mode()
def theirs(model: GPT2LMHeadModel, documents: np.ndarray, batch: int) -> list[np.ndarray]:
    """The same columns as `describe` gives, by transformers."""
    found = []
    for start in range(0, len(documents), batch):
        ids_BT = torch.from_numpy(documents[start : start + batch].astype(np.int64))
        logits_BTV = model(ids_BT[:, :-1]).logits
        logp_BTV = logits_BTV.log_softmax(-1)
        own_BT1 = logp_BTV.gather(-1, ids_BT[:, 1:, None])
        p_BTV = logp_BTV.exp()
        likelier_BTV = logp_BTV > own_BT1
        entropy_BT1 = -(p_BTV * logp_BTV).sum(-1, keepdim=True)
        variance_BT1 = (p_BTV * (logp_BTV + entropy_BT1) ** 2).sum(-1, keepdim=True)
        best = logp_BTV.topk(BEST)
        columns = [
            -own_BT1, likelier_BTV.sum(-1, keepdim=True).float(), entropy_BT1, variance_BT1,
            (p_BTV * likelier_BTV).sum(-1, keepdim=True), best.indices.float(), -best.values,
        ]  # fmt: skip
        found += list(torch.cat(columns, -1).numpy())
    return found


def ours(model: GPT2, documents: np.ndarray) -> list[np.ndarray]:
    """In their order of columns."""
    windows = [Window(ids, TOKENS) for ids in documents]
    tables = dict(score(model, windows, best=BEST))
    columns = [0, 1, 3, 4, 5, *range(7, 7 + 2 * BEST)]
    return [tables[i].table_TX[:, columns] for i in range(len(documents))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "detector_speed.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mine = GPT2(GPT2Config(), seed=0).eval()
    peer = GPT2LMHeadModel(TheirConfig()).eval()
    peer.transformer.load_state_dict(to_hf_tensors(mine), strict=False)
    peer.tie_weights()
    rng = np.random.default_rng(0)
    documents = rng.integers(50257, size=(args.documents, TOKENS + 1)).astype(np.int32)
    for a, b in zip(ours(mine, documents[:2]), theirs(peer, documents[:2], 1), strict=True):
        np.testing.assert_allclose(a[:, [0, 2, 3, 4]], b[:, [0, 2, 3, 4]], atol=2e-3)
        assert np.abs(a[:, 1] - b[:, 1]).max() <= 8  # ranks of tokens that are nearly as likely
    ways = {
        "gpt2lab": lambda: ours(mine, documents),
        "transformers, one at a time": lambda: theirs(peer, documents, 1),
        "transformers, eight at a time": lambda: theirs(peer, documents, 8),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(args.documents / (time.perf_counter() - start))
    medians = {name: statistics.median(of) for name, of in times.items()}
    for name, rate in medians.items():
        print(f"{name:<30} {rate:6.2f} documents/s  ({medians['gpt2lab'] / rate:.2f}x)")
    write_json(
        args.out,
        {
            "tokens": TOKENS, "documents": args.documents, "threads": args.threads,
            "documents_per_second": times, "medians": medians, "torch": torch.__version__,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
