"""WARC files (ISO 28500) read so that damage costs one record, and is told.

Common readers end a truncated file as if it were whole and stop, or go silent, at a flipped bit.
Here every member's checksum and every block's digest is checked, and reading goes on at the next
record that can be found.
"""

import base64
import gzip
import hashlib
import mmap
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt2lab.corpus.compressed import Damage
from gpt2lab.errors import UserError

MAX_BLOCK = 24 << 20
_MAX_RECORD = 1 << 30
_PIECE = 1 << 18
_MAX_HEADER = 1 << 16
_MAGIC = b"\x1f\x8b\x08"
_START = b"WARC/1."

# Headers of our own in the records we write: what the link said that led to the page.
KEY = "GPT2Lab-Key"
ASKED = "GPT2Lab-Asked"
SCORE = "GPT2Lab-Score"
CREATED = "GPT2Lab-Created"


@dataclass(frozen=True)
class Record:
    """One record. `whole` is false if the block was longer than what is kept of it.

    offset, end: where its gzip member starts and ends in the file, or the record itself.
    """

    kind: str
    url: str
    date: str
    headers: dict[str, str]
    block: bytes
    whole: bool
    offset: int
    end: int


class _Broken(Exception):
    """A record that cannot be read; `truncated` if the file just ends."""

    def __init__(self, detail: str, *, truncated: bool = False) -> None:
        super().__init__(detail)
        self.truncated = truncated


def read_records(path: Path, damage: list[Damage]) -> Iterator[Record]:
    """The records of a .warc or .warc.gz file, at most MAX_BLOCK bytes of each block."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                damage.append(Damage(str(path), "truncated", 0, "an empty file"))
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                packed = data[:2] == _MAGIC[:2] or path.suffix == ".gz"
                yield from _walk(data, str(path), damage, packed=packed)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _walk(data: mmap.mmap, path: str, damage: list[Damage], *, packed: bool) -> Iterator[Record]:
    offset = 0
    while offset < len(data):
        try:
            member: _Source = _Member(data, offset) if packed else _Plain(data, offset)
            while record := _record(member, offset):
                yield record
                if not packed:
                    offset = member.position
            offset = member.position
        except (_Broken, zlib.error) as error:
            truncated = isinstance(error, _Broken) and error.truncated
            kind: Literal["truncated", "corrupt"] = "truncated" if truncated else "corrupt"
            resumed = _find_record(data, offset + 1, packed=packed)
            lost = resumed - offset
            damage.append(Damage(path, kind, offset, f"{error}; {lost:,} bytes lost"))
            offset = resumed


class _Source:
    """Bytes of one gzip member, or of the rest of a plain file."""

    position: int

    def begin(self) -> None:
        """A record starts here."""

    def take(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        raise AssertionError

    def line(self) -> bytes:
        """The next line."""
        raise AssertionError


class _Plain(_Source):
    def __init__(self, data: mmap.mmap, offset: int) -> None:
        self._data, self.position = data, offset

    def take(self, count: int) -> bytes:
        piece = self._data[self.position : self.position + count]
        self.position += len(piece)
        return piece

    def line(self) -> bytes:
        end = self._data.find(b"\n", self.position, self.position + _MAX_HEADER) + 1
        return self.take((end or len(self._data)) - self.position)


class _Member(_Source):
    """One gzip member, inflated piece by piece."""

    def __init__(self, data: mmap.mmap, offset: int) -> None:
        if data[offset : offset + 3] != _MAGIC:
            raise _Broken("no gzip member here")
        self._data, self._next = data, offset
        self._inflate = zlib.decompressobj(31)
        self._ready = b""
        self._total = 0

    @property
    def position(self) -> int:  # type: ignore[override]
        """Offset of the next member; known when this one is used up."""
        return self._next - len(self._inflate.unused_data)

    def begin(self) -> None:
        self._total = 0

    def _fill(self) -> bool:
        """Inflate some more; False at the end of the member, whose checksum is then right."""
        while not self._inflate.eof:
            piece = self._inflate.unconsumed_tail
            if not piece:
                piece = self._data[self._next : self._next + _PIECE]
                self._next += len(piece)
                if not piece:
                    raise _Broken("the file ends inside a record", truncated=True)
            more = self._inflate.decompress(piece, _PIECE)
            self._ready += more
            self._total += len(more)
            if self._total > _MAX_RECORD:
                raise _Broken(f"a record unpacks to over {_MAX_RECORD >> 30} GB")
            if more:
                return True
        return False

    def take(self, count: int) -> bytes:
        pieces, missing = [], count
        while missing:
            if not self._ready and not self._fill():
                break
            pieces.append(self._ready[:missing])
            self._ready = self._ready[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def line(self) -> bytes:
        while b"\n" not in self._ready and len(self._ready) < _MAX_HEADER and self._fill():
            pass
        return self.take(self._ready.find(b"\n") + 1 or len(self._ready))


def _record(source: _Source, offset: int) -> Record | None:
    """The next record, its block checked; None at the end of the source."""
    source.begin()
    first = source.line()
    while first in (b"\r\n", b"\n"):
        first = source.line()
    if not first:
        return None
    if not first.startswith(_START):
        raise _Broken(f"no record header but {first[:20]!r}")
    headers = _headers(source)
    try:
        length = int(headers["content-length"])
        if length < 0:
            raise ValueError
    except (KeyError, ValueError):
        raise _Broken("no usable Content-Length") from None
    block = source.take(min(length, MAX_BLOCK))
    rest = length - len(block)
    while rest > 0 and (skipped := source.take(min(rest, _PIECE))):
        rest -= len(skipped)
    end = source.take(4)
    if rest or len(end) < 4:
        raise _Broken("the file ends inside a record", truncated=not isinstance(source, _Member))
    if end != b"\r\n\r\n":
        raise _Broken("a record is not as long as it says")
    if isinstance(source, _Member) and not source._ready:
        source._fill()  # most members hold one record: have its checksum before it is given out
    whole = length <= MAX_BLOCK
    if whole and not _digest_matches(headers.get("warc-block-digest", ""), block):
        raise _Broken("the block does not match its digest")
    return Record(
        headers.get("warc-type", ""),
        headers.get("warc-target-uri", "").strip("<>"),
        headers.get("warc-date", ""),
        headers,
        block,
        whole,
        offset,
        source.position,
    )


def _headers(source: _Source) -> dict[str, str]:
    headers: dict[str, str] = {}
    size, name = 0, ""
    while (line := source.line()) not in (b"\r\n", b"\n"):
        size += len(line)
        if not line.endswith(b"\n") or size > _MAX_HEADER:
            raise _Broken("a header without end", truncated=not line)
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text[:1] in " \t" and name:
            headers[name] += " " + text.strip()
            continue
        name, colon, value = text.partition(":")
        if not colon:
            raise _Broken(f"no header line: {text[:40]!r}")
        name = name.strip().lower()
        headers[name] = value.strip()
    return headers


def _digest_matches(stated: str, block: bytes) -> bool:
    """Whether a block has the digest a record states, as `sha1:BASE32`; true if it states none."""
    name, _, value = stated.partition(":")
    if name not in ("sha1", "sha256", "md5") or not value:
        return True
    digest = hashlib.new(name, block, usedforsecurity=False)
    return value.strip().lower() in (
        base64.b32encode(digest.digest()).decode().lower(),
        digest.hexdigest(),
    )


def _find_record(data: mmap.mmap, offset: int, *, packed: bool) -> int:
    """Where the next record starts, or the end of the file."""
    while True:
        offset = data.find(_MAGIC if packed else _START, offset)
        if offset < 0:
            return len(data)
        if not packed or _starts_record(data[offset : offset + 4096]):
            return offset
        offset += 1


def _starts_record(piece: bytes) -> bool:
    try:
        return zlib.decompressobj(31).decompress(piece, 64).startswith(_START)
    except zlib.error:
        return False


@dataclass(frozen=True)
class Message:
    """An HTTP response as a WARC record holds it; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def http_message(block: bytes) -> Message | None:
    """The HTTP response in a block; None if it holds none."""
    end = block.find(b"\r\n\r\n")
    if end < 0 or not block.startswith(b"HTTP/"):
        return None
    first, *lines = block[:end].decode("latin-1").split("\r\n")
    words = first.split(None, 2)
    if len(words) < 2 or not re.fullmatch(r"[0-9]{3}", words[1]):
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return Message(int(words[1]), headers, block[end + 4 :])


