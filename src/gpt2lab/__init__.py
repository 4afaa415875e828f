"""gpt2lab: the whole GPT-2 system as one piece of software.

Importing this package does not import torch; its functions do when they are first called.
"""

from typing import TYPE_CHECKING

from gpt2lab.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from gpt2lab.model.checkpoint import Checkpoint
    from gpt2lab.training.finetune import Finetuned

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "finetune", "load"]


def load(source: str, dtype: str | None = None, device: str = "cpu") -> "Checkpoint":
    """Load a model and its tokenizer: `gpt2-xl`, a checkpoint folder, or `hf:owner/name`.

    dtype: float32 (the default), bfloat16, int8, int8-weight or int4. device: cpu or cuda.

    Returns a `Checkpoint` with `.model`, `.tokenizer` and `.metadata`.
    Raises UserError with what to put where, if the source cannot be read.
    """
    from gpt2lab.model.checkpoint import load as load_checkpoint

    return load_checkpoint(source, dtype, device)


def finetune(
    model: "str | Path", texts: "str | Path", out: "str | Path" = "runs/finetune", **settings: "Any"
) -> "Finetuned":
    """Go on training a model on texts; see `gpt2lab.training.finetune.finetune` and its `Settings`.

    model: a checkpoint folder, `gpt2-xl`, or `hf:owner/name`. texts: a file or folder. out: the
    folder of the run. settings: `method="lora"`, `epochs=1`, `overwrite=True`, ...

    Returns a `Finetuned` with the folder of the model and perplexity before and after.
    Raises UserError naming the file, row or setting that stands in the way.
    """
    from gpt2lab.training.finetune import finetune as start

    return start(model, texts, out, **settings)
