"""A watermark: a secret key colours half of all tokens green at every place, and green is favoured.

Kirchenbauer et al. 2023 (arXiv 2301.10226): the tokens before a place, with the key, decide which
tokens are green there (gamma = 1/2), and green ones' logits are raised by delta. Who has the key
counts green tokens. Two tokens decide here, where the paper has one: with one, pairs of tokens that
every text has shift the count of all human texts alike. The colours are a hash, not a cipher: who
sees enough marked text can learn them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2lab.generation.random import philox
from gpt2lab.generation.sampling import Sampling

# Tokens before a place that, with the key, decide its colours.
BEFORE = 2
GAMMA = 0.5
_LOW, _HALF, _PURPOSE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(0x6D61726B)
# SplitMix64 (Steele et al. 2014): its step, and what its output is mixed with.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)

Ids = npt.NDArray[np.int64]


def green(key: int, before: Ids, ids: Ids) -> npt.NDArray[np.bool_]:
    """Whether tokens [...] are green after given ones [..., BEFORE]."""
    one, two = (before[..., i].astype(np.uint64) for i in range(BEFORE))
    secret = np.full_like(one, key)
    high, low, _, _ = philox(
        (one, two, np.zeros_like(one), np.full_like(one, _PURPOSE)),
        (secret & _LOW, secret >> _HALF),
    )
    x = ((high << _HALF) | low) + _STEP * ids.astype(np.uint64)
    for shift, factor in _MIX:
        x = (x ^ (x >> shift)) * factor
    return (x >> np.uint64(63)).astype(bool)


def favour(logits_V: Tensor, rules: Sampling, tokens: Sequence[int]) -> Tensor:
    """Logits after `tokens` [V] with the green ones raised, where the rules have a watermark."""
    if rules.watermark is None or len(tokens) < BEFORE:
        return logits_V
    found_V = green(rules.watermark, np.array(tokens[-BEFORE:]), np.arange(len(logits_V)))
    return logits_V + rules.watermark_strength * torch.from_numpy(found_V).to(logits_V.device)
