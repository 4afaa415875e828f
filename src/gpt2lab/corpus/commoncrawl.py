"""Pages out of Common Crawl: index look-up, then a read of just the bytes of one record.

Most of WebText's links are dead; the archive still has many. One request a second goes to the
index, as its operators ask; for tens of millions of pages use their columnar index and give the
WARC excerpts to `source.kind = "warc"`.
"""

import json
import time
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from gpt2lab.corpus.archive import Archive, page_headers, recover
from gpt2lab.corpus.crawl import FINISHED, require_pages
from gpt2lab.corpus.frontier import Frontier, Page
from gpt2lab.corpus.links import blocked
from gpt2lab.corpus.recipe import Crawl
from gpt2lab.corpus.urls import normalise
from gpt2lab.corpus.warc import member
from gpt2lab.errors import UserError
from gpt2lab.progress import step
from gpt2lab.storage import read_json, write_json

_MAX_INDEX_BYTES = 10 << 20
_TRIES = 5


class _Unavailable(Exception):
    """A server that does not answer as it should."""


def fetch(folder: Path, files: list[str], rules: Crawl, *, block: str) -> dict[str, Any]:
    """The same as `crawl.crawl`, from the collections named in `rules.crawls`."""
    if (folder / FINISHED).exists():
        return dict(read_json(folder / FINISHED))
    folder.mkdir(parents=True, exist_ok=True)
    frontier = Frontier(folder)
    frontier.load(files)
    recover(folder, frontier)
    frontier.open()
    archive = Archive(folder)
    client = _Client(rules)
    try:
        with step("looking pages up") as bar:
            total = sum(frontier.counts().values())
            while (page := frontier.take()) is not None:
                reason = _one(client, archive, frontier, page, block)
                if reason:
                    frontier.fail(page, reason)
                counts = frontier.counts()
                done = total - counts.get("left", 0)
                bar.update(done / max(1, total), f"{counts.get('fetched', 0):,} of {done:,} found")
        counts = frontier.counts()
    except _Unavailable as error:
        raise UserError(f"{error}; try later, what was fetched is kept") from None
    finally:
        archive.close()
        frontier.close()
    manifest = {"counts": counts}
    require_pages(folder, counts)
    write_json(folder / FINISHED, manifest)
    return manifest


def _one(
    client: "_Client", archive: Archive, frontier: Frontier, page: Page, block: str
) -> str | None:
    """Fetch one page; the reason if there is none."""
    normal = normalise(page.url)
    if normal is None:
        return "no http address"
    if reason := blocked(normal, block):
        return reason
    for capture in client.captures(page.url):
        data = client.record(capture)
        if data is None:
            continue
        try:
            file, end = archive.add_packed(_labelled(data, page))
        except (zlib.error, ValueError):
            continue
        frontier.done(page, file, end)
        return None
    return "not in the archive"


def _labelled(data: bytes, page: Page) -> bytes:
    """The record with headers that say which link it answers. Raises ValueError if it is none."""
    inflate = zlib.decompressobj(31)
    plain = inflate.decompress(data, 1 << 28)
    if not inflate.eof or inflate.unused_data:
        raise ValueError("not one whole gzip member")
    first, newline, rest = plain.partition(b"\r\n")
    if not newline or not first.startswith(b"WARC/1."):
        raise ValueError("no WARC record")
    about = "".join(f"{name}: {value}\r\n" for name, value in page_headers(page).items())
    return member(first + newline + about.encode() + rest)


class _Client:
    """The two servers, asked one thing at a time."""

    def __init__(self, rules: Crawl) -> None:
        self._rules = rules
        self._session = requests.Session()
        self._session.trust_env = False
        contact = f" (+{rules.contact})" if rules.contact else ""
        self._session.headers["User-Agent"] = f"gpt2lab/{version('gpt2lab')}{contact}"
        self._next = 0.0

    def captures(self, url: str) -> Iterator[dict[str, Any]]:
        """What the index knows of a URL: one good capture from each collection that has it."""
        for collection in self._rules.crawls:
            query = f"url={quote(url, safe='')}&output=json&filter=status:200&limit=5"
            body = self._get(
                f"{self._rules.index}/{collection}-index?{query}", {}, _MAX_INDEX_BYTES
            )
            for line in (body or b"").splitlines():
                try:
                    capture = json.loads(line)
                    int(capture["offset"]), int(capture["length"]), str(capture["filename"])
                    same = normalise(str(capture["url"])) == normalise(url)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
                if same:  # the index takes `*` in a URL for a wildcard
                    yield capture
                    break

    def record(self, capture: dict[str, Any]) -> bytes | None:
        """The bytes of one record, None if the archive does not give them."""
        start, length = int(capture["offset"]), int(capture["length"])
        if start < 0 or not 0 < length <= 4 * self._rules.max_bytes:
            return None
        url = f"{self._rules.data}/{quote(str(capture['filename']), safe='/')}"
        data = self._get(url, {"Range": f"bytes={start}-{start + length - 1}"}, length)
        return data if data is not None and len(data) == length else None

    def _get(self, url: str, headers: dict[str, str], most: int) -> bytes | None:
        """A body of at most `most` bytes; None for 404. Waits its turn, and longer when told to."""
        for attempt in range(_TRIES):
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._rules.delay
            try:
                with self._session.get(
                    url,
                    headers=headers,
                    timeout=self._rules.timeout,
                    stream=True,
                    allow_redirects=False,
                ) as response:
                    if 400 <= response.status_code < 500 and response.status_code != 429:
                        return None
                    wanted = 206 if headers else 200
                    if response.status_code == wanted:
                        body = b""
                        for piece in response.iter_content(1 << 16):
                            body += piece
                            if len(body) > most:
                                return None
                        return body
                    problem = f"status {response.status_code}"
            except requests.RequestException as error:
                problem = type(error).__name__
            self._next = time.monotonic() + self._rules.backoff * 2**attempt
        raise _Unavailable(f"{url.split('?', maxsplit=1)[0]} does not answer ({problem})")
