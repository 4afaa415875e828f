"""A set of texts by people and by models: its file, its splits, its manifest."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from gpt2lab.errors import UserError
from gpt2lab.storage import read_json, sha256

VERSION, KIND = 1, "texts"
# What a manifest must tell for detectors to be trained on its texts.
_FACTS = {"sha256": str, "texts": dict, "generators": dict, "samplers": dict}
MANIFEST, SAMPLES = "gpt2lab.json", "samples.jsonl"
# Detectors learn on the first, an ensemble of them on the second, verdicts are calibrated on the
# third, and figures are of the last; a document is in one of them.
SPLITS = {"train": 0.5, "blend": 0.1, "calibrate": 0.2, "test": 0.2}
# The same of documents that no machine's text is beside: a low p-value takes many human texts.
ALONE = {"train": 0.2, "blend": 0.0, "calibrate": 0.6, "test": 0.2}


@dataclass(frozen=True)
class Sample:
    """A text, and who wrote it."""

    text: str
    machine: bool
    domain: str
    """What kind of text people's is here."""
    document: str
    """The document that it is from, or whose beginning it continues: never in two splits."""
    split: str
    prompt: str = ""
    """What stood before the text."""
    generator: str = ""
    sampler: str = ""


def split_of(document: str, seed: int, shares: Mapping[str, float] = SPLITS) -> str:
    """Which split a document's texts belong to."""
    data = hashlib.sha256(f"split {seed} {document}".encode()).digest()
    place = int.from_bytes(data[:8], "big") / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name


class Set:
    """A set on disk: its manifest and its texts."""

    def __init__(self, folder: Path, manifest: dict[str, Any], samples: list[Sample]) -> None:
        self.folder, self.manifest, self.samples = folder, manifest, samples

    @classmethod
    def load(cls, folder: Path) -> "Set":
        """Read a set. Raises UserError if it is none, or its texts are not the manifest's."""
        manifest = read_manifest(folder, KIND, VERSION, "a set of texts", "collect")
        for name, kind in _FACTS.items():
            if not isinstance(manifest.get(name), kind):
                raise UserError(f"{folder / MANIFEST} has no {name}; collect the set again")
        for name, told in manifest["generators"].items():
            if not isinstance(told, dict) or not isinstance(told.get("parameters"), int):
                raise UserError(
                    f"{folder / MANIFEST} does not tell the parameters of {name}; collect the set "
                    "again"
                )
        file = folder / SAMPLES
        try:
            if sha256(file) != manifest["sha256"]:
                raise UserError(f"{file} is not what its manifest says; collect the set again")
            samples = [_sample(line, file) for line in file.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {file}: {error}; collect the set again") from None
        splits: dict[str, str] = {}
        for s in samples:
            if splits.setdefault(s.document, s.split) != s.split:
                raise UserError(
                    f"{file} has document {s.document} in two splits; collect the set again"
                )
        return cls(folder, manifest, samples)

    def split(self, *names: str) -> list[Sample]:
        """The samples of some splits, in order."""
        return [s for s in self.samples if s.split in names]

    @property
    def generators(self) -> list[str]:
        """Who wrote the machine's texts."""
        return sorted({s.generator for s in self.samples if s.machine})

    @property
    def samplers(self) -> list[str]:
        """How they were drawn."""
        return sorted({s.sampler for s in self.samples if s.machine})

    @property
    def domains(self) -> list[str]:
        """The kinds of people's texts."""
        return sorted({s.domain for s in self.samples})


def write(folder: Path, samples: Iterable[Sample], manifest: dict[str, Any]) -> None:
    """Write a set into an empty folder."""
    with (folder / SAMPLES).open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(json.dumps(asdict(sample), ensure_ascii=True) + "\n")
    digest = sha256(folder / SAMPLES)
    whole = {"kind": KIND, "version": VERSION, "sha256": digest, **manifest}
    (folder / MANIFEST).write_text(json.dumps(whole, indent=2) + "\n", "utf-8")


def read_manifest(folder: Path, kind: str, version: int, what: str, verb: str) -> dict[str, Any]:
    """The manifest of a folder of some kind; UserError if it is another."""
    file = folder / MANIFEST
    table = read_json(file) if file.is_file() else None
    if not isinstance(table, dict) or table.get("kind") != kind:
        raise UserError(f"{folder} is not {what}; make one with: gpt2lab detect {verb}")
    if table.get("version") != version:
        raise UserError(f"{file} is of another version; make it again: gpt2lab detect {verb}")
    return table


def counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """How many texts of people and of machines each split has."""
    table = {name: {"human": 0, "machine": 0} for name in SPLITS}
    for s in samples:
        table[s.split]["machine" if s.machine else "human"] += 1
    return table


_TYPES = get_type_hints(Sample)


def _sample(line: str, file: Path) -> Sample:
    try:
        table = json.loads(line)
        if {name: type(value) for name, value in table.items()} == _TYPES:
            sample = Sample(**table)
            "".join(v for v in table.values() if isinstance(v, str)).encode()  # no lone surrogates
            if sample.split in SPLITS:
                return sample
    except (ValueError, AttributeError, RecursionError):
        pass
    raise UserError(f"{file} holds a line that is no sample; collect the set again")
