"""Text to tokens, the bulk encoder against tiktoken's own batch call on the same cores.

    python benchmarks/tokenise.py [--rounds 5] [--data ../shared/data]

20 MB of real English in documents of about 5,000 characters, alternating, two threads each; every
id compared.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from gpt2lab.corpus.plaintext import passages, read_documents
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.bulk import BulkTokenizer
from peers import machine, save

BYTES = 20_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    args = parser.parse_args()
    texts, size = [], 0
    for file in sorted((args.data / "corpus").glob("*.jsonl.zst")):
        for document in read_documents(file)[:120]:
            for passage in passages(document.text, 5000):
                if size < BYTES:
                    texts.append(passage)
                    size += len(passage.encode())
    tokenizer = Tokenizer.load(args.data / "tokenizer" / "gpt2")
    rates: dict[str, list[float]] = {"gpt2lab": [], "tiktoken": []}
    for _ in range(args.rounds):
        bulk = BulkTokenizer(tokenizer)  # a new one: it remembers words it has seen
        start = time.perf_counter()
        ids, counts = bulk.encode(texts)
        rates["gpt2lab"].append(size / 1e6 / (time.perf_counter() - start))
        start = time.perf_counter()
        theirs = tokenizer._bpe.encode_ordinary_batch(texts, num_threads=2)
        rates["tiktoken"].append(size / 1e6 / (time.perf_counter() - start))
    rows = np.split(ids, np.cumsum(counts)[:-1])
    equal = sum(a.tolist() == b for a, b in zip(rows, theirs, strict=True))
    medians = {name: round(sorted(r)[len(r) // 2], 1) for name, r in rates.items()}
    save(
        "tokenise",
        {
            "machine": machine(),
            "megabytes": round(size / 1e6, 1),
            "documents": len(texts),
            "equal_documents": equal,
            "mb_per_second": medians,
            "range": {n: [round(min(r), 1), round(max(r), 1)] for n, r in rates.items()},
            "times_tiktoken": round(medians["gpt2lab"] / medians["tiktoken"], 1),
        },
    )


if __name__ == "__main__":
    main()
