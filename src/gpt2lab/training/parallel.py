"""One model on many processes, from outside the model, by PyTorch's own engine.

Processes form a grid of `data` x `tensor`. Those along `data` see different sequences: each holds
the whole model and gradients are averaged (DDP), or each holds a part of every tensor and gathers a
block's weights while it is computed (FSDP2). Those along `tensor` see the same sequences and hold a
part of every block's matrices (see `tensor_parallel`).
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.parallel import DistributedDataParallel

from gpt2lab.errors import UserError
from gpt2lab.model.transformer import GPT2, Block
from gpt2lab.training import tensor_parallel
from gpt2lab.training.recipe import Parallel, Recipe

T = TypeVar("T")
# A collective waits this long at most. Ranks may wait for the first to tokenise a corpus; a step
# that hangs is noticed much sooner, by the watchdog.
_LONGEST_WAIT = timedelta(days=1)
_MEETING_SECONDS = 300.0


@dataclass(frozen=True)
class World:
    """The processes of a run as one of them sees them; by default it is alone."""

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    """[data, tensor] on the devices that compute; None for a process alone."""
    cpu_mesh: DeviceMesh | None = None
    """The same grid, for tensors in main memory."""
    background: dist.ProcessGroup | None = None
    """All processes, for a thread that writes checkpoints beside training."""
    store: dist.Store | None = None
    """Where all can leave notes, through a connection that collectives do not use."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which part of every batch is this process's."""
        return self.mesh.get_local_rank("data") if self.mesh else 0

    @property
    def data_size(self) -> int:
        """Into how many parts a batch goes."""
        return self.mesh["data"].size() if self.mesh else 1

    @property
    def tensor_size(self) -> int:
        """How many processes share each matrix."""
        return self.mesh["tensor"].size() if self.mesh else 1

    def sum(self, values: Tensor) -> Tensor:
        """Add up `values` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def first(self, work: Callable[[], T], *, background: bool = False) -> T:
        """Let the main process do `work`, and tell all the others its result.

        A UserError it raises is raised there; the others leave quietly with its status.
        background: asked in the thread that writes checkpoints.
        """
        outcome: list[Any] = [_outcome(work) if self.main else None]
        if self.size > 1:
            dist.broadcast_object_list(outcome, group=self.background if background else None)
        return self._unpack(outcome[0])

    def each(self, work: Callable[[], T], *, background: bool = False) -> list[T]:
        """Let every process do `work`; return the results of all. UserErrors go as in `first`."""
        outcomes: list[Any] = [_outcome(work)]
        if self.size > 1:
            mine, outcomes = outcomes[0], [None] * self.size
            dist.all_gather_object(outcomes, mine, group=self.background if background else None)
        return [self._unpack(outcome) for outcome in outcomes]

    def _unpack(self, outcome: tuple[Any, UserError | None]) -> Any:
        result, error = outcome
        if error is None:
            return result
        if self.main:
            raise error
        raise SystemExit(error.status)


def _outcome(work: Callable[[], T]) -> tuple[T | None, UserError | None]:
    try:
        return work(), None
    except UserError as error:
        return None, error


@contextlib.contextmanager
def join(settings: Parallel, device: str | None) -> Iterator[World]:
    """The world this process is part of, as torchrun's environment variables tell.

    device: the recipe's; the best there is if None. Raises UserError if the processes do not fit
    the settings or the machine.
    """
    size = _variable("WORLD_SIZE", 1)
    if size % settings.tensor:
        raise UserError(
            f"parallel.tensor {settings.tensor} does not divide the {size} processes of this run; "
            "change the one or the other"
        )
    if size <= 1:
        yield World()
        return
    kind = (device or ("cuda" if torch.cuda.is_available() else "cpu")).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"train.device {kind!r} cannot be used by several processes; use one")
    if settings.tensor not in (1, size) and settings.strategy == "ddp":
        raise UserError(
            "parallel.tensor shares matrices among some of the processes only; set "
            'parallel.strategy = "fsdp" for the others'
        )
    missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {size}, but {missing[0]} is not set; start several processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    rank, local = _variable("RANK", 0), _variable("LOCAL_RANK", 0)
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU: there are "
                f"{torch.cuda.device_count()}; start fewer with --nproc-per-node"
            )
        torch.cuda.set_device(local)
    meeting = _meet(_connect(rank=rank), rank, size)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
        store=dist.PrefixStore(f"{meeting}/groups", _connect()),
        rank=rank,
        world_size=size,
        timeout=_LONGEST_WAIT,
    )
    try:
        shape, names = (size // settings.tensor, settings.tensor), ("data", "tensor")
        cpu_mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        yield World(
            rank,
            size,
            cpu_mesh if kind == "cpu" else init_device_mesh(kind, shape, mesh_dim_names=names),
            cpu_mesh,
            dist.new_group(backend="gloo", timeout=_LONGEST_WAIT),
            dist.PrefixStore(f"{meeting}/notes", _connect()),
        )
    finally:
        dist.destroy_process_group()


def _variable(name: str, default: int) -> int:
    """A whole number from an environment variable that torchrun sets."""
    value = os.environ.get(name, str(default))
    if not value.isdigit():
        raise UserError(
            f"{name} is {value!r}, not a whole number; start several processes with torchrun, or "
            f"unset {name}"
        )
    return int(value)


def _connect(*, rank: int | None = None) -> dist.Store:
    """A connection to the run's key-value store; rank: this process's, if it may have to serve."""
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        _variable("MASTER_PORT", 0),
        is_master=rank == 0 and not served,
        multi_tenant=True,
    )


def _meet(store: dist.Store, rank: int, size: int) -> str:
    """A name that the processes of this attempt, and none of an earlier one, agree on.

    torchrun's store outlives a restart, addresses of dead processes in it, and its counters of
    restarts differ from machine to machine. So each process leaves a word nobody used before, and
    the first answers whatever words it finds until all have taken the name it gives.
    """
    if rank:
        word = uuid.uuid4().hex
        store.set(f"gpt2lab/hello/{rank}", word)
        name = store.get(f"gpt2lab/answer/{word}").decode()
        store.set(f"{name}/here/{rank}", "")
        return name
    name = f"gpt2lab/{uuid.uuid4().hex}"
    missing = set(range(1, size))
    deadline = time.monotonic() + _MEETING_SECONDS
    while missing:
        for other in sorted(missing):
            if store.check([f"gpt2lab/hello/{other}"]):
                word = store.get(f"gpt2lab/hello/{other}").decode()
                store.set(f"gpt2lab/answer/{word}", name)
            if store.check([f"{name}/here/{other}"]):
                missing.discard(other)
        if time.monotonic() > deadline:
            raise RuntimeError(f"ranks {sorted(missing)} did not come within {_MEETING_SECONDS} s")
        time.sleep(0.02)
    return name


def spread(
    loss: nn.Module, model: GPT2, world: World, settings: Parallel, dtype: torch.dtype
) -> nn.Module:
    """`loss`, a module around `model`, as something every process can call with its own sequences.

    The model's parameters become this process's part of them, in place, and gradients the mean
    over all processes. dtype: what matrices are multiplied in.
    """
    if world.mesh is None:
        return loss
    if world.tensor_size > 1:
        tensor_parallel.split(model, world.mesh["tensor"])
    if settings.strategy == "ddp":
        if world.data_size == 1:
            return loss
        return DistributedDataParallel(
            loss, process_group=world.mesh.get_group("data"), gradient_as_bucket_view=True
        )
    data = world.mesh["data"]
    # Blocks travel in the format they are multiplied in; tables and the last norm, which also make
    # up the float32 residual stream, in full. Gradients are always summed in full.
    low = MixedPrecisionPolicy(
        param_dtype=dtype if dtype in (torch.bfloat16, torch.float16) else None,
        reduce_dtype=model.wte.weight.dtype,
        cast_forward_inputs=False,
    )
    for module in model.h:
        block = cast(Block, module)
        # Norms are computed in full; in a 16-bit format their weights would be rounded.
        fully_shard([block.ln_1, block.ln_2], mesh=data, reshard_after_forward=settings.reshard)
        fully_shard(block, mesh=data, reshard_after_forward=settings.reshard, mp_policy=low)
    fully_shard(loss, mesh=data, reshard_after_forward=False)
    return loss


@contextlib.contextmanager
def accumulating(module: nn.Module, *, more: bool) -> Iterator[None]:
    """For a forward and backward pass; more: others follow, so gradients are not averaged yet."""
    if isinstance(module, DistributedDataParallel) and more:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not more)
        module.set_is_last_backward(not more)
    yield


def reshard(module: nn.Module) -> None:
    """Let go of what a pass without a backward pass has left gathered."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local(t: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return t.to_local() if isinstance(t, DTensor) else t


