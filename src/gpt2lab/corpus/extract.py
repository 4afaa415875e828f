"""Archived pages to documents: WARC records in, text out, every page that gives none counted."""

import contextlib
import json
import re
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gpt2lab.corpus import urls
from gpt2lab.corpus.compressed import Damage
from gpt2lab.corpus.documents import FileWriter, Row
from gpt2lab.corpus.extractor import Job, Outcome, send
from gpt2lab.corpus.links import blocked
from gpt2lab.corpus.recipe import Extract
from gpt2lab.corpus.warc import (
    CREATED,
    SCORE,
    Message,
    Record,
    TooLarge,
    http_message,
    read_records,
    unpacked,
)
from gpt2lab.errors import UserError

# trafilatura's caches grow; a fresh process now and then costs less than a leak.
PAGES_PER_PROCESS = 2000
QUARANTINE = "quarantine.jsonl"
HARMFUL = ("timeout", "crash", "out of memory", "too large unpacked")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.I)
_HTML = ("text/html", "application/xhtml+xml")
_decode = msgspec.msgpack.Decoder(Outcome).decode


class Extractor:
    """Extracts pages in a child process with a deadline and a memory limit for each."""

    command = (sys.executable, "-m", __package__ + ".extractor")

    def __init__(self, rules: Extract) -> None:
        self._rules = rules
        self._child: subprocess.Popen[bytes] | None = None
        self._pages = 0

    def extract(self, html: bytes, *, charset: str = "", url: str = "") -> Outcome:
        """The text of one page, or the reason there is none: `timeout` and `crash` among them.

        A page that kills its process gets one more chance in a fresh one: it may have died of
        what came before.
        """
        rules = self._rules
        job = Job(html, charset, url, rules.profile, rules.language, rules.max_chars)
        outcome = self._ask(job)
        if outcome.reason in HARMFUL:
            outcome = self._ask(job)
        return outcome

    def _ask(self, job: Job) -> Outcome:
        if self._child is None or self._pages >= PAGES_PER_PROCESS:
            self.close()
            self._child = subprocess.Popen(
                [*self.command, str(self._rules.memory_mb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._pages = 0
            try:
                self._receive(60.0)  # "ready": loading its libraries is on nobody's clock
            except EOFError:
                raise UserError(
                    "the extractor does not start; see why with: "
                    + " ".join([*self.command, str(self._rules.memory_mb)])
                ) from None
        self._pages += 1
        try:
            assert self._child is not None and self._child.stdin is not None
            send(self._child.stdin, job)
            outcome = self._receive(self._rules.seconds)
        except (BrokenPipeError, EOFError):
            outcome = Outcome("crash")
        if outcome.reason in HARMFUL:
            self.close()
        return outcome

    def _receive(self, seconds: float) -> Outcome:
        """The answer, waited for until the deadline."""
        assert self._child is not None and self._child.stdout is not None
        deadline = time.monotonic() + seconds
        descriptor = self._child.stdout.fileno()
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return Outcome("timeout")
            piece = self._child.stdout.read1(1 << 20)  # type: ignore[attr-defined]
            if not piece:
                raise EOFError
            data += piece
        return _decode(data[4:])

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()
            self._child = None


def read(out: Path, *, file: str, rules: Extract, block: str) -> dict[str, Any]:
    """One WARC file to files of documents in `out`.

    block: block list applied to where pages came from in the end, after redirects.
    """
    damage: list[Damage] = []
    counts: Counter[str] = Counter()
    writer = FileWriter(out)
    with (
        contextlib.closing(Extractor(rules)) as extractor,
        (out / QUARANTINE).open("w", encoding="utf-8") as quarantine,
    ):
        for record, message in _pages(Path(file), damage, counts):
            outcome = _text(extractor, rules, record, message, block)
            if outcome.reason:
                counts[outcome.reason] += 1
                if outcome.reason in HARMFUL:
                    line = {"url": record.url, "reason": outcome.reason, "file": file}
                    quarantine.write(json.dumps(line | {"offset": record.offset}) + "\n")
                continue
            counts["documents"] += 1
            writer.add([_row(record, outcome)])
    writer.close()
    damaged = [str(d) for d in damage]
    return {"counts": dict(counts), "bytes": writer.bytes, "damage": damaged}


def _pages(
    path: Path, damage: list[Damage], counts: Counter[str]
) -> Iterator[tuple[Record, Message]]:
    """HTML responses with status 200."""
    for record in read_records(path, damage):
        if record.kind != "response":
            continue
        counts["responses"] += 1
        message = http_message(record.block)
        if message is None:
            counts["no http response"] += 1
        elif message.status != 200:
            counts[f"status {message.status // 100}xx"] += 1
        elif not message.headers.get("content-type", "text/html").lower().startswith(_HTML):
            counts["not html"] += 1
        else:
            yield record, message


def _text(
    extractor: Extractor, rules: Extract, record: Record, message: Message, block: str
) -> Outcome:
    normal = urls.normalise(record.url)
    if normal is not None and (reason := blocked(normal, block)):
        return Outcome(reason)
    try:
        if not record.whole:
            raise TooLarge
        html = unpacked(message, most=rules.max_inflated, ratio=rules.max_ratio)
    except TooLarge:
        return Outcome("too large unpacked")
    except ValueError as error:
        return Outcome(str(error))
    charset = _CHARSET.search(message.headers.get("content-type", ""))
    return extractor.extract(html, charset=charset[1] if charset else "", url=record.url)


def _row(record: Record, outcome: Outcome) -> Row:
    """The document, with the score and date of the link that led to it if the archive has them."""
    score, created = (record.headers.get(name.lower(), "") for name in (SCORE, CREATED))
    return Row(
        outcome.text,
        url=record.url,
        title=outcome.title,
        author=outcome.author,
        date=outcome.date,
        language=outcome.language,
        score=int(score) if score.lstrip("-").isdigit() else None,
        created=int(created) if created.isdigit() else 0,
    )
