"""Calling the compiled pass: its structures (types.h), and tensors on either side."""

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gpt2lab.errors import UserError
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.linear import Linear
from gpt2lab.model.native.build import NotBuiltError, library
from gpt2lab.model.transformer import GPT2, Block, Embedding

_I32, _POINTER = ctypes.c_int32, ctypes.c_void_p
_FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2, "int8-weight": 3, "int4": 4}
_FLOATS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_PLAIN = (nn.Linear, Linear, nn.Embedding, Embedding)
# Keys of so many positions lie together; slots are copied by such blocks.
BLOCK = 16
# Numbers that a score has before those of the likeliest tokens.
FACTS = 7


@dataclass(frozen=True)
class Packed:
    """A quantized weight [n, k] in the order in which the compiled pass reads it (types.h)."""

    format: str
    n: int
    k: int
    """With padding."""
    weight: Tensor
    scale: Tensor


class _Linear(ctypes.Structure):
    _fields_ = [
        ("n", _I32), ("k", _I32), ("format", _I32),
        ("weight", _POINTER), ("scale", _POINTER), ("bias", _POINTER),
    ]  # fmt: skip


class _Norm(ctypes.Structure):
    _fields_ = [("gain", _POINTER), ("bias", _POINTER)]


class _Block(ctypes.Structure):
    _fields_ = [
        ("ln_1", _Norm), ("ln_2", _Norm),
        ("c_attn", _Linear), ("attn_proj", _Linear), ("c_fc", _Linear), ("mlp_proj", _Linear),
    ]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [
        ("layers", _I32), ("heads", _I32), ("width", _I32), ("context", _I32),
        ("vocabulary", _I32), ("erf", _I32),
        ("wte", _Linear), ("wpe", _POINTER), ("ln_f", _Norm), ("blocks", ctypes.POINTER(_Block)),
    ]  # fmt: skip


class _Cache(ctypes.Structure):
    _fields_ = [("slots", _I32), ("capacity", _I32), ("keys", _POINTER), ("values", _POINTER)]


class _Pass(ctypes.Structure):
    _fields_ = [
        ("tokens", _I32), ("outputs", _I32), ("any_order", _I32),
        ("id", _POINTER), ("slot", _POINTER), ("position", _POINTER), ("out", _POINTER),
        ("logits", _POINTER),
        ("target", _POINTER), ("allowed", _POINTER), ("best", _I32), ("scores", _POINTER),
    ]  # fmt: skip


