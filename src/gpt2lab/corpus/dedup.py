"""Near-duplicates: MinHash proposes pairs, exact Jaccard similarity decides, clusters follow.

Broder (1997) for min-hashes, Leskovec et al. (Mining of Massive Datasets, chapter 3) for bands. A
band that looks loose costs only comparisons, never precision, so bands are chosen for recall: at
the recipe's 35 bands of 3 a pair at similarity 0.5 is missed with probability 0.9 %. Documents are
numbered in the order of their keys, so no result depends on how they were split among workers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from gpt2lab.corpus import kernels
from gpt2lab.corpus.recipe import Dedup

BANDS = "bands.npy"
PAIRS = "pairs.npy"
SETS, ENDS, CHOSEN = "sets.npy", "ends.npy", "chosen.npy"
EDGES, SIMILARITY = "edges.npy", "similarity.npy"
LEADERS = "leaders.npy"
# Neighbours each member of an oversized bucket is compared with, besides the bucket's leader.
NEIGHBOURS = 16

I64 = npt.NDArray[np.int64]


def sign(out: Path, *, file: str, rules: Dedup) -> dict[str, Any]:
    """The band keys [bands, documents] of one part."""
    keys = [
        kernels.band_keys(
            kernels.signatures(data, offsets, rules.ngram, rules.bands * rules.rows),
            rules.bands,
            rules.rows,
        )
        for data, offsets in _text_batches(Path(file))
    ]
    joined = np.concatenate(keys) if keys else np.empty((0, rules.bands), np.uint64)
    np.save(out / BANDS, np.ascontiguousarray(joined.T))
    return {"counts": {"documents": len(joined)}}


def _text_batches(path: Path) -> Iterator[tuple[npt.NDArray[np.uint8], I64]]:
    """Texts of a part as bytes end to end with their bounds, in batches of bounded size."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(4096, columns=["text"]):
            column = batch.column(0)
            if len(column) == 0:
                continue
            # Arrow keeps strings as offsets and bytes: exactly what the kernels take.
            _, offsets, data = column.buffers()
            bounds = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)
            bounds = bounds.astype(np.int64)
            body = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
            yield body, bounds - bounds[0]


def propose(out: Path, *, folders: list[str], bands: list[int], rules: Dedup) -> dict[str, Any]:
    """Pairs of documents that agree in one of the given bands, each once, the lower number first.

    In a bucket of more than `max_bucket` documents (a template that thousands of pages share) not
    all pairs are listed: members are sorted by the next band, and each is paired with the first
    and with its next neighbours.
    """
    found: list[I64] = []
    large = 0
    for band in bands:
        keys = np.concatenate([np.load(Path(f) / BANDS, mmap_mode="r")[band] for f in folders])
        following = np.concatenate(
            [np.load(Path(f) / BANDS, mmap_mode="r")[(band + 1) % rules.bands] for f in folders]
        )
        order = np.lexsort((following, keys))
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
        sizes = np.diff(np.r_[starts, len(order)])
        many = sizes > 1
        large += int((sizes > rules.max_bucket).sum())
        pairs = _list_pairs(order, starts[many], sizes[many], rules.max_bucket, NEIGHBOURS)
        found = [np.unique(np.concatenate([*found, pairs]))]
    packed = found[0] if found else np.empty(0, np.int64)
    np.save(out / PAIRS, packed)
    return {"counts": {"pairs": len(packed), "oversized buckets": large}}


@numba.njit(cache=True, nogil=True)
def _list_pairs(order, starts, sizes, most, neighbours):  # type: ignore[no-untyped-def]
    """Pairs packed as `left << 32 | right`, left < right."""
    total = 0
    for size in sizes:
        total += size * (size - 1) // 2 if size <= most else size * (neighbours + 1)
    out = np.empty(total, np.int64)
    filled = 0
    for b in range(len(starts)):
        size = sizes[b]
        whole = size <= most
        reach = size if whole else neighbours + 1
        first = order[starts[b]]
        if not whole:
            for i in range(size):
                first = min(first, order[starts[b] + i])
        for i in range(size):
            a = order[starts[b] + i]
            for j in range(i + 1, min(size, i + reach)):
                c = order[starts[b] + j]
                out[filled] = min(a, c) << 32 | max(a, c)
                filled += 1
            if not whole and a != first:
                out[filled] = first << 32 | a
                filled += 1
    return out[:filled]


def unpack(pairs: I64) -> tuple[I64, I64]:
    """The two numbers of packed pairs."""
    return pairs >> 32, pairs & 0xFFFFFFFF


