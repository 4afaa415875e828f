"""Token shards: what the corpus writes and training reads.

A shard is llm.c's `.bin`: 1,024 bytes of header (int32: magic 20240520, version 1, token count),
then uint16 ids, every document preceded by `<|endoftext|>`. nanoGPT's headerless `.bin` can be
read too. `index.json` beside them records the tokenizer's digest, counts, each file's SHA-256 and a
CRC-32 per MiB of it, so that damage can be named by file and place.
"""

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.errors import UserError
from gpt2lab.storage import read_json, sha256, write_json

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 1024
TOKENS_PER_SHARD = 100_000_000
BLOCK_BYTES = 2**20
INDEX = "index.json"

Ids = npt.NDArray[np.uint16]


class ShardWriter:
    """Writes one split ("train" or "val") of a corpus as numbered shards in `folder`.

    Use as: `writer.add(ids)` per document, then `entry = writer.close()`, whose result goes into
    `write_index`. `folder` should be a temporary one that is renamed when all is done.
    """

    def __init__(
        self, folder: Path, split: str, end_of_text: int, tokens_per_shard: int = TOKENS_PER_SHARD
    ) -> None:
        self._folder, self._split = folder, split
        self._end_of_text = end_of_text
        self._limit = tokens_per_shard
        self._parts: list[Ids] = []
        self._held = 0
        self._files: list[dict[str, Any]] = []
        self.documents = 0

    def add(self, ids: Sequence[int]) -> None:
        """Append one document."""
        self._parts.append(np.array([self._end_of_text, *ids], dtype=np.uint16))
        self._held += len(ids) + 1
        self.documents += 1
        while self._held >= self._limit:
            self._flush(self._limit)

    def add_joined(self, tokens: Ids, documents: int) -> None:
        """Append documents that are joined already, each with its `<|endoftext|>` before it."""
        for start in range(0, len(tokens), self._limit):
            self._parts.append(np.asarray(tokens[start : start + self._limit], np.uint16))
            self._held += len(self._parts[-1])
            while self._held >= self._limit:
                self._flush(self._limit)
        self.documents += documents

    def _flush(self, count: int) -> None:
        tokens = np.concatenate(self._parts) if self._parts else np.empty(0, np.uint16)
        body, rest = tokens[:count], tokens[count:]
        self._parts, self._held = ([rest] if len(rest) else []), len(rest)
        header = np.zeros(HEADER_BYTES // 4, "<i4")
        header[:3] = MAGIC, VERSION, len(body)
        data = header.tobytes() + body.astype("<u2").tobytes()
        name = f"{self._split}_{len(self._files):06d}.bin"
        (self._folder / name).write_bytes(data)
        self._files.append(
            {
                "name": name,
                "tokens": len(body),
                "sha256": hashlib.sha256(data).hexdigest(),
                "crc32": _block_sums(data),
            }
        )

    def close(self) -> dict[str, Any]:
        """Write what is left and return the split's entry for `write_index`."""
        if self._held or not self._files:
            self._flush(self._held)
        tokens = sum(file["tokens"] for file in self._files)
        return {"documents": self.documents, "tokens": tokens, "files": self._files}


def write_index(folder: Path, tokenizer_digest: str, splits: dict[str, dict[str, Any]]) -> None:
    """Write `index.json` for the shards in `folder`."""
    write_json(
        folder / INDEX, {"version": 1, "tokenizer": tokenizer_digest, "dtype": "uint16"} | splits
    )


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split as one long sequence over memory-mapped shards."""

    parts: tuple[Ids, ...]
    digest: str

    @cached_property
    def _ends(self) -> list[int]:
        """Where each part ends in the whole."""
        return list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self.parts else 0

    def slice(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """`count` ids from position `start`, across shard borders."""
        out = np.empty(count, dtype=np.int64)
        filled = 0
        number = bisect_right(self._ends, start)
        while filled < count:
            if number == len(self.parts):
                raise IndexError(f"tokens end {count - filled} short of the slice")
            part = self.parts[number]
            first = start + filled - (self._ends[number] - len(part))
            piece = part[first : first + count - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            number += 1
        return out


def open_shard(path: Path, *, headerless: bool = True) -> Ids:
    """Map one `.bin` into memory; UserError if it is not in llm.c's form.

    headerless: plain uint16 will do, too.
    """
    try:
        size = path.stat().st_size
        head = np.fromfile(path, "<i4", 3) if size >= HEADER_BYTES else np.empty(0, "<i4")
        if len(head) == 3 and head[0] == MAGIC:
            if head[1] != VERSION:
                raise UserError(f"{path}: shard version {head[1]} is not {VERSION}")
            count = int(head[2])
            if count < 0 or size != HEADER_BYTES + 2 * count:
                raise UserError(
                    f"{path} has {size} bytes, its header says {HEADER_BYTES + 2 * count}; it is "
                    "truncated or damaged, make it again"
                )
            offset = HEADER_BYTES
        elif not headerless:
            raise UserError(
                f"{path} does not begin with a shard's magic number (at byte 0); it is damaged or "
                "something else, make it again"
            )
        elif size % 2:
            raise UserError(f"{path} has an odd number of bytes; it is no shard of uint16 ids")
        else:
            count, offset = size // 2, 0
        if count == 0:
            return np.empty(0, np.uint16)
        return np.memmap(path, "<u2", "r", offset, (count,))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _index(folder: Path) -> dict[str, Any] | None:
    """The index of a shard folder; None if there is none, or it is of something else."""
    if not (folder / INDEX).exists():
        return None
    table = read_json(folder / INDEX)
    if isinstance(table, dict) and "tokenizer" in table:
        return table
    if any(folder.glob("*_[0-9]*.bin")):  # without their index, damage would go unseen
        raise UserError(f"{folder / INDEX} is damaged; make the shards again")
    return None


def has_split(folder: Path, split: str) -> bool:
    """Whether `folder` holds shards of this split."""
    index = _index(folder)
    return split in index if index else any(folder.glob(f"{split}*.bin"))


def open_split(folder: Path, split: str) -> Tokens:
    """The tokens of one split of a shard folder, or of nanoGPT's `train.bin` / `val.bin`."""
    index = _index(folder)
    if index:
        if split not in index:
            raise UserError(f"{folder / INDEX} has no split {split!r}")
        try:
            names = [str(file["name"]) for file in index[split]["files"]]
            digest = ",".join(str(file["sha256"]) for file in index[split]["files"])
        except (KeyError, TypeError):
            raise UserError(f"{folder / INDEX} is damaged; make the shards again") from None
    else:
        names = sorted(f.name for f in folder.glob(f"{split}*.bin"))
        try:
            digest = ",".join(f"{name}:{(folder / name).stat().st_size}" for name in names)
        except OSError as error:
            raise UserError(
                f"cannot read the shards in {folder}: {error}; copy them anew"
            ) from None
    if not names:
        raise UserError(f"{folder} has no {split}*.bin; make shards with: gpt2lab corpus shard")
    for name in names:
        if Path(name).name != name or "\0" in name:
            raise UserError(f"{folder / INDEX} names {name!r}, which lies outside it; refused")
    parts = tuple(open_shard(folder / name, headerless=index is None) for name in names)
    return Tokens(parts, hashlib.sha256(digest.encode()).hexdigest())


def tokenizer_digest(folder: Path) -> str | None:
    """Digest of the tokenizer a shard folder was written with, if it says."""
    index = _index(folder)
    return index["tokenizer"] if index else None


def verify(
    folder: Path,
    splits: Iterable[str],
    *,
    part: int = 0,
    parts: int = 1,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> int:
    """Read the shards of these splits and compare them with their digests; return the largest id.

    part, parts: only every `parts`-th file from `part` on, so that processes can share the work.
    on_progress: is told the share done so far.
    Raises UserError naming the file and, where the index says enough, the bytes that changed. Files
    without an index are only searched for their largest id, -1 if there is none.
    """
    index = _index(folder)
    files: list[tuple[Path, dict[str, Any]]] = []
    for split in splits:
        entries = index.get(split, {}).get("files", []) if index else []
        known = {str(entry["name"]): entry for entry in entries}
        names = known or {f.name: {} for f in sorted(folder.glob(f"{split}*.bin"))}
        files += [(folder / name, entry) for name, entry in names.items()]
    files = files[part::parts]
    top = -1
    for number, (path, entry) in enumerate(files):
        ids = open_shard(path, headerless=index is None)
        if "tokens" in entry and len(ids) != entry["tokens"]:
            raise UserError(
                f"{path} holds {len(ids)} tokens, its index says {entry['tokens']}: it ends at "
                f"byte {path.stat().st_size}; make the shards again"
            )
        if "sha256" in entry:
            _require_digest(path, entry)
        top = max(top, int(ids.max()) if len(ids) else -1)
        on_progress((number + 1) / len(files))
    return top


def _require_digest(path: Path, entry: dict[str, Any]) -> None:
    if sha256(path) == entry["sha256"]:
        return
    sums = _block_sums(path.read_bytes())
    where = ""
    recorded = entry.get("crc32")
    if isinstance(recorded, list):
        changed = [
            i for i, pair in enumerate(zip(sums, recorded, strict=False)) if len({*pair}) > 1
        ]
        if changed:
            first = changed[0] * BLOCK_BYTES
            where = f", between bytes {first} and {first + BLOCK_BYTES - 1}"
    raise UserError(f"{path} has changed since it was written{where}; copy or make it again")


def _block_sums(data: bytes) -> list[int]:
    """CRC-32 of each MiB."""
    return [zlib.crc32(data[i : i + BLOCK_BYTES]) for i in range(0, len(data), BLOCK_BYTES)]
