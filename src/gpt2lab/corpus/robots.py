"""robots.txt by RFC 9309: who is asked, what an error means, how long an answer holds."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from protego import Protego

HOLDS = 24 * 3600.0
MAX_BYTES = 500 * 1024  # section 2.5: at least this much is parsed
MAX_REDIRECTS = 5  # section 2.3.1.2
MAX_DELAY = 60.0
MOST_ANSWERS = 50_000

# Gives status, headers and body of a URL, or raises.
Get = Callable[[str], Awaitable[tuple[int, str, bytes]]]


@dataclass
class _Answer:
    """Rules of one origin; None if it has none, "unreachable" if they could not be had."""

    rules: Protego | str | None
    until: float


class Robots:
    """What sites allow a crawler of the given name.

    get: fetches `(status, location, body)` of a robots.txt without following redirects.
    retry: seconds after which a site whose rules could not be had may be asked again.
    """

    def __init__(self, agent: str, get: Get, *, retry: float) -> None:
        self._agent, self._get, self._retry = agent, get, retry
        self._answers: dict[str, asyncio.Task[_Answer]] = {}

    async def allows(self, url: str) -> tuple[str, float]:
        """Why the URL may not be fetched, "" if it may; and the seconds between two requests."""
        rules = (await self._answer(url)).rules
        if rules is None:
            return "", 0.0
        if isinstance(rules, str):
            return f"robots.txt {rules}", 0.0
        delay = min(float(rules.crawl_delay(self._agent) or 0.0), MAX_DELAY)
        return "" if rules.can_fetch(url, self._agent) else "robots.txt", delay

    async def _answer(self, url: str) -> _Answer:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
        task = self._answers.get(origin)
        if task is None or (task.done() and task.result().until < time.monotonic()):
            task = asyncio.ensure_future(self._fetch(origin + "/robots.txt"))
            self._answers[origin] = task
            self._forget()
        return await asyncio.shield(task)

    def _forget(self) -> None:
        """Drop the oldest answers: a crawl meets millions of sites."""
        if len(self._answers) > MOST_ANSWERS:
            for origin in [o for o, t in self._answers.items() if t.done()][: MOST_ANSWERS // 10]:
                del self._answers[origin]

    async def _fetch(self, url: str) -> _Answer:
        until = time.monotonic() + HOLDS
        try:
            for _ in range(MAX_REDIRECTS + 1):
                status, location, body = await self._get(url)
                if status in (301, 302, 303, 307, 308) and location:
                    url = urljoin(url, location)
                    continue
                break
            else:
                return _Answer(None, until)  # too many redirects: unavailable, section 2.3.1.2
        except Exception:
            status = 599
        if status == 429 or status >= 500:  # section 2.3.1.4: assume that nothing is allowed
            return _Answer("unreachable", time.monotonic() + self._retry)
        if not 200 <= status < 300:  # unavailable, section 2.3.1.3
            return _Answer(None, until)
        text = body[:MAX_BYTES].decode("utf-8-sig", "replace")
        return _Answer(Protego.parse(text), until)
