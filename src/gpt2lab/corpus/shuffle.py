"""Rows from many tasks to the partition their key belongs to.

Each task writes one Arrow file whose record batches are partition 0, 1, ... P-1, and again from 0
whenever its buffer is full; whoever owns partition p reads batches p, p + P, ... of every file.
Partitions are ranges of the key, so partitions in order, each sorted by key, are all rows sorted
by key: the number of partitions never shows in the result.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

BUFFER_BYTES = 48 << 20


def partition_of(key: bytes, partitions: int) -> int:
    """The partition, 0 to partitions - 1, of a key of at least four uniformly spread bytes."""
    return int.from_bytes(key[:4], "big") * partitions >> 32


class PartitionWriter:
    """Writes rows, tuples in the order of `schema`, whose first column is the key."""

    def __init__(self, path: Path, schema: pa.Schema, partitions: int) -> None:
        self._schema, self._partitions = schema, partitions
        self._sink = pa.OSFile(str(path), "wb")
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writer = pa.ipc.new_file(self._sink, schema, options=options)
        self._rows: list[list[tuple[Any, ...]]] = [[] for _ in range(partitions)]
        self._held = 0

    def add(self, row: tuple[Any, ...]) -> None:
        """Buffer one row, writing when the buffer is full."""
        self._rows[partition_of(row[0], self._partitions)].append(row)
        self._held += sum(len(v) if isinstance(v, str | bytes) else 8 for v in row) + 64
        if self._held >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        for rows in self._rows:
            columns: Iterable[Sequence[Any]] = (
                zip(*rows, strict=True) if rows else ([] for _ in self._schema)
            )
            arrays = [
                pa.array(column, field.type)
                for column, field in zip(columns, self._schema, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
            rows.clear()
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._held:
            self._flush()
        self._writer.close()
        self._sink.close()


def read_partition(files: Sequence[Path], partition: int, partitions: int) -> pa.Table:
    """All rows of one partition, sorted by every column from the first on."""
    batches, schema = [], None
    for path in files:
        with pa.ipc.open_file(pa.OSFile(str(path), "rb")) as reader:
            schema = reader.schema
            for i in range(partition, reader.num_record_batches, partitions):
                batches.append(reader.get_batch(i))
    if schema is None:
        raise ValueError("no files to read a partition of")
    table = pa.Table.from_batches(batches, schema)
    order = [
        (name, "ascending")
        for name in schema.names
        if not pa.types.is_list(schema.field(name).type)
    ]
    return table.sort_by(order) if len(table) else table
