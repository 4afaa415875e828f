"""Documents on their way through the stages: rows of Arrow and Parquet, ordered by their text.

A row's key is a hash of its text with case and white space out of account. Rows are partitioned
and sorted by it, so texts that differ in nothing else meet, and no order of arrival survives.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from gpt2lab.corpus.compressed import Damage
from gpt2lab.corpus.plaintext import read_file
from gpt2lab.corpus.shuffle import PartitionWriter

SHUFFLED = "documents.arrow"
OUTPUT = "documents.parquet"


class Row(NamedTuple):
    """One document. `created` is of the link, in seconds since 1970, 0 if not known."""

    text: str
    url: str = ""
    created: int = 0
    title: str = ""
    author: str = ""
    date: str = ""
    language: str = ""
    score: int | None = None
    source: str = ""


# Sorted by all columns in this order: of equal texts the earliest link comes first.
SCHEMA = pa.schema(
    [
        ("key", pa.binary(16)),
        ("created", pa.int64()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("author", pa.string()),
        ("date", pa.string()),
        ("language", pa.string()),
        ("score", pa.int64()),
        ("text", pa.string()),
    ]
)


RAW_SCHEMA = pa.schema([SCHEMA.field(name) for name in Row._fields])
FILE_BYTES = 64 << 20


def text_key(text: str) -> bytes:
    """128 bits that stand for a text: equal for texts equal but for case and white space."""
    plain = " ".join(text.lower().split())
    return hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=16).digest()


class RowWriter:
    """Writes rows to the partitions of their keys in `folder`."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._writer = PartitionWriter(folder / SHUFFLED, SCHEMA, partitions)

    def add(self, row: Row) -> None:
        """Add one document."""
        values = row._asdict() | {"key": text_key(row.text)}
        self._writer.add(tuple(values[name] for name in SCHEMA.names))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)


class FileWriter:
    """Writes rows as Parquet files of bounded size in `folder`, in the order they come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[Row] = []
        self._held = self._files = 0
        self.bytes = 0

    def add(self, row: Row) -> None:
        """Add one document."""
        self._rows.append(row)
        size = len(row.text.encode("utf-8", "replace"))
        self.bytes += size
        self._held += size + 256
        if self._held >= FILE_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist([row._asdict() for row in self._rows], RAW_SCHEMA)
        name = f"documents-{self._files:05d}.parquet"
        pq.write_table(table, self._folder / name, compression="zstd", row_group_size=1024)
        self._rows, self._held, self._files = [], 0, self._files + 1

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._flush()


def texts(path: Path, rows: int = 4096) -> Iterator[list[str]]:
    """The texts of a Parquet file of documents, some thousands at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(rows, columns=["text"]):
            yield batch.column(0).to_pylist()


def read(out: Path, *, file: str) -> dict[str, Any]:
    """One file of documents (text, JSON Lines or Parquet) to Parquet in `out`."""
    damage: list[Damage] = []
    counts = {"documents": 0, "empty": 0}
    writer = FileWriter(out)
    for document in read_file(Path(file), damage):
        if not document.text.strip():
            counts["empty"] += 1
            continue
        counts["documents"] += 1
        writer.add(
            Row(
                document.text.strip("\n"),
                url=document.url or "",
                date=document.date or "",
                score=document.score,
                source=document.source,
            )
        )
    writer.close()
    return {"counts": counts, "bytes": writer.bytes, "damage": [str(d) for d in damage]}