def multiply(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    """X [..., n_in] times the weight's transpose, plus bias: [..., n] in float32."""
    rows = x.detach().to(torch.float32).contiguous()
    y = torch.empty(*x.shape[:-1], weight.n)
    held = None if bias is None else bias.detach().float().contiguous()
    linear = _described(weight, None if held is None else held.data_ptr())
    library().gpt2lab_linear(
        ctypes.byref(linear),
        rows.numel() // x.shape[-1],
        x.shape[-1],
        ctypes.c_void_p(rows.data_ptr()),
        ctypes.c_void_p(y.data_ptr()),
        torch.get_num_threads(),
    )
    return y


def _described(w: Packed, bias: int | None) -> _Linear:
    return _Linear(w.n, w.k, _FORMATS[w.format], w.weight.data_ptr(), w.scale.data_ptr(), bias)


class Slots:
    """Keys and values of up to `capacity` tokens for each of `count` sequences, in float32."""

    def __init__(self, config: GPT2Config, count: int, capacity: int | None = None) -> None:
        most = config.n_positions if capacity is None else capacity
        self.count, self.capacity = count, -(-most // BLOCK) * BLOCK
        shape = (config.n_layer, count, config.n_head, self.capacity * config.head_dim)
        # numpy's zeros take no memory before they are written to, torch's do.
        self.keys, self.values = (torch.from_numpy(np.zeros(shape, np.float32)) for _ in range(2))
        self.struct = _Cache(count, self.capacity, self.keys.data_ptr(), self.values.data_ptr())

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Put the first tokens of a slot, a multiple of 16, into another as well."""
        span = slice(0, tokens * self.keys.shape[-1] // self.capacity)
        self.keys[:, target, :, span] = self.keys[:, source, :, span]
        self.values[:, target, :, span] = self.values[:, source, :, span]


class Model:
    """A GPT2 that lies on a CPU, as the compiled pass reads it: its own memory, not a copy.

    Raises NotBuiltError where there is no compiled pass, or the model is not one it can compute:
    on another device, in another number format, or with other modules in it than `quantize` makes.
    """

    def __init__(self, model: GPT2) -> None:
        if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
            raise NotBuiltError("the model has hooks, which the compiled pass would not call")
        self.config = c = model.config
        self._call = library().gpt2lab_pass
        self._kept: list[Any] = [model]
        blocks = [
            _Block(
                self._norm(b.ln_1), self._norm(b.ln_2),
                self._linear(b.attn.c_attn), self._linear(b.attn.c_proj),
                self._linear(b.mlp.c_fc), self._linear(b.mlp.c_proj),
            )
            for b in cast(list[Block], model.h)
        ]  # fmt: skip
        self._struct = _Model(
            c.n_layer, c.n_head, c.n_embd, c.n_positions, c.vocab_size,
            c.activation == "gelu_erf", self._linear(model.wte, c.vocab_size),
            self._float(model.wpe.weight),
            self._norm(model.ln_f), (_Block * c.n_layer)(*blocks),
        )  # fmt: skip

    def _keep(self, t: Tensor) -> int:
        if t.device.type != "cpu":
            raise NotBuiltError(f"the model is on {t.device}")
        self._kept.append(t)
        return t.data_ptr()

    def _float(self, t: Tensor) -> int:
        return self._keep(t.detach().to(torch.float32).contiguous())

    def _norm(self, norm: nn.LayerNorm) -> _Norm:
        return _Norm(self._float(norm.weight), self._float(norm.bias))

    def _linear(self, module: nn.Module, n: int | None = None) -> _Linear:
        bias = getattr(module, "bias", None)
        at = None if bias is None else self._float(bias)
        packed = getattr(module, "packed", None)
        if isinstance(packed, Packed):
            self._kept.append(packed)
            return _described(packed, at)
        if type(module) not in _PLAIN:
            raise NotBuiltError(f"{type(module).__name__} is not for the compiled pass")
        weight = cast(Tensor, module.weight).detach()
        if type(weight) is not Tensor or weight.dtype not in _FLOATS:
            raise NotBuiltError(f"a weight is a {type(weight).__name__} of {weight.dtype}")
        rows, k = weight.shape
        form = _FORMATS[_FLOATS[weight.dtype]]
        return _Linear(n or rows, k, form, self._keep(weight.contiguous()), None, at)

    def forward(
        self,
        slots: Slots,
        ids: Sequence[int],
        slot: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[int],
    ) -> Tensor:
        """Logits [O, V] after those of the N tokens whose numbers, in order, are `outputs`.

        Tokens of a sequence stand together, in order. Their keys and values are put into the
        cache at their slot and position; what lies before them there is what they see.
        Raises UserError if a position is beyond the context.
        """
        logits_OV = torch.empty(len(outputs), self.config.vocab_size)
        self._pass(slots, (ids, slot, positions, outputs), logits=logits_OV.data_ptr())
        return logits_OV

    def score(
        self,
        slots: Slots,
        ids: Sequence[int],
        slot: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[int],
        targets: Sequence[int],
        allowed_V: Tensor,
        best: int = 0,
    ) -> Tensor:
        """What the model thinks of a given next token after each output, as `describe` has it.

        No logits are kept, and sums are added in whatever order is quickest for so many tokens: the
        last bits of a score depend on what else is in the pass. allowed_V: 1 or 0, float32.
        """
        if len(targets) != len(outputs) or not _within(targets, self.config.vocab_size):
            raise UserError(f"a target is not from 0 to {self.config.vocab_size - 1}")
        best = min(best, self.config.vocab_size)
        scores_OX = torch.empty(len(outputs), FACTS + 2 * best)
        target = array("i", targets)
        self._pass(
            slots, (ids, slot, positions, outputs), any_order=True,
            target=target.buffer_info()[0], allowed=allowed_V.data_ptr(), best=best,
            scores=scores_OX.data_ptr(),
        )  # fmt: skip
        return scores_OX

    def _pass(self, slots: Slots, numbers: Sequence[Sequence[int]], **more: int) -> None:
        ids, _, positions, outputs = numbers
        limit = min(slots.capacity, self.config.n_positions)
        if max(positions, default=0) >= limit:
            raise UserError(f"position {max(positions)} is beyond the context of {limit}")
        if not _within(ids, self.config.vocab_size):
            raise UserError(f"an id is not from 0 to {self.config.vocab_size - 1}")
        arrays = [array("i", one) for one in numbers]
        places = zip(("id", "slot", "position", "out"), arrays, strict=True)
        described = _Pass(len(ids), len(outputs), **more)
        for name, one in places:
            setattr(described, name, one.buffer_info()[0])
        self._call(
            ctypes.byref(self._struct), ctypes.byref(slots.struct), ctypes.byref(described),
            torch.get_num_threads(),
        )  # fmt: skip


def _within(ids: Sequence[int], size: int) -> bool:
    return not ids or (min(ids) >= 0 and max(ids) < size)
