"""What happens beside training: metrics, validation, checkpoints, progress on the screen."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from gpt2lab.doctor import Peak
from gpt2lab.errors import UserError
from gpt2lab.progress import Bar
from gpt2lab.storage import atomic_file, writing_failed
from gpt2lab.training.loop import Callback, Trainer

_SOMETIMES = (
    "loss", "grad_norm", "validation_loss", "mfu", "peak_memory_mib",
    "sample_distinct_2", "sample_copied", "sample_longest_copy",
)  # fmt: skip
PROFILE_AFTER = 2
"""Steps before a trace begins; the first ones allocate and compile."""


class Evaluate(Callback):
    """Validate every few steps, and once more before the last checkpoint is written.

    A model that the run goes on from is measured, too, before the first step.
    """

    def begin(self, trainer: Trainer) -> None:
        progress, recipe = trainer.progress, trainer.recipe
        if progress.step == 0 and recipe.finetune.model and recipe.every.evaluate:
            progress.first_loss = trainer.evaluate()
            # It is no result of the run, be it better than all of them.
            progress.best_loss, progress.best_step, progress.worse = math.inf, 0, 0

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        every = trainer.recipe.every.evaluate
        if every and (trainer.progress.step % every == 0 or trainer.ended):
            loss = trainer.evaluate()
            if loss is not None:
                record["validation_loss"] = loss


class Save(Callback):
    """Write a checkpoint every few steps, and whenever validation was better than ever."""

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        every, progress = trainer.recipe.every.save, trainer.progress
        if record["loss"] is None:  # weights that give no finite loss are not worth keeping
            return
        if every and (progress.step % every == 0 or progress.best_step == progress.step):
            trainer.save()


class Metrics(Callback):
    """Append a line per logged step to metrics.jsonl, with model FLOPs utilisation and memory."""

    def __init__(self, peak: Peak) -> None:
        self._peak = peak
        self._file: IO[str] | None = None
        self._moving = 1.0

    def begin(self, trainer: Trainer) -> None:
        self.finish(trainer)
        count = {grad: sum(p.numel() for p in trainer.model.parameters() if p.requires_grad is grad)
                 for grad in (True, False)}  # fmt: skip
        self._moving = count[True] / sum(count.values())
        if not trainer.world.main:
            return
        path = trainer.run / "metrics.jsonl"
        keep_lines(path, trainer.progress.step, _record)
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise writing_failed(path, error) from error

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        recipe = trainer.recipe
        # A third of a step's products are gradients of weights, which frozen ones have not got.
        flops = recipe.model.flops_per_token(recipe.context) * (2 + self._moving) / 3
        peak = self._peak.tflops * 1e12 * trainer.world.size
        record["mfu"] = round(record["tokens_per_s"] * flops / peak, 4)
        record["peak_memory_mib"] = round(peak_memory(trainer.device) / 2**20)
        ending = trainer.ended or trainer.stopping
        worth = {"validation_loss", "spike", "sample_copied"} & record.keys()
        due = record["step"] % recipe.every.log == 0 or worth or ending
        if due and self._file is not None:
            try:
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()
            except OSError as error:
                raise writing_failed(Path(self._file.name), error) from error

    def finish(self, trainer: Trainer) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def peak_memory(device: torch.device) -> int:
    """The most bytes held at one time so far: on the GPU, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    kib = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kib


def keep_lines(
    path: Path, step: int, read: Callable[[str], dict[str, Any] | None] | None = None
) -> None:
    """Drop the lines of steps that a killed run had logged but not saved.

    read: a line as a table with "step"; None for one that is damaged, as the last line of a killed
    run may be. JSON if not given.
    """
    if not path.exists():
        return
    kept = []
    for line in _lines(path):
        record = (read or _table)(line)
        if record is not None and record["step"] <= step:
            kept.append(line + "\n")
    with atomic_file(path) as temporary:
        temporary.write_text("".join(kept), "utf-8")


def _table(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and type(found.get("step")) is int else None


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{path} does not exist; {run} is not the folder of a run")
    found = []
    for number, line in enumerate(_lines(path), start=1):
        record = _record(line)
        if record is None:
            raise UserError(
                f"{path}, line {number}, is damaged; resume the run, or remove the line"
            )
        found.append(record)
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8", errors="replace")
        return text.removesuffix("\n").split("\n") if text else []  # JSON may hold other line ends
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check it") from None


def _record(line: str) -> dict[str, Any] | None:
    """A line of metrics with the numbers every line has; None if it is no such line."""
    try:
        record = json.loads(line)
        numbers = [record[name] for name in ("step", "tokens", "seconds", "rate", "tokens_per_s")]
        numbers += [record[name] for name in _SOMETIMES if record.get(name) is not None]
        sound = all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return record if sound and type(record["step"]) is int else None


class Screen(Callback):
    """A live bar on a terminal, lines elsewhere: loss, tokens per second, time left."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._loss: float | None = None
        self._begun = self._seconds = 0.0

    def begin(self, trainer: Trainer) -> None:
        # What a run took before it was stopped says little of what it will take now.
        self._begun, self._seconds = trainer.fraction, trainer.progress.seconds

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        if not trainer.world.main:
            return
        now = record["loss"]
        if now is not None:
            self._loss = now if self._loss is None else 0.95 * self._loss + 0.05 * now
        done = trainer.fraction
        taken = trainer.progress.seconds - self._seconds
        left = taken * (1 - done) / max(done - self._begun, 1e-9)
        loss = math.nan if self._loss is None else self._loss
        self._bar.update(
            done,
            f"step {record['step']:,} · loss {loss:.3f} · "
            f"{record['tokens_per_s']:,.0f} tokens/s · MFU {100 * record['mfu']:.0f} % · "
            f"{clock(left)} left",
        )
        if "validation_loss" in record:
            loss = record["validation_loss"]
            self._bar.print(
                f"step {record['step']:,}: validation loss {loss:.4f}, perplexity "
                f"{math.exp(min(loss, 700.0)):,.2f}"
            )


class Profile(Callback):
    """Record what a few steps spend their time on, as a trace in `profile/`, one per process."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._left = 0
        self._profiler: torch.profiler.profile | None = None

    def begin(self, trainer: Trainer) -> None:
        self._left = self._steps + PROFILE_AFTER

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self._left -= 1
        if self._left == self._steps:
            self._profiler = torch.profiler.profile(record_shapes=True, profile_memory=True)
            self._profiler.start()
        elif self._left == 0:
            self.finish(trainer)

    def finish(self, trainer: Trainer) -> None:
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        path = trainer.run / "profile" / f"rank-{trainer.world.rank}.json.gz"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
        except OSError as error:
            raise writing_failed(path, error) from error


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"
