"""LoRA: low-rank changes to the linear maps of every block (Hu et al. 2021), in peft's format.

y = x W^T + b + alpha/r (dropout(x) A^T) B^T, with W and b frozen, A [r, n_in] drawn at random and
B [n_out, r] zero, so that training begins at the model itself.
"""

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt2lab.errors import UserError
from gpt2lab.model.linear import Linear, linear
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder, read_json, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The linear maps of a block, under the names that peft looks for.
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
            ("alpha", self.alpha, "above 0", 0 < self.alpha < math.inf),
            ("dropout", self.dropout, "from 0 to below 1", 0 <= self.dropout < 1),
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
        y = linear(x, self.weight, self.bias)
        low = F.dropout(x, self.shape.dropout, self.training).to(self.lora_A.dtype)
        change = linear(linear(low, self.lora_A), self.lora_B)
        return y + (self.scale * change).to(y.dtype)

    def merged(self) -> Linear:
        """One map that does the same."""
        whole = Linear(self.in_features, self.out_features, device="meta")
        change = self.scale * (self.lora_B.detach() @ self.lora_A.detach())
        weight = (self.weight.detach().float() + change).to(self.weight.dtype)
        whole.weight, whole.bias = nn.Parameter(weight), nn.Parameter(self.bias.detach().clone())
        return whole


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
    """An ordinary model that does the same; the one given stays as it is."""
    maps = changes(model)
    # What is replaced is not copied: half of a large model's memory.
    skip = {id(p): p for m in maps.values() for p in m.parameters()}
    copy = deepcopy(model, skip)
    for path, module in maps.items():
        parent, _, leaf = path.rpartition(".")
        setattr(copy.get_submodule(parent), leaf, module.merged())
    return copy.requires_grad_(True).eval()


def _places(model: GPT2) -> Iterator[tuple[str, nn.Module, str]]:
    for layer in range(len(model.h)):
        for target in TARGETS:
            path = f"h.{layer}.{target}"
            parent, _, leaf = path.rpartition(".")
            yield path, model.get_submodule(parent), leaf


def save(folder: Path, model: GPT2, base: str, *, overwrite: bool = False) -> None:
    """Write the changes alone, as peft does; base: the model they belong to, by name or folder."""
    maps = changes(model)
    shape = next(iter(maps.values())).shape
    tensors = {}
    for path, module in maps.items():
        for name in ("lora_A", "lora_B"):
            tensors[f"{_PREFIX}{path}.{name}.weight"] = getattr(module, name).detach().cpu()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "target_modules": sorted({target.rpartition(".")[2] for target in TARGETS}),
        "fan_in_fan_out": True,  # transformers' GPT-2 keeps its weights transposed
        "bias": "none",
        "inference_mode": True,
    }
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_json(temporary / CONFIG, config)
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def load(folder: Path, model: GPT2) -> None:
    """Attach changes that `save` or peft wrote; UserError if they are not this model's."""
    shape = _read_shape(folder / CONFIG)
    tensors = _read_tensors(folder / WEIGHTS)
    wanted = {
        f"{_PREFIX}{path}.{name}.weight": size
        for path, parent, leaf in _places(model)
        for name, size in (
            ("lora_A", (shape.rank, getattr(parent, leaf).in_features)),
            ("lora_B", (getattr(parent, leaf).out_features, shape.rank)),
        )
    }
    for name, t in tensors.items():
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
    attach(model, shape)
    for path, module in changes(model).items():
        for name in ("lora_A", "lora_B"):
            p = getattr(module, name)
            found = tensors.get(f"{_PREFIX}{path}.{name}.weight")
            # A map that peft was told to leave alone does not change.
            p.data = torch.zeros_like(p) if found is None else found.to(p.device, p.dtype)


def _read_shape(path: Path) -> Shape:
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
    return Shape(rank, float(alpha), float(dropout))  # type: ignore[arg-type]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as found:
            return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give a folder that peft or gpt2lab wrote") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch or save it again") from None
