"""What a model has answered already, on disk, so that an interrupted evaluation goes on.

An answer is found by the digest of the weights and of the very tokens asked about, so it cannot be
mistaken for that of another model, data file or protocol.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from gpt2lab.errors import UserError
from gpt2lab.model.native import Packed
from gpt2lab.model.native.build import cache_folder
from gpt2lab.model.transformer import GPT2

SECONDS_BETWEEN_COMMITS = 5.0


def weights_digest(model: GPT2) -> str:
    """SHA-256 of a model's configuration and every one of its numbers."""
    state = hashlib.sha256(repr(model.config).encode())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, module in model.named_modules():
        packed = getattr(module, "packed", None)
        if isinstance(packed, Packed):
            tensors |= {f"{name}.weight": packed.weight, f"{name}.scale": packed.scale}
    for name, t in sorted(tensors.items()):
        state.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        state.update(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


class Store:
    """A table of answers in an SQLite file; several processes may share it.

    Raises UserError if the file cannot be opened, is no such table, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._committed = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(path, timeout=60)
            self._table.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB NOT NULL)"
            )
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.commit()
        self._table.close()

    def find(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The answers there are to some keys."""
        found: dict[bytes, bytes] = {}
        try:
            for key in keys:
                row = self._table.execute("SELECT answer FROM answers WHERE key = ?", (key,))
                for (answer,) in row:
                    found[key] = answer
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return found

    def keep(self, key: bytes, answer: bytes) -> None:
        """Put an answer in; it is on disk within some seconds."""
        try:
            self._table.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))
        except sqlite3.Error as error:
            raise self._failed(error) from None
        if time.monotonic() - self._committed > SECONDS_BETWEEN_COMMITS:
            self.commit()

    def commit(self) -> None:
        """Put everything kept so far on disk."""
        self._committed = time.monotonic()
        try:
            self._table.commit()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> UserError:
        return UserError(
            f"cannot use the answers kept in {self.path}: {error}; delete that file, or choose "
            "another with --store"
        )


def default_folder() -> Path:
    """The user's cache; UserError if it cannot be had."""
    try:
        return cache_folder() / "answers"
    except (OSError, RuntimeError) as error:
        raise UserError(f"no cache folder for answers ({error}); name one with --store") from None
