"""What a recipe will take, from a look at the beginning of its files."""

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gpt2lab.corpus import clean, documents, extract, links, urls
from gpt2lab.corpus.compressed import Damage, pieces_of
from gpt2lab.corpus.inputs import find_paths
from gpt2lab.corpus.recipe import Recipe
from gpt2lab.errors import UserError

PROBE_BYTES = 24 << 20
WARC_BYTES = 8 << 20
# Of the links of WebText's age that answer at all with text: the paper kept 8 million documents of
# 45 million links, after de-duplication.
ANSWERING = 0.4
TOKENS_PER_DOCUMENT = 1_100  # 40 GB in 8 million documents, at 4.5 bytes a token


def estimate(recipe: Recipe) -> dict[str, Any]:
    """Counts and hours expected for each stage on this machine, with the recipe's workers.

    Of each kind of file (by suffix) the largest is looked at and stands for the others.
    """
    recipe.check()
    paths = find_paths(recipe.source)
    result: dict[str, Any] = {"files": len(paths), "bytes": sum(p.stat().st_size for p in paths)}
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault("".join(path.suffixes[-2:]), []).append(path)
    probe = {"documents": _documents, "warc": _warc}.get(recipe.source.kind, _links)
    found: Counter[str] = Counter()
    for group in kinds.values():
        largest = max(group, key=lambda p: (p.stat().st_size, str(p)))
        total = sum(p.stat().st_size for p in group)
        with tempfile.TemporaryDirectory() as folder:
            try:
                found.update(probe(recipe, largest, total, Path(folder)))
            except UserError as error:  # which knows the sample by its own name
                message = re.sub(rf"{re.escape(folder)}/\S+?(?=[,: ])", str(largest), str(error))
                raise type(error)(message) from None
    return result | {n: round(v, 4) if isinstance(v, float) else v for n, v in found.items()}


def _sample(path: Path, folder: Path) -> tuple[Path, float]:
    """The beginning of a file, unpacked, and the share of the stored file that it is."""
    name = path.name
    for suffix in (".zst", ".xz", ".bz2", ".gz"):
        name = name.removesuffix(suffix)
    damage: list[Damage] = []
    held = 0
    with path.open("rb") as source, (folder / name).open("wb") as out:
        for piece in pieces_of(source, path, damage):
            cut = piece if held + len(piece) < PROBE_BYTES else piece[: piece.rfind(b"\n") + 1]
            out.write(cut)
            held += len(cut)
            if held >= PROBE_BYTES or cut is not piece:
                break
        share = source.tell() / max(1, path.stat().st_size)
    return folder / name, max(share, 1e-9)


def _timed(
    function: Callable[..., dict[str, Any]], out: Path, **arguments: Any
) -> tuple[Any, float]:
    out.mkdir()
    start = time.perf_counter()
    return function(out, **arguments)["counts"], time.perf_counter() - start


def _links(recipe: Recipe, path: Path, total: int, folder: Path) -> dict[str, Any]:
    sample, share = _sample(path, folder)
    scale = total / max(1, path.stat().st_size) / share
    common = {"rules": recipe.links, "partitions": 1, "scored": recipe.source.kind == "reddit"}
    counts, seconds = _timed(links.read, folder / "links", file=str(sample), **common)
    merged, _ = _timed(
        links.merge,
        folder / "pages",
        files=[str(folder / "links" / links.SHUFFLED)],
        partition=0,
        **common,
    )
    addresses = pq.read_table(folder / "pages" / links.OUTPUT, columns=["url"])["url"].to_pylist()
    hosts = Counter(map(urls.host, addresses))
    pages = merged["pages"] * scale
    largest = hosts.most_common(1)[0][1] / max(1, len(addresses)) if hosts else 0.0
    return {
        "submissions": round(counts.get("submissions", 0) * scale),
        "pages_at_most": round(pages),
        "documents": round(pages * ANSWERING),
        "tokens": round(pages * ANSWERING * TOKENS_PER_DOCUMENT),
        "hours_reading": _hours(seconds * scale, recipe),
        # The largest site is asked page by page, `delay` seconds apart.
        "hours_fetching_at_least": round(pages * largest * recipe.crawl.delay / 3600, 2),
    }


def _warc(recipe: Recipe, path: Path, total: int, folder: Path) -> dict[str, Any]:
    sample = folder / path.name
    with path.open("rb") as source, sample.open("wb") as out:
        out.write(source.read(WARC_BYTES))
    scale = total / max(1, sample.stat().st_size)
    rules = {"rules": recipe.extract, "block": "none"}
    counts, seconds = _timed(extract.read, folder / "text", file=str(sample), **rules)
    return {
        "pages": round(counts.get("responses", 0) * scale),
        "documents": round(counts.get("documents", 0) * scale),
        "hours_extracting": _hours(seconds * scale, recipe),
    }


def _documents(recipe: Recipe, path: Path, total: int, folder: Path) -> dict[str, Any]:
    if path.name.endswith(".parquet"):
        sample, share = path, 1.0
    else:
        sample, share = _sample(path, folder)
    scale = total / max(1, path.stat().st_size) / share
    counts, reading = _timed(documents.read, folder / "read", file=str(sample))
    kept = cleaning = 0.0
    for n, file in enumerate(sorted((folder / "read").glob("documents-*.arrow"))):
        common = {"rules": recipe.clean, "tokenizer": recipe.shard.tokenizer, "partitions": 1}
        found, seconds = _timed(clean.clean, folder / f"clean-{n}", file=str(file), **common)
        kept += found["kept"]
        cleaning += seconds
    return {
        "documents": round(counts["documents"] * scale),
        "documents_after_rules": round(kept * scale),
        "hours_reading_and_cleaning": _hours((reading + cleaning) * scale, recipe),
    }


def _hours(seconds: float, recipe: Recipe) -> float:
    return round(seconds / (recipe.run.workers or os.cpu_count() or 1) / 3600, 4)
