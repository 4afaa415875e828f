"""How much of an evaluation text is in the corpus (paper section 4, table 6).

The paper put the corpus's word 8-grams into Bloom filters and looked up each test set's. Here it
is turned round: the test sets' 8-grams are few and held exactly, the corpus streams past them once.
The answer has no false positives. The filter can be had too, and documents can be cut.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from gpt2lab.corpus import documents, kernels
from gpt2lab.corpus.compressed import Damage, available_memory
from gpt2lab.corpus.dedup import LEADERS
from gpt2lab.corpus.plaintext import find_files, read_file
from gpt2lab.errors import UserError

GRAMS, FOUND, BLOOM = "grams.npy", "found.npy", "bloom.npy"
# GPT-3 (Brown et al. 2020, appendix C): cut 200 characters on each side of a 13-gram, keep pieces
# of at least 200, drop documents that fall into more than ten.
CUT_NGRAM, CUT_CHARS, MOST_PIECES = 13, 200, 10

U64 = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint8]


def prepare(out: Path, *, benchmarks: list[str], ngram: int) -> dict[str, Any]:
    """The n-grams of each benchmark, and all of them together, sorted."""
    tables: list[U64] = []
    rows = []
    for i, path in enumerate(benchmarks):
        damage: list[Damage] = []
        texts = [d.text for f in find_files(Path(path)) for d in read_file(f, damage)]
        if damage:
            raise UserError(f"{damage[0]}; fetch or make the file again")
        grams = [kernels.ngrams(text, ngram) for text in texts]
        # A text of fewer words than n has no n-gram of its own.
        grams = [g for g, text in zip(grams, texts, strict=True) if _words(text) >= ngram]
        joined = np.concatenate(grams) if grams else np.empty(0, np.uint64)
        table, counts = np.unique(joined, return_counts=True)
        np.save(out / f"benchmark-{i}.npy", np.stack([table, counts.astype(np.uint64)]))
        tables.append(table)
        rows.append({"name": Path(path).name, "documents": len(texts), "ngrams": len(joined)})
    np.save(out / GRAMS, np.unique(np.concatenate([np.empty(0, np.uint64), *tables])))
    return {"counts": {}, "benchmarks": rows}


def _words(text: str) -> int:
    return len(kernels.ngrams_and_ends(text.encode("utf-8", "replace"), 1)[1])


def mark(
    out: Path,
    *,
    file: str,
    start: int,
    clusters: str,
    prepared: str,
    ngram: int,
    everything: bool,
) -> dict[str, Any]:
    """Which of the benchmarks' n-grams occur in one part of the corpus."""
    table = np.load(Path(prepared) / GRAMS)
    found = np.zeros(len(table), bool)
    screen = _screen(table)
    total = 0
    for text in kept_texts(file, start, clusters, everything):
        grams = kernels.ngrams(text, ngram)
        total += len(grams)
        _mark(grams, screen, table, found)
    np.save(out / FOUND, found)
    return {"counts": {"ngrams": total}}


def kept_texts(file: str, start: int, clusters: str, everything: bool) -> Iterator[str]:
    """The texts of a part that are not near-duplicates of others, or all of them."""
    leaders = np.load(Path(clusters) / LEADERS, mmap_mode="r")
    position = start
    for batch in documents.texts(file):
        for text in batch:
            if everything or leaders[position] == position:
                yield text
            position += 1


@numba.njit(cache=True, nogil=True)
def _screen(table):  # type: ignore[no-untyped-def]
    """A bit for the top 27 bits of each n-gram: most of a corpus's n-grams end here."""
    bits = np.zeros(1 << 24, np.uint8)
    for gram in table:
        high = gram >> np.uint64(37)
        bits[high >> np.uint64(3)] |= np.uint8(1) << np.uint8(high & np.uint64(7))
    return bits


@numba.njit(cache=True, nogil=True)
def _mark(grams, screen, table, found):  # type: ignore[no-untyped-def]
    for gram in grams:
        high = gram >> np.uint64(37)
        if screen[high >> np.uint64(3)] >> np.uint8(high & np.uint64(7)) & 1:
            at = np.searchsorted(table, gram)
            if at < len(table) and table[at] == gram:
                found[at] = True


def tabulate(out: Path, *, marks: list[str], prepared: str) -> dict[str, Any]:
    """The share of each benchmark's n-grams, each occurrence counted, that the corpus holds."""
    table = np.load(Path(prepared) / GRAMS)
    found = np.zeros(len(table), bool)
    for folder in marks:
        found |= np.load(Path(folder) / FOUND)
    rows = []
    i = 0
    while (path := Path(prepared) / f"benchmark-{i}.npy").exists():
        grams, counts = np.load(path)
        hit = found[np.searchsorted(table, grams)]
        rows.append({"ngrams": int(counts.sum()), "found": int(counts[hit].sum())})
        i += 1
    return {"counts": {}, "overlap": rows}


