"""Near-duplicates end to end, JSON Lines to JSON Lines, one core, against datatrove 0.10.1.

    python benchmarks/near_duplicates.py --datatrove PYTHON [--rounds 3] [--data ../shared/data]

PYTHON is an interpreter that has datatrove, spacy, regex, nltk, tokenizers, orjson and xxhash < 4;
its package stays out of this project's environment because it pins older versions. 22,700
documents: 20,000 passages of real texts and 2,700 planted near-duplicates, nine kinds of 300. Both
programs get one process, are warmed on 50 documents given twice (imports, compiled kernels), and
alternate; CPU seconds are counted. As shipped, datatrove splits words with spaCy, measured on the
first 1,500 documents; patched, with str.split. Recall and precision are over all pairs whose
similarity an inverted index of all word 5-grams gives exactly.
"""

import argparse
import itertools
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from gpt2lab.corpus import dedup, documents, kernels, stage, steps
from gpt2lab.corpus.plaintext import passages, read_documents
from gpt2lab.corpus.recipe import Dedup, Recipe, Run, Source
from peers import machine, save

KINDS = ("0.5 %", "1 %", "2 %", "4 %", "8 %", "frame", "first 90 %", "first 70 %", "upper case")
FIRST = 1500


def corpus(data: Path, real: int = 20_000, planted: int = 300) -> list[str]:
    """Passages of about 800 characters, then their edited copies, all shuffled."""
    rng = random.Random(0)
    texts = []
    for path in sorted((data / "corpus").glob("*.jsonl.zst")):
        found = [p for d in read_documents(path) for p in passages(d.text, 800) if len(p) > 200]
        texts += rng.sample(found, min(len(found), 3500))
    texts = rng.sample(texts, real)
    words = sorted({w for text in texts[:2000] for w in text.split()})
    copies = []
    for kind, text in zip(
        itertools.cycle(KINDS), rng.sample(texts, planted * len(KINDS)), strict=False
    ):
        parts = text.split(" ")
        if kind.startswith("first"):
            parts = parts[: round(len(parts) * float(kind.split()[1]) / 100)]
        elif kind == "frame":
            parts = [
                "Share",
                "this",
                "with",
                "a",
                "friend:",
                *parts,
                "Copyright,",
                "all",
                "rights",
                "reserved.",
            ]
        elif kind == "upper case":
            parts = [p.upper() for p in parts]
        else:
            share = float(kind.split()[0]) / 100
            parts = [rng.choice(words) if rng.random() < share else p for p in parts]
        copies.append(" ".join(parts))
    texts += copies
    rng.shuffle(texts)
    return texts


def write(path: Path, texts: list[str]) -> None:
    path.write_text(
        "".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts))
    )


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def ours(source: Path, folder: Path, threshold: float) -> None:
    """From JSON Lines to JSON Lines without near-duplicates, by the stages of `corpus build`."""
    recipe = Recipe(
        source=Source("documents", (str(source),)),
        dedup=Dedup(threshold=threshold, bands=17, rows=4),
        run=Run(workers=1),
    )
    (folder / "read").mkdir()
    documents.read(folder / "read", file=str(source))
    files = [str(path) for path in sorted((folder / "read").glob("*.arrow"))]
    rows = [len(documents.read_column([f], "created")) for f in files]
    state = stage.Build(recipe, folder / "out", folder)
    clusters = steps.near_duplicates(state, files, np.r_[0, np.cumsum(rows)].tolist(), "")
    leaders = np.load(clusters.folders[0] / dedup.LEADERS)
    position = 0
    packer = zstandard.ZstdCompressor(level=1)
    encode = msgspec.json.Encoder().encode_lines
    with (folder / "kept.jsonl.zst").open("wb") as file, packer.stream_writer(file) as out:
        for part in files:
            for batch in documents.texts(part):
                numbers = np.arange(position, position + len(batch))
                keep = np.flatnonzero(leaders[numbers] == numbers).tolist()
                out.write(encode([{"text": batch[i]} for i in keep]))
                position += len(batch)


