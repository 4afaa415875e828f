"""Documents kept or dropped, every drop with its reason and some kept to be read."""

import bisect
import hashlib
import ipaddress
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2lab.corpus import documents, urls
from gpt2lab.corpus.documents import RAW_SCHEMA, SCHEMA, SHUFFLED, Row, read_batches, with_keys
from gpt2lab.corpus.links import names
from gpt2lab.corpus.quality import RULES
from gpt2lab.corpus.recipe import Clean
from gpt2lab.corpus.shuffle import PartitionWriter, read_partition, runs
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
    """One file of documents to partitioned documents that pass the rules.

    tokenizer: folder of the tokenizer by which `min_tokens` counts.
    """
    drops = Drops(rules.samples)
    counts = {"documents": 0, "kept": 0}
    bulk = None
    if rules.min_tokens and tokenizer:
        bulk = BulkTokenizer(Tokenizer.load(tokenizer))
    with PartitionWriter(out / SHUFFLED, SCHEMA, partitions) as writer:
        for batch in read_batches(file):
            table = pa.Table.from_batches([batch])
            counts["documents"] += len(table)
            table = _judged(table, rules, drops)
            if bulk is not None and len(table):
                enough = bulk.encode(table["text"].to_pylist())[1] >= rules.min_tokens
                _drop(table.filter(pa.array(~enough)), "too few tokens", drops)
                table = table.filter(pa.array(enough))
            counts["kept"] += len(table)
            writer.write(with_keys(table))
    drops.write(out)
    return {"counts": {"documents": counts["documents"], **drops.counts, "kept": counts["kept"]}}


def _drop(table: pa.Table, reason: str, drops: Drops) -> None:
    for row in table.select(["text", "url"]).to_pylist():
        drops.drop(reason, row["text"], row["url"])


def _judged(table: pa.Table, rules: Clean, drops: Drops) -> pa.Table:
    """The documents that pass, perhaps with less text."""
    foreign = not rules.wikipedia and pc.any(pc.not_equal(table["url"], "")).as_py()
    if not (foreign or rules.language or rules.rules or rules.pii):
        return table  # nothing looks at single documents
    rows = [Row(**record) for record in table.to_pylist()]
    left = [row._asdict() for row in (_judge(row, rules, drops) for row in rows) if row]
    return pa.Table.from_pylist(left, RAW_SCHEMA)


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
    from gpt2lab.corpus.language import detect_language

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
    keep = np.ones(len(table), bool)
    bounds = runs(table["key"])
    for run in np.flatnonzero(np.diff(bounds) > 1):
        start, end = int(bounds[run]), int(bounds[run + 1])
        rows = table.slice(start, end - start).to_pylist()
        order = sorted(range(len(rows)), key=lambda i: _age(rows[i]))
        seen: set[str] = set()  # keys can be forged, texts cannot
        for i in order:
            text = documents.plain(rows[i]["text"])
            if text in seen:
                keep[start + i] = False
                drops.drop("exact duplicate", rows[i]["text"], rows[i]["url"])
            seen.add(text)
    kept = table if keep.all() else table.filter(pa.array(keep))
    documents.write(kept, out / documents.OUTPUT)
    drops.write(out)
    removed = int((~keep).sum())
    counts = {"documents": len(table), "exact duplicate": removed, "kept": len(kept)}
    size = pc.sum(pc.binary_length(kept["text"])).as_py() or 0
    return {"counts": counts, "rows": len(kept), "bytes": size}


def _age(row: dict[str, Any]) -> tuple[Any, ...]:
    """Oldest link first, unknown dates last; then anything that does not change from run to run."""
    return (row["created"] or 2**62, row["url"], row["source"], row["date"], row["text"])
