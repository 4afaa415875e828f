"""Random numbers that are a function of seed, position and purpose alone (Philox4x32-10).

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (2011).
"""

import numpy as np
import numpy.typing as npt

_ROUNDS = 10
_MULTIPLY = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = npt.NDArray[np.uint64]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> list[Words]:
    """Four 32-bit words (held in uint64) for each counter of four and key of two such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLY[0] * c0, _MULTIPLY[1] * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return [c0, c1, c2, c3]


def uniform(
    seed_N: npt.NDArray[np.uint64], position_N: npt.NDArray[np.int64], purpose: int = 0
) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits, one for each seed and position in a text."""
    position = position_N.astype(np.uint64)
    zero = np.zeros_like(position)
    counter = (position & _LOW, position >> _HALF, zero + np.uint64(purpose), zero)
    high, low, _, _ = philox(counter, (seed_N & _LOW, seed_N >> _HALF))
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    return bits.astype(np.float64) * 2.0**-53
