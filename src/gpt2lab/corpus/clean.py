"""Documents kept or dropped, every drop with its reason and some kept to be read."""

import bisect
import hashlib
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt2lab.corpus import documents, urls
from gpt2lab.corpus.documents import Row, RowWriter
from gpt2lab.corpus.links import names
from gpt2lab.corpus.quality import RULES
from gpt2lab.corpus.recipe import Clean
from gpt2lab.corpus.shuffle import read_partition
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.bulk import BulkTokenizer

DROPPED = "dropped.jsonl"
SAMPLE_CHARS = 1500
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_WIKIPEDIA = ("wiki", "dbpedia", "infogalactic", "everipedia", "enacademic", "thefullwiki")


class Drops:
    """Counts reasons, and keeps some texts of each: those of the smallest hash, so that it does not
    matter which task met them.
    """

    def __init__(self, samples: int) -> None:
        self.counts: Counter[str] = Counter()
        self._most = samples
        self._kept: dict[str, list[tuple[str, str, str]]] = {}

    def drop(self, reason: str, text: str, url: str) -> None:
        """Count one document."""
        self.counts[reason] += 1
        self.keep(reason, text[:SAMPLE_CHARS], url)

    def keep(self, reason: str, text: str, url: str) -> None:
        """Keep a text to be read, if its hash is among the smallest."""
        digest = hashlib.sha256(f"{url} {text}".encode("utf-8", "replace")).hexdigest()
        kept = self._kept.setdefault(reason, [])
        if len(kept) < self._most or (kept and digest < kept[-1][0]):
            bisect.insort(kept, (digest, url, text))
            del kept[self._most :]

    def write(self, folder: Path) -> None:
        """Write the texts kept."""
        with (folder / DROPPED).open("w", encoding="utf-8") as file:
            for record in self.records():
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def records(self) -> list[dict[str, str]]:
        """The texts kept, by reason."""
        return [
            {"reason": reason, "url": url, "text": text}
            for reason, kept in sorted(self._kept.items())
            for _, url, text in kept
        ]


def clean(
    out: Path, *, file: str, rules: Clean, tokenizer: str | None, partitions: int
) -> dict[str, Any]:
    """One Parquet file of documents to partitioned documents that pass the rules.

    tokenizer: folder of the tokenizer by which `min_tokens` counts.
    """
    drops = Drops(rules.samples)
    kept = documents_in = 0
    bulk = None
    if rules.min_tokens and tokenizer:
        bulk = BulkTokenizer(Tokenizer.load(tokenizer))
    with RowWriter(out, partitions) as writer:
        for batch in _batches(Path(file)):
            documents_in += len(batch)
            left = [row for row in (_judge(row, rules, drops) for row in batch) if row]
            if bulk is not None and left:
                counts = bulk.encode([row.text for row in left])[1]
                for row, tokens in zip(left, counts, strict=True):
                    if tokens < rules.min_tokens:
                        drops.drop("too few tokens", row.text, row.url)
                left = [r for r, n in zip(left, counts, strict=True) if n >= rules.min_tokens]
            for row in left:
                writer.add(row)
            kept += len(left)
    drops.write(out)
    return {"counts": {"documents": documents_in, **drops.counts, "kept": kept}}


def _batches(path: Path) -> Iterator[list[Row]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1024, columns=list(Row._fields)):
            yield [Row(**record) for record in batch.to_pylist()]


def _judge(row: Row, rules: Clean, drops: Drops) -> Row | None:
    """The document, perhaps with less text, or None."""
    if not rules.wikipedia and is_wikipedia(row.url):
        drops.drop("wikipedia", row.text, row.url)
        return None
    if rules.language and (row.language or _language(row.text)) != rules.language:
        drops.drop("other language", row.text, row.url)
        return None
    text = row.text
    for name in rules.rules:
        text, reason = RULES[name](text)
        if reason:
            drops.drop(reason, row.text, row.url)
            return None
    if rules.pii:
        text = scrub(text)
    return row._replace(text=text)


def _language(text: str) -> str:
    from gpt2lab.corpus.extractor import detect_language

    return detect_language(text)


def is_wikipedia(url: str) -> bool:
    """Whether a page is of Wikipedia or one of its copies on our list."""
    host = urls.host(url)
    return bool(host) and any(
        host == name or host.endswith("." + name)
        for name in names("webtext")
        if any(mark in name for mark in _WIKIPEDIA)
    )


def scrub(text: str) -> str:
    """E-mail addresses and public IPv4 addresses replaced by placeholders of the same kind."""
    text = _EMAIL.sub("email@example.com", text)
    return _IP.sub(lambda match: "192.0.2.1" if _is_public(match[0]) else match[0], text)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def distinct(
    out: Path, *, files: list[str], partition: int, partitions: int, samples: int
) -> dict[str, Any]:
    """One partition of documents, sorted, without exact duplicates (case and blanks apart).

    Of equal texts the one whose link is the oldest stays.
    """
    table = read_partition([Path(f) for f in files], partition, partitions)
    drops = Drops(samples)
    first = np.ones(len(table), bool)
    if len(table):
        keys = np.frombuffer(b"".join(table["key"].to_pylist()), dtype=">u8").reshape(-1, 2)
        first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        for i in np.flatnonzero(~first).tolist():
            drops.drop("exact duplicate", table["text"][i].as_py(), table["url"][i].as_py())
    kept = table.filter(pa.array(first))
    pq.write_table(kept, out / documents.OUTPUT, compression="zstd", row_group_size=4096)
    drops.write(out)
    counts = {"documents": len(table), "exact duplicate": int((~first).sum()), "kept": len(kept)}
    size = sum(
        len(text.encode()) for batch in documents.texts(out / documents.OUTPUT) for text in batch
    )
    return {"counts": counts, "rows": len(kept), "bytes": size}
