"""Reading dumps: speed on one core against the usual way; memory on inputs that do not fit into it.

    python benchmarks/corpus_scale.py [--rows 5000000] [--documents 300000] [--data ../shared/data]

The dump is made of the 103 real rows of June 2005, each with an address, score and time of its own,
packed as Pushshift packs: one zstd frame with a window of 2 GiB. The usual way is zstandard's
stream reader, a line iterator and json.loads. Memory is the sum over all processes of a run,
sampled ten times a second: anonymous pages, which is what has to fit (pages of mapped files can be
dropped at any time).
"""

import argparse
import io
import json
import lzma
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import zstandard

from gpt2lab.corpus.plaintext import passages, read_documents
from gpt2lab.corpus.submissions import read_submissions
from peers import machine, save

SAMPLE_ROWS = 150_000


def templates(data: Path) -> list[list[bytes]]:
    """The real rows, cut where address, score and time go in."""
    packed = (data / "webtext" / "reddit" / "RS_v2_2005-06.xz").read_bytes()
    rows = lzma.decompress(packed).splitlines()
    cuts = []
    for line in rows:
        row = re.sub(rb'"created_utc":\d+', b'"created_utc":\0', line)
        row = re.sub(rb'"score":-?\d+', b'"score":\0', row)
        row = re.sub(rb'"url":"(http[^"]*)"\s*([,}])', rb'"url":"\1?n=' + b"\0" + rb'"\2', row)
        cuts.append(row.split(b"\0"))
    return [c for c in cuts if len(c) == 4]


def write_dump(path: Path, rows: int, data: Path) -> int:
    """Returns its unpacked size."""
    forms = templates(data)
    rng = random.Random(0)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=31, enable_ldm=True, write_checksum=True
    )
    size = 0
    packer = zstandard.ZstdCompressor(compression_params=parameters)
    with path.open("wb") as file, packer.stream_writer(file) as out:
        block = []
        for i in range(rows):
            a, b, c, d = forms[i % len(forms)]
            score = min(20_000, int(rng.paretovariate(0.6)))
            block.append(b"%s%d%s%d%s%d%s\n" % (a, 1119552233 + i * 60, b, score, c, i // 2, d))
            if len(block) == 2000:
                joined = b"".join(block)
                size += len(joined)
                out.write(joined)
                block = []
        joined = b"".join(block)
        out.write(joined)
    return size + len(joined)


def ours(path: Path) -> int:
    return sum(1 for _ in read_submissions(path, [], Counter()))


def usual(path: Path) -> int:
    reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(path.open("rb"))
    count = 0
    for line in io.TextIOWrapper(reader, encoding="utf-8"):
        row = json.loads(line)
        row["url"], row["score"], row["created_utc"]
        count += 1
    return count


def watch(command: list[str]) -> dict:
    """Run a command; its wall seconds and the peak memory of it and its children, in MB."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    peak = {"anonymous_mb": 0.0, "resident_mb": 0.0}

    def sample() -> None:
        while process.poll() is None:
            total = Counter()
            for pid in family(process.pid):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                for name, key in (("RssAnon", "anonymous_mb"), ("VmRSS", "resident_mb")):
                    found = re.search(rf"{name}:\s+(\d+)", status)
                    total[key] += int(found[1]) / 1024 if found else 0
            for key, so_far in peak.items():
                peak[key] = max(so_far, total[key])
            time.sleep(0.1)

    thread = threading.Thread(target=sample)
    start = time.perf_counter()
    thread.start()
    out = process.communicate()[0]
    seconds = time.perf_counter() - start
    thread.join()
    if process.returncode:
        sys.exit(f"{command} failed")
    return {"seconds": round(seconds, 1), **{k: round(v) for k, v in peak.items()}} | json.loads(
        out
    )


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def write_documents(path: Path, count: int, data: Path) -> int:
    """Texts put together from passages of real ones; a tenth are edited copies of others."""
    rng = random.Random(0)
    parts = [
        p
        for file in sorted((data / "corpus").glob("*.jsonl.zst"))
        for d in read_documents(file)
        for p in passages(d.text, 600)
    ]
    size, last = 0, ""
    with path.open("w") as file:
        for i in range(count):
            text = last + " Once more." if i % 10 == 9 else "\n\n".join(rng.sample(parts, 4))
            last = text
            size += file.write(json.dumps({"text": text}) + "\n")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    args = parser.parse_args()
    result: dict = {"machine": machine()}
    recipes = Path(__file__).parents[1] / "recipes"
    command = [sys.executable, "-m", "gpt2lab.cli.main", "corpus"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = folder / "sample.zst"
        size = write_dump(sample, SAMPLE_ROWS, args.data)
        rates: dict[str, list[float]] = {"gpt2lab": [], "zstandard + json": []}
        for _ in range(args.rounds):
            for who, read in (("gpt2lab", ours), ("zstandard + json", usual)):
                start = time.process_time()
                rows = read(sample)
                rates[who].append(size / 1e6 / (time.process_time() - start))
                print(who, rows, rates[who][-1], file=sys.stderr)
        result["dump_mb_per_cpu_second"] = {
            w: round(sorted(r)[len(r) // 2]) for w, r in rates.items()
        }
        medians = result["dump_mb_per_cpu_second"]
        result["times_usual"] = round(medians["gpt2lab"] / medians["zstandard + json"], 1)
        dump = folder / "RS_big.zst"
        size = write_dump(dump, args.rows, args.data)
        print(
            f"dump: {size / 1e9:.1f} GB, {dump.stat().st_size / 1e6:.0f} MB packed", file=sys.stderr
        )
        run = watch(
            [*command, "links", str(recipes / "webtext.toml"), "--source.paths", str(dump),
             "--out", str(folder / "links"), "--run.workers", "1", "--json"]
        )  # fmt: skip
        result["links"] = {"rows": args.rows, "gigabytes": round(size / 1e9, 2), **run}
        result["links"]["mb_per_second"] = round(size / 1e6 / run["seconds"])
        dump.unlink()
        documents = folder / "documents.jsonl"
        size = write_documents(documents, args.documents, args.data)
        run = watch(
            [*command, "build", str(recipes / "my-texts.toml"), "--source.paths", str(documents),
             "--shard.tokenizer", str(args.data / "tokenizer" / "gpt2"),
             "--out", str(folder / "out"), "--run.workers", "2", "--json"]
        )  # fmt: skip
        result["build"] = {"documents": args.documents, "gigabytes": round(size / 1e9, 2), **run}
    for stage in ("links", "build"):
        for private in ("work", "corpus"):
            result[stage].pop(private, None)
    save("corpus_scale", result)


if __name__ == "__main__":
    main()
