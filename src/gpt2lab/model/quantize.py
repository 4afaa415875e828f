"""Numeric formats: weights rounded to 8 or 4 bits, beside the model that is written in floats.

Formats, by name:

- `float32`, `bfloat16`: the model as it is.
- `int8`: weights in 8 bits with a scale per output; a row of activations is rounded to 8 bits with
  a scale of its own as it comes (W8A8, dynamic).
- `int8-weight`: the same weights, activations in float.
- `int4`: weights in 4 bits with a scale per 32 of them, activations rounded to 8 bits likewise. The
  tied table, the last product of each token and the most sensitive one, is in 8 bits.

Biases, LayerNorms and positions stay in float32.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2lab.errors import UserError
from gpt2lab.model.memory import own_copy
from gpt2lab.model.native import NotBuiltError, Packed, library, multiply
from gpt2lab.model.transformer import GPT2

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = (*FLOATS, "int8", "int8-weight", "int4")
MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
TABLE = "wte.weight"
GROUP = 32
_LANES = 16
_ROWS = 1024


def round8(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [N, K] in -127..127 and scales [N] whose products are nearest the weights."""
    scale_N = weight_NK.abs().amax(dim=1) / 127
    inverse_N = torch.where(scale_N > 0, 1 / scale_N, 0)
    return (weight_NK * inverse_N[:, None]).round().to(torch.int8), scale_N