class TooLarge(Exception):
    """A body that unpacks to more than allowed."""


def unpacked(message: Message, *, most: int, ratio: int) -> bytes:
    """The body without chunks and compression.

    Raises TooLarge as soon as it grows beyond `most` bytes, or beyond 1 MB and `ratio` times what
    is stored; ValueError if it is broken or compressed in a way nobody asked for.
    """
    body = message.body
    if "chunked" in message.headers.get("transfer-encoding", "").lower():
        body = _without_chunks(body)
    encoding = message.headers.get("content-encoding", "identity").lower().strip()
    if encoding in ("", "identity", "none", "utf-8"):
        if len(body) > most:
            raise TooLarge
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"content encoding {encoding}")
    limit = min(most, max(1 << 20, ratio * len(body)))
    # Some servers send deflate without its zlib header, some send gzip that is not.
    for window in (31, 15, -15):
        inflate = zlib.decompressobj(window)
        try:
            plain = inflate.decompress(body, limit + 1)
        except zlib.error:
            continue
        while inflate.eof and window == 31 and inflate.unused_data[:3] == _MAGIC:
            more = zlib.decompressobj(31)  # gzip members may follow one another
            try:
                plain += more.decompress(inflate.unused_data, limit + 1 - len(plain))
            except zlib.error:
                break
            inflate = more
        if len(plain) > limit:
            raise TooLarge
        if not inflate.eof:
            raise ValueError("the compressed body breaks off")
        return plain
    if body[:2] == _MAGIC[:2]:
        raise ValueError("the compressed body is corrupt")
    return body


def _without_chunks(body: bytes) -> bytes:
    """RFC 9112, section 7.1; a body that is not in chunks after all is given as it is."""
    pieces: list[bytes] = []
    at = 0
    while True:
        end = body.find(b"\r\n", at, at + 32)
        try:
            size = int(body[at:end].split(b";")[0], 16) if end > 0 else -1
        except ValueError:
            size = -1
        if size < 0:
            return body if not pieces else b"".join(pieces)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def member(data: bytes) -> bytes:
    """A gzip member of `data` that is the same each time, with no name and time in it."""
    return gzip.compress(data, 6, mtime=0)
