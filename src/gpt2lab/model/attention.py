"""Scaled dot-product attention, by PyTorch's kernel or, where that is slow, by batched products."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# In bfloat16 on a CPU, PyTorch's fused kernel takes two to four times as long as plain batched
# products up to this length, and the same time at twice it (LOG.md, 2026-11-21).
_SHORT = 512


def attend(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask_BHTS: Tensor | None, dropout: float
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, for queries [B, H, T, K] over keys and values [B, H, S, K].

    mask_BHTS: true where a query sees a key. Without one, attention is causal if there is more
    than one query (then T = S), and a single query, being the newest, sees every key.
    """
    T = q_BHTK.shape[2]
    causal = mask_BHTS is None and bool(T > 1)
    if causal and batched(q_BHTK.device.type, q_BHTK.dtype, T, dropout):
        return _batched(q_BHTK, k_BHSK, v_BHSK)
    return F.scaled_dot_product_attention(
        q_BHTK, k_BHSK, v_BHSK, attn_mask=mask_BHTS, dropout_p=dropout, is_causal=causal
    )


def batched(device: str, dtype: torch.dtype, context: int, dropout: float) -> bool:
    """Whether `attend` makes batched products, whose whole pattern is kept for the gradient."""
    return device == "cpu" and dtype is torch.bfloat16 and context <= _SHORT and not dropout


def _batched(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    B, H, T, K = q_BHTK.shape
    q, k, v = (t.reshape(B * H, T, K) for t in (q_BHTK, k_BHTK, v_BHTK))
    future_TT = _future(T, q.dtype)
    scores = torch.baddbmm(future_TT, q, k.transpose(1, 2), alpha=1 / math.sqrt(K))
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(B, H, T, K)


@functools.lru_cache(maxsize=8)
def _future(T: int, dtype: torch.dtype) -> Tensor:
    """[T, T]: 0 where key <= query, -inf after it."""
    with torch.inference_mode(False):  # kept for training too, whoever asks first
        return torch.full((T, T), -torch.inf).triu(1).to(dtype)
