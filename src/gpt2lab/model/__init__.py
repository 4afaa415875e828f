"""The transformer: configuration, forward pass, KV cache, checkpoints, import from elsewhere."""

from gpt2lab.model.cache import KVCache
from gpt2lab.model.config import SIZES, GPT2Config
from gpt2lab.model.transformer import GPT2

__all__ = ["GPT2", "SIZES", "GPT2Config", "KVCache"]