def worker(name: str, source: Path, threshold: float) -> None:
    """One measurement in this process."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.jsonl"
        small.write_text(2 * "".join(itertools.islice(source.open(), 50)))
        (Path(folder) / "a").mkdir()
        (Path(folder) / "b").mkdir()
        ours(small, Path(folder) / "a", threshold)
        start = cpu()
        ours(source, Path(folder) / "b", threshold)
        seconds = cpu() - start
        with zstandard.open(Path(folder) / "b" / "kept.jsonl.zst", "rt") as file:
            kept = sum(1 for _ in file)
    print(json.dumps({"cpu_seconds": seconds, "kept": kept}))


def true_pairs(texts: list[str], least: float) -> dict[tuple[int, int], float]:
    """Every pair of similarity at least `least`, by an inverted index of all 5-grams."""
    data = [t.encode() for t in texts]
    bounds = np.cumsum([0, *map(len, data)]).astype(np.int64)
    sets, ends = kernels.gram_sets(
        np.frombuffer(b"".join(data), np.uint8), bounds, np.arange(len(texts)), 5
    )
    owner = np.repeat(np.arange(len(texts)), np.diff(ends))
    order = np.argsort(sets, kind="stable")
    grams, owner = sets[order], owner[order]
    starts = np.flatnonzero(np.r_[True, grams[1:] != grams[:-1]])
    shared: Counter[tuple[int, int]] = Counter()
    for a, b in zip(starts, np.r_[starts[1:], len(grams)], strict=True):
        if b - a > 1:
            shared.update(itertools.combinations(sorted(owner[a:b].tolist()), 2))
    sizes = np.diff(ends)
    return {
        (i, j): both / (sizes[i] + sizes[j] - both)
        for (i, j), both in shared.items()
        if both / (sizes[i] + sizes[j] - both) >= least
    }


def edges(texts: list[str], rules: Dedup) -> set[tuple[int, int]]:
    """The pairs our stages find, by number of text."""
    import pyarrow as pa

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            dict.fromkeys(documents.SCHEMA.names) | {"key": bytes(16), "created": 0, "text": t}
            for t in texts
        ]
        part = folder / "part.arrow"
        documents.write(pa.Table.from_pylist(rows, documents.SCHEMA), part)
        for step in ("sign", "pairs", "union", "sets", "verify"):
            (folder / step).mkdir()
        sign, pairs, union, sets, verify = (
            folder / s for s in ("sign", "pairs", "union", "sets", "verify")
        )
        dedup.sign(sign, file=str(part), rules=rules)
        dedup.propose(pairs, folders=[str(sign)], bands=list(range(rules.bands)), rules=rules)
        dedup.union(union, folders=[str(pairs)])
        dedup.gather(sets, file=str(part), pairs=str(union), start=0, count=len(texts), ngram=5)
        dedup.verify(
            verify, folders=[str(sets)], part=0, pairs=str(union),
            threshold=rules.threshold if rules.verify else 0.0,
        )  # fmt: skip
        left, right = dedup.unpack(np.load(verify / dedup.EDGES))
    return set(zip(left.tolist(), right.tolist(), strict=True))


def quality(texts: list[str]) -> dict:
    result = {}
    exact = true_pairs(texts, 0.5)
    for name, rules in {
        "35 x 3, J >= 0.5": Dedup(threshold=0.5),
        "17 x 4, J >= 0.7": Dedup(threshold=0.7, bands=17, rows=4),
        "14 x 8, unverified (FineWeb)": Dedup(threshold=0.7, bands=14, rows=8, verify=False),
    }.items():
        true = {pair for pair, s in exact.items() if s >= rules.threshold}
        found = edges(texts, rules)
        result[name] = {
            "true_pairs": len(true),
            "recall": round(len(found & true) / len(true), 4),
            "precision": round(len(found & true) / len(found), 4),
        }
    return result


def datatrove(python: str, mode: str, source: Path) -> dict:
    script = Path(__file__).with_name("peer_datatrove.py")
    done = subprocess.run(
        [python, str(script), mode, str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"datatrove failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def mine(source: Path) -> dict:
    command = [sys.executable, __file__, "--worker", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datatrove", default=shutil.which("python3"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--worker", type=Path)
    args = parser.parse_args()
    if args.worker:
        worker("gpt2lab", args.worker, 0.7)
        return
    texts = corpus(args.data)
    runs: dict[str, list[float]] = {"gpt2lab": [], "datatrove patched": []}
    kept = {}
    with tempfile.TemporaryDirectory() as folder:
        source, first = Path(folder) / "all.jsonl", Path(folder) / "first.jsonl"
        write(source, texts)
        write(first, texts[:FIRST])
        size = source.stat().st_size
        for _ in range(args.rounds):
            for name, result in (
                ("gpt2lab", mine(source)),
                ("datatrove patched", datatrove(args.datatrove, "patched", source)),
            ):
                runs[name].append(result["cpu_seconds"])
                kept[name] = result["kept"]
                print(name, result, file=sys.stderr)
        shipped = datatrove(args.datatrove, "shipped", first)["cpu_seconds"]
    rates = {n: sorted(len(texts) / s for s in found) for n, found in runs.items()}
    medians = {n: r[len(r) // 2] for n, r in rates.items()}
    medians["datatrove as shipped"] = FIRST / shipped
    save(
        "near_duplicates",
        {
            "machine": machine(),
            "documents": len(texts),
            "bytes": size,
            "documents_per_cpu_second": {n: round(r) for n, r in medians.items()},
            "range": {n: [round(r[0]), round(r[-1])] for n, r in rates.items()},
            "times_datatrove_patched": round(medians["gpt2lab"] / medians["datatrove patched"], 1),
            "times_datatrove_as_shipped": round(
                medians["gpt2lab"] / medians["datatrove as shipped"], 1
            ),
            "kept": kept,
            "quality": quality(texts),
        },
    )


if __name__ == "__main__":
    main()
