"""The linear map every block is made of, sent to the library that runs it fastest."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def _onednn_works() -> bool:
    """Whether this PyTorch offers oneDNN's linear map as the operator its own compiler calls."""
    try:
        y = _onednn(torch.ones(1, 2), torch.ones(3, 2), None)
        return bool(torch.equal(y, torch.full((1, 3), 2.0)))
    except (AttributeError, RuntimeError):
        return False


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


_ONEDNN = _onednn_works()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ weight.T + bias, for x [..., n_in] and weight [n_out, n_in].

    On a CPU in float32 this is oneDNN's: `F.linear` calls BLAS, which reads the weights of a
    one-row product at less than half of memory's speed, and is 10 to 25 % slower at a batch's
    (LOG.md, 2026-11-21). Its gradients can be taken once.
    """
    if not (_ONEDNN and _eager(x) and _is_plain(x) and _is_plain(weight)):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return _onednn(x, weight, bias)


class _Linear(torch.autograd.Function):
    """oneDNN for the output and the input's gradient; BLAS, faster there, for the weight's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The input is for the weight's gradient only, the weight for the input's.
        need_x, need_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if need_weight else None, weight if need_x else None)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            _onednn(grad, weight.t(), None) if need_x else None,
            rows.t() @ x.reshape(-1, x.shape[-1]) if need_weight else None,
            rows.sum(dim=0) if need_bias else None,
        )


def _eager(x: Tensor) -> bool:
    """Neither under autocast nor under torch.compile, which picks kernels itself."""
    return not (torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling())


def _is_plain(t: Tensor) -> bool:
    """A float32 CPU tensor, and not a subclass that stands for one spread over processes."""
    return t.dtype is torch.float32 and t.device.type == "cpu" and type(t) in (Tensor, nn.Parameter)


class Linear(nn.Linear):
    """`nn.Linear` through `linear`; its weights are drawn by the model it is part of."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
