"""Cross-entropy of the tied head without ever holding all logits.

At GPT-2's vocabulary the logits of one 16 x 256 batch are 0.8 GB in float32, and a plain backward
pass holds three such arrays. Here a few hundred rows of logits exist at a time, and their
gradient is made in the same breath, so that nothing is computed twice (LOG.md, 2026-11-21).
"""

from typing import Any

import torch
from torch import Tensor, nn

from gpt2lab.model.transformer import GPT2

# Logits held at once: 2**25 float32 are 128 MiB.
CHUNK_ELEMENTS = {"cpu": 2**25, "cuda": 2**28}
VOCABULARY_PART = 2**14
# A target that is not counted, as PyTorch's own cross-entropy has it.
IGNORED = -100


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of x @ weight.T, with both gradients made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, vocab_size: int
    ) -> Tensor:
        N, V = len(x_ND), vocab_size
        need_x, need_weight = ctx.needs_input_grad[:2]
        head_VD = weight_VD[:V].to(x_ND.dtype)
        rows = max(1, min(N, CHUNK_ELEMENTS.get(x_ND.device.type, 2**26) // V))
        # Rows begin at multiples of 64 elements: with 50,257 columns packed tight, the product
        # below runs at two thirds of its speed.
        exact = torch.promote_types(x_ND.dtype, torch.float32)
        buffer = torch.empty(rows, -(-V // 64) * 64, device=x_ND.device, dtype=exact)[:, :V]
        loss = torch.zeros((), device=x_ND.device, dtype=exact)
        grad_x = torch.empty_like(x_ND) if need_x else None
        grad_weight = torch.zeros_like(weight_VD, dtype=exact) if need_weight else None
        for start in range(0, N, rows):
            x = x_ND[start : start + rows]
            target = target_N[start : start + rows, None]
            logits = buffer[: len(x)]
            if x.dtype is exact:
                torch.mm(x, head_VD.t(), out=logits)
            else:
                logits.copy_(x @ head_VD.t())
            logits.sub_(logits.amax(dim=1, keepdim=True))
            correct = logits.gather(1, target)
            total = logits.exp_().sum(dim=1, keepdim=True)
            loss += (total.log() - correct).sum()
            if not (need_x or need_weight):
                continue
            # d loss / d logits = softmax - one-hot, in place of the logits.
            logits.div_(total)
            logits.scatter_add_(1, target, torch.full_like(correct, -1.0))
            grad = logits.to(x.dtype)
            if grad_x is not None:
                torch.mm(grad, head_VD, out=grad_x[start : start + rows])
            if grad_weight is not None:
                _add_product(grad_weight[:V], grad, x)
        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        # Scaling here, not in the forward pass, keeps fp16 gradients from underflowing: the
        # incoming gradient carries 1/N and the loss scaler's factor together.
        (scale,) = grads
        grad_x, grad_weight = ctx.saved_tensors
        return (
            grad_x * scale.to(grad_x.dtype) if grad_x is not None else None,
            grad_weight.mul_(scale) if grad_weight is not None else None,
            None,
            None,
        )


def _add_product(total_VD: Tensor, grad_NV: Tensor, x_ND: Tensor) -> None:
    """Add grad.T @ x to a total that may be more exact than the product."""
    if x_ND.dtype is total_VD.dtype:
        total_VD.addmm_(grad_NV.t(), x_ND)
        return
    # In parts, as a CPU casts what it adds, and the whole product twice over is 230 MB at 124M.
    for part_VD, part_NV in zip(
        total_VD.split(VOCABULARY_PART), grad_NV.split(VOCABULARY_PART, dim=1), strict=True
    ):
        part_VD.add_(part_NV.t() @ x_ND)


def linear_cross_entropy(
    x_BTD: Tensor, weight_VD: Tensor, y_BT: Tensor, vocab_size: int, *, some: bool = False
) -> Tensor:
    """Mean next-token cross-entropy in nats of logits `x @ weight.T`, never whole in memory.

    x_BTD: hidden states; in their type, be it a 16-bit one, the products are made.
    weight_VD: the head, of any float format; rows from `vocab_size` on only pad it and take no
    part.
    y_BT: target ids, all below `vocab_size`.
    some: leave out targets that are IGNORED, and the products with the head that they would take;
    the mean is over the others, and 0 if there are none.
    Equal to `F.cross_entropy(F.linear(x, weight)[:, :vocab_size], y)` and its gradients. The
    result can be differentiated once.
    """
    if not torch.is_grad_enabled():
        x_BTD, weight_VD = x_BTD.detach(), weight_VD.detach()
    x_ND, y_N = x_BTD.reshape(-1, x_BTD.shape[-1]), y_BT.reshape(-1)
    if some:
        counted_N = y_N != IGNORED
        x_ND, y_N = x_ND[counted_N], y_N[counted_N]
    total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        x_ND, weight_VD, y_N, vocab_size
    )
    return total / max(1, len(x_ND))


class NextTokenLoss(nn.Module):
    """A model together with its loss, as one module to be spread over processes.

    dtype: what matrices are multiplied in; weights stay as they are.
    separator: the id before every document, if each is to see itself only.
    some: whether there are targets that are IGNORED.
    """

    def __init__(
        self, model: GPT2, dtype: torch.dtype, separator: int | None, *, some: bool = False
    ) -> None:
        super().__init__()
        self.model, self.dtype, self.separator, self.some = model, dtype, separator, some

    def forward(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Mean loss of the targets `y_BT` after the inputs `x_BT`, nats per token."""
        documents = None if self.separator is None else (x_BT == self.separator).cumsum(dim=1)
        low = self.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(x_BT.device.type, self.dtype, enabled=low):
            x_BTD = self.model.hidden(x_BT, document_BT=documents)
        table, size = self.model.wte.weight, self.model.config.vocab_size
        return linear_cross_entropy(x_BTD.to(self.dtype), table, y_BT, size, some=self.some)