class Bloom:
    """The paper's filter: an n-gram it has seen is always found, another with probability `error`.

    Raises UserError if it would not fit into memory.
    """

    def __init__(self, items: int, error: float) -> None:
        self.hashes = max(1, round(-math.log2(error)))
        # Rounding the number of hashes costs up to a few percent of error; bits make up for it.
        self.bits = math.ceil(
            -max(1, items) * self.hashes / math.log(1 - error ** (1 / self.hashes))
        )
        if self.bits / 8 > 0.8 * available_memory():
            raise UserError(
                f"a Bloom filter of {items:,} n-grams at error {error:g} needs "
                f"{self.bits / 8e9:.1f} GB of memory; raise overlap.bloom_error or turn it off"
            )
        self.table: Bits = np.zeros(self.bits // 8 + 1, np.uint8)

    def add(self, grams: U64) -> None:
        """Put n-gram hashes in."""
        _bloom_add(grams, self.table, self.bits, self.hashes)

    def found(self, grams: U64) -> npt.NDArray[np.bool_]:
        """For each n-gram hash whether it is in."""
        return _bloom_found(grams, self.table, self.bits, self.hashes)

    def save(self, path: Path) -> None:
        """Write the filter; its first 16 bytes are the numbers of bits and hashes."""
        head = np.array([self.bits, self.hashes], "<u8").view(np.uint8)
        np.save(path, np.concatenate([head, self.table]))

    @classmethod
    def load(cls, path: Path) -> "Bloom":
        """Read a filter back; UserError if the file is none."""
        try:
            data = np.load(path, allow_pickle=False)
            bits, hashes = (int(x) for x in data[:16].view("<u8"))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a Bloom filter ({error}); check the path") from None
        if data.dtype != np.uint8 or not 0 < bits < 8 * (len(data) - 16) or not 0 < hashes < 64:
            raise UserError(f"{path} is not a Bloom filter; check the path")
        bloom = cls.__new__(cls)
        bloom.bits, bloom.hashes, bloom.table = bits, hashes, data[16:]
        return bloom


@numba.njit(cache=True, inline="always")
def _bit(gram, i, bits):  # type: ignore[no-untyped-def]
    # Every hash mixed afresh: steps of one pair of hashes would miss errors as small as 1e-8.
    return kernels._mix(gram + np.uint64(i + 1) * kernels.WEIGHT) % np.uint64(bits)


@numba.njit(cache=True, nogil=True)
def _bloom_add(grams, table, bits, hashes):  # type: ignore[no-untyped-def]
    for gram in grams:
        for i in range(hashes):
            bit = _bit(gram, i, bits)
            table[bit >> np.uint64(3)] |= np.uint8(1) << np.uint8(bit & np.uint64(7))


@numba.njit(cache=True, nogil=True)
def _bloom_found(grams, table, bits, hashes):  # type: ignore[no-untyped-def]
    out = np.ones(len(grams), np.bool_)
    for g in range(len(grams)):
        for i in range(hashes):
            bit = _bit(grams[g], i, bits)
            if not table[bit >> np.uint64(3)] >> np.uint8(bit & np.uint64(7)) & 1:
                out[g] = False
                break
    return out


def build_bloom(
    out: Path,
    *,
    parts: list[tuple[str, int]],
    clusters: str,
    items: int,
    ngram: int,
    error: float,
    everything: bool,
) -> dict[str, Any]:
    """The filter of the whole corpus, which has `items` n-grams."""
    bloom = Bloom(items, error)
    for file, start in parts:
        for text in kept_texts(file, start, clusters, everything):
            bloom.add(kernels.ngrams(text, ngram))
    bloom.save(out / BLOOM)
    return {"counts": {"ngrams": items, "bytes": len(bloom.table)}}


class Cutter:
    """Cuts what overlaps with benchmarks out of documents."""

    def __init__(self, prepared: Path) -> None:
        self._table = np.load(prepared / GRAMS)

    def pieces(self, text: str) -> list[str]:
        """What is left: the text itself, pieces of it, or nothing if there are too many."""
        data = text.encode("utf-8", "replace")
        grams, ends = kernels.ngrams_and_ends(data, CUT_NGRAM)
        if len(ends) < CUT_NGRAM:
            return [text]
        spans = self._spans(grams, ends, len(data))
        if not spans:
            return [text]
        edges = [0, *(x for span in spans for x in span), len(data)]
        pieces = [
            data[a:b].decode("utf-8", "ignore").strip()
            for a, b in zip(edges[::2], edges[1::2], strict=True)
        ]
        pieces = [piece for piece in pieces if len(piece) >= CUT_CHARS]
        return pieces if len(pieces) <= MOST_PIECES else []

    def _spans(
        self, grams: U64, ends: npt.NDArray[np.int64], size: int
    ) -> Sequence[tuple[int, int]]:
        """Bytes to cut, merged where they touch."""
        hits = np.flatnonzero(np.isin(grams, self._table))
        spans: list[tuple[int, int]] = []
        for i in hits.tolist():
            start = max(0, (int(ends[i - 1]) if i else 0) - CUT_CHARS)
            end = min(size, int(ends[i + CUT_NGRAM - 1]) + CUT_CHARS)
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        return spans
