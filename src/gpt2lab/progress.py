"""Progress on standard error: a live bar on a terminal, a plain line now and then elsewhere."""

import functools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

SECONDS_BETWEEN_LINES = 10.0


def first_process() -> bool:
    """Whether this process speaks to the user: of those torchrun starts, only the first does."""
    alone = os.environ.get("WORLD_SIZE", "1") in ("0", "1")
    return alone or os.environ.get("RANK", "0") == "0"


@functools.cache
def console() -> Console:
    """The console for logs and progress: standard error, so that standard output stays data.

    One for all, so that lines printed beside a live bar appear above it.
    """
    return Console(
        stderr=True,
        highlight=False,
        soft_wrap=not sys.stderr.isatty(),
        quiet=not first_process(),
    )


class Bar:
    """One task's progress; `update` may be called as often as you like."""

    def __init__(self, label: str, out: Console | None = None) -> None:
        self.label = label
        self.console = out or console()
        self._last_line = time.monotonic()
        self._live: Progress | None = None
        if self.console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._live.add_task(label, total=1.0, note="")

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, fraction: float, note: str = "") -> None:
        """Show that `fraction` (0 to 1) of the work is done, with a short note."""
        if self._live:
            self._live.update(self._task, completed=fraction, note=note)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.print(f"{self.label} {100 * fraction:3.0f}% {note}".rstrip())

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False)


@contextmanager
def step(label: str, out: Console | None = None) -> Iterator[Bar]:
    """A bar for one step of a longer job, followed by a line with the seconds it took."""
    start = time.monotonic()
    with Bar(label, out) as bar:
        yield bar
    bar.print(f"{label}: {time.monotonic() - start:.1f} s")
