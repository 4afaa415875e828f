"""What verbs that measure models share: a model with its answers kept, training text, a bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2lab.errors import UserError

if TYPE_CHECKING:
    from gpt2lab.evaluation.overlap import Training
    from gpt2lab.evaluation.subject import Subject


@contextmanager
def kept_subject(
    model: str, dtype: str | None, *, device: str | None, store: Path | None
) -> "Iterator[Subject]":
    """A model that answers questions about texts, its answers kept in `store` or the user's cache.

    Raises:
        UserError: It cannot be loaded, or has no tokenizer.
    """
    import gpt2lab
    from gpt2lab.doctor import named_or_best_device
    from gpt2lab.evaluation.store import Store, default_folder, weights_digest
    from gpt2lab.evaluation.subject import Subject

    checkpoint = gpt2lab.load(model, dtype, named_or_best_device(device))
    tokenizer = checkpoint.require_tokenizer(model)
    file = (store or default_folder()) / f"{weights_digest(checkpoint.model)[:16]}.sqlite"
    with Store(file) as kept:
        yield Subject(checkpoint.model, tokenizer, store=kept, step=progress)


def training_text(path: Path | None) -> "Training | None":
    """The 8-grams of what a model was trained on, or None of no path.

    Raises:
        UserError: Numba is not installed, or `path` cannot be read as training text.
    """
    if path is None:
        return None
    try:
        from gpt2lab.evaluation.overlap import Training
    except ImportError:
        raise UserError("--training needs numba; pip install 'gpt2lab[corpus]'") from None
    with progress(f"8-grams of {path.name}"):
        return Training.of(path)


@contextmanager
def progress(label: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while a step lasts, moved by calling what is given with its share."""
    from gpt2lab.progress import step

    with step(label) as bar:
        yield bar.update
