"""The WARC files a crawl writes, record by record, and finds whole again after kill -9."""

import io
from collections.abc import Iterable
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from gpt2lab.corpus.compressed import Damage
from gpt2lab.corpus.frontier import Frontier, Page
from gpt2lab.corpus.warc import ASKED, CREATED, KEY, SCORE, read_records

PAGES_PER_FILE = 1000
BYTES_PER_FILE = 256 << 20
# Of the connection, not of the page.
_HOP_BY_HOP = {"transfer-encoding", "connection", "keep-alive", "content-length"}


class Archive:
    """Appends responses to `pages-00000.warc.gz`, `pages-00001.warc.gz`, ... in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        existing = [int(p.name[6:11]) for p in folder.glob("pages-*.warc.gz")]
        self._number = max(existing, default=-1) + 1
        self._pages = self._end = 0
        self._file: io.FileIO | None = None

    def add(
        self,
        page: Page,
        url: str,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        address: str,
    ) -> tuple[str, int]:
        """Write one response; return the file and the byte at which its record ends."""
        kept = [(n, v) for n, v in headers if n.lower() not in _HOP_BY_HOP]
        kept.append(("Content-Length", str(len(body))))
        about = page_headers(page)
        if address:
            about["WARC-IP-Address"] = address
        return self.add_packed(record(url, f"{status} OK", kept, body, about))

    def add_packed(self, data: bytes) -> tuple[str, int]:
        """Write a record that is compressed already."""
        if self._file is None or self._pages >= PAGES_PER_FILE or self._end >= BYTES_PER_FILE:
            self._file = self._next()
        # Unbuffered: a kill leaves the whole record or a tail that recover() cuts off.
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(data)
        self._pages += 1
        return Path(str(self._file.name)).name, self._end

    def _next(self) -> io.FileIO:
        self.close()
        self._number += 1
        self._pages = self._end = 0
        return io.FileIO(self._folder / f"pages-{self._number - 1:05d}.warc.gz", "x")

    def close(self) -> None:
        """Close the current file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def record(
    url: str,
    status: str,
    headers: list[tuple[str, str]],
    body: bytes,
    about: dict[str, str],
) -> bytes:
    """A response record as its own gzip member."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    http = StatusAndHeaders(status, headers, protocol="HTTP/1.1")
    made = writer.create_warc_record(
        url, "response", payload=io.BytesIO(body), http_headers=http, warc_headers_dict=about
    )
    writer.write_record(made)
    return out.getvalue()


def page_headers(page: Page) -> dict[str, str]:
    """WARC headers that say which link a record answers."""
    return {
        KEY: page.key.hex(),
        ASKED: page.url,
        SCORE: str(page.score),
        CREATED: str(page.created),
    }


def recover(folder: Path, frontier: Frontier) -> None:
    """Bring archive and frontier back together after a run that was killed.

    Records that were written but not marked are marked; a record cut short at the end is cut off;
    pages marked whose records are not there (a power cut) are open again.
    """
    ends = frontier.ends()
    for path in sorted(folder.glob("pages-*.warc.gz")):
        known = ends.pop(path.name, 0)
        size = path.stat().st_size
        if size == known:
            continue
        damage: list[Damage] = []
        good = 0
        for found in read_records(path, damage) if size else ():
            good = found.end
            if found.end > known:
                key = bytes.fromhex(found.headers.get(KEY.lower(), ""))
                frontier.found(key, path.name, found.end)
        if good < size:
            with path.open("r+b") as file:
                file.truncate(good)
        if good == 0:
            path.unlink()
        frontier.lost(path.name, good)
    for name in ends:
        frontier.lost(name, 0)
