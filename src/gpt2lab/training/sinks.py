"""Metrics to where people already look: TensorBoard, Weights & Biases, trackio.

All are optional, none is imported unless the recipe names it, and metrics.jsonl is written anyway.
"""

import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.storage import atomic_file
from gpt2lab.training.loop import Callback, Trainer
from gpt2lab.training.recipe import Sink

PROJECT = "gpt2lab"
IDENTITY = "identity.txt"
Log = Callable[[dict[str, float], int], None]
Close = Callable[[], None]


class Report(Callback):
    """Send every logged step's numbers to one sink, from the main process."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._open: tuple[Log, Close] | None = None

    def begin(self, trainer: Trainer) -> None:
        if trainer.world.main and self._open is None:
            try:
                self._open = _OPENERS[self._sink](trainer)
            except ImportError:
                raise UserError(
                    f"train.sinks names {self._sink}, which is not installed; "
                    f"pip install 'gpt2lab[{self._sink}]' or take it out"
                ) from None
            except Exception as error:  # each has its own: not logged in, no network, ...
                reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
                raise UserError(
                    f"{self._sink} cannot be started: {reason}; mend that, or take it out of "
                    "train.sinks"
                ) from error

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        due = record["step"] % trainer.recipe.every.log == 0 or "validation_loss" in record
        if self._open is not None and due:
            numbers = {
                key: float(value)
                for key, value in record.items()
                if key != "step" and isinstance(value, int | float)
            }
            self._open[0](numbers, record["step"])

    def finish(self, trainer: Trainer) -> None:
        if self._open is not None:
            self._open[1]()
            self._open = None


def _tensorboard(trainer: Trainer) -> tuple[Log, Close]:
    from torch.utils.tensorboard import SummaryWriter

    # What a killed run had logged after its last checkpoint is logged again.
    writer = SummaryWriter(trainer.run / "tensorboard", purge_step=trainer.progress.step + 1)

    def log(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def _identity(trainer: Trainer) -> str:
    """A name for this run and its resumes, and for no other run in a folder of the same name."""
    path = trainer.run / IDENTITY
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_text(f"{trainer.run.name}-{uuid.uuid4().hex[:8]}\n", "utf-8")
    return path.read_text("utf-8").strip()


def _wandb(trainer: Trainer) -> tuple[Log, Close]:
    import wandb

    run = wandb.init(
        project=PROJECT,
        name=trainer.run.name,
        id=_identity(trainer),
        dir=trainer.run,
        config=asdict(trainer.recipe),
        resume="allow",
    )
    return lambda numbers, step: run.log(numbers, step=step), run.finish


def _trackio(trainer: Trainer) -> tuple[Log, Close]:
    import trackio

    trackio.init(
        project=PROJECT, name=_identity(trainer), config=asdict(trainer.recipe), resume="allow"
    )
    return lambda numbers, step: trackio.log(numbers, step=step), trackio.finish


_OPENERS: dict[Sink, Callable[[Trainer], tuple[Log, Close]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
