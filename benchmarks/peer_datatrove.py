"""One measurement of datatrove's MinHash, all four stages, for near_duplicates.py.

PYTHON-WITH-DATATROVE benchmarks/peer_datatrove.py patched|shipped SOURCE.jsonl
"""

import gzip
import json
import resource
import sys
import tempfile
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger

logger.remove()


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def run(source: Path, folder: Path, patched: bool) -> None:
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    sign = MinhashDedupSignature(output_folder=str(folder / "sign"), config=config)
    if patched:
        sign.word_tokenizer.word_tokenize = str.split

    def reader() -> JsonlReader:
        return JsonlReader(str(source.parent), glob_pattern=source.name)

    steps = [
        ([reader(), sign], 1),
        (
            [
                MinhashDedupBuckets(
                    input_folder=str(folder / "sign"),
                    output_folder=str(folder / "buckets"),
                    config=config,
                )
            ],
            config.num_buckets,
        ),
        (
            [
                MinhashDedupCluster(
                    input_folder=str(folder / "buckets"),
                    output_folder=str(folder / "remove"),
                    config=config,
                )
            ],
            1,
        ),
        (
            [
                reader(),
                MinhashDedupFilter(input_folder=str(folder / "remove")),
                JsonlWriter(str(folder / "kept")),
            ],
            1,
        ),
    ]
    for number, (pipeline, tasks) in enumerate(steps):
        for rank in range(tasks):
            LocalPipelineExecutor(
                pipeline, tasks=tasks, workers=1, logging_dir=str(folder / f"log{number}-{rank}"),
                local_tasks=1, local_rank_offset=rank,
            ).run()  # fmt: skip


def main(mode: str, source: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "warm").mkdir()
        small = folder / "warm" / "small.jsonl"
        small.write_text(
            2 * "".join(line for _, line in zip(range(50), source.open(), strict=False))
        )
        run(small, folder / "a", mode == "patched")
        start = cpu()
        run(source, folder / "b", mode == "patched")
        seconds = cpu() - start
        kept = 0
        for path in (folder / "b" / "kept").iterdir():
            with gzip.open(path, "rt", encoding="utf-8") as file:
                kept += sum(1 for _ in file)
    print(json.dumps({"cpu_seconds": seconds, "kept": kept}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
