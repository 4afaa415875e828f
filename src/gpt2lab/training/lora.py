"""LoRA: low-rank changes to the linear maps of every block (Hu et al. 2021), in peft's format.

y = x W^T + b + alpha/r (dropout(x) A^T) B^T, with W and b frozen, A [r, n_in] drawn at random and
B [n_out, r] zero, so that training begins at the model itself.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt2lab.errors import UserError
from gpt2lab.model.linear import Linear, linear
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder, read_json, write_json
from gpt2lab.tokenizer.hub import PUBLISHED

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The linear maps of a block, under the names that peft looks for.
MAPS = ("lora_A", "lora_B")
TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_PREFIX = "base_model.model.transformer."
_HIGHEST_RANK = 4096


@dataclass(frozen=True)
class Shape:
    """How large the changes are."""

    rank: int = 16
    alpha: float = 32.0
    """The change counts alpha / rank times."""
    dropout: float = 0.05
    """Of what goes into it."""

    def __post_init__(self) -> None:
        for name, value, wanted, ok in (
            ("rank", self.rank, f"from 1 to {_HIGHEST_RANK}", 1 <= self.rank <= _HIGHEST_RANK),
            ("alpha", self.alpha, "above 0, at most 1e6", 0 < self.alpha <= 1e6),
            ("dropout", self.dropout, "from 0 to 0.99", 0 <= self.dropout <= 0.99),
        ):
            if not ok:
                raise UserError(f"lora.{name} is {value}; it must be {wanted}")


class LoRALinear(Linear):
    """A frozen linear map and a low-rank change to it, which stay in float32."""

    def __init__(self, base: nn.Linear, shape: Shape, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.shape = shape
        self.weight, self.bias = base.weight, base.bias
        bound = 1 / math.sqrt(base.in_features)  # Kaiming's, as peft draws it
        a_RK = torch.empty(shape.rank, base.in_features).uniform_(
            -bound, bound, generator=generator
        )
        device = base.weight.device
        self.lora_A = nn.Parameter(a_RK.to(device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, shape.rank, device=device))

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.shape.alpha / self.shape.rank

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        y = linear(rows, self.weight, self.bias)
        dropped = drop(rows, self.shape.dropout) if self.training and self.shape.dropout else rows
        mixed = torch.is_autocast_enabled(x.device.type)
        if not mixed:
            dropped = dropped.to(self.lora_A.dtype)
        low = linear(dropped, self.lora_A)
        change = self.lora_B * self.scale
        # Added as it is multiplied, where it can be: nothing as large as y is held beside it.
        if mixed:
            y = torch.addmm(y, low, change.t())
        elif low.dtype is y.dtype:
            y.addmm_(low, change.t())
        else:
            y = y + linear(low, change).to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def change(self) -> Tensor:
        """What is added to the weight, [n_out, n_in]."""
        return self.scale * (self.lora_B @ self.lora_A)

    @torch.no_grad()
    def merged(self) -> Linear:
        """One map that does the same, with the same weight, to which the change is added."""
        whole = Linear(self.in_features, self.out_features, device="meta")
        whole.weight, whole.bias = self.weight, self.bias
        whole.weight += self.change()
        return whole


def drop(x: Tensor, share: float) -> Tensor:
    """Dropout that keeps a byte a number for the backward pass; PyTorch's keeps four on a CPU.

    One draw serves four numbers, so the share is rounded to a multiple of 2^-16.
    """
    dropped: Tensor = _Drop.apply(x, share)  # type: ignore[no-untyped-call]
    return dropped


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        limit = round(share * 2**16)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
        sixteen = draws.random_(-(2**63), None).view(torch.int16)
        kept = (sixteen >= limit - 2**15)[: x.numel()].view(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = 1 / (1 - limit / 2**16)
        return torch.where(kept, x, 0.0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.where(kept, grads[0], 0.0).mul_(ctx.scale), None


def attach(model: GPT2, shape: Shape, seed: int = 0) -> None:
    """Freeze a model, and let every linear map of its blocks be changed."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for path, parent, leaf in _places(model):
        base = getattr(parent, leaf)
        if type(base) is not Linear:
            raise UserError(f"{path} has been changed or quantized already; take the float model")
        setattr(parent, leaf, LoRALinear(base, shape, generator))


def changes(model: GPT2) -> dict[str, LoRALinear]:
    """The maps that are changed, by their paths."""
    found = ((path, getattr(parent, leaf)) for path, parent, leaf in _places(model))
    return {path: module for path, module in found if isinstance(module, LoRALinear)}


def merge(model: GPT2) -> GPT2:
    """Turn a model into an ordinary one that does the same, in place, and return it.

    It should be in float32: in bfloat16 most changes are smaller than what a weight is rounded to.
    """
    for path, module in changes(model).items():
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module.merged())
        if not model.get_parameter(f"{path}.weight").isfinite().all():
            raise UserError(f"the change to {path} is too large to be added; train it again")
    return model.requires_grad_(True).eval()


def _places(model: GPT2) -> Iterator[tuple[str, nn.Module, str]]:
    for layer in range(len(model.h)):
        for target in TARGETS:
            path = f"h.{layer}.{target}"
            parent, _, leaf = path.rpartition(".")
            yield path, model.get_submodule(parent), leaf