def whole(t: Tensor) -> Tensor:
    """A tensor with the parts of all processes put together; all must ask for it."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """The whole `value`, which every process has, cut as `like` is cut."""
    value = value.to(like.device, like.dtype)
    if not isinstance(like, DTensor):
        return value
    mesh = like.device_mesh
    everywhere = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(mesh, like.placements)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """2-norm of the whole gradient, the same number on every process."""
    kinds: dict[Any, list[Tensor]] = {}
    for p in parameters:
        if p.grad is not None:
            g = p.grad
            kind = (g.device_mesh, g.placements) if isinstance(g, DTensor) else None
            kinds.setdefault(kind, []).append(local(g))
    total: Tensor | None = None
    for kind, grads in kinds.items():
        squares = torch.stack(torch._foreach_norm(grads)).square().sum()
        if kind is not None:
            mesh, placements = kind
            for dimension, placement in enumerate(placements):
                if not placement.is_replicate():
                    dist.all_reduce(squares, group=mesh.get_group(dimension))
        total = squares if total is None else total + squares
    if total is None:
        raise RuntimeError("no parameter has a gradient")
    return total.sqrt()


def require_even_parts(recipe: Recipe, world: World) -> None:
    """Raise UserError unless a step's sequences go evenly to all processes."""
    parts, micro = world.data_size, recipe.train.micro_batch
    if recipe.sequences % (parts * micro):
        raise UserError(
            f"train.batch_tokens is {recipe.sequences} sequences, which do not go evenly to "
            f"{parts} processes in micro-batches of {micro}; lower train.micro_batch or start "
            "another number of processes"
        )
