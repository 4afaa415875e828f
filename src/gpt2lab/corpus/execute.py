"""Running tasks: here, on this machine's cores, or on a Ray cluster; the same bytes come out.

A task is a function, its arguments and the folder it fills. It fills a temporary folder, which is
renamed when the task is done: a folder that exists is whole, and a run that was killed goes on
with the folders that do not exist yet.
"""

import concurrent.futures
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt2lab.errors import UserError
from gpt2lab.storage import writing_failed

MANIFEST = "manifest.json"
Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class Task:
    """`function(folder, **arguments)` returns what its manifest holds: counts, damage, ..."""

    folder: Path
    function: Callable[..., dict[str, Any]]
    arguments: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether an earlier run finished it."""
        return (self.folder / MANIFEST).exists()

    def manifest(self) -> dict[str, Any]:
        """What the finished task said."""
        return dict(json.loads((self.folder / MANIFEST).read_text("utf-8")))


def run_task(task: Task) -> None:
    """Do one task, unless it is done."""
    if task.done:
        return
    temporary = task.folder.with_name(f".{task.folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        manifest = task.function(temporary, **task.arguments)
        (temporary / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False), "utf-8")
        for file in [*temporary.iterdir(), temporary]:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        temporary.rename(task.folder)
    except OSError as error:
        if error.errno is not None:
            raise writing_failed(task.folder, error) from error
        # numpy and Arrow lose the number: a full disk, or an intermediate file that is damaged.
        raise UserError(
            f"cannot make {task.folder}: {error}; free some disk space, or delete the folders "
            "beside it if one of them is damaged, and run again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def run_tasks(
    tasks: Sequence[Task],
    *,
    executor: Executor = "local",
    workers: int = 1,
    on_done: Callable[[int], None] = lambda done: None,
) -> None:
    """Do all tasks; on_done hears how many are done, those of earlier runs included."""
    for folder in {task.folder.parent for task in tasks}:
        for leftover in folder.glob(".*.tmp"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
    open_tasks = [task for task in tasks if not task.done]
    done = len(tasks) - len(open_tasks)
    on_done(done)
    for more, _ in enumerate(_completed(open_tasks, executor, workers), start=1):
        on_done(done + more)


def _completed(tasks: list[Task], executor: Executor, workers: int) -> Iterator[None]:
    if executor == "ray":
        yield from _ray(tasks)
    elif workers == 1 or len(tasks) <= 1:
        for task in tasks:
            run_task(task)
            yield
    else:
        yield from _processes(tasks, workers)


def _processes(tasks: list[Task], workers: int) -> Iterator[None]:
    # forkserver: workers inherit no locks, and start from a small process.
    context = multiprocessing.get_context("forkserver")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_end_with_parent
    )
    try:
        futures = {pool.submit(run_task, task): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, most likely for want of memory; lower run.workers or raise "
            "run.partitions, and start again: finished tasks are kept"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()


def _end_with_parent() -> None:
    """Let this worker end when the run is killed: pool workers would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the run's to handle
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ray(tasks: list[Task]) -> Iterator[None]:
    """Tasks on a Ray cluster: the one at RAY_ADDRESS, or one started here.

    Folders must be on storage that every node sees. Scheduling, retries and placement are Ray's.
    """
    try:
        import ray
    except ImportError:
        raise UserError("run.executor = 'ray' needs Ray: pip install 'gpt2lab[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    remote = ray.remote(max_retries=2)(run_task)
    waiting = [remote.remote(task) for task in tasks]
    while waiting:
        finished, waiting = ray.wait(waiting)
        for reference in finished:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else error from None