def round4(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [N, K'] in -8..7, K' being K in whole groups, and bfloat16 scales [N, K'/32].

    The scale of a group is, of a few near its largest weight over 8, the one with the least
    squared error. Its sign is such that the largest weight takes the -8 that has no opposite.
    """
    w = F.pad(weight_NK, (0, -weight_NK.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    low, high = w.aminmax(dim=2, keepdim=True)
    extreme = torch.where(high > -low, high, low)
    best, least = torch.zeros_like(extreme), torch.full_like(extreme, torch.inf)
    for levels in (6.5, 7.0, 7.5, 8.0, 8.5):
        scale = (extreme / -levels).bfloat16().float()
        miss = _whole(w, scale).mul_(scale).sub_(w)
        error = torch.linalg.vector_norm(miss, dim=2, keepdim=True)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return _whole(w, best).flatten(1).to(torch.int8), best.squeeze(2).bfloat16()


def _whole(w: Tensor, scale: Tensor) -> Tensor:
    return (w * torch.where(scale != 0, 1 / scale, 0)).round_().clamp_(-8, 7)


def pack(form: str, q_NK: Tensor, scale: Tensor) -> Packed:
    """Whole numbers and their scales in the order in which the compiled pass reads them."""
    N, K = q_NK.shape
    q_NK = _padded(q_NK, 0 if form == "int4" else -K % 4, -N % _LANES)
    if form == "int4":
        q = (q_NK + 8).view(torch.uint8).unflatten(0, (-1, _LANES)).unflatten(2, (-1, 2, 4))
        weight = own_copy((q[:, :, :, 0] | q[:, :, :, 1] << 4).transpose(1, 2))
        groups = _padded(scale, 0, -N % _LANES).unflatten(0, (-1, _LANES))
        return Packed(form, N, K, weight, own_copy(groups.transpose(1, 2)))
    q = q_NK.view(torch.uint8).unflatten(0, (-1, _LANES)).unflatten(2, (-1, 4))
    weight = own_copy(q.transpose(1, 2)).bitwise_xor_(128)
    return Packed(form, N, q_NK.shape[1], weight, F.pad(scale, (0, -N % _LANES)))


def _padded(t: Tensor, columns: int, rows: int) -> Tensor:
    return F.pad(t, (0, columns, 0, rows)) if rows or columns else t


def unpack(p: Packed) -> tuple[Tensor, Tensor]:
    """The whole numbers [n, k], with k's padding, and scales that `pack` was given."""
    if p.format == "int4":
        halves = torch.stack([p.weight & 15, p.weight >> 4], dim=2)  # panel, step, half, lane, byte
        q = halves.permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1).to(torch.int8) - 8
        return q[: p.n], p.scale.transpose(1, 2).flatten(0, 1)[: p.n]
    q = (p.weight ^ 128).view(torch.int8).transpose(1, 2).flatten(2).flatten(0, 1)
    return q[: p.n], p.scale[: p.n]


def rounded(form: str, weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """A weight's whole numbers and scales in a format, a few rows at a time to save memory."""
    one = round4 if form == "int4" else round8
    parts = [one(rows.detach().float().contiguous()) for rows in weight_NK.split(_ROWS)]
    q, scale = zip(*parts, strict=True)
    return torch.cat(q), torch.cat(scale)


class Rounded(nn.Module):
    """A weight [n, n_in] in 8 or 4 bits, as the compiled pass wants it or, without one, plain."""

    whole: Tensor
    scale: Tensor

    def __init__(self, form: str, n_in: int, q_NK: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.form, self.n_in = form, n_in
        self.packed = pack(form, q_NK, scale) if _compiled(q_NK.device) else None
        if self.packed is None:
            self.register_buffer("whole", q_NK)
            self.register_buffer("scale", scale)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Whole numbers [n, k], k being n_in or, for int4, its whole groups; and their scales."""
        if self.packed is None:
            return self.whole, self.scale
        q_NK, scale = unpack(self.packed)
        return (q_NK if self.form == "int4" else q_NK[:, : self.n_in]), scale

    def floats(self) -> Tensor:
        """The weight [n, n_in] that stands for what was rounded."""
        q_NK, scale = self.plain()
        if self.form == "int4":
            wide_NK = (q_NK.unflatten(1, (-1, GROUP)) * scale.float()[:, :, None]).flatten(1)
        else:
            wide_NK = q_NK * scale[:, None]
        return wide_NK[:, : self.n_in]

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """X [..., n_in] times the weight's transpose, plus bias."""
        if self.packed is not None:
            return multiply(x, self.packed, bias).to(x.dtype)
        if self.form == "int8":
            x = round_rows(x, x.shape[-1])
        elif self.form == "int4":
            x = round_rows(x, GROUP)
        return F.linear(x, self.floats().to(x.dtype), bias)


class RoundedLinear(Rounded):
    """A linear map whose weight is rounded."""

    def __init__(
        self, form: str, n_in: int, q_NK: Tensor, scale: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__(form, n_in, q_NK, scale)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)


class RoundedTable(Rounded):
    """The tied table: embeddings of ids, and the product that gives logits."""

    def forward(self, ids: Tensor) -> Tensor:
        if self.packed is None:
            return self.whole[ids] * self.scale[ids][..., None]
        four = self.packed.weight[ids // _LANES, :, ids % _LANES]
        q = (four ^ 128).view(torch.int8).flatten(-2)[..., : self.n_in]
        return q * self.packed.scale[ids][..., None]

    def unembed(self, x: Tensor) -> Tensor:
        """Logits [..., n] of hidden states."""
        return self.product(x, None)


def round_rows(x: Tensor, size: int) -> Tensor:
    """Activations [..., K] with every `size` of them rounded to 8 bits, back in floats."""
    K = x.shape[-1]
    groups = F.pad(x.float(), (0, -K % size)).unflatten(-1, (-1, size))
    most = groups.abs().amax(dim=-1, keepdim=True)
    q = (groups * torch.where(most > 0, 127 / most, 0)).round()
    return (q * (most / 127)).flatten(-2)[..., :K].to(x.dtype)


def _compiled(device: torch.device) -> bool:
    if device.type != "cpu":
        return False
    try:
        library()
    except NotBuiltError:
        return False
    return True


def replace(model: GPT2, name: str, form: str, q_NK: Tensor, scale: Tensor) -> None:
    """Put a rounded weight where the model's tensor `name` (as in its state dict) is."""
    path, _, leaf = name.removesuffix(".weight").rpartition(".")
    old = cast(nn.Linear | nn.Embedding, model.get_submodule(path).get_submodule(leaf))
    n_in = old.weight.shape[1]
    new: Rounded = (
        RoundedTable(form, n_in, q_NK, scale)
        if isinstance(old, nn.Embedding)
        else RoundedLinear(form, n_in, q_NK, scale, old.bias)
    )
    setattr(model.get_submodule(path), leaf, new)


def is_matrix(name: str) -> bool:
    """Whether a tensor of the state dict is one that formats round."""
    return name == TABLE or name.endswith(MATRICES)


def form_of(name: str, form: str) -> str:
    """The format of one weight in a model of format `form`."""
    return "int8" if form == "int4" and name == TABLE else form


def stored(form: str, q_NK: Tensor) -> Tensor:
    """Whole numbers as they are written to files: int8 [N, K]; int4 as bytes [N, K/2] of two."""
    if form != "int4":
        return q_NK.contiguous()
    two = (q_NK + 8).to(torch.uint8).unflatten(1, (-1, 2))
    return two[..., 0] | two[..., 1] << 4


def restored(form: str, stored_NK: Tensor) -> Tensor:
    """What `stored` was given."""
    if form != "int4":
        return stored_NK
    q_NK = torch.empty(len(stored_NK), 2 * stored_NK.shape[1], dtype=torch.int8)
    q_NK[:, 0::2], q_NK[:, 1::2] = stored_NK & 15, stored_NK >> 4
    return q_NK.sub_(8)


def model_form(model: GPT2) -> str:
    """The format a model is in."""
    c_attn = model.get_submodule("h.0.attn.c_attn")
    if isinstance(c_attn, Rounded):
        return c_attn.form
    return str(cast(nn.Linear, c_attn).weight.dtype).removeprefix("torch.")


def convert(model: GPT2, form: str) -> GPT2:
    """Turn a model of floats into a format, in place, weight by weight; return it."""
    check(form)
    if form in FLOATS:
        return model.to(FLOATS[form])
    model.float()
    for name in [name for name, _ in model.named_parameters() if is_matrix(name)]:
        rows = model.config.vocab_size if name == TABLE else None  # without padding
        of = form_of(name, form)
        replace(model, name, of, *rounded(of, model.get_parameter(name)[:rows]))
    return model


def check(form: str) -> None:
    """Refuse a name that is no format with a UserError."""
    if form not in FORMATS:
        raise UserError(f"dtype {form!r} is not known; it is one of {', '.join(FORMATS)}")


def require_floats(model: nn.Module) -> None:
    """Raise UserError if weights have been rounded to int8 or int4, which others cannot open."""
    if any(isinstance(module, Rounded) for module in model.modules()):
        raise UserError(
            "the model's weights are rounded to int8 or int4; take the model they were made from"
        )
