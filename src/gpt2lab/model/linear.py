"""The linear map every block is made of, sent to the library that runs it fastest."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _onednn_works() -> bool:
    """Whether this PyTorch offers oneDNN's linear map as the operator its own compiler calls."""
    try:
        x = torch.ones(1, 2)
        y = torch.ops.mkldnn._linear_pointwise(x, torch.ones(3, 2), None, "none", [], "")
        return bool(torch.equal(y, torch.full((1, 3), 2.0)))
    except (AttributeError, RuntimeError):
        return False


_ONEDNN = _onednn_works()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ weight.T + bias, for x [..., n_in] and weight [n_out, n_in].

    Without gradients on a CPU in float32 this is oneDNN's: `F.linear` calls BLAS, which reads the
    weights of a one-row product at less than half of memory's speed (LOG.md, 2026-11-21).
    """
    if _ONEDNN and _eager_inference(x) and _is_plain(x) and _is_plain(weight):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)


def _eager_inference(x: Tensor) -> bool:
    """No gradients, no autocast, and not under torch.compile, which picks kernels itself."""
    return not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled(x.device.type)
        or torch.compiler.is_compiling()
    )


def _is_plain(t: Tensor) -> bool:
    """A float32 CPU tensor, and not a subclass that stands for one spread over processes."""
    return t.dtype is torch.float32 and t.device.type == "cpu" and type(t) in (Tensor, nn.Parameter)


class Linear(nn.Linear):
    """`nn.Linear` through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