def numbers(model: GPT2) -> dict[str, Tensor]:
    """The changes alone, by their names in the model."""
    return {
        f"{path}.{name}": getattr(module, name).detach()
        for path, module in changes(model).items()
        for name in MAPS
    }


def save(folder: Path, model: GPT2, base: str, *, overwrite: bool = False) -> None:
    """Write the changes alone, as peft does; base: the model they belong to, by name or folder."""
    shape = next(iter(changes(model).values())).shape
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_into(temporary, numbers(model), shape, base)


def write_into(folder: Path, tensors: Mapping[str, Tensor], shape: Shape, base: str) -> None:
    """Write the files of an adapter into a folder that exists.

    tensors: as `numbers` names them.
    """
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": PUBLISHED.get(base, base).removeprefix("hf:"),
        "r": shape.rank,
        "lora_alpha": int(shape.alpha) if shape.alpha == int(shape.alpha) else shape.alpha,
        "lora_dropout": shape.dropout,
        "target_modules": sorted({target.rpartition(".")[2] for target in TARGETS}),
        "fan_in_fan_out": True,  # transformers' GPT-2 keeps its weights transposed
        "bias": "none",
        "inference_mode": True,
    }
    write_json(folder / CONFIG, config)
    renamed = {f"{_PREFIX}{name}.weight": t.cpu().contiguous() for name, t in tensors.items()}
    save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})


def load(folder: Path, model: GPT2) -> None:
    """Attach changes that `save` or peft wrote; UserError if they are not this model's."""
    shape = read_shape(folder)
    tensors = _read_tensors(folder / WEIGHTS)
    _require_fit(folder, model, shape, tensors)
    attach(model, shape)
    _set(model, tensors)


def read_into(folder: Path, model: GPT2) -> None:
    """Put saved changes in the place of those that a model has."""
    tensors = _read_tensors(folder / WEIGHTS)
    _require_fit(folder, model, next(iter(changes(model).values())).shape, tensors)
    _set(model, tensors)


def _require_fit(folder: Path, model: GPT2, shape: Shape, tensors: Mapping[str, Tensor]) -> None:
    wanted = {
        f"{_PREFIX}{path}.{name}.weight": size
        for path, parent, leaf in _places(model)
        for name, size in zip(
            MAPS,
            (
                (shape.rank, getattr(parent, leaf).in_features),
                (getattr(parent, leaf).out_features, shape.rank),
            ),
            strict=True,
        )
    }
    if not tensors:
        raise UserError(f"{folder} holds no change; fetch or save the adapter again")
    for name, t in tensors.items():
        half = name.replace(".lora_A.", ".lora_B.") in tensors
        if name in wanted and not (half and name.replace(".lora_B.", ".lora_A.") in tensors):
            raise UserError(f"{folder}: {name!r} has no counterpart; fetch or save it again")
        if t.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise UserError(f"{folder}: {name!r} is {t.dtype}; save it as float32")
        if name not in wanted:
            raise UserError(
                f"{folder}: {name!r} is no map of a block of this model's {len(model.h)}; the "
                "adapter belongs to another model"
            )
        if tuple(t.shape) != wanted[name]:
            raise UserError(
                f"{folder}: {name!r} has shape {list(t.shape)}, this model needs "
                f"{list(wanted[name])}; the adapter belongs to another model"
            )
        if not t.isfinite().all():
            raise UserError(f"{folder}: {name!r} holds NaN or infinity; save it again")


def _set(model: GPT2, tensors: Mapping[str, Tensor]) -> None:
    for name, p in numbers(model).items():
        found = tensors.get(f"{_PREFIX}{name}.weight")
        # A map that peft was told to leave alone does not change.
        p.copy_(torch.zeros_like(p) if found is None else found)


def base_of(folder: Path) -> str:
    """The model that an adapter says it belongs to; UserError if it names none."""
    config = read_json(folder / CONFIG)
    found = config.get("base_model_name_or_path") if isinstance(config, Mapping) else None
    if not isinstance(found, str) or not found:
        raise UserError(f"{folder / CONFIG} does not name its base model; give --base")
    if not Path(found).exists() and "/" in found and not found.startswith(("/", ".", "hf:")):
        return f"hf:{found}"
    return found


def read_shape(folder: Path) -> Shape:
    """How large the changes in an adapter's folder are; UserError if they are of another kind."""
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config, Mapping) or config.get("peft_type") != "LORA":
        raise UserError(f"{path} describes no LoRA adapter")
    unlike = {
        "use_dora": False, "use_rslora": False, "lora_bias": False, "bias": "none",
        "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None,
    }  # fmt: skip
    for name, usual in unlike.items():
        if config.get(name, usual) not in (usual, None):
            raise UserError(f"{path}: {name} is {config[name]}; only plain LoRA can be loaded")
    rank, alpha, dropout = (config.get(k) for k in ("r", "lora_alpha", "lora_dropout"))
    if type(rank) is not int or not all(isinstance(v, int | float) for v in (alpha, dropout)):
        raise UserError(f"{path}: r, lora_alpha and lora_dropout must be numbers")
    try:
        return Shape(rank, float(alpha), float(dropout))  # type: ignore[arg-type]
    except (UserError, OverflowError) as error:
        raise UserError(f"{path}: {error}") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as found:
            return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give a folder that peft or gpt2lab wrote") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch or save it again") from None
