"""Running the service: on SIGTERM or ctrl-C what was taken is finished before it goes."""

import asyncio
from types import FrameType

import uvicorn
from fastapi import FastAPI

from gpt2lab.serving.app import Service

# Seconds that answers have to reach their clients once all texts have ended.
_LAST = 5


class Server(uvicorn.Server):
    """A server that drains: while it does it still answers, that it takes no more requests."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_level="warning", server_header=False, timeout_graceful_shutdown=_LAST
            )
        )
        self._service: Service = app.state.service
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, a second one ends at once."""
        if self._draining is not None or not self.started:
            super().handle_exit(sig, frame)
            return
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True
