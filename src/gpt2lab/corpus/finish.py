"""The last stages: documents to tokens, tokens to shards, and the documents themselves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gpt2lab.corpus import documents
from gpt2lab.corpus.clean import Drops
from gpt2lab.corpus.dedup import LEADERS
from gpt2lab.corpus.document import Document
from gpt2lab.corpus.overlap import Cutter
from gpt2lab.corpus.recipe import Recipe, Shard
from gpt2lab.corpus.shards import ShardWriter, write_index
from gpt2lab.corpus.shuffle import key_words
from gpt2lab.errors import UserError
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.bulk import BulkTokenizer

SPLITS = ("train", "val")
ROWS = 2048
# What a stranger gets: the Document, in columns that `datasets` opens.
PUBLIC = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("text", pa.large_string()),
        ("score", pa.int64()),
        ("date", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("author", pa.string()),
        ("language", pa.string()),
        ("tokens", pa.int64()),
        ("cluster", pa.string()),
    ]
)


def tokenise(
    out: Path,
    *,
    file: str,
    start: int,
    clusters: str,
    keys: str,
    mark: bool,
    prepared: str | None,
    tokenizer: str,
    rules: Shard,
    samples: int,
) -> dict[str, Any]:
    """One part of the corpus to tokens and public documents, each by split.

    keys: file of all documents' cluster keys, by which the split is chosen. mark: keep
    near-duplicates. prepared: benchmarks to cut out of the documents, if any.
    """
    model = Tokenizer.load(tokenizer)
    bulk: BulkTokenizer | None = None
    leaders = np.load(Path(clusters) / LEADERS, mmap_mode="r")
    cluster_keys = np.load(keys, mmap_mode="r")
    cutter = Cutter(Path(prepared)) if prepared else None
    drops = Drops(samples)
    writers = {
        s: pq.ParquetWriter(out / f"{s}.parquet", PUBLIC, compression="zstd") for s in SPLITS
    }
    tokens: dict[str, list[npt.NDArray[np.uint16]]] = {s: [] for s in SPLITS}
    counts = {f"{s} {what}": 0 for s in SPLITS for what in ("documents", "tokens", "bytes")}
    position = start
    for batch in documents.read_batches(file):
        rows: dict[str, list[dict[str, Any]]] = {s: [] for s in SPLITS}
        for row in batch.to_pylist():
            leader = int(leaders[position])
            position += 1
            if leader != position - 1 and not mark:
                drops.drop("near duplicate", row["text"], row["url"])
                continue
            cluster = bytes(cluster_keys[leader])
            pieces = cutter.pieces(row["text"]) if cutter else [row["text"]]
            if pieces != [row["text"]]:
                drops.drop("benchmark text cut", row["text"], row["url"])
            word = np.frombuffer(cluster, ">u8").astype(np.uint64)[1]
            split = "val" if held_out(word, rules.held_out) else "train"
            rows[split] += [row | {"text": p, "cluster": cluster.hex()} for p in pieces]
        for split, chosen in rows.items():
            if not chosen:
                continue
            bulk = bulk or BulkTokenizer(model, [r["text"] for r in chosen[:4]])
            ids, sizes = bulk.encode([r["text"] for r in chosen])
            tokens[split].append(_join(ids, sizes, model.end_of_text))
            writers[split].write_table(_public(chosen, sizes))
            counts[f"{split} documents"] += len(chosen)
            counts[f"{split} tokens"] += len(tokens[split][-1])
            counts[f"{split} bytes"] += sum(len(r["text"].encode()) for r in chosen)
    for split in SPLITS:
        writers[split].close()
        empty = np.empty(0, np.uint16)
        np.save(out / f"{split}.npy", np.concatenate([empty, *tokens[split]]))
    drops.write(out)
    return {"counts": {**counts, **drops.counts}}


def held_out(words: Any, fraction: float) -> Any:
    """Whether clusters are in the validation split, by the second word of their keys."""
    return words < fraction * 2.0**64


def require_splits(files: list[str], clusters: Path, recipe: Recipe) -> None:
    """Raise UserError if a split would be empty, before anything is tokenised."""
    leaders = np.load(clusters / LEADERS)
    keys = key_words(documents.read_column(files, "key"))[:, 1]
    if recipe.dedup.near != "mark":
        leaders = np.unique(leaders)
    chosen = held_out(keys[leaders], recipe.shard.held_out)
    if chosen.all() or (recipe.shard.held_out > 0 and not chosen.any()):
        empty = "train" if chosen.all() else "val"
        raise UserError(
            f"none of {len(chosen):,} documents would fall into {empty!r} at shard.held_out "
            f"{recipe.shard.held_out}; give more text or another share, 0 for no validation"
        )


def _join(
    ids: npt.NDArray[np.uint32], sizes: npt.NDArray[np.int64], end_of_text: int
) -> npt.NDArray[np.uint16]:
    """Documents end to end, `<|endoftext|>` before each."""
    out = np.empty(len(ids) + len(sizes), np.uint16)
    starts = np.r_[0, np.cumsum(sizes[:-1] + 1)]
    body = np.ones(len(out), bool)
    body[starts] = False
    out[starts] = end_of_text
    out[body] = ids
    return out


def _public(rows: list[dict[str, Any]], sizes: npt.NDArray[np.int64]) -> pa.Table:
    records = [
        {name: row.get(name) for name in PUBLIC.names}
        | {"id": Document(row["text"]).id, "tokens": int(size), "date": _date(row)}
        for row, size in zip(rows, sizes, strict=True)
    ]
    return pa.Table.from_pylist(records, PUBLIC)


def _date(row: dict[str, Any]) -> str:
    """The day of publication, else of the link."""
    if row["date"] or not row["created"]:
        return str(row["date"])
    return str(np.datetime64(row["created"], "s").astype("datetime64[D]"))


def cluster_keys(out: Path, *, files: list[str]) -> dict[str, Any]:
    """The keys of all documents in order."""
    words = key_words(documents.read_column(files, "key"))
    np.save(out / "keys.npy", words.astype(">u8").view(np.uint8).reshape(-1, 16))
    return {"counts": {}}


def assemble(folder: Path, parts: list[Path], tokenizer: Tokenizer, rules: Shard) -> dict[str, Any]:
    """Write shards, index, tokenizer and the formats asked for to `folder`; return the index."""
    splits = {}
    for split in SPLITS:
        writer = ShardWriter(folder, split, tokenizer.end_of_text, rules.tokens_per_shard)
        for part in parts:
            tokens = np.load(part / f"{split}.npy", mmap_mode="r")
            writer.add_joined(tokens, int((tokens == tokenizer.end_of_text).sum()))
        splits[split] = writer.close()
        for name in rules.formats:
            _FORMATS[name](folder, parts, split, tokenizer.end_of_text)
    tokenizer.save(folder / "tokenizer")
    write_index(folder, tokenizer.digest, splits)
    return splits


def _nanogpt(folder: Path, parts: list[Path], split: str, end_of_text: int) -> None:
    """NanoGPT's headerless uint16, which has `<|endoftext|>` after each document, not before."""
    (folder / "nanogpt").mkdir(exist_ok=True)
    first = True
    with (folder / "nanogpt" / f"{split}.bin").open("wb") as file:
        for part in parts:
            tokens = np.load(part / f"{split}.npy", mmap_mode="r")
            if len(tokens):
                file.write(np.asarray(tokens[1:] if first else tokens, "<u2").tobytes())
                first = False
        if not first:
            file.write(np.array([end_of_text], "<u2").tobytes())


