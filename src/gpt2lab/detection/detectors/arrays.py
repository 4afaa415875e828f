"""Arrays that detectors have learned, as safetensors: nothing in such a file is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gpt2lab.errors import UserError

Arrays = Mapping[str, npt.NDArray[Any]]


def save(file: Path, arrays: Arrays) -> None:
    """Write named arrays."""
    save_file({name: np.ascontiguousarray(one) for name, one in arrays.items()}, file)


def load(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Read arrays of given shapes; UserError if the file is missing or holds others."""
    try:
        found = load_file(file)
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise UserError(f"cannot read {file} ({error}); train the detector again") from None
    if {name: one.shape for name, one in found.items()} != dict(shapes) or not all(
        np.isfinite(one).all() for one in found.values()
    ):
        raise UserError(f"{file} is damaged; train the detector again")
    return found
