"""Rows from many tasks to the partition their key belongs to.

Each task writes one Arrow file whose record batches are partition 0, 1, ... P-1, and again from 0
whenever its buffer is full; whoever owns partition p reads batches p, p + P, ... of every file.
Partitions are ranges of the key, so partitions in order, each sorted by key, are all rows sorted
by key: the number of partitions never shows in the result.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BUFFER_BYTES = 48 << 20
_ROWS = 8192

U64 = npt.NDArray[np.uint64]


def key_words(keys: pa.ChunkedArray | pa.Array) -> U64:
    """16-byte keys as an array [rows, 2] of numbers that sort as the bytes do."""
    array = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    data = array.buffers()[1]
    if not len(array):
        return np.empty((0, 2), np.uint64)
    raw = np.frombuffer(data, np.uint8)[16 * array.offset : 16 * (array.offset + len(array))]
    return raw.view(">u8").reshape(-1, 2).astype(np.uint64)


def key_array(words: U64) -> pa.Array:
    """The other way round."""
    data = np.ascontiguousarray(words.astype(">u8")).view(np.uint8)
    return pa.Array.from_buffers(pa.binary(16), len(words), [None, pa.py_buffer(data)])


class PartitionWriter:
    """Writes rows whose first column, `key`, is 16 bytes spread uniformly."""

    def __init__(self, path: Path, schema: pa.Schema, partitions: int) -> None:
        self._schema, self._partitions = schema, partitions
        self._sink = pa.OSFile(str(path), "wb")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(self._sink, schema, options=options)
        self._tables: list[pa.Table] = []
        self._held = 0
        self._rows: list[tuple[Any, ...]] = []

    def add(self, row: tuple[Any, ...]) -> None:
        """Buffer one row, a tuple in the order of the schema."""
        self._rows.append(row)
        if len(self._rows) >= _ROWS:
            self._pack()

    def _pack(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._rows.clear()
        self.write(pa.Table.from_arrays(arrays, schema=self._schema))

    def write(self, table: pa.Table) -> None:
        """Buffer a table."""
        self._tables.append(table)
        self._held += table.nbytes
        if self._held >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._tables)
        self._tables, self._held = [], 0
        if self._partitions == 1:
            for batch in table.to_batches():
                self._writer.write_batch(batch)
            return
        top = (key_words(table["key"])[:, 0] >> np.uint64(32)).astype(np.int64)
        where = top * self._partitions >> 32
        table = table.take(pa.array(np.argsort(where, kind="stable"))).combine_chunks()
        ends = np.cumsum(np.bincount(where, minlength=self._partitions))
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            batches = table.slice(start, end - start).to_batches()
            empty = pa.RecordBatch.from_pylist([], self._schema)
            self._writer.write_batch(batches[0] if batches else empty)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._rows:
            self._pack()
        if kind is None and self._tables:
            self._flush()
        self._writer.close()
        self._sink.close()


def read_partition(files: Sequence[Path], partition: int, partitions: int) -> pa.Table:
    """All rows of one partition, sorted by key; of equal keys in the order of the files."""
    batches, schema = [], None
    for path in files:
        with pa.ipc.open_file(pa.OSFile(str(path), "rb")) as reader:
            schema = reader.schema
            for i in range(partition, reader.num_record_batches, partitions):
                batches.append(reader.get_batch(i))
    if schema is None:
        raise ValueError("no files to read a partition of")
    table = pa.Table.from_batches(batches, schema)
    if not len(table):
        return table
    words = key_words(table["key"])
    return table.take(pa.array(np.lexsort((words[:, 1], words[:, 0])))).combine_chunks()


def runs(keys: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where runs of equal keys start in a sorted column, and its length at the end."""
    words = key_words(keys)
    if not len(words):
        return np.zeros(1, np.int64)
    new = np.flatnonzero((words[1:] != words[:-1]).any(axis=1)) + 1
    return np.r_[0, new, len(words)].astype(np.int64)
