"""Documents on their way through the stages: rows in Arrow files, ordered by their text.

A row's key is a hash of its text with case and white space out of account. Rows are partitioned
and sorted by it, so texts that differ in nothing else meet, and no order of arrival survives.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gpt2lab.corpus import kernels
from gpt2lab.corpus.compressed import UNENDED_LINE, Damage, read_lines
from gpt2lab.corpus.document import Document
from gpt2lab.corpus.plaintext import (
    JSON_SUFFIXES,
    document,
    read_file,
    read_json_block,
    without_compression,
)
from gpt2lab.corpus.shuffle import key_array

SHUFFLED = "documents.arrow"
OUTPUT = "documents.arrow"


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
        ("text", pa.large_string()),  # its offsets do not end at 2 GB
    ]
)


RAW_SCHEMA = pa.schema([SCHEMA.field(name) for name in Row._fields])
FILE_BYTES = 64 << 20
BATCH = 4096


def plain(text: str) -> str:
    """A text without case and white space of its own: what exact duplicates share."""
    return " ".join(text.lower().split())


def with_keys(table: pa.Table) -> pa.Table:
    """Rows of RAW_SCHEMA as rows of SCHEMA."""
    words = kernels.text_keys(*text_buffers(table["text"]))
    return table.append_column("key", key_array(words)).select(SCHEMA.names)


def text_buffers(column: pa.Array | pa.ChunkedArray) -> tuple[kernels.Bytes, kernels.I64]:
    """Texts as bytes end to end and their bounds: Arrow's own form, so nothing is copied."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    if not len(column):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(column) + 1, column.offset * 8)
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]], bounds - bounds[0]


def write(table: pa.Table, path: Path) -> None:
    """Write rows for the next stages: an Arrow file with lz4, quick to write and read by column."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, table.schema, options=options) as out,
    ):
        out.write_table(table, max_chunksize=BATCH)


def read_batches(
    path: str | Path, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of such a file, some thousands at a time; only the columns asked for are read."""
    with pa.memory_map(str(path)) as file:
        names = pa.ipc.open_file(file).schema.names
        fields = [names.index(c) for c in columns] if columns else None
        with pa.ipc.open_file(
            file, options=pa.ipc.IpcReadOptions(included_fields=fields)
        ) as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)


def read_column(files: Sequence[str], name: str) -> pa.ChunkedArray:
    """One column of many files."""
    chunks = [batch.column(0) for file in files for batch in read_batches(file, [name])]
    return pa.chunked_array(chunks, SCHEMA.field(name).type)


class FileWriter:
    """Writes rows as files of bounded size in `folder`, in the order they come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[Row] = []
        self._tables: list[pa.Table] = []
        self._held = self._files = self._chars = 0
        self.bytes = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Add documents, a few MB of them at most."""
        self._rows.extend(rows)
        self._chars += sum([len(row.text) for row in rows])
        if len(self._rows) >= BATCH or self._chars >= FILE_BYTES:
            self._pack()

    def _pack(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, RAW_SCHEMA, strict=True)]
        self._rows, self._chars = [], 0
        self._tables.append(pa.Table.from_arrays(arrays, schema=RAW_SCHEMA))
        size = self._tables[-1].nbytes
        self.bytes += size
        self._held += size
        if self._held >= FILE_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._tables)
        write(table, self._folder / f"documents-{self._files:05d}.arrow")
        self._tables, self._held, self._files = [], 0, self._files + 1

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._pack()
        if self._tables:
            self._flush()


def texts(path: str | Path) -> Iterator[list[str]]:
    """The texts of a file of documents, some thousands at a time."""
    for batch in read_batches(path, ["text"]):
        yield batch.column(0).to_pylist()


def text_batches(path: str | Path) -> Iterator[tuple[kernels.Bytes, kernels.I64]]:
    """The same as bytes and bounds, for the kernels."""
    for batch in read_batches(path, ["text"]):
        yield text_buffers(batch.column(0))


class _Record(msgspec.Struct, gc=False):
    """What is read of a JSON line."""

    text: str
    url: Any = None
    score: Any = None
    date: Any = None


_decoder = msgspec.json.Decoder(_Record)


def read(out: Path, *, file: str) -> dict[str, Any]:
    """One file of documents (text, JSON Lines or Parquet) to Arrow files in `out`."""
    damage: list[Damage] = []
    counts = {"documents": 0, "empty": 0}
    writer = FileWriter(out)
    for found in _batches(Path(file), damage):
        rows = [row for row in found if row.text and not row.text.isspace()]
        counts["documents"] += len(rows)
        counts["empty"] += len(found) - len(rows)
        writer.add(rows)
    writer.close()
    return {"counts": counts, "bytes": writer.bytes, "damage": [str(d) for d in damage]}


def _batches(file: Path, damage: list[Damage]) -> Iterator[list[Row]]:
    """The documents `read_file` gives, from JSON Lines many times as fast."""
    if not without_compression(file.name).endswith(JSON_SUFFIXES):
        for found in read_file(file, damage):
            yield [_row(found)]
        return
    own: list[Damage] = []
    number = 0
    for block in read_lines(file, own):
        try:
            records = _decoder.decode_lines(block)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Whatever is wrong, the slow reader names the line, or knows it for a lost end.
            yield [_row(d) for d in read_json_block(file, block, number, damage)]
        else:
            name = file.name
            yield [
                Row(r.text.strip("\n"), source=name)
                if r.url is r.score is r.date
                else _row(document(file, r.text, r.url, r.score, r.date))
                for r in records
            ]
        number += block.count(b"\n")
    damage += [d for d in own if d.detail != UNENDED_LINE]


def _row(found: Document) -> Row:
    url, date = found.url or "", found.date or ""
    return Row(found.text.strip("\n"), url, date=date, score=found.score, source=found.source)