def union(out: Path, *, folders: list[str]) -> dict[str, Any]:
    """All proposed pairs, each once."""
    pairs = np.empty(0, np.int64)
    for folder in folders:
        pairs = np.union1d(pairs, np.load(Path(folder) / PAIRS))
    np.save(out / PAIRS, pairs)
    return {"counts": {"pairs": len(pairs)}}


def gather(
    out: Path, *, file: str, pairs: str, start: int, count: int, ngram: int
) -> dict[str, Any]:
    """The n-gram sets of those documents of one part that are in a pair."""
    left, right = unpack(np.load(Path(pairs) / PAIRS))
    wanted = np.zeros(count, bool)
    for side in (left, right):
        wanted[side[(side >= start) & (side < start + count)] - start] = True
    sets: list[npt.NDArray[np.uint64]] = []
    ends = [np.zeros(1, np.int64)]
    seen = total = 0
    for data, offsets in _text_batches(Path(file)):
        size = len(offsets) - 1
        chosen = np.flatnonzero(wanted[seen : seen + size])
        grams, bounds = kernels.gram_sets(data, offsets, chosen, ngram)
        sets.append(grams)
        ends.append(bounds[1:] + total)
        total += len(grams)
        seen += size
    np.save(out / SETS, np.concatenate(sets) if sets else np.empty(0, np.uint64))
    np.save(out / ENDS, np.concatenate(ends))
    np.save(out / CHOSEN, np.flatnonzero(wanted) + start)
    return {"counts": {"documents": int(wanted.sum())}}


def verify(
    out: Path, *, folders: list[str], part: int, pairs: str, threshold: float
) -> dict[str, Any]:
    """The pairs whose first document is in the given part and that are similar enough."""
    mine = np.load(Path(folders[part]) / CHOSEN)
    left, right = unpack(np.load(Path(pairs) / PAIRS))
    sets, ends = _sets(folders[part])
    edges, similar = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    if len(mine):
        inside = (left >= mine[0]) & (left <= mine[-1])
        left, right = left[inside], right[inside]
        for other in range(part, len(folders)):
            theirs = np.load(Path(folders[other]) / CHOSEN)
            if not len(theirs):
                continue
            here = (right >= theirs[0]) & (right <= theirs[-1])
            a, b = left[here], right[here]
            their_sets, their_ends = _sets(folders[other])
            value = kernels.jaccard(
                sets, ends, np.searchsorted(mine, a),
                their_sets, their_ends, np.searchsorted(theirs, b),
            )  # fmt: skip
            enough = value >= threshold
            edges.append(a[enough] << 32 | b[enough])
            similar.append(value[enough])
    np.save(out / EDGES, np.concatenate(edges))
    np.save(out / SIMILARITY, np.concatenate(similar))
    return {"counts": {"compared": len(left), "similar": sum(map(len, edges))}}


def _sets(folder: str) -> tuple[npt.NDArray[np.uint64], I64]:
    # Mapped, not read: only the sets that are compared come into memory.
    return np.load(Path(folder) / SETS, mmap_mode="r"), np.load(Path(folder) / ENDS)


def cluster(out: Path, *, edges: list[str], files: list[str]) -> dict[str, Any]:
    """For every document the number of the one that stands for its cluster.

    That is the one whose link is the oldest; of equally old ones, the first by key. A link of
    unknown date counts as younger than any.
    """
    created = np.concatenate([pq.read_table(f, columns=["created"])["created"] for f in files])
    none = np.empty(0, np.int64)
    pairs = np.unique(np.concatenate([none, *(np.load(path) for path in edges)]))
    age = np.where(created > 0, created, np.iinfo(np.int64).max)
    leaders = _leaders(len(created), *unpack(pairs), age)
    np.save(out / LEADERS, leaders)
    sizes = np.unique(leaders, return_counts=True)[1]
    by_size = np.unique(sizes, return_counts=True)
    histogram = {str(size): int(n) for size, n in zip(*by_size, strict=True)}
    removed = int(len(leaders) - len(sizes))
    return {
        "counts": {"documents": len(leaders), "near duplicate": removed, "kept": len(sizes)},
        "cluster_sizes": histogram,
    }


@numba.njit(cache=True, nogil=True)
def _leaders(count, left, right, age):  # type: ignore[no-untyped-def]
    parent = np.arange(count)
    for e in range(len(left)):
        a, b = left[e], right[e]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a != b:
            if age[b] < age[a] or (age[b] == age[a] and b < a):
                a, b = b, a
            parent[b] = a
    for i in range(count):
        a = i
        while parent[a] != a:
            a = parent[a]
        parent[i] = a
    return parent
