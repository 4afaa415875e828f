"""The pages of a crawl and what became of each, in SQLite: survives kill -9, fits any number.

Pages are handed out so that no host has two at work at once. A page is marked after its record is
in the archive; what a killed run left between the two is found in the archive again.
"""

import collections
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from gpt2lab.corpus import urls

PENDING, DONE, FAILED = 0, 1, 2
_TABLES = """
CREATE TABLE IF NOT EXISTS pages (
  key BLOB PRIMARY KEY, url TEXT NOT NULL, host TEXT NOT NULL, score INTEGER, created INTEGER,
  state INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL
  DEFAULT 0, not_before REAL NOT NULL DEFAULT 0, file TEXT, end INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_host ON pages (host, state, not_before, key);
CREATE TABLE IF NOT EXISTS held (host TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_file ON pages (file) WHERE file IS NOT NULL;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Page:
    """A page to fetch."""

    key: bytes
    url: str
    host: str
    score: int
    created: int
    attempts: int


class Frontier:
    """All pages of a crawl, in `folder/frontier.sqlite`."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "frontier.sqlite", isolation_level=None)
        # WAL: readers see progress; NORMAL loses at most what the archive still holds.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_TABLES)
        self._hosts: collections.deque[str] = collections.deque()
        self._waiting: dict[str, float] = {}
        self._busy: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._held: dict[str, float] = {}

    def load(self, files: Iterable[str]) -> None:
        """Take in the links of Parquet files, once."""
        if self._db.execute("SELECT 1 FROM facts WHERE name = 'loaded'").fetchone():
            return
        self._db.execute("BEGIN")
        for file in files:
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(8192, columns=["key", "url", "score", "created"]):
                    rows = [
                        (r["key"], r["url"], urls.host(r["url"]), r["score"], r["created"])
                        for r in batch.to_pylist()
                    ]
                    self._db.executemany(
                        "INSERT OR IGNORE INTO pages (key, url, host, score, created) "
                        "VALUES (?, ?, ?, ?, ?)",
                        rows,
                    )
        self._db.execute("INSERT INTO facts VALUES ('loaded', 'yes')")
        self._db.execute("COMMIT")

    def open(self) -> None:
        """Line up the hosts that have pages left."""
        rows = self._db.execute(
            "SELECT DISTINCT host FROM pages WHERE state = ? ORDER BY host", (PENDING,)
        )
        self._hosts.extend(host for (host,) in rows)
        self._held = dict(self._db.execute("SELECT host, until FROM held").fetchall())
        counted = self._db.execute("SELECT state, reason, COUNT(*) FROM pages GROUP BY 1, 2")
        for state, reason, count in counted:
            self._counts[_name(state, reason)] += count

    def take(self) -> Page | None:
        """The next page of a host that is not busy; None if there is none just now."""
        now = time.time()
        for host in [h for h, until in self._waiting.items() if until <= now]:
            del self._waiting[host]
            self._hosts.append(host)
        while self._hosts:
            host = self._hosts.popleft()
            if self._held.get(host, 0.0) > now:
                self._waiting[host] = self._held[host]
                continue
            row = self._db.execute(
                "SELECT key, url, host, score, created, attempts, not_before FROM pages "
                "WHERE host = ? AND state = ? ORDER BY not_before, key LIMIT 1",
                (host, PENDING),
            ).fetchone()
            if row is None:
                continue
            if row[-1] > now:
                self._waiting[host] = row[-1]
                continue
            self._busy.add(host)
            return Page(*row[:-1])
        return None

    @property
    def busy(self) -> int:
        """How many hosts have a page at work."""
        return len(self._busy)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to take, now or later."""
        return not (self._hosts or self._waiting or self._busy)

    def done(self, page: Page, file: str, end: int) -> None:
        """The page's record ends at byte `end` of `file`."""
        self._mark("state = 1, file = ?, end = ?", (file, end), page)
        self._count(1, "fetched")

    def fail(self, page: Page, reason: str) -> None:
        """The page will not be had."""
        self._mark("state = 2, reason = ?, attempts = attempts + 1", (reason,), page)
        self._count(1, reason)

    def again(self, page: Page, reason: str, seconds: float) -> None:
        """Try the page again after some seconds."""
        values = (reason, time.time() + seconds)
        self._mark("reason = ?, attempts = attempts + 1, not_before = ?", values, page)

    def hold(self, host: str, seconds: float) -> None:
        """Leave a host alone for some seconds: it asked for that."""
        self._held[host] = time.time() + seconds
        values = (host, self._held[host])
        self._db.execute("INSERT OR REPLACE INTO held VALUES (?, ?)", values)

    def _mark(self, change: str, values: tuple[object, ...], page: Page) -> None:
        self._db.execute(f"UPDATE pages SET {change} WHERE key = ?", (*values, page.key))
        self._busy.discard(page.host)
        self._hosts.append(page.host)

    def give_up(self, host: str) -> None:
        """Leave the pages still open of a host."""
        left = self._db.execute(
            "UPDATE pages SET state = 2, reason = 'host given up' WHERE host = ? AND state = 0",
            (host,),
        )
        self._count(left.rowcount, "host given up")

    def _count(self, pages: int, name: str) -> None:
        self._counts["left"] -= pages
        self._counts[name] += pages

    def ends(self) -> dict[str, int]:
        """For each archive file, the byte at which its last marked record ends."""
        rows = self._db.execute(
            "SELECT file, MAX(end) FROM pages WHERE file IS NOT NULL GROUP BY file"
        )
        return dict(rows.fetchall())

    def found(self, key: bytes, file: str, end: int) -> None:
        """A record of the page is in the archive, whatever was marked."""
        self._db.execute(
            "UPDATE pages SET state = 1, reason = '', file = ?, end = ? WHERE key = ?",
            (file, end, key),
        )

    def lost(self, file: str, end: int) -> None:
        """Records beyond byte `end` of a file are gone: fetch their pages again."""
        self._db.execute(
            "UPDATE pages SET state = 0, file = NULL, end = NULL WHERE file = ? AND end > ?",
            (file, end),
        )

    def counts(self) -> dict[str, int]:
        """How many pages are fetched, are left, and failed for which reason, most first."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return {name: count for name, count in ordered if count}

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _name(state: int, reason: str) -> str:
    return {PENDING: "left", DONE: "fetched"}.get(state, reason)
