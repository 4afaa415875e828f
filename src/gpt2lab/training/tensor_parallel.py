"""Every block's matrices shared among processes, by whole heads and by columns of the MLP.

The first matrix of each pair is cut by outputs and the second by inputs (Shoeybi et al.,
"Megatron-LM", 2019), so that a block needs one sum after its attention and one after its MLP.
Tables and norms stay whole. The head count need not divide: 1.5B's 25 heads go to 2 or 4 processes
beside one or three heads of zeros, whose gradients are zero, so that they stay so.
"""

from typing import cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from gpt2lab.model.transformer import GPT2, Block


def split(model: GPT2, mesh: DeviceMesh) -> None:
    """Leave each process of `mesh` its part of every block, in place."""
    ranks, n_head = mesh.size(), model.config.n_head
    for module in model.h:
        block = cast(Block, module)
        attention = block.attn
        for linear, name in (
            (attention.c_attn, "c_attn.weight"),
            (attention.c_attn, "c_attn.bias"),
            (attention.c_proj, "attn.c_proj.weight"),
        ):
            parameter = linear.get_parameter(name.rpartition(".")[2])
            parameter.data = by_rank(name, parameter.data, n_head, ranks)
        attention.n_head = _padded(n_head, ranks) // ranks
        parallelize_module(
            block,
            mesh,
            {
                "attn.c_attn": ColwiseParallel(),
                "attn.c_proj": RowwiseParallel(),
                "mlp.c_fc": ColwiseParallel(),
                "mlp.c_proj": RowwiseParallel(),
            },
        )


def by_rank(name: str, t: Tensor, n_head: int, ranks: int) -> Tensor:
    """A tensor in the order that plain cutting into `ranks` pieces hands out whole heads.

    c_attn's outputs lie as q, k, v and within each by head; a process needs the q, k and v of its
    own heads. Other tensors, and c_proj's inputs but for added heads, lie right already.
    """
    heads = _padded(n_head, ranks)
    if "c_attn" in name:
        parts = t.unflatten(0, (3, n_head, -1))
        parts = _pad(parts, 1, heads).unflatten(1, (ranks, -1)).transpose(0, 1)
        return parts.flatten(0, 3).contiguous()
    if "attn.c_proj.weight" in name:
        return _pad(t.unflatten(1, (n_head, -1)), 1, heads).flatten(1, 2).contiguous()
    return t


def in_order(name: str, t: Tensor, n_head: int, ranks: int) -> Tensor:
    """The inverse of `by_rank`."""
    heads = _padded(n_head, ranks)
    if "c_attn" in name:
        parts = t.unflatten(0, (ranks, 3, heads // ranks, -1)).transpose(0, 1).flatten(1, 2)
        return parts[:, :n_head].flatten(0, 2).contiguous()
    if "attn.c_proj.weight" in name:
        return t.unflatten(1, (heads, -1))[:, :n_head].flatten(1, 2).contiguous()
    return t


def _padded(n_head: int, ranks: int) -> int:
    return -(-n_head // ranks) * ranks


def _pad(t: Tensor, dimension: int, size: int) -> Tensor:
    shape = list(t.shape)
    shape[dimension] = size - shape[dimension]
    return torch.cat([t, t.new_zeros(shape)], dimension)
