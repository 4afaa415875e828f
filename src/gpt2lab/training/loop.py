"""The training loop: any number of processes, any device, exact resume."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from gpt2lab.doctor import DTYPES, keep_freed_memory
from gpt2lab.errors import UserError
from gpt2lab.model.transformer import GPT2
from gpt2lab.progress import console
from gpt2lab.storage import writing_failed
from gpt2lab.training import parallel, saved, state
from gpt2lab.training.data import Data, Places, Prefetch, validation_windows
from gpt2lab.training.loss import IGNORED, NextTokenLoss
from gpt2lab.training.optimizer import Optimizers
from gpt2lab.training.parallel import World, local, require_even_parts
from gpt2lab.training.recipe import Recipe
from gpt2lab.training.result import MODEL, write_result
from gpt2lab.training.signals import delayed_signals
from gpt2lab.training.spikes import WINDOW, deviations
from gpt2lab.training.start import starting_model
from gpt2lab.training.watchdog import Watchdog

MOST_SPIKES = 10
"""Spikes, none far from the one before, after which a run is given up."""
CALM_STEPS = 2000
"""Steps without overflow after which float16's loss scale is doubled."""


class Diverged(UserError):
    """Loss or gradient stopped being finite, or spikes do not end."""


class Callback:
    """What may happen beside training; the loop itself has no branches for it.

    All processes call all callbacks, for validation and saving take all of them; those that show
    or write something act on the main process only.
    """

    def begin(self, trainer: "Trainer") -> None:
        """Before the first step, also after a resume."""

    def after_step(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """After each optimizer step; `record` is what metrics.jsonl gets and may be added to."""

    def finish(self, trainer: "Trainer") -> None:
        """After the last step, or when the run is interrupted."""


class Trainer:
    """A run in memory. `run` is its folder; the recipe has been through `settle`."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        data: Data,
        metadata: dict[str, Any],
        callbacks: Sequence[Callback] = (),
        world: World | None = None,
    ) -> None:
        self.recipe, self.run, self.tokenizer = recipe, run, data.tokenizer
        self.metadata = metadata
        self.callbacks = list(callbacks)
        self.world = world or World()
        self.device = torch.device(recipe.train.device or "cpu")
        if self.device.type == "cuda" and self.world.size > 1:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.dtype = DTYPES[recipe.train.dtype]
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        keep_freed_memory()
        require_even_parts(recipe, self.world)
        # Losses are added up in float64 where the device has it.
        self._exact = torch.float32 if self.device.type == "mps" else torch.float64
        self.model = starting_model(recipe)
        if self.dtype is torch.float64:
            self.model.double()
        cut = recipe.parallel.strategy == "fsdp" or self.world.tensor_size > 1
        if not (self.world.mesh and cut):  # else a device gets its part only
            self.model.to(self.device)
        self.model.checkpoint_blocks = recipe.train.checkpoint_blocks
        if recipe.train.compile:
            for block in self.model.h:
                block.compile()
        separator = data.tokenizer.end_of_text if recipe.data.separate_documents else None
        self._some = data.mixture.some or data.val_learned is not None
        loss = NextTokenLoss(self.model, self.dtype, separator, some=self._some)
        self._loss = parallel.spread(loss, self.model, self.world, recipe.parallel, self.dtype)
        self.model.to(self.device)
        self.optimizers = Optimizers(
            self.model, recipe.optimizer, self.world, self.dtype, recipe.train.seed
        )
        self.mixture = data.mixture
        self._batches = Prefetch(data.mixture, pin=self.device.type == "cuda")
        self._val = (
            validation_windows(data.val, recipe.context, recipe.every.windows, data.val_learned)
            if data.val is not None and len(data.val)
            else None
        )
        self.progress = state.Progress()
        self._saver = state.Saver(run, data.tokenizer, self.world, recipe.every, self.device)
        self._watchdog = Watchdog(
            self.world.store, self.world.rank, self.world.size, recipe.parallel.timeout
        )
        self._clock = 0.0
        self.stopping = False
        """Whether some process was asked to stop."""
        self._saved = -1
        self._spikes = 0
        self._last_spike = 0

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0 to 1: by steps, or by the clock for a time budget."""
        train = self.recipe.train
        if train.minutes is not None:
            return min(1.0, self.progress.seconds / (60 * train.minutes))
        return min(1.0, self.progress.step / (train.steps or 1))

    @property
    def ended(self) -> bool:
        """Whether the run is over: its steps or time are, or validation finds nothing better."""
        patience = self.recipe.train.patience
        return self.fraction >= 1 or 0 < patience <= self.progress.worse

    def fit(self) -> Path | None:
        """Train to the end; return the folder of the finished model.

        On ctrl-C or SIGTERM the step at hand is finished and a checkpoint written; then the result
        is None. A second signal does not wait. Raises Diverged when loss or gradient is not finite;
        the last checkpoint stays.
        """
        for callback in self.callbacks:
            callback.begin(self)
        self._clock = time.monotonic() - self.progress.seconds
        with delayed_signals() as stop, self._watchdog.watching():
            try:
                while not self.ended and not self.stopping:
                    record = self._step(stop=stop())
                    if record is not None:
                        for callback in self.callbacks:
                            callback.after_step(self, record)
            except Exception:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    self._saver.wait()
                raise
            finally:
                for callback in self.callbacks:
                    callback.finish(self)
            self.save()
            with self._watchdog.resting():
                self._saver.wait()
        if not self.ended:
            return None
        best = self.progress.best_step if self.recipe.train.result == "best" else None
        with self._watchdog.resting():
            base = self.recipe.finetune.model
            self.world.first(
                lambda: write_result(self.run, self.model, self.tokenizer, best or None, base)
            )
        return self.run / MODEL

    def _at(self) -> None:
        """A sign of life, between two pieces of work that all processes do in the same order."""
        self._watchdog.at(self.progress.step + 1)

    def _step(self, *, stop: bool = False) -> dict[str, Any] | None:
        """One optimizer step; its record, or None if it was undone by going back.

        stop: this process was asked to stop, which all learn here.
        """
        self._at()
        self._saver.check()
        began = time.monotonic()
        recipe, progress = self.recipe, self.progress
        half = 0.5 / recipe.train.steps if recipe.train.steps else 0.0
        multiple = self.optimizers.set_rate(self.fraction + half)
        first = progress.samples
        loss = self._gradients(first)
        self._at()
        norm = self.optimizers.gradient_norm() / self._scale
        value = self._share(loss, stop)
        progress.samples += recipe.sequences
        progress.tokens += recipe.train.batch_tokens
        excess = deviations(value if math.isfinite(norm) else norm, progress.losses)
        action = self._judge(value, norm, excess, first)
        if action == "rollback":
            return None
        if action == "update":
            clip = self.optimizers.clip
            self._multiply_gradients(min(1.0, clip / (norm + 1e-6)) / self._scale)
            self.optimizers.step()
            progress.updates += 1
            progress.losses = [*progress.losses, value][-WINDOW:]
        else:
            self.optimizers.zero_grad()
        self._adapt_scale(overflow=not math.isfinite(norm))
        progress.step += 1
        record: dict[str, Any] = {
            "step": progress.step,
            "loss": value if math.isfinite(value) else None,
            "grad_norm": norm if math.isfinite(norm) else None,
            "rate": multiple,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "tokens_per_s": round(recipe.train.batch_tokens / (time.monotonic() - began), 1),
        }
        if action == "overflow":
            record["overflow"] = True
        elif action == "skip" or (recipe.train.spike and excess > recipe.train.spike):
            record["spike"] = round(excess, 1) if math.isfinite(excess) else None
            record["skipped"] = action == "skip"
        return record

    def _gradients(self, first: int) -> Tensor:
        """The mean loss of this process's part of the batch that begins at sample `first`.

        Leaves gradients that are the mean over all processes.
        """
        now = self._micro_batches(first)
        upcoming = [*now[1:], self._micro_batches(first + self.recipe.sequences)[0]]
        total = torch.zeros((), device=self.device, dtype=self._exact)
        batches = self._batches_with_shares(now, upcoming)
        for number, (samples, (x_BT, y_BT, share)) in enumerate(zip(now, batches, strict=True)):
            self._at()
            if self.recipe.draws:
                # Of the samples, not of the process, so that it is the same on any number of them.
                key = np.random.SeedSequence((self.recipe.train.seed, int(samples[0])))
                torch.manual_seed(int(key.generate_state(1, np.uint32)[0]))
            more = number + 1 < len(now)
            self.optimizers.moving(not more)
            with parallel.accumulating(self._loss, more=more):
                loss = self.loss(x_BT, y_BT) / share
                (loss * self._scale).backward()
            total += loss.detach()
        return total

    def _batches_with_shares(
        self, now: list[Places], upcoming: list[Places]
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Micro-batches, and what each one's mean loss is divided by to make up the step's.

        Where not all targets count, each counts the same, in whichever micro-batch of whichever
        process it is.
        """
        pairs = (self._batches.batch(s, after) for s, after in zip(now, upcoming, strict=True))
        if not self._some:
            for x_BT, y_BT in pairs:
                self._at()
                yield x_BT, y_BT, len(now)
            return
        whole = list(pairs)
        counts = [int((y_BT != IGNORED).sum()) for _, y_BT in whole]
        every = torch.tensor(float(sum(counts)), dtype=self._exact, device=self.device)
        mean = float(self.world.sum(every)) / self.world.size
        for (x_BT, y_BT), count in zip(whole, counts, strict=True):
            yield x_BT, y_BT, mean / count if count and mean else math.inf

    def _micro_batches(self, first: int) -> list[Places]:
        """Micro-batches of this process in the step that begins at sample `first`.

        Of R processes, the r-th takes every R-th, so that they are the same for any R.
        """
        micro = self.recipe.train.micro_batch
        parts = np.arange(first, first + self.recipe.sequences).reshape(-1, micro)
        return list(parts[self.world.data_rank :: self.world.data_size])

    def _share(self, loss: Tensor, stop: bool) -> float:
        """Mean loss over all processes; also agrees on the time and on whether to stop."""
        seconds = time.monotonic() - self._clock if self.world.main else 0.0
        facts = torch.tensor([0.0, stop, seconds], dtype=self._exact, device=self.device)
        facts[0] = loss
        value, stops, self.progress.seconds = self.world.sum(facts).tolist()
        self.stopping = stops > 0
        return float(value / self.world.size)

    def loss(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Mean next-token loss of a batch, nats per token."""
        x_BT, y_BT = (t.to(self.device, non_blocking=True) for t in (x_BT, y_BT))
        return self._loss(x_BT, y_BT)

    def _judge(
        self, loss: float, norm: float, excess: float, first: int
    ) -> Literal["update", "skip", "overflow", "rollback"]:
        """What to do about a step, by the recipe's policy for spikes."""
        train = self.recipe.train
        finite = math.isfinite(loss) and math.isfinite(norm)
        if math.isfinite(loss) and not finite and self._scale > 1:
            return "overflow"  # float16 gradients do so now and then; the scale backs off
        step = self.progress.step + 1
        if finite and not (train.spike and excess > train.spike):
            if step > self._last_spike + WINDOW:
                self._spikes = 0
            return "update"
        if finite and train.on_spike == "record":
            return "update"
        where = self.mixture.where(np.arange(first, first + self.recipe.sequences))
        what = (
            f"step {step} gave loss {loss:.4g} and gradient norm {norm:.4g} on "
            f"the sequences that start at tokens {where}"
        )
        self._spikes += 1
        self._last_spike = step
        if train.on_spike == "record" or self._spikes > MOST_SPIKES:
            self._diverged(what)
        back = train.on_spike == "rollback" and self._go_back()
        did = f"back to step {self.progress.step}" if back else "this batch is left out"
        console().print(f"{what}; {did}", markup=False)
        self._note(event="rollback" if back else "skip", what=what, now_at=self.progress.step)
        return "rollback" if back else "skip"

    def _go_back(self) -> bool:
        """Return to the last checkpoint, but not to its place in the data; False without one."""
        with self._watchdog.resting():
            self._saver.wait()
            kept = self.world.first(lambda: saved.last_sound(self.run, console().print))
        if kept is None:
            return False
        now = self.progress
        self.optimizers.zero_grad()
        self.restore(kept)
        self.progress.samples, self.progress.tokens = now.samples, now.tokens
        self.progress.seconds = now.seconds
        for callback in self.callbacks:
            callback.begin(self)
        return True

    def _note(self, **event: Any) -> None:
        """Append to events.jsonl what is no step."""
        if self.world.main:
            path = self.run / "events.jsonl"
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"time": round(time.time()), **event}) + "\n")
            except OSError as error:
                raise writing_failed(path, error) from error

    @property
    def _scale(self) -> float:
        return self.progress.scale if self.dtype is torch.float16 else 1.0

    def _adapt_scale(self, *, overflow: bool) -> None:
        """Halve float16's loss scale when gradients overflow, double it after a long calm."""
        progress = self.progress
        progress.steady = 0 if overflow else progress.steady + 1
        if overflow:
            progress.scale = max(1.0, progress.scale / 2)
        elif progress.steady == CALM_STEPS:
            progress.scale, progress.steady = progress.scale * 2, 0

    def _multiply_gradients(self, factor: float) -> None:
        grads = [local(p.grad) for p in self.model.parameters() if p.grad is not None]
        if factor != 1.0 and grads:
            torch._foreach_mul_(grads, factor)

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Mean loss over the validation windows, nats per token; None without held-out text."""
        if self._val is None:
            return None
        x_NT, y_NT = self._val
        world, size = self.world, max(1, self.recipe.train.micro_batch)
        firsts = range(0, len(x_NT), size)
        total, counted = torch.zeros(2, dtype=self._exact, device=self.device)
        self.model.eval()
        for number in range(world.data_rank, -(-len(firsts) // world.data_size) * world.data_size,
                            world.data_size):  # fmt: skip
            # Every process makes as many passes, as blocks may have to be gathered for each.
            self._at()
            own = number < len(firsts)
            at = firsts[number] if own else 0
            loss = self.loss(x_NT[at : at + size], y_NT[at : at + size])
            if own:
                part = y_NT[at : at + size]
                count = (part != IGNORED).sum() / self.recipe.context if self._some else len(part)
                total += loss * count
                counted += count
        self.model.train()
        parallel.reshard(self._loss)
        mean = float(world.sum(total) / world.sum(counted).clamp(min=1e-9))
        if mean < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = mean, self.progress.step
            self.progress.worse = 0
        else:
            self.progress.worse += 1
        return mean

    def save(self) -> None:
        """Begin to write a checkpoint of the current step, unless there is one already."""
        if self._saved == self.progress.step:
            return
        with self._watchdog.resting():
            self._saver.wait()  # before a second copy of everything is made
            self._saver.save(self._snapshot())
        self._saved = self.progress.step

    def _snapshot(self) -> state.Snapshot:
        adapter, facts = state.adapter_of(self.recipe), self.describe()
        return state.capture(
            self.model, self.optimizers, self.world, self.progress, facts, adapter
        )  # fmt: skip

    def whole_model(self) -> GPT2 | None:
        """The model for use by one process: the main one, others get None. All must ask."""
        if not any(isinstance(p, DTensor) for p in self.model.parameters()):
            return self.model if self.world.main else None
        weights = state.whole_weights(self.model, self.world)
        return state.assembled(self.recipe.model, weights) if self.world.main else None

    def describe(self) -> dict[str, Any]:
        """What goes into gpt2lab.json beside the weights."""
        progress = self.progress
        return self.metadata | {
            "step": progress.step,
            "tokens": progress.tokens,
            "epochs": [round(e, 4) for e in self.mixture.epochs(progress.samples)],
            "seconds": round(progress.seconds, 1),
            "validation_loss_before": progress.first_loss,
            "best_validation_loss": progress.best_loss if progress.best_step else None,
            "best_step": progress.best_step,
        }

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint, bit for bit on as many processes as wrote it."""
        self.progress = state.load(folder, self.model, self.optimizers, self.world)
        self._saved = self.progress.step

    def _diverged(self, what: str) -> NoReturn:
        with (
            self._watchdog.resting(),
            contextlib.suppress(UserError),
        ):  # the first error is the one to tell
            self._saver.wait()
        kept = saved.list_checkpoints(self.run)
        last = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was saved yet"
        raise Diverged(
            f"{what}; {last}; lower the learning rate, raise the warm-up, or look at that text"
        )
