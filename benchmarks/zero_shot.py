"""Scoring a 124M GPT-2 on a CPU: items of LAMBADA and tokens of WikiText-2, beside lm-eval's `hf`.

    python benchmarks/zero_shot.py --work ../models

Both score the same texts in float32 with two threads, in processes of their own, by turns. lm-eval
has its choice of batch sizes for LAMBADA, and takes WikiText's whole windows one at a time. Weights
are random, which costs the same; that the accuracies are the same is shown on all of LAMBADA with a
trained model of 10 million parameters.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import peers

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TRAINED = Path(__file__).resolve().parents[1] / "tests" / "models" / "reference-10M"
THREADS = 2
CONTENDERS = ("gpt2lab", "lm-eval 1", "lm-eval 4", "lm-eval 8")
ITEMS, CHARACTERS = 250, 40_000


def texts(data):
    """LAMBADA's pairs and WikiText's text, as lm-eval's own tasks make them."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    from gpt2lab.evaluation.sources import DataFile

    rows = DataFile(data / "lambada" / "lambada_test.jsonl").records("text")
    pairs = [(r["text"].rpartition(" ")[0], " " + r["text"].rpartition(" ")[2]) for r in rows]
    page = (data / "wikitext-2" / "wiki.valid.tokens").read_text("utf-8")[:CHARACTERS]
    return pairs, wikitext_detokenizer({"page": page})


def model(name, folder):
    if name == "gpt2lab":
        from gpt2lab.evaluation.lm_eval_adapter import GPT2LabLM

        return GPT2LabLM(folder)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=int(name[-1]))


def whole_set(folder, data, name):
    """How much of LAMBADA a trained model gets right."""
    from lm_eval.api.instance import Instance

    lm = model(name, folder)
    pairs, _ = texts(Path(data))
    asked = [Instance("loglikelihood", {}, p, i) for i, p in enumerate(pairs)]
    found = lm.loglikelihood(asked, disable_tqdm=True)
    right = [bool(greedy) for _, greedy in found]
    print(json.dumps({"items": len(right), "right": sum(right), "nats": -sum(p for p, _ in found)}))


def work(folder, data, name):
    import torch
    from lm_eval.api.instance import Instance

    torch.set_num_threads(THREADS)
    pairs, page = texts(Path(data))
    lm = model(name, folder)
    asked = [Instance("loglikelihood", {}, p, i) for i, p in enumerate(pairs[:ITEMS])]
    lm.loglikelihood(asked[:8], disable_tqdm=True)
    before = peers.peak_mib()
    began = time.perf_counter()
    found = lm.loglikelihood(asked, disable_tqdm=True)
    lambada = time.perf_counter() - began
    grown = peers.peak_mib() - before
    result = {
        "lambada_items_per_s": len(asked) / lambada,
        "lambada_peak_mib_above_model": grown,
        "lambada_nats": -sum(p for p, _ in found),
        "lambada_greedy": sum(greedy for _, greedy in found),
    }
    if name in ("gpt2lab", "lm-eval 1"):
        began = time.perf_counter()
        (nats,) = lm.loglikelihood_rolling(
            [Instance("loglikelihood_rolling", {}, (page,), 0)], disable_tqdm=True
        )
        seconds = time.perf_counter() - began
        tokens = len(lm.tok_encode(page))
        result |= {"wikitext_tokens_per_s": tokens / seconds, "wikitext_nats": -nats}
    print(json.dumps(result))


def main():
    p = peers.parser(__doc__)
    p.add_argument("--work", type=Path, required=True, help="a folder for models, kept")
    p.add_argument("--data", type=Path, default=SHARED / "eval", help="the evaluation files")
    p.add_argument("--vocabulary", type=Path, default=SHARED / "tokenizer" / "gpt2")
    if "--worker" in sys.argv:
        which, *rest = sys.argv[sys.argv.index("--worker") + 1 :]
        {"speed": work, "accuracy": whole_set}[which](*rest)
        return
    args = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    folder = args.work / "124M"
    if not folder.exists():
        from gpt2lab.model import GPT2, GPT2Config, checkpoint
        from gpt2lab.tokenizer import Tokenizer

        checkpoint.save(folder, GPT2(GPT2Config(), seed=1), Tokenizer.load(args.vocabulary), {})
    runs = {name: [] for name in CONTENDERS}
    for number in range(args.rounds):
        for name in CONTENDERS:
            runs[name].append(peers.worker(__file__, "speed", str(folder), str(args.data), name))
            print(f"round {number + 1} {name}: {runs[name][-1]}", file=sys.stderr)
    medians = {
        name: {k: statistics.median(f[k] for f in found) for k in found[0]}
        for name, found in runs.items()
    }
    ours = medians["gpt2lab"]
    best = max(m["lambada_items_per_s"] for name, m in medians.items() if name != "gpt2lab")
    theirs = medians["lm-eval 1"]
    trained = {
        name: peers.worker(__file__, "accuracy", str(TRAINED), str(args.data), name)
        for name in ("gpt2lab", "lm-eval 8")
    }
    ratios = {
        "lambada": round(ours["lambada_items_per_s"] / best, 2),
        "wikitext": round(ours["wikitext_tokens_per_s"] / theirs["wikitext_tokens_per_s"], 2),
    }
    peers.save(
        "zero_shot",
        {"machine": peers.machine(), "threads": THREADS, "items": ITEMS, "ratios": ratios,
         "reference-10M on all of LAMBADA": trained,
         "median": medians, "runs": runs},
    )  # fmt: skip


if __name__ == "__main__":
    main()
