"""Finding the files of evaluation sets: under a folder of the user's, or on the Hugging Face hub.

Nothing is bundled. A file that is missing is named, with where it is published and its digest.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2lab.corpus.plaintext import parquet_rows, read_bytes, without_compression
from gpt2lab.errors import UserError

# How deep and how many files are looked through under --data.
_DEPTH, _MOST_FILES = 4, 20_000


@dataclass(frozen=True)
class Source:
    """A file of an evaluation set, as it is published."""

    names: tuple[str, ...]
    """Names that it, or a file that can stand for it, goes by: the published one first. A name may
    begin with the folder that it needs to be told apart."""
    published: str
    """Where it is to be had."""
    sha256: str = ""
    """Of what is at `published`, the file or the archive it is in; empty where it is not known."""
    hub: str = ""
    """`owner/name:path` of the same split in a data set on the Hugging Face hub."""
    all: bool = False
    """Whether it is all files of these names together, and not any one of them."""


@dataclass(frozen=True)
class DataFile:
    """A file that was found."""

    path: Path
    more: tuple[Path, ...] = ()
    """Files that go on where it ends."""

    @cached_property
    def content(self) -> bytes:
        """Its bytes, decompressed; UserError if it is damaged or empty."""
        data = b"\n".join(read_bytes(path) for path in (self.path, *self.more))
        if not data.strip():
            raise UserError(f"{self.path} is empty; fetch it again")
        return data

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its bytes, decompressed."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def text(self) -> str:
        """Its text, or that of the column `text` of a Parquet file, a line a row."""
        if without_compression(self.path.name).endswith(".parquet"):
            return "".join(str(r["text"]).rstrip("\n") + "\n" for r in self.records("text"))
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path} is not UTF-8 at byte {error.start:,}; fetch it again"
            ) from None

    def records(self, *fields: str) -> list[dict[str, Any]]:
        """Objects of a JSON Lines or Parquet file; UserError naming one that lacks a field."""
        found = []
        for where, record in self._records():
            if not isinstance(record, dict):
                raise UserError(f"{where}: not an object but {record!r:.40}; check the file")
            for name in fields:
                if name not in record:
                    raise UserError(
                        f"{where} has no {name!r}, only {', '.join(record)}; check the file"
                    )
            found.append(record)
        if not found:
            raise UserError(f"{self.path} holds nothing; fetch it again")
        return found

    def _records(self) -> Iterator[tuple[str, Any]]:
        if self.more:
            for path in (self.path, *self.more):
                yield from DataFile(path)._records()
            return
        if without_compression(self.path.name).endswith(".parquet"):
            for number, row in enumerate(parquet_rows(self.path), start=1):
                yield f"{self.path}, row {number}", row
            return
        for number, line in enumerate(self.text.split("\n"), start=1):
            if line.strip():
                where = f"{self.path}, line {number}"
                try:
                    yield where, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: not JSON ({error}); check the file") from None


class Data:
    """Where evaluation files are looked for.

    folder: a folder that holds them in any arrangement; the hub is asked if there is none, or
    a file is not there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise UserError(f"--data {folder} is not a folder; give the one with the files")
        self._folder = folder
        self._files = sorted(_walk(folder)) if folder else []

    def find(self, source: Source) -> DataFile:
        """The file of a source; UserError that says where to get it if there is none."""
        found = [path for name in source.names if (path := self._named(name))]
        if source.all and found and len(found) < len(source.names):
            have = {without_compression(path.name) for path in found}
            lacking = [name for name in source.names if name.rpartition("/")[2] not in have]
            raise UserError(
                f"{len(lacking)} of {len(source.names)} files are not under {self._folder}: "
                f"{', '.join(lacking[:3])}...; get them from {source.published}"
            )
        if found:
            return DataFile(found[0], tuple(found[1:]) if source.all else ())
        if source.hub and self._folder is None:
            return DataFile(_fetch(source))
        raise UserError(_missing(source, self._folder))

    def _named(self, name: str) -> Path | None:
        parts = tuple(name.split("/"))
        for path in self._files:
            plain = (*path.parts[:-1], without_compression(path.name))
            if parts in (path.parts[-len(parts) :], plain[-len(parts) :]):
                return path
        return None


def _walk(folder: Path) -> Iterator[Path]:
    depth = len(folder.absolute().parts)
    count = 0
    for place, folders, files in os.walk(folder.absolute()):
        if len(Path(place).parts) - depth >= _DEPTH:
            folders.clear()
        for name in files:
            count += 1
            if count > _MOST_FILES:
                raise UserError(f"{folder} holds over {_MOST_FILES:,} files; name a folder in it")
            yield Path(place, name)


def _fetch(source: Source) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, path = source.hub.partition(":")
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        raise UserError(_missing(source, None)) from None


def _missing(source: Source, folder: Path | None) -> str:
    digest = f" (sha256 {source.sha256})" if source.sha256 else ""
    shown = ", ".join(source.names[1:3]) + (", ..." if source.names[3:] else "")
    others = f" ({'and' if source.all else 'or'} {shown})" if shown else ""
    where = f"is not under {folder}" if folder else "cannot be fetched"
    return (
        f"{source.names[0]}{others} {where}; get it from "
        f"{source.published}{digest}, put it into a folder, as it is or compressed, and give that "
        "folder as --data"
    )
