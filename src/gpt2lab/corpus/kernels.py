"""Word n-grams and min-hashes as machine code: numba compiles them once and keeps the result.

Words are runs of letters and digits in lower case, as in the paper's overlap study (section 4,
"only lower-cased alphanumeric words"). A word is hashed as it is read, an n-gram is a polynomial
in the hashes of its words, so a text is walked once and no word is ever built. The same rules in
plain Python stand in tests/corpus/reference_ngrams.py.
"""

import functools
import sys

import numba
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

# FNV-1a for words; odd multipliers without structure elsewhere; the finaliser of MurmurHash3.
FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
WEIGHT = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_33 = np.uint64(33)
NO_KEY = np.uint64(0)


@functools.cache
def folding() -> U32:
    """For each code point: 0 if it separates words, else the code point of its lower case."""
    table = np.zeros(sys.maxunicode + 1, np.uint32)
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if char.isalnum():
            table[code] = ord(char.lower()[0])
    return table


@numba.njit(cache=True, inline="always")
def _mix(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> _33)) * MIX_1
    x = (x ^ (x >> _33)) * MIX_2
    return x ^ (x >> _33)


@numba.njit(cache=True, inline="always")
def _decode(data, i):  # type: ignore[no-untyped-def]
    """The code point at byte i of UTF-8, and where the next one starts."""
    c = np.uint32(data[i])
    low = np.uint32(0x3F)
    if c < 0x80:
        return c, i + 1
    if c < 0xE0:
        return (c & np.uint32(0x1F)) << np.uint32(6) | np.uint32(data[i + 1]) & low, i + 2
    if c < 0xF0:
        return (
            (c & np.uint32(0x0F)) << np.uint32(12)
            | (np.uint32(data[i + 1]) & low) << np.uint32(6)
            | np.uint32(data[i + 2]) & low,
            i + 3,
        )
    return (
        (c & np.uint32(0x07)) << np.uint32(18)
        | (np.uint32(data[i + 1]) & low) << np.uint32(12)
        | (np.uint32(data[i + 2]) & low) << np.uint32(6)
        | np.uint32(data[i + 3]) & low,
        i + 4,
    )


@numba.njit(cache=True, nogil=True)
def _words(data, start, end, fold, hashes, places):  # type: ignore[no-untyped-def]
    """Hashes of the words in UTF-8 `data[start:end]`, and where each ends; returns how many."""
    count, h, inside, i = 0, FNV_OFFSET, False, start
    while i < end:
        at = i
        c, i = _decode(data, i)
        folded = fold[c]
        if folded:
            h = (h ^ np.uint64(folded)) * FNV_PRIME
            inside = True
        elif inside:
            hashes[count] = _mix(h)
            places[count] = at
            count += 1
            h, inside = FNV_OFFSET, False
    if inside:
        hashes[count] = _mix(h)
        places[count] = end
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _grams(words, count, n, out):  # type: ignore[no-untyped-def]
    """Hashes of all n-grams of `words[:count]`; a shorter text is one n-gram. Returns how many."""
    if count == 0:
        return 0
    size = min(n, count)
    leaving = np.uint64(1)  # the weight of the word that leaves the window
    for _ in range(size):
        leaving *= WEIGHT
    h = np.uint64(0)
    for i in range(count):
        h = h * WEIGHT + words[i]
        if i >= size:
            h -= words[i - size] * leaving
        if i >= size - 1:
            out[i - size + 1] = _mix(h)
    return count - size + 1


