"""Near-duplicates: MinHash proposes pairs, exact Jaccard similarity decides, clusters follow.

Broder (1997) for min-hashes, Leskovec et al. (Mining of Massive Datasets, chapter 3) for bands. A
band that looks loose costs only comparisons, never precision, so bands are chosen for recall: at
the recipe's 35 bands of 3 a pair at similarity 0.5 is missed with probability 0.9 %. Documents are
numbered in the order of their keys, so no result depends on how they were split among workers.
"""

from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from gpt2lab.corpus import kernels
from gpt2lab.corpus.documents import read_column, text_batches
from gpt2lab.corpus.recipe import Dedup

BANDS = "bands.npy"
PAIRS = "pairs.npy"
SETS, ENDS, CHOSEN = "sets.npy", "ends.npy", "chosen.npy"
EDGES, SIMILARITY = "edges.npy", "similarity.npy"
LEADERS = "leaders.npy"
PAIRS_HELD = 1 << 24

I64 = npt.NDArray[np.int64]


def sign(out: Path, *, file: str, rules: Dedup) -> dict[str, Any]:
    """The band keys [bands, documents] of one part."""
    keys = [
        kernels.band_keys(
            kernels.signatures(data, offsets, rules.ngram, rules.bands * rules.rows),
            rules.bands,
            rules.rows,
        )
        for data, offsets in text_batches(file)
    ]
    joined = np.concatenate(keys) if keys else np.empty((0, rules.bands), np.uint64)
    np.save(out / BANDS, np.ascontiguousarray(joined.T))
    return {"counts": {"documents": len(joined)}}


def propose(out: Path, *, folders: list[str], bands: list[int], rules: Dedup) -> dict[str, Any]:
    """Pairs of documents that agree in one of the given bands, each once, the lower number first.

    A document is paired with the `max_bucket` documents before it that share the band, and with
    the first that does: pages of one template, thousands of them, make no millions of pairs.
    """
    packed, held, waiting = np.empty(0, np.int64), 0, []
    large = 0
    for band in bands:
        keys = np.concatenate([np.load(Path(f) / BANDS, mmap_mode="r")[band] for f in folders])
        pairs, oversized = _list_pairs(keys, rules.max_bucket)
        large += oversized
        waiting.append(pairs)
        held += len(pairs)
        if held >= PAIRS_HELD:
            packed, held, waiting = np.unique(np.concatenate([packed, *waiting])), 0, []
    packed = np.unique(np.concatenate([packed, *waiting]))
    np.save(out / PAIRS, packed)
    return {"counts": {"pairs": len(packed), "oversized buckets": large}}


@numba.njit(cache=True, nogil=True)
def _list_pairs(keys, most):  # type: ignore[no-untyped-def]
    """Pairs packed as `left << 32 | right`, and the number of buckets larger than `most`."""
    count = len(keys)
    bits = 4
    while (1 << bits) < 2 * count:
        bits += 1
    mask = np.int64((1 << bits) - 1)
    # An open hash table from a band's key to its latest document; documents of one key are
    # chained backwards, and know the first of them and their number so far.
    latest = np.full(1 << bits, -1, np.int64)
    before = np.full(count, -1, np.int64)
    first = np.arange(count)
    size = np.ones(count, np.int64)
    total, oversized = 0, 0
    for i in range(count):
        if keys[i] == kernels.NO_KEY:
            continue
        slot = np.int64(keys[i] >> np.uint64(64 - bits))
        while latest[slot] >= 0 and keys[latest[slot]] != keys[i]:
            slot = (slot + 1) & mask
        j = latest[slot]
        latest[slot] = i
        if j >= 0:
            before[i], first[i], size[i] = j, first[j], size[j] + 1
            total += min(size[j], most + 1)
            oversized += size[i] == most + 2
    out = np.empty(total, np.int64)
    filled = 0
    for i in range(count):
        j, steps = before[i], 0
        while j >= 0 and steps < most:
            out[filled] = j << 32 | i
            filled += 1
            j = before[j]
            steps += 1
        if j >= 0:
            out[filled] = first[i] << 32 | i
            filled += 1
    return out[:filled], oversized


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
    for data, offsets in text_batches(file):
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
    created = read_column(files, "created").to_numpy()
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
