"""The whole pass in compiled code, for CPUs: a token's products, norms and attention in one call.

PyTorch spends more time between the products of a small model than in them, and has no product of
a few rows with int8 or int4 weights that keeps up with memory. A row's values here do not depend
on the rows beside it, bit for bit.
"""

from gpt2lab.model.native.build import NotBuiltError, cache_folder, library, processor, status
from gpt2lab.model.native.call import BLOCK, FACTS, Model, Packed, Slots, multiply

__all__ = [
    "BLOCK",
    "FACTS",
    "Model",
    "NotBuiltError",
    "Packed",
    "Slots",
    "cache_folder",
    "library",
    "multiply",
    "processor",
    "status",
]
