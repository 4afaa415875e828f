"""Checkpoints of a run: a model folder, and beside it in `state/` what exact resume needs.

`state/` is written by torch.distributed.checkpoint, every process its own part, in the background,
and can be read by any other number of processes. Its files are safetensors and JSON, which hold
nothing that runs when a stranger's checkpoint is opened.
"""

import logging
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from gpt2lab.errors import UserError
from gpt2lab.model import checkpoint
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import atomic_folder, read_json, write_json, writing_failed
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training import lora, tensor_parallel
from gpt2lab.training.optimizer import Optimizers
from gpt2lab.training.parallel import World, part_of, whole
from gpt2lab.training.recipe import Every, Recipe
from gpt2lab.training.saved import CHECKPOINTS, DIGESTS, digests, retire

# It tells at every save which of its files it does not write, and logs what it raises as well.
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.CRITICAL)


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Optimizer steps done."""
    samples: int = 0
    """Sequences read, those of skipped steps included: the place in the data."""
    tokens: int = 0
    """Tokens read, likewise."""
    seconds: float = 0.0
    """Wall-clock seconds spent, over all resumes."""
    best_loss: float = float("inf")
    """Lowest validation loss so far, nats per token."""
    best_step: int = 0
    first_loss: float | None = None
    """Validation loss of the model that the run goes on from."""
    updates: int = 0
    """Steps that moved the weights."""
    scale: float = 2.0**16
    """What float16 losses are multiplied by, so that gradients do not underflow."""
    steady: int = 0
    """Steps since that last changed."""
    worse: int = 0
    """Validations since the best one."""
    losses: list[float] = field(default_factory=list)
    """The last training losses, against which a spike stands out."""


class Adapter(NamedTuple):
    """Of a run that trains changes to a model: their size, and the model's name."""

    shape: lora.Shape
    base: str


def adapter_of(recipe: Recipe) -> Adapter | None:
    """What a run's checkpoints say of its adapter; None if they hold whole models."""
    tune = recipe.finetune
    return Adapter(tune.lora, tune.model) if tune.method == "lora" else None


@dataclass
class Snapshot:
    """All that a checkpoint holds: on a GPU a copy, beside which training can go on; on a CPU the
    model's and the optimizers' own tensors, as copies would be half of all memory.
    """

    config: GPT2Config
    tensors: dict[str, Tensor]
    """This process's parts of the weights that move and of optimizer state, in main memory."""
    weights: dict[str, Tensor]
    """The whole weights, or LoRA's changes alone, on the main process only."""
    progress: Progress
    metadata: dict[str, Any]
    adapter: Adapter | None


def capture(
    model: GPT2,
    optimizers: Optimizers,
    world: World,
    progress: Progress,
    metadata: dict[str, Any],
    adapter: Adapter | None = None,
) -> Snapshot:
    """A run's state; all processes must ask for it."""
    tensors = {
        name: _copy(name, t, model.config.n_head, world) for name, t in _named(model, optimizers)
    }
    if adapter is None:
        weights = whole_weights(model, world, tensors)
    else:
        weights = {name: tensors[f"model/{name}"] for name in lora.numbers(model)}
    now = Progress(**asdict(progress))
    return Snapshot(model.config, tensors, weights, now, metadata, adapter)


