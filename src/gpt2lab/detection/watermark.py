"""Whether a text carries the watermark of a key: green tokens counted, with a p-value.

Each place counts once: where the tokens before it and its own have been seen already, its colour is
known (Kirchenbauer et al. 2023, section 4). What is left is, without the key, a throw of a coin
each, so the p-value is the binomial's own and z only the usual way to tell it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import Ids
from gpt2lab.generation.watermark import BEFORE, GAMMA, green

# Fewer places tell nothing.
FEWEST = 16


@dataclass(frozen=True)
class Mark:
    """How many places of a text are green."""

    green: int
    places: int
    z: float
    """Standard deviations above half."""
    p: float
    """How often a text that was written without the key has as many."""


def look(ids: Ids, key: int) -> Mark:
    """Count green tokens. Raises UserError if the text is too short, or the key no key."""
    if not 0 <= key < 2**63:
        raise UserError(f"the key is {key}; it must be from 0 to 2^63 - 1")
    grams = np.empty((0, BEFORE + 1), np.int64)
    if len(ids) > BEFORE:
        windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64), BEFORE + 1)
        grams = np.unique(windows, axis=0)
    n = len(grams)
    if n < FEWEST:
        raise UserError(
            f"the text has {n} places that could carry a watermark, and {FEWEST} are needed; give "
            "a longer one"
        )
    count = int(green(key, grams[:, :BEFORE], grams[:, BEFORE]).sum())
    z = (count - GAMMA * n) / np.sqrt(n * GAMMA * (1 - GAMMA))
    return Mark(count, n, float(z), float(stats.binom.sf(count - 1, n, GAMMA)))
