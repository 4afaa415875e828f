"""ONNX through torch.export: token ids [B, T] to next-token logits [B, T, V], for any B and T."""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from gpt2lab.errors import UserError
from gpt2lab.model.quantize import require_floats
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder

OPSET = 20
FILE = "model.onnx"


class _Logits(nn.Module):
    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids)
        return logits


def write_onnx(folder: Path, model: GPT2, *, overwrite: bool = False) -> None:
    """Write `model.onnx`, with its weights beside it, into a folder.

    Input `input_ids` int64 [batch, time], time up to the model's context; output `logits`.
    """
    try:
        import onnxscript  # noqa: F401 - what torch.onnx translates with
    except ImportError:
        raise UserError("ONNX needs onnx and onnxscript; pip install 'gpt2lab[export]'") from None
    require_floats(model)
    limit = model.config.n_positions
    if limit < 8:
        raise UserError(f"the model's context is {limit} tokens; ONNX takes 8 or more")
    ids_BT = torch.zeros(2, 8, dtype=torch.int64)
    # A single token takes another way through the code; that of several serves it as well.
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", min=2, max=limit)}
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with atomic_folder(folder, overwrite=overwrite) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Logits(model.float().eval()), (ids_BT,),
                dynamo=True, opset_version=OPSET, input_names=["input_ids"],
                output_names=["logits"], dynamic_shapes=(shape,), verbose=False,
            )  # fmt: skip
            if program is None:
                raise RuntimeError("torch.onnx.export gave no program")
            program.save(temporary / FILE, external_data=True)
    finally:
        quiet.setLevel(level)