def _parquet(folder: Path, parts: list[Path], split: str, end_of_text: int) -> None:
    (folder / "documents").mkdir(exist_ok=True)
    path = folder / "documents" / f"{split}.parquet"
    with pq.ParquetWriter(path, PUBLIC, compression="zstd") as writer:
        for table in _even(parts, split):
            writer.write_table(table)


def _jsonl(folder: Path, parts: list[Path], split: str, end_of_text: int) -> None:
    import zstandard

    (folder / "documents").mkdir(exist_ok=True)
    packer = zstandard.ZstdCompressor(level=9, write_checksum=True)
    with (
        (folder / "documents" / f"{split}.jsonl.zst").open("wb") as file,
        packer.stream_writer(file) as stream,
    ):
        for table in _even(parts, split):
            for record in table.to_pylist():
                stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _even(parts: list[Path], split: str) -> Iterator[pa.Table]:
    """The documents of a split in tables of one size, however they are split into parts."""
    held = PUBLIC.empty_table()
    for part in parts:
        with pq.ParquetFile(part / f"{split}.parquet") as file:
            for batch in file.iter_batches(ROWS):
                held = pa.concat_tables([held, pa.Table.from_batches([batch])])
                if len(held) >= ROWS:
                    yield held.slice(0, ROWS).combine_chunks()
                    held = held.slice(ROWS)
    if len(held):
        yield held.combine_chunks()


_FORMATS = {"nanogpt": _nanogpt, "parquet": _parquet, "jsonl": _jsonl}