def whole_weights(
    model: GPT2, world: World, known: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weights, whole and in main memory, on the main process; all must ask.

    known: what `_named` names and is there already.
    """
    weights = {}
    for name, p in model.named_parameters():
        everything = _whole(name, p.detach(), model.config.n_head, world)
        if world.main:
            there = None if isinstance(p, DTensor) else (known or {}).get(f"model/{name}")
            weights[name] = everything.cpu() if there is None else there
    return weights


def assembled(config: GPT2Config, weights: dict[str, Tensor]) -> GPT2:
    """A model that holds these weights."""
    with torch.device("meta"):
        model = GPT2(config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _named(model: GPT2, optimizers: Optimizers) -> Iterator[tuple[str, Tensor]]:
    for name, p in model.named_parameters():
        if p.requires_grad:
            yield f"model/{name}", p
    for name, t in optimizers.named_state():
        yield f"optimizer/{name}", t


def _shares_matrices(t: Tensor) -> bool:
    return isinstance(t, DTensor) and "tensor" in (t.device_mesh.mesh_dim_names or ())


def _whole(name: str, t: Tensor, n_head: int, world: World) -> Tensor:
    """The parts of all processes together, in the model's own order."""
    if _shares_matrices(t):
        return tensor_parallel.in_order(name, whole(t), n_head, world.tensor_size)
    return whole(t)


def _copy(name: str, t: Tensor, n_head: int, world: World) -> Tensor:
    """What this process writes of a tensor, in main memory."""
    t = t.detach()
    if _shares_matrices(t):  # all of it, for any other number of processes
        return _whole(name, t, n_head, world).cpu()
    if isinstance(t, DTensor) and world.cpu_mesh is not None:
        part = t.to_local().cpu()
        return DTensor.from_local(
            part,
            world.cpu_mesh["data"],
            t.placements,
            run_check=False,
            shape=t.shape,
            stride=t.stride(),
        )
    return t.cpu()


class Saver:
    """Writes checkpoints, one at a time: in a thread, but on a CPU while training waits."""

    def __init__(
        self, run: Path, tokenizer: Tokenizer, world: World, every: Every, device: torch.device
    ) -> None:
        self._run, self._tokenizer, self._world, self._every = run, tokenizer, world, every
        self._device = device
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot) -> Path:
        """Begin to write `checkpoints/step-N`; return its path.

        Raises what went wrong with the one before.
        """
        self.wait()
        folder = self._run / CHECKPOINTS / f"step-{snapshot.progress.step:07d}"

        def work() -> None:
            try:
                if self._device.type == "cuda":  # a thread's device is the first one otherwise
                    torch.cuda.set_device(self._device)
                _write(folder, snapshot, self._tokenizer, self._world)
                if self._world.main:
                    retire(self._run, folder, snapshot.progress.best_step, self._every)
            except BaseException as error:
                self._error = error

        # A run that fails elsewhere must not wait for it.
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()
        if self._device.type == "cpu":
            self.wait()
        return folder

    def wait(self) -> None:
        """Wait for the checkpoint being written; raise what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what went wrong with the last checkpoint, without waiting for one being written."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _write(folder: Path, snapshot: Snapshot, tokenizer: Tokenizer, world: World) -> None:
    """Write a checkpoint by all processes together; it appears when it is whole and verified."""
    with ExitStack() as stack:

        def begin() -> Path:
            for torn in folder.parent.glob(".step-*.tmp"):  # left by a run killed while saving
                shutil.rmtree(torn, ignore_errors=True)
            return stack.enter_context(atomic_folder(folder, overwrite=True))

        temporary = world.first(begin, background=True)
        state = temporary / "state"
        with _telling_disk_errors(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not distributed
            if world.size == 1:  # as PyTorch names and reads it, which would hold it twice
                state.mkdir()
                save_file(snapshot.tensors, state / "shard-00001-model-00001-of-00001.safetensors")
            else:
                dcp.save(
                    snapshot.tensors,
                    storage_writer=dcp.HuggingFaceStorageWriter(str(state), save_distributed=True),
                    process_group=world.background,
                )

        def finish() -> None:
            with _telling_disk_errors(folder):
                own = f"shard-{world.rank + 1:05d}-"
                for file in state.glob(f"{own}*.safetensors"):
                    _compare(file, snapshot.tensors.__getitem__)
                if world.main:
                    _write_model(temporary, snapshot, tokenizer)
                    table = asdict(snapshot.progress)
                    write_json(state / "progress.json", table)

        world.each(finish, background=True)
        if world.main:
            write_json(state / DIGESTS, {"files": digests(temporary)})


def _write_model(folder: Path, snapshot: Snapshot, tokenizer: Tokenizer) -> None:
    if snapshot.adapter is not None:
        lora.write_into(folder, snapshot.weights, *snapshot.adapter)
        tokenizer.save(folder, max_length=snapshot.config.n_positions)
        write_json(folder / checkpoint.METADATA, snapshot.metadata)
        return
    model = assembled(snapshot.config, snapshot.weights)
    checkpoint.write_into(folder, model, tokenizer, snapshot.metadata)
    _compare(folder / checkpoint.WEIGHTS, partial(checkpoint.named_tensor, model))


@contextmanager
def _telling_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                raise writing_failed(folder, failure) from error
            if isinstance(failure, SafetensorError):
                raise writing_failed(folder, checkpoint.disk_error(failure)) from error
        raise RuntimeError(f"{folder} could not be written: {error}") from error
    except SafetensorError as error:
        raise writing_failed(folder, checkpoint.disk_error(error)) from error
    except OSError as error:
        raise writing_failed(folder, error) from error


def _compare(file: Path, get: Callable[[str], Tensor]) -> None:
    """Read back what was written; UserError if it is not what was meant, by its name."""
    with safe_open(file, framework="pt") as found:
        names = list(found.keys())
    for name in names:
        meant = get(name)
        meant = meant.to_local() if isinstance(meant, DTensor) else meant
        # Opened for each: what is mapped counts as memory until the file is closed.
        with safe_open(file, framework="pt") as found:
            same = _same_bytes(found.get_tensor(name), meant)
        if not same:
            raise UserError(
                f"{file.name} did not come back from the disk as it was written; the disk or "
                "its memory is failing, use another"
            )


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    # As bytes, for NaNs differ from themselves.
    first, second = (t.contiguous().view(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(first, second)


def load(folder: Path, model: GPT2, optimizers: Optimizers, world: World) -> Progress:
    """Restore weights and optimizers in place; return where the run was.

    The number of processes may be another than the one that wrote it.
    """
    adapted = (folder / lora.CONFIG).exists()
    if adapted != bool(lora.changes(model)) or not (
        adapted or _same_shape(checkpoint.from_hf_config(folder / "config.json"), model.config)
    ):
        raise UserError(
            f"{folder} holds a model of another shape than the run's recipe; undo the edit"
        )
    n_head, ranks = model.config.n_head, world.tensor_size
    named = dict(_named(model, optimizers))
    targets = {}
    for name, t in named.items():
        targets[name] = t.detach()
        if _shares_matrices(t):
            shape = tensor_parallel.in_order(
                name, torch.empty(t.shape, device="meta"), n_head, ranks
            ).shape
            targets[name] = torch.empty(shape, dtype=t.dtype)
    state = folder / "state"
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            dcp.load(
                targets,
                storage_reader=dcp.HuggingFaceStorageReader(str(state)),
                process_group=world.background,
                no_dist=world.size == 1,
            )
            for name, t in named.items():
                if _shares_matrices(t):
                    ordered = tensor_parallel.by_rank(name, targets[name], n_head, ranks)
                    t.copy_(part_of(ordered, t))
        progress = _progress(read_json(state / "progress.json"))
        optimizers.updates = int(progress.updates)
    except (CheckpointException, SafetensorError, OSError, KeyError, TypeError, ValueError,
            RuntimeError) as error:  # fmt: skip
        reason: BaseException = error
        if isinstance(error, CheckpointException) and error.failures:
            reason = next(iter(error.failures.values()))[0]
        line = (str(reason).splitlines() or [repr(reason)])[0]
        raise UserError(f"{state} cannot be resumed from ({line}); remove {folder}") from None
    return progress


def _progress(table: Any) -> Progress:
    """Where a run stood, as its file says; ValueError if no run can stand there."""
    progress = Progress(**table)
    whole = [getattr(progress, n) for n in
             ("step", "samples", "tokens", "best_step", "updates", "steady", "worse")]  # fmt: skip
    first = 0.0 if progress.first_loss is None else progress.first_loss
    numbers = [progress.seconds, progress.scale, first, *progress.losses]
    if (
        table.keys() != asdict(Progress()).keys()
        or not all(type(n) is int and 0 <= n < 2**62 for n in whole)
        or not all(type(n) in (int, float) and abs(n) < 1e300 for n in numbers)
        or type(progress.best_loss) not in (int, float)
        or progress.best_loss != progress.best_loss
        or progress.scale <= 0
        or progress.seconds < 0
    ):
        raise ValueError("progress.json holds what no run writes")
    return progress


def _same_shape(saved: GPT2Config, wanted: GPT2Config) -> bool:
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "activation")
    return all(getattr(saved, name) == getattr(wanted, name) for name in names)
