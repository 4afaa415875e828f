"""Who asked for what: a file of JSON Lines in which each line holds the digest of the one before.

Whoever changes, drops or moves a line must write all after it anew, and the digest of the last one,
kept elsewhere, tells. Texts are not in it: of a prompt there is its HMAC, by which whoever has the
server's pepper can tell that it was this one.
"""

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from gpt2lab.errors import UserError

_FIRST = "0" * 64
# A line is told by the server, which bounds what is in it.
_LONGEST = 2**16


class Audit:
    """A log that is added to.

    Raises UserError if the file cannot be written, or its last line is damaged.
    """

    def __init__(self, path: Path, pepper: bytes) -> None:
        self.path, self._pepper = path, pepper
        self._lock = threading.Lock()
        try:
            self._file: IO[bytes] = path.open("a+b")
            path.chmod(0o600)
        except OSError as error:
            raise UserError(f"cannot write the audit log {path}: {error.strerror}") from None
        self._number, self._last = _last_of(self._file, path)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it has reached the system when this returns."""
        with self._lock:
            number = self._number + 1
            body = {"number": number, **entry, "before": self._last}
            line = json.dumps(body, ensure_ascii=True, allow_nan=False).encode() + b"\n"
            self._file.write(line)
            self._file.flush()
            self._number, self._last = number, _digest(line)

    def sign(self, text: bytes) -> str:
        """The HMAC of a prompt."""
        return hmac.new(self._pepper, text, hashlib.sha256).hexdigest()

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def verify(path: Path) -> tuple[int, str]:
    """Entries of a log, and the digest of the last; UserError naming the first that is wrong."""
    last, number = _FIRST, 0
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                number += 1
                _require(line, number, last, path)
                last = _digest(line)
    except OSError as error:
        raise UserError(f"cannot read the audit log {path}: {error.strerror}") from None
    return number, last


def _require(line: bytes, number: int, before: str, path: Path) -> None:
    where = f"line {number} of {path}"
    try:
        entry = json.loads(line)
        told = entry["number"], entry["before"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{where} is damaged: it is no entry of an audit log") from None
    if not line.endswith(b"\n"):
        raise UserError(f"{where} was not written to its end")
    if told != (number, before):
        raise UserError(f"{where} does not follow the line before: one was changed, or is missing")


def _last_of(file: IO[bytes], path: Path) -> tuple[int, str]:
    """The number and the digest of the last line; one that was cut off by a crash is taken away."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 2 * _LONGEST)
    file.seek(start)
    end = file.read()
    whole = end.rfind(b"\n") + 1
    if whole < len(end):
        file.truncate(start + whole)
    if not whole:
        return 0, _FIRST
    line = end[end.rfind(b"\n", 0, whole - 1) + 1 : whole]
    try:
        return int(json.loads(line)["number"]), _digest(line)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"the last line of {path} is no entry of an audit log; name another file"
        ) from None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
