"""The training loop: one process, any device, exact resume."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gpt2lab.corpus.shards import Tokens
from gpt2lab.doctor import DTYPES, default_device, fastest_dtype, keep_freed_memory
from gpt2lab.errors import UserError
from gpt2lab.model import checkpoint
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training import state
from gpt2lab.training.data import Windows, validation_windows
from gpt2lab.training.loss import linear_cross_entropy
from gpt2lab.training.optimizer import Optimizers
from gpt2lab.training.recipe import Recipe


class Diverged(UserError):
    """Loss or gradient stopped being finite."""


class Callback:
    """What may happen beside training; the loop itself has no branches for it."""

    def begin(self, trainer: "Trainer") -> None:
        """Before the first step, also after a resume."""

    def after_step(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """After each optimizer step; `record` is what metrics.jsonl gets and may be added to."""

    def finish(self, trainer: "Trainer") -> None:
        """After the last step, or when the run is interrupted."""


def settle(recipe: Recipe) -> Recipe:
    """The recipe with everything that depends on this machine decided, so that a resume agrees."""
    name = recipe.train.device or default_device().type
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"train.device {name!r} cannot be used here: {reason}") from None
    dtype = recipe.train.dtype
    if dtype == "auto":
        dtype = fastest_dtype(device)  # type: ignore[assignment]
    threads = recipe.train.threads or torch.get_num_threads()
    train = replace(recipe.train, device=str(device), dtype=dtype, threads=threads)
    where = str(Path(recipe.data.path).absolute()) if recipe.data.path else ""
    return replace(recipe, train=train, data=replace(recipe.data, path=where))


@contextlib.contextmanager
def _delayed_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first ctrl-C into a flag, so that it cannot fall into the middle of an update."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)


class Trainer:
    """A run in memory. `run` is its folder; the recipe has been through `settle`."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        tokenizer: Tokenizer,
        train: Tokens,
        val: Tokens | None,
        metadata: dict[str, Any],
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.recipe, self.run, self.tokenizer = recipe, run, tokenizer
        self.metadata = metadata
        self.callbacks = list(callbacks)
        self.device = torch.device(recipe.train.device or "cpu")
        self.dtype = DTYPES[recipe.train.dtype]
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        keep_freed_memory()
        torch.manual_seed(recipe.train.seed)
        self.model = GPT2(recipe.model, init=recipe.train.init, seed=recipe.train.seed)
        self.model.to(self.device).train()
        self.model.checkpoint_blocks = recipe.train.checkpoint_blocks
        self._hidden = torch.compile(self.model.hidden) if recipe.train.compile else None
        self.optimizers = Optimizers(self.model, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self.windows = Windows(train, recipe.context, recipe.train.seed)
        self._val = (
            validation_windows(val, recipe.context, recipe.every.windows)
            if val is not None and len(val)
            else None
        )
        self.progress = state.Progress()
        self._clock = 0.0

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0 to 1: by steps, or by the clock for a time budget."""
        train = self.recipe.train
        if train.minutes is not None:
            return min(1.0, self.progress.seconds / (60 * train.minutes))
        return min(1.0, self.progress.step / (train.steps or 1))

    def fit(self) -> Path:
        """Train to the end; return the folder of the finished model.

        On ctrl-C the step at hand is finished and a checkpoint written before KeyboardInterrupt
        goes on; a second ctrl-C does not wait.
        Raises Diverged when loss or gradient is not finite; the last checkpoint stays.
        """
        for callback in self.callbacks:
            callback.begin(self)
        self._clock = time.monotonic() - self.progress.seconds
        with _delayed_interrupt() as interrupted:
            try:
                while self.fraction < 1 and not interrupted():
                    record = self._step()
                    for callback in self.callbacks:
                        callback.after_step(self, record)
            finally:
                for callback in self.callbacks:
                    callback.finish(self)
            self.save()
            if interrupted():
                raise KeyboardInterrupt
        out = self.run / "model"
        checkpoint.save(out, self.model, self.tokenizer, self.describe(), overwrite=True)
        return out

    def _step(self) -> dict[str, Any]:
        """One optimizer step."""
        began = time.monotonic()
        recipe, step = self.recipe, self.progress.step
        half = 0.5 / recipe.train.steps if recipe.train.steps else 0.0
        multiple = self.optimizers.set_rate(self.fraction + half)
        starts = self.windows.starts(step, recipe.sequences)
        micro = recipe.train.micro_batch
        parts = [starts[i : i + micro] for i in range(0, len(starts), micro)]
        loss = torch.zeros((), device=self.device)
        for part in parts:
            x_BT, y_BT = self.windows.batch(part)
            part_loss = self.loss(x_BT, y_BT) / len(parts)
            self.scaler.scale(part_loss).backward()
            loss += part_loss.detach()
        for optimizer in self.optimizers.parts:
            self.scaler.unscale_(optimizer)
        clip = recipe.optimizer.clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip))
        value = float(loss)
        # fp16 gradients overflow by design now and then: the scaler skips the step and backs off.
        if not math.isfinite(value) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            self._diverged(value, norm, starts)
        if math.isfinite(norm):
            for optimizer in self.optimizers.parts:
                self.scaler.step(optimizer)
        self.scaler.update()
        self.optimizers.zero_grad()
        self.progress.step += 1
        now = time.monotonic()
        self.progress.seconds = now - self._clock
        return {
            "step": self.progress.step,
            "loss": value,
            "grad_norm": norm if math.isfinite(norm) else None,
            "rate": multiple,
            "seconds": round(self.progress.seconds, 3),
            "tokens_per_s": round(recipe.train.batch_tokens / (now - began), 1),
        }

    def loss(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Mean next-token loss of a batch, nats per token."""
        x_BT, y_BT = x_BT.to(self.device), y_BT.to(self.device)
        documents = None
        if self.recipe.data.separate_documents:
            documents = (x_BT == self.tokenizer.end_of_text).cumsum(dim=1)
        hidden = self._hidden or self.model.hidden
        low = self.dtype is not torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=low):
            x_BTD = hidden(x_BT, document_BT=documents)
        return linear_cross_entropy(
            x_BTD.to(self.dtype), self.model.wte.weight, y_BT, self.recipe.model.vocab_size
        )

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Mean loss over the validation windows, nats per token; None without held-out text."""
        if self._val is None:
            return None
        x_NT, y_NT = self._val
        size = max(1, self.recipe.train.micro_batch)
        self.model.eval()
        total = 0.0
        for i in range(0, len(x_NT), size):
            total += float(self.loss(x_NT[i : i + size], y_NT[i : i + size])) * len(
                x_NT[i : i + size]
            )
        self.model.train()
        loss = total / len(x_NT)
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
        return loss

    def save(self) -> Path:
        """Write a checkpoint of the current step, unless it is there already."""
        name = f"step-{self.progress.step:07d}"
        for folder in state.list_checkpoints(self.run):
            if folder.name == name:
                return folder
        return state.save(
            self.run,
            self.model,
            self.tokenizer,
            self.describe(),
            self.optimizers,
            self.scaler,
            self.progress,
        )

    def describe(self) -> dict[str, Any]:
        """What goes into gpt2lab.json beside the weights."""
        best = self.progress.best_loss
        return self.metadata | {
            "step": self.progress.step,
            "tokens": self.progress.step * self.recipe.train.batch_tokens,
            "seconds": round(self.progress.seconds, 1),
            "best_validation_loss": best if math.isfinite(best) else None,
            "best_step": self.progress.best_step,
        }

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint, bit for bit on a CPU."""
        self.progress = state.load(folder, self.model, self.optimizers, self.scaler)

    def _diverged(self, loss: float, norm: float, starts: list[int]) -> None:
        kept = state.list_checkpoints(self.run)
        last = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was saved yet"
        shown = ", ".join(map(str, starts[:8])) + (", ..." if len(starts) > 8 else "")
        raise Diverged(
            f"step {self.progress.step + 1} gave loss {loss:.4g} and gradient norm {norm:.4g} on "
            f"the sequences that start at tokens {shown}; {last}; lower the learning rate, raise "
            "the warm-up, or look at that text"
        )
