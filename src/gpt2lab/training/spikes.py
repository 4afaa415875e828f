"""Loss spikes: when a loss is one, told from the losses before it."""

import math
import statistics
from collections.abc import Sequence

WINDOW = 64
"""Losses that a new one is compared with."""
_LEAST = 16
# A loss that hardly moves would make a spike of any change.
_SMALLEST_DEVIATION = 0.01


def deviations(loss: float, before: Sequence[float]) -> float:
    """By how many standard deviations `loss` exceeds the mean of those before it.

    Infinite for a loss that is not finite; 0 while there are too few to compare with.
    """
    if not math.isfinite(loss):
        return math.inf
    if len(before) < _LEAST:
        return 0.0
    spread = max(statistics.pstdev(before), _SMALLEST_DEVIATION)
    return (loss - statistics.fmean(before)) / spread
