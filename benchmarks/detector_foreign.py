"""GPT-2 XL's texts told from people's by detectors that read with our small models.

python benchmarks/detector_foreign.py [--folds 5] [--out results/detector_foreign.json]

The pairs are Fast-DetectGPT's (XSum and SQuAD, 800 of them): a person's text and GPT-2 XL's, which
goes on from the same 30 tokens. Detectors are taught on four folds and tried on the fifth; a pair
is in one fold. `tfidf` is OpenAI's baseline on the same folds. People's texts of these pairs have
no line breaks and GPT-2's do; detectors read white space as blanks, so this tells nothing.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupKFold

import gpt2lab
from gpt2lab.detection import metrics
from gpt2lab.detection.detectors import KINDS, Lesson
from gpt2lab.detection.features import curvature
from gpt2lab.detection.reading import Reader
from gpt2lab.evaluation.subject import Subject
from gpt2lab.storage import write_json

HERE = Path(__file__).parent
PAIRS = HERE.parents[1] / "shared" / "data" / "detector" / "fast-detect-gpt"
MODELS = HERE.parent / "tests" / "models"
SIZES = ("1M", "3M", "10M")
FILES = ("xsum_gpt2-xl", "squad_gpt2-xl")


def texts() -> tuple[list[str], list[str], list[str]]:
    """Texts, kinds, and which pair each belongs to."""
    found, kinds, pairs = [], [], []
    for name in FILES:
        table = json.loads((PAIRS / f"{name}.raw_data.json").read_text())
        for number, both in enumerate(zip(table["original"], table["sampled"], strict=True)):
            found += both
            kinds += ["", "t1"]
            pairs += [f"{name} {number}"] * 2
    return found, kinds, pairs


def tried(name: str, readings, kinds, pairs, scorers, folds: int, seed: int) -> np.ndarray:
    """Scores of every text by a detector that did not learn from its pair."""
    scores = np.zeros(len(readings))
    cut = GroupKFold(folds, shuffle=True, random_state=seed)
    for inside, outside in cut.split(kinds, groups=pairs):
        lesson = Lesson(
            [readings[i] for i in inside], [kinds[i] for i in inside], [pairs[i] for i in inside],
            scorers, seed=seed,
        )  # fmt: skip
        detector = KINDS[name].fit(lesson)
        scores[outside] = detector.score([readings[i] for i in outside])
    return scores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "detector_foreign.json")
    args = parser.parse_args()
    given, kinds, pairs = texts()
    machine = np.array(kinds) != ""
    subjects = {}
    for size in SIZES:
        made = gpt2lab.load(str(MODELS / f"reference-{size}"))
        subjects[f"reference-{size}"] = Subject(made.model, made.tokenizer)
    reader = Reader(subjects)
    readings = reader.read(given)
    scores = {
        name: tried(name, readings, kinds, pairs, reader.names, args.folds, args.seed)
        for name in ("tfidf", "stats", "trees", "style")
    }
    scores["stats + style"] = sum(of / of.std() for of in (scores["stats"], scores["style"]))
    for i, size in enumerate(SIZES):
        scores[f"curvature, {size}"] = np.array([curvature(r.scores[i]) for r in readings])
    rows = {}
    for name, of in scores.items():
        low, high = metrics.auroc_interval(of, machine, pairs)
        rate = metrics.tpr(of, machine, 0.01)
        rows[name] = {
            "auroc": metrics.auroc(of, machine), "low": low, "high": high,
            "tpr_at_1_percent": rate.value, "tpr_interval": rate.interval,
        }  # fmt: skip
        print(f"{name:<18} AUROC {rows[name]['auroc']:.3f} [{low:.3f}, {high:.3f}]  "
              f"TPR at 1 % {rate.value:.3f}", flush=True)  # fmt: skip
    digest = hashlib.sha256("\0".join(given).encode()).hexdigest()
    write_json(
        args.out,
        {
            "pairs": len(given) // 2, "folds": args.folds, "seed": args.seed, "texts": digest,
            "scorers": {name: s.digest for name, s in subjects.items()}, "rows": rows,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