@numba.njit(cache=True, nogil=True)
def _ngrams(data, fold, n):  # type: ignore[no-untyped-def]
    most = len(data) // 2 + 1
    words = np.empty(most, np.uint64)
    places = np.empty(most, np.int64)
    count = _words(data, 0, len(data), fold, words, places)
    out = np.empty(max(count, 1), np.uint64)
    return out[: _grams(words, count, n, out)], places[:count]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _signatures(data, offsets, fold, n, multipliers, addends):  # type: ignore[no-untyped-def]
    """Min-hashes [documents, permutations] of the n-grams of each text."""
    documents, permutations = len(offsets) - 1, len(multipliers)
    longest = 0
    for d in range(documents):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words = np.empty(longest // 2 + 1, np.uint64)
    places = np.empty(longest // 2 + 1, np.int64)
    grams = np.empty(longest // 2 + 1, np.uint64)
    out = np.full((documents, permutations), np.uint32(0xFFFFFFFF), np.uint32)
    for d in range(documents):
        count = _words(data, offsets[d], offsets[d + 1], fold, words, places)
        count = _grams(words, count, n, grams)
        least = out[d]
        for i in range(count):
            x = np.uint32(grams[i] >> np.uint64(32))
            for k in range(permutations):
                h = np.uint32(x * multipliers[k] + addends[k])
                least[k] = min(least[k], h)
    return out


@numba.njit(cache=True, nogil=True)
def _bands(signatures, bands, rows):  # type: ignore[no-untyped-def]
    out = np.empty((signatures.shape[0], bands), np.uint64)
    for d in range(signatures.shape[0]):
        if signatures[d, 0] == np.uint32(0xFFFFFFFF) and signatures[d].min() == signatures[d, 0]:
            out[d] = NO_KEY  # a text without a word is like no other
            continue
        for b in range(bands):
            h = np.uint64(b)
            for r in range(rows):
                h = _mix(h ^ np.uint64(signatures[d, b * rows + r]) * WEIGHT)
            out[d, b] = h
    return out


@numba.njit(cache=True, nogil=True)
def _jaccard(a_sets, a_ends, a_at, b_sets, b_ends, b_at):  # type: ignore[no-untyped-def]
    out = np.empty(len(a_at), np.float64)
    for p in range(len(a_at)):
        i, i_end = a_ends[a_at[p]], a_ends[a_at[p] + 1]
        j, j_end = b_ends[b_at[p]], b_ends[b_at[p] + 1]
        union, both = i_end - i + j_end - j, 0
        while i < i_end and j < j_end:
            a, b = a_sets[i], b_sets[j]
            both += a == b
            i += a <= b
            j += b <= a
        out[p] = both / (union - both) if union > both else 0.0
    return out


@numba.njit(cache=True, nogil=True)
def _text_keys(data, offsets, lower):  # type: ignore[no-untyped-def]
    out = np.empty((len(offsets) - 1, 2), np.uint64)
    for d in range(len(offsets) - 1):
        h = FNV_OFFSET
        i, end = offsets[d], offsets[d + 1]
        inside, any_word = False, False
        while i < end:
            c, i = _decode(data, i)
            folded = np.uint64(lower[c])
            if folded == 0:
                inside = False
                continue
            if not inside and any_word:
                h = (h ^ np.uint64(32)) * FNV_PRIME
            inside = any_word = True
            h = (h ^ folded) * FNV_PRIME
        out[d, 0] = _mix(h)
        out[d, 1] = _mix(h + WEIGHT)
    return out


@functools.cache
def lowering() -> U32:
    """For each code point: 0 for white space, else the code point of its lower case."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if char.isspace():
            table[code] = 0
        elif char != (low := char.lower()):
            table[code] = ord(low[0])
    table[0] = 1  # a zero byte is no white space
    return table


def text_keys(data: Bytes, offsets: I64) -> U64:
    """Keys [documents, 2] of texts, equal for texts that differ only in case and white space.

    The second number follows from the first. Keys spread and meet well but can be forged: whether
    two texts are the same is decided by the texts.
    """
    return _text_keys(data, offsets, lowering())


def ngrams(text: str, n: int) -> U64:
    """Hashes of the text's word n-grams in their order."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    return _ngrams(data, folding(), n)[0]


def ngrams_and_ends(text: bytes, n: int) -> tuple[U64, I64]:
    """Hashes of the n-grams of UTF-8 text, and for each word the offset at which it ends."""
    return _ngrams(np.frombuffer(text, np.uint8), folding(), n)


def permutations(count: int) -> tuple[U32, U32]:
    """The multipliers (odd) and addends of `count` hash functions; the same on every machine."""
    raw = np.random.Philox(20190214).random_raw(2 * count).astype(np.uint32).reshape(count, 2)
    return raw[:, 0] | np.uint32(1), raw[:, 1].copy()


def signatures(data: Bytes, offsets: I64, n: int, count: int) -> U32:
    """Min-hashes [documents, count] of UTF-8 texts that lie end to end in `data`.

    Two documents agree in a column with the probability of their n-gram sets' Jaccard similarity.
    """
    return _signatures(data, offsets, folding(), n, *permutations(count))


def band_keys(signature: U32, bands: int, rows: int) -> U64:
    """Keys [documents, bands]: equal where all `rows` min-hashes of a band are."""
    return _bands(signature, bands, rows)


def jaccard(
    a_sets: U64, a_ends: I64, a_at: I64, b_sets: U64, b_ends: I64, b_at: I64
) -> npt.NDArray[np.float64]:
    """Exact Jaccard similarity of sets number `a_at[i]` and `b_at[i]`, as `gram_sets` lays out."""
    return _jaccard(a_sets, a_ends, a_at, b_sets, b_ends, b_at)


@numba.njit(cache=True, nogil=True)
def _sets(data, offsets, chosen, fold, n):  # type: ignore[no-untyped-def]
    total = 0
    for d in chosen:
        total += (offsets[d + 1] - offsets[d]) // 2 + 1
    out = np.empty(total, np.uint64)
    ends = np.zeros(len(chosen) + 1, np.int64)
    filled = 0
    for c in range(len(chosen)):
        d = chosen[c]
        found, _ = _ngrams(data[offsets[d] : offsets[d + 1]], fold, n)
        found = np.sort(found)
        last = np.uint64(0)
        for i in range(len(found)):
            if i == 0 or found[i] != last:
                last = found[i]
                out[filled] = last
                filled += 1
        ends[c + 1] = filled
    return out[:filled], ends


def gram_sets(
    data: Bytes,
    offsets: I64,
    chosen: I64,
    n: int,
) -> tuple[U64, I64]:
    """The n-gram sets of the chosen documents, each sorted, end to end, and their bounds."""
    return _sets(data, offsets, chosen, folding(), n)
