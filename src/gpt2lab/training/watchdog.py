"""Notices a process that no longer answers, says which, and ends the run.

A collective whose partner hangs waits in silence. So every process keeps writing down in a store
that all can reach how far it is, and a pulse. Whoever waits longer than the limit names those who
lag behind, or whose pulse has stopped, and exits; torchrun then stops the rest, or starts all of
them again from the last checkpoint.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from torch.distributed import Store

EXIT_STATUS = 75  # sysexits.h: a temporary failure, worth another try
_PULSE_SECONDS = 1.0


class Watchdog:
    """Of process `rank` of `size`; ends it if a step takes longer than `seconds`.

    store: where all can leave notes; None for a process alone, which nobody waits for.
    """

    def __init__(self, store: Store | None, rank: int, size: int, seconds: float) -> None:
        self._store, self._rank, self._size, self._limit = store, rank, size, seconds
        self._pulse = 0
        self._step = 0
        self._place = 0
        self._since = time.monotonic()
        self._resting = False
        self._ended = threading.Event()

    def at(self, step: int) -> None:
        """Say that this process goes on, in `step`; all do so in the same places."""
        self._place += 1
        self._step, self._since = step, time.monotonic()
        self._tell()

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Expect nothing until the block ends."""
        self._resting = True
        try:
            yield
        finally:
            self._resting = False
            self._since = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the block ends."""
        if self._store is None:
            yield
            return
        self._since = time.monotonic()
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(min(_PULSE_SECONDS, self._limit / 4)):
            self._pulse += 1
            self._tell()
            waited = time.monotonic() - self._since
            if waited > self._limit and not self._resting:
                message = self.report(waited)
                if not (self._ended.is_set() or self._resting):
                    print(f"gpt2lab: error: {message}", file=sys.stderr, flush=True)
                    os._exit(EXIT_STATUS)  # the main thread is deep in a collective

    def _tell(self) -> None:
        # A store that is gone is noticed by the collectives, and sooner.
        with contextlib.suppress(RuntimeError):
            if self._store is not None:
                self._store.set(str(self._rank), f"{self._step} {self._place} {self._pulse}")

    def _read(self) -> dict[int, tuple[int, int, int]]:
        """Step, place and pulse of every other process that can be read."""
        found: dict[int, tuple[int, int, int]] = {}
        if self._store is None:
            return found
        for rank in range(self._size):
            with contextlib.suppress(RuntimeError):
                if rank != self._rank and self._store.check([str(rank)]):
                    step, place, pulse = map(int, self._store.get(str(rank)).split())
                    found[rank] = (step, place, pulse)
        return found

    def report(self, waited: float) -> str:
        """Who waits for whom, in a sentence."""
        before = self._read()
        time.sleep(3 * _PULSE_SECONDS)
        after = self._read()
        blamed = []
        for rank in range(self._size):
            if rank == self._rank:
                continue
            if rank not in after or rank not in before:
                blamed.append(f"rank {rank}, which cannot be asked")
            elif after[rank] == before[rank]:
                blamed.append(f"rank {rank}, which stopped in step {after[rank][0]}")
            elif after[rank][1] < self._place:
                blamed.append(f"rank {rank}, which is still in step {after[rank][0]}")
        if not blamed and any(place > self._place for _, place, _ in after.values()):
            return (
                f"rank {self._rank} itself has been busy for {waited:.0f} s in step {self._step}, "
                "and the others wait for it; see what holds it up, or raise parallel.timeout"
            )
        others = "; for ".join(blamed) or "the others, which wait as well: the network may be cut"
        return (
            f"rank {self._rank} has waited {waited:.0f} s in step {self._step} for {others}. See "
            "what that process or its network does, or raise parallel.timeout"
        )
