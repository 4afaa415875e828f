"""The files a corpus starts from, with digests of their contents."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.corpus.compressed import Damage
from gpt2lab.corpus.plaintext import find_files
from gpt2lab.corpus.recipe import Source
from gpt2lab.errors import UserError
from gpt2lab.progress import step
from gpt2lab.storage import read_json, write_json

_CACHE = "digests.json"
# Checksum files as dumps are published with: `sha256sum` lines beside them.
_SUMS = ("sha256sums.txt", "sha256sum.txt", "SHA256SUMS")
_LINE = re.compile(r"^([0-9a-fA-F]{64})\s+[* ]?(\S.*)$", re.M)
_SUFFIXES = {
    "reddit": (".zst", ".xz", ".bz2", ".gz", ".ndjson", ".jsonl", ".json", ".csv"),
    "urls": (".txt", ".csv", ".zst", ".xz", ".bz2", ".gz"),
    "warc": (".warc", ".warc.gz"),
}


@dataclass(frozen=True)
class Input:
    """One file. `damage` says if a published checksum beside it does not match."""

    path: str
    size: int
    sha256: str
    damage: Damage | None = None

    @property
    def identity(self) -> str:
        """Name and contents: the name decides how a file is read, and is told in documents."""
        return f"{Path(self.path).name}:{self.sha256}"

    def public(self) -> dict[str, Any]:
        """What a finished corpus says of it."""
        return {"name": Path(self.path).name, "bytes": self.size, "sha256": self.sha256}


def find_inputs(source: Source | Sequence[str], work: Path) -> list[Input]:
    """The files of a source with their digests, remembered in `work` by size and time of change."""
    return _digested(find_paths(source), work / _CACHE)


def find_paths(source: Source | Sequence[str]) -> list[Path]:
    """All files of a source, or of a list of paths, folders opened, in order of their names."""
    paths: list[Path] = []
    for name in source.paths if isinstance(source, Source) else source:
        path = Path(name)
        field = "source.paths" if isinstance(source, Source) else "overlap.benchmarks"
        if not path.exists():
            raise UserError(f"{path} does not exist; check {field}")
        if not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder; check {field}")
        wanted = _SUFFIXES.get(source.kind) if isinstance(source, Source) else None
        if path.is_dir() and wanted:
            found = sorted(f for f in path.rglob("*") if f.is_file() and f.name.endswith(wanted))
            found = [f for f in found if f.name not in _SUMS]
            if not found:
                raise UserError(f"{path} holds no file named {', '.join('*' + s for s in wanted)}")
            paths += found
        else:
            paths += find_files(path)
    return [path.absolute() for path in paths if path.name not in _SUMS]


def _digested(paths: list[Path], cache: Path) -> list[Input]:
    known: dict[str, Any] = read_json(cache) if cache.exists() else {}
    stamps = {}
    for path in paths:
        status = path.stat()
        stamps[str(path)] = [status.st_size, status.st_mtime_ns]
    new = [p for p in paths if known.get(str(p), [None])[:2] != stamps[str(p)]]
    if new:
        with step("digests of the input") as bar:
            for done, path in enumerate(new, start=1):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                known[str(path)] = [*stamps[str(path)], digest]
                bar.update(done / len(new), path.name)
        write_json(cache, known)
    return [
        Input(str(p), stamps[str(p)][0], known[str(p)][2], _mismatch(p, known[str(p)][2]))
        for p in paths
    ]


def _mismatch(path: Path, digest: str) -> Damage | None:
    """Whether a checksum published beside the file disagrees."""
    for sums in (path.with_name(path.name + ".sha256"), *(path.with_name(n) for n in _SUMS)):
        if sums.is_file():
            text = sums.read_text("utf-8", "replace")
            for stated, name in _LINE.findall(text):
                if Path(name.strip()).name == path.name and stated.lower() != digest:
                    return Damage(str(path), "checksum", 0, f"{sums.name} says otherwise")
    return None


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a small JSON Lines file of our own."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
