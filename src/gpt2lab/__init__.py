"""gpt2lab: the whole GPT-2 system as one piece of software.

Importing this package does not import torch; `gpt2lab.load` does when it is first called.
"""

from typing import TYPE_CHECKING

from gpt2lab.errors import UserError

if TYPE_CHECKING:
    from gpt2lab.model.checkpoint import Checkpoint

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load"]


def load(source: str, dtype: str | None = None, device: str = "cpu") -> "Checkpoint":
    """Load a model and its tokenizer: `gpt2-xl`, a checkpoint folder, or `hf:owner/name`.

    dtype: float32 (the default), bfloat16, int8, int8-weight or int4. device: cpu or cuda.

    Returns a `Checkpoint` with `.model`, `.tokenizer` and `.metadata`.
    Raises UserError with what to put where, if the source cannot be read.
    """
    from gpt2lab.model.checkpoint import load as load_checkpoint

    return load_checkpoint(source, dtype, device)
