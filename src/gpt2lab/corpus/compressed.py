"""Compressed text read in bounded pieces, with every loss reported.

Reddit dumps come as zstd with windows of 2 GiB, xz, bz2, gzip or plain. The usual readers end a
truncated zstd file as if it were whole; here a file is whole only if its last frame, and its last
line, end.
"""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from gpt2lab.errors import UserError

PIECE = 1 << 20
MAX_LINE = 64 << 20
MAX_WINDOW = 2**31
UNENDED_LINE = "the last line has no end"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC = b"\x1f\x8b\x08"


@dataclass(frozen=True)
class Damage:
    """One place at which a file lost something. `offset` counts bytes of the file as stored."""

    path: str
    kind: Literal["truncated", "corrupt", "checksum"]
    offset: int
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind} at byte {self.offset:,} ({self.detail})"


def read_lines(path: Path, damage: list[Damage]) -> Iterator[bytes]:
    """Blocks of whole lines, about 1 MB each, of a file that may be compressed (by its suffix).

    Losses are appended to `damage`, and lines that a loss has cut are left out. A last line without
    its newline counts as truncated and is given all the same.
    """
    rest, skipping, known = b"", False, len(damage)
    for piece in read_pieces(path, damage):
        if len(damage) > known:  # bytes are missing here: lines on both sides of the gap are broken
            rest, skipping, known = b"", True, len(damage)
        cut = piece.rfind(b"\n") + 1
        if skipping:
            first = piece.find(b"\n") + 1
            if first:
                skipping = False
                if first < cut:
                    yield piece[first:cut]
                rest = piece[cut:]
        elif not cut and len(rest) + len(piece) > MAX_LINE:
            detail = f"a line of over {MAX_LINE >> 20} MB"
            damage.append(Damage(str(path), "corrupt", 0, detail))
            rest, skipping, known = b"", True, len(damage)
        elif cut:
            yield rest + piece[:cut]
            rest = piece[cut:]
        else:
            rest += piece
    if rest and len(damage) == known:
        damage.append(Damage(str(path), "truncated", path.stat().st_size, UNENDED_LINE))
        yield rest


def read_pieces(path: Path, damage: list[Damage]) -> Iterator[bytes]:
    """The decompressed bytes of `path`, in pieces of at most a few MB."""
    try:
        with path.open("rb") as file:
            yield from pieces_of(file, path, damage)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name the files in it") from None
    except PermissionError:
        raise UserError(f"cannot read {path}: permission is denied") from None


def pieces_of(file: IO[bytes], path: Path, damage: list[Damage]) -> Iterator[bytes]:
    """The same, of a file that is open; its position tells how much of it has been used."""
    name, suffix = str(path), path.suffix.lower()
    if suffix == ".zst":
        return _zstd(file, name, damage)
    if suffix == ".xz":
        return _streams(file, name, damage, lzma.LZMADecompressor, lzma.LZMAError)
    if suffix == ".bz2":
        return _streams(file, name, damage, bz2.BZ2Decompressor, OSError)
    if suffix == ".gz":
        return _streams(file, name, damage, Inflate, zlib.error)
    return _plain(file, name)


def _plain(file: IO[bytes], path: str) -> Iterator[bytes]:
    head = file.read(4)
    file.seek(0)
    if head == _ZSTD_MAGIC or head[:3] in (_GZIP_MAGIC, b"BZh") or head == b"\xfd7zX":
        raise UserError(f"{path} is compressed but its name does not say so; add its suffix")
    while piece := file.read(PIECE):
        yield piece


class Inflate:
    """One gzip member behind the interface of bz2's and lzma's decompressors."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Up to `max_length` more bytes."""
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        """Whether the member ended, its checksum right."""
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes without more data."""
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """What follows the member."""
        return self._inflate.unused_data


def _streams(
    file: IO[bytes],
    path: str,
    damage: list[Damage],
    new: Callable[[], Any],
    error: type[Exception],
) -> Iterator[bytes]:
    """Concatenated streams of xz, bz2 or gzip; all three carry checksums."""
    data = file.read(PIECE)
    while data:
        stream = new()
        try:
            while not stream.eof:
                if stream.needs_input and not data:
                    data = file.read(PIECE)
                    if not data:
                        damage.append(
                            Damage(path, "truncated", file.tell(), "ends inside a stream")
                        )
                        return
                piece = stream.decompress(data, PIECE)
                data = b""
                if piece:
                    yield piece
        except (error, EOFError) as broken:
            damage.append(Damage(path, "corrupt", file.tell() - len(data), str(broken)))
            return
        # xz and gzip files may be padded with zeros.
        data = (stream.unused_data or file.read(PIECE)).lstrip(b"\0")


def _zstd(file: IO[bytes], path: str, damage: list[Damage]) -> Iterator[bytes]:
    """Zstd frame by frame and block by block: a block unpacks to at most 128 KiB, so no file can
    make us hold more than its window, and the end of a frame cannot be missed.
    """
    import zstandard

    while True:
        start = file.tell()
        head = file.read(18)
        if not head:
            return
        if head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5 and len(head) >= 8:
            file.seek(start + 8 + int.from_bytes(head[4:8], "little"))  # a skippable frame
            continue
        try:
            if not _ZSTD_MAGIC.startswith(head[:4]) and head[:4] != _ZSTD_MAGIC:
                raise zstandard.ZstdError("no zstd frame here")
            if len(head) < 6:  # magic, descriptor, and one byte of window or size at least
                raise EOFError
            frame = zstandard.get_frame_parameters(head)
            size = zstandard.frame_header_size(head)
            _require_memory(path, frame.window_size)
            file.seek(start)
            unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
            unpack.decompress(file.read(size))
            yield from _zstd_blocks(file, unpack.decompress)
            if frame.has_checksum:
                unpack.decompress(_exactly(file, 4))
            if not unpack.eof:
                raise EOFError
        except EOFError:
            damage.append(Damage(path, "truncated", file.tell(), "ends inside a zstd frame"))
            return
        except zstandard.ZstdError as error:
            damage.append(Damage(path, "corrupt", file.tell(), str(error)))
            if not _seek_magic(file, start + 1):
                return


def _zstd_blocks(file: IO[bytes], unpack: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """RFC 8878, section 3.1.1.2: three bytes of header (last, type, size), then the block."""
    pieces, held = [], 0
    while True:
        header = _exactly(file, 3)
        word = int.from_bytes(header, "little")
        last, kind, size = word & 1, word >> 1 & 3, word >> 3
        piece = unpack(header + _exactly(file, 1 if kind == 1 else min(size, 1 << 18)))
        pieces.append(piece)
        held += len(piece)
        if held >= PIECE or last:
            yield b"".join(pieces)
            pieces, held = [], 0
        if last:
            return


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _seek_magic(file: IO[bytes], offset: int) -> bool:
    """Move to the next zstd frame at or after `offset`; False if there is none."""
    file.seek(offset)
    tail = b""
    while piece := file.read(PIECE):
        found = (tail + piece).find(_ZSTD_MAGIC)
        if found >= 0:
            file.seek(offset - len(tail) + found)
            return True
        offset += len(piece)
        tail = (tail + piece)[-3:]
    return False


def _require_memory(path: str, window: int) -> None:
    if window > MAX_WINDOW:
        raise UserError(f"{path} needs a window of {window >> 20} MB; 2048 MB is the limit")
    free = available_memory()
    if window > free:
        raise UserError(
            f"{path} needs {window >> 20} MB of memory for its window and {free >> 20} MB are "
            "free; close other programs or lower run.workers"
        )


def available_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
