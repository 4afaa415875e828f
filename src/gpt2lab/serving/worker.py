"""A model in a thread of its own: requests come from the event loop, pieces of text go back to it.

The engine is touched by that thread alone. What the event loop wants of it waits in a list until
the pass at hand is over; what a pass gave is handed to the event loop in one call.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from gpt2lab.generation import Engine, Generation, Request
from gpt2lab.generation.engine import SLOTS, Running
from gpt2lab.generation.request import Text, check
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

log = logging.getLogger(__name__)


class FullError(Exception):
    """As many requests wait as may."""


class ClosedError(Exception):
    """The worker takes no more requests, or has failed."""


class Piece(NamedTuple):
    """What one pass added to a text."""

    text: str
    tokens: int
    """How many there are by now."""


class Job:
    """A request that was taken. Its methods are the event loop's."""

    def __init__(self, request: Request, owner: str) -> None:
        self.request, self.owner = request, owner
        self.running: Running | None = None
        """What the engine knows it by; None until the worker has seen it."""
        self.cancelled = False
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._failed = False

    @property
    def text(self) -> Text:
        """What there is so far; there is none before the first piece, or the end."""
        if self.running is None:
            raise ClosedError
        return self.running.text

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces as they come, until the text ends.

        Raises ClosedError if the worker fails before.
        """
        while (piece := await self._pieces.get()) is not None:
            yield piece
        if self._failed:
            raise ClosedError

    async def result(self) -> Generation:
        """The whole text."""
        async for _ in self.pieces():
            pass
        return self.text.result()

    def take(self, piece: Piece) -> None:
        self._pieces.put_nowait(piece)

    def end(self, *, failed: bool) -> None:
        self._failed = failed
        self._pieces.put_nowait(None)


class Worker:
    """A model that continues many texts at once.

    slots: texts that are decoded together.
    waiting: most requests that wait for a slot.
    """

    def __init__(
        self, model: GPT2, tokenizer: Tokenizer, *, slots: int = SLOTS, waiting: int = 256
    ) -> None:
        self.config, self.tokenizer = model.config, tokenizer
        self._engine = Engine(model.eval(), tokenizer, slots=slots)
        self._slots, self._most = slots, slots + waiting
        self._loop = asyncio.get_running_loop()
        self._jobs: set[Job] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = True
        # Shared with the thread, under the lock of `_changed`.
        self._orders: list[Callable[[], None]] = []
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that have a slot, or will at the next pass."""
        return min(len(self._jobs), self._slots)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._jobs) - self.running

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return self._open

    def submit(self, request: Request, owner: str = "") -> Job:
        """Take a request.

        owner: whose it is, for the cache.

        Raises:
            UserError: The model cannot meet it.
            FullError: As many wait as may.
            ClosedError: The worker drains, or has failed.
        """
        check(request, self.config, self.tokenizer)
        if not self._open:
            raise ClosedError
        if len(self._jobs) >= self._most:
            raise FullError
        job = Job(request, owner)
        self._jobs.add(job)
        self._idle.clear()
        self._order(lambda: self._begin(job))
        return job

    def cancel(self, job: Job) -> None:
        """End a request; its text ends as it is. Nothing happens to one that has ended."""
        if job in self._jobs and not job.cancelled:
            job.cancelled = True
            self._order(lambda: self._abandon(job))

    async def drain(self, seconds: float) -> bool:
        """Take no more requests, and let those there are end for so long; whether all did.

        What is left then is cancelled.
        """
        self._open = False
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
            return True
        except TimeoutError:
            for job in list(self._jobs):
                self.cancel(job)
            await self._idle.wait()
            return False

    async def close(self) -> None:
        """Stop the thread; requests that have not ended fail."""
        self._open = False
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)
        self._fail()

    def _order(self, order: Callable[[], None]) -> None:
        with self._changed:
            self._orders.append(order)
            self._changed.notify()

    def _deliver(self, pieces: list[tuple[Job, Piece]], ended: list[Job]) -> None:
        for job, piece in pieces:
            job.take(piece)
        for job in ended:
            job.end(failed=False)
        self._jobs.difference_update(ended)
        if not self._jobs:
            self._idle.set()

    def _fail(self) -> None:
        self._open = False
        for job in self._jobs:
            job.end(failed=True)
        self._jobs.clear()
        self._idle.set()

    # From here on: the thread's.

    def _work(self) -> None:
        self._known: dict[Running, Job] = {}
        try:
            while True:
                with self._changed:
                    while not (self._orders or self._known or self._stopped):
                        self._changed.wait()
                    if self._stopped:
                        return
                    orders, self._orders = self._orders, []
                for order in orders:
                    order()
                self._pass()
        except Exception:
            log.exception("the engine failed")
            self._call(self._fail)

    def _pass(self) -> None:
        drawn = self._engine.step()
        pieces = [(self._known[r], Piece(text, len(r.text.ids))) for r, text in drawn]
        ended = [r for r in self._known if r.text.reason]
        if pieces or ended:
            jobs = [self._known.pop(r) for r in ended]
            self._call(lambda: self._deliver(pieces, jobs))

    def _call(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the event loop is gone, and whoever waited with it
            with self._changed:
                self._stopped = True

    def _begin(self, job: Job) -> None:
        job.running = self._engine.submit(job.request, job.owner)
        self._known[job.running] = job

    def _abandon(self, job: Job) -> None:
        if job.running is not None:
            self._engine.cancel(job.running)
