"""A shuffle that is computed, not stored: where item i of an epoch stands, for any i at any time.

A Feistel network over the smallest even number of bits that holds n is a permutation whatever its
round function; numbers that fall on n or above are sent through it again until they fall below
("cycle walking": Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

import numpy as np
import numpy.typing as npt

_ROUNDS = 6
U64 = npt.NDArray[np.uint64]


def permuted(index: npt.NDArray[np.int64], n: int, key: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Where the numbers in `index` go in the permutation of range(n) that `key` picks.

    Takes time and memory in proportion to `index`, whatever n is.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    out = _through(index.astype(np.uint64), half, keys)
    while (outside := out >= n).any():
        out[outside] = _through(out[outside], half, keys)
    return out.astype(np.int64)


def _through(x: U64, half: int, keys: U64) -> U64:
    mask, bits = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = x >> bits, x & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return left << bits | right


def _mixed(x: U64) -> U64:
    """SplitMix64's output function: every bit of x reaches every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
