"""What a language model has to beat: a general compressor and a table of counts."""

import lzma
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]


def xz_bits_per_byte(held_out: Sequence[str]) -> float:
    """Bits per byte that `xz -9` needs for the held-out texts, joined by blank lines."""
    data = "\n\n".join(held_out).encode()
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


def ngram_bits(
    train: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]], vocab: int, order: int = 5
) -> float:
    """Bits that an interpolated Kneser-Ney model of `order` needs for the held-out sequences.

    Every sequence begins with a separator, which is context and is not scored. One discount per
    order, n1 / (n1 + 2 n2), or 0.5 where nothing occurs once; lower orders count distinct left
    neighbours, not occurrences (Chen and Goodman 1998, section 2.7). The last fallback is uniform
    over `vocab` symbols.
    """
    tokens, length = _flatten(train)
    held, held_length = _flatten(held_out)
    grams, ids = _number(tokens, length, vocab, order)
    probability = np.full(len(held), 1.0 / vocab)
    context = np.zeros(len(held), np.int64)  # number of the context seen in training; -1: unseen
    for k in range(order):
        keys, _first, counts = grams[k]
        if k + 1 < order:
            counts = np.bincount(ids[k][grams[k + 1][1]], minlength=len(keys))
        known = (context >= 0) & (held_length >= k)
        gram = _find(keys, np.where(known, context * vocab + held, -1))
        ones, twos = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
        discount = ones / (ones + 2 * twos) if ones else 0.5  # none would forbid the unseen
        contexts = keys // vocab
        total = np.bincount(contexts, weights=counts)
        kinds = np.bincount(contexts, weights=counts > 0)
        at = np.where(known, np.minimum(context, len(total) - 1), 0)
        usable = known & (context < len(total)) & (total[at] > 0)
        count = np.where(gram >= 0, counts[gram], 0)
        mixed = np.maximum(count - discount, 0) + discount * kinds[at] * probability
        probability = np.where(usable, mixed / np.maximum(total[at], 1e-12), probability)
        # The context of the next order at i is the k+1 tokens that end at i - 1.
        context = np.concatenate([[-1], gram[:-1]])
    return float(-np.log2(probability[held_length > 0]).sum())


def _flatten(sequences: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """All tokens in a row, and for each how many of its own sequence stand before it."""
    tokens = np.concatenate([np.asarray(s, np.int64) for s in sequences])
    sizes = np.array([len(s) for s in sequences])
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return tokens, np.arange(len(tokens)) - starts


def _number(
    tokens: Array, length: Array, vocab: int, order: int
) -> tuple[list[tuple[Array, Array, Array]], list[Array]]:
    """For each k up to `order`: the distinct k-grams, where each first ends, how often it occurs;
    and for each position the number of the k-gram that ends there.

    A k-gram's key is (number of its first k - 1 tokens) * vocab + its last token, so that keys of
    any order fit 64 bits.
    """
    grams, ids = [], []
    context = np.zeros(len(tokens), np.int64)
    for k in range(order):
        inside = np.flatnonzero(length >= k)
        keys, first, inverse, counts = np.unique(
            context[inside] * vocab + tokens[inside],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        number = np.full(len(tokens), -1, np.int64)
        number[inside] = inverse
        grams.append((keys, inside[first], counts))
        ids.append(number)
        context = np.concatenate([[-1], number[:-1]])
    return grams, ids


def _find(keys: Array, wanted: Array) -> Array:
    """Index of each wanted key in the sorted `keys`, -1 where it is not."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)
