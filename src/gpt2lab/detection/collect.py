"""Making a set: passages that people wrote, and how models go on from the same beginnings.

As OpenAI's gpt-2-output-dataset has samples of every size drawn in several ways, so has a set every
passage continued by each model with each sampler. A text is as many tokens long as the passage it
stands beside, and the prompt is no part of it: all of a machine's text is the machine's.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import __version__
from gpt2lab.corpus.compressed import Damage
from gpt2lab.corpus.plaintext import find_files, read_file
from gpt2lab.detection import samples
from gpt2lab.detection.calibrate import ALL
from gpt2lab.detection.conditions import other_language
from gpt2lab.detection.samples import ALONE, SPLITS, Sample, split_of
from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.evaluation.likelihood import Ids
from gpt2lab.evaluation.subject import Subject
from gpt2lab.generation import Request, Sampling
from gpt2lab.storage import atomic_folder, sha256

SAMPLERS: Mapping[str, Sampling] = {
    "t1": Sampling(),
    "k40": Sampling(top_k=40),
    "nucleus": Sampling(top_p=0.9),
    "penalised": Sampling(top_p=0.95, repetition_penalty=1.2),
    "greedy": Sampling(temperature=0),
}
# Added to the logit of the end of text, so that a text is as long as it should be.
_NEVER = -1e6


@dataclass(frozen=True)
class Setup:
    """What a set is made of."""

    samplers: tuple[str, ...] = tuple(SAMPLERS)
    """Ways to draw: t1, k40, nucleus (0.9), penalised (nucleus 0.95, repetition 1.2), greedy."""
    prompt: int = 32
    """Tokens of a passage that are given."""
    shortest: int = 60
    """Fewest tokens of a text."""
    longest: int = 450
    """Most tokens of a text."""
    passages: int = 4
    """Most passages of one document."""
    samples: int = 400
    """Most passages of a domain that are continued."""
    references: int = 1000
    """Most passages of a domain's other documents: people's texts that none is beside."""
    seed: int = 0
    """Of passages, splits and texts."""

    def __post_init__(self) -> None:
        for name in self.samplers:
            if name not in SAMPLERS:
                raise UserError(f"no sampler {name!r}; there are {', '.join(SAMPLERS)}")
        if not self.samplers or len(set(self.samplers)) < len(self.samplers):
            raise UserError("--samplers must name one or more, each once")
        for name, least in (
            ("prompt", 1), ("shortest", 10), ("longest", self.shortest), ("passages", 1),
            ("samples", 1), ("references", 0), ("seed", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True)
class Passage:
    """Tokens of a document: those that are given, and how it goes on."""

    domain: str
    document: str
    prompt: Ids
    rest: Ids
    split: str


@dataclass
class Source:
    """Files of one kind of text that people wrote, and what reading them found."""

    domain: str
    path: Path
    digests: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Documents in other languages than English."""

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read NAME=PATH; the domain of a bare PATH is its name up to the first dot."""
        name, equals, path = text.partition("=")
        if equals and name and "/" not in name:
            return cls(name, Path(path))
        return cls(Path(text).name.split(".")[0], Path(text))


def collect(
    subjects: Mapping[str, Subject],
    sources: Sequence[Source],
    out: Path,
    setup: Setup,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a set to the folder `out`; return its manifest.

    Texts that models have written already are found in their store, so a run that was stopped goes
    on. Raises UserError if models differ in their tokens, or documents are too few or too short.
    """
    first = _alike(subjects, setup)
    _require_domains(sources)
    seen: set[str] = set()
    with atomic_folder(out, overwrite=overwrite) as folder:
        passages: list[Passage] = []
        references: list[Passage] = []
        for source in sources:
            some, others = _passages(first, source, setup, seen)
            passages += some
            references += others
        _require_splits(passages)
        made = [_human(first, p) for p in (*passages, *references)]
        for name, subject in subjects.items():
            for sampler in setup.samplers:
                made += _machine(subject, name, sampler, passages, setup)
        manifest = {
            "gpt2lab": __version__,
            "setup": asdict(setup),
            "samplers": {name: _rules(SAMPLERS[name]) for name in setup.samplers},
            "generators": {
                name: {"weights": s.digest, "parameters": s.model.config.n_params}
                for name, s in subjects.items()
            },
            "tokenizer": first.tokenizer.digest,
            "sources": [
                {"domain": s.domain, "files": s.digests, "other_language": s.left_out}
                for s in sources
            ],
            "texts": samples.counts(made),
        }  # fmt: skip
        samples.write(folder, made, manifest)
    return manifest


def _require_domains(sources: Sequence[Source]) -> None:
    names = [source.domain for source in sources]
    for name in names:
        if name == ALL or not name.isprintable():
            raise UserError(f"--texts cannot name a domain {name!r}; choose another name")
        if names.count(name) > 1:
            raise UserError(f"--texts names the domain {name} twice; put its files into one folder")


def _rules(sampling: Sampling) -> dict[str, Any]:
    """What a sampler does beyond drawing from the model."""
    plain = asdict(Sampling())
    return {name: value for name, value in asdict(sampling).items() if value != plain[name]}


def _alike(subjects: Mapping[str, Subject], setup: Setup) -> Subject:
    first = next(iter(subjects.values()))
    for name, subject in subjects.items():
        if subject.tokenizer.digest != first.tokenizer.digest:
            raise UserError(
                f"{name} has other tokens than {next(iter(subjects))}, so their texts cannot be "
                "matched in length; collect a set of each"
            )
        room = subject.context - setup.prompt
        if setup.longest > room:
            raise UserError(
                f"--longest is {setup.longest}; after a prompt of {setup.prompt} the context of "
                f"{name} has room for {room} tokens"
            )
    return first


def _passages(
    subject: Subject, source: Source, setup: Setup, seen: set[str]
) -> tuple[list[Passage], list[Passage]]:
    """Passages to be continued, and passages of other documents.

    Which they are a document's digest and the seed decide. seen: documents that are taken already,
    to which these are added.
    """
    found: list[Passage] = []
    with subject.step(f"passages of {source.domain}"):
        for text in _texts(source):
            if other_language(text):
                source.left_out += 1
                continue
            document = hashlib.sha256(text.encode()).hexdigest()[:16]
            if document not in seen:
                seen.add(document)
                found += _cut(subject.ids(text), source.domain, document, setup)
    if not found:
        raise UserError(
            f"{source.path} has no English document of {setup.prompt + setup.shortest} tokens that "
            "was not there before; give longer ones, or a smaller --shortest"
        )
    keys = [hashlib.sha256(f"order {setup.seed} {p.document}".encode()).digest() for p in found]
    order = sorted(range(len(found)), key=lambda i: keys[i])  # passages of a document together
    chosen, rest = order[: setup.samples], order[setup.samples :]
    known = {found[i].document for i in chosen}
    others = [found[i] for i in rest if found[i].document not in known][: setup.references]
    alone = [replace(p, split=split_of(p.document, setup.seed, ALONE)) for p in others]
    return [found[i] for i in chosen], alone


def _texts(source: Source) -> Iterator[str]:
    damage: list[Damage] = []
    for file in find_files(source.path):
        for document in read_file(file, damage):
            if text := document.text.strip():
                yield text
        inside = file.relative_to(source.path) if file != source.path else Path(file.name)
        source.digests[str(inside)] = sha256(file)
    if damage:
        raise DamagedInput(f"{damage[0]}; fetch or make the file again")


def _cut(ids: Ids, domain: str, document: str, setup: Setup) -> Iterator[Passage]:
    """Passages one after the other, of lengths drawn evenly."""
    rng = np.random.default_rng([setup.seed, int(document, 16)])
    at = 0
    for _ in range(setup.passages):
        left = len(ids) - at - setup.prompt
        if left < setup.shortest:
            return
        count = min(left, int(rng.integers(setup.shortest, setup.longest + 1)))
        middle = at + setup.prompt
        rest = ids[middle : middle + count]
        yield Passage(domain, document, ids[at:middle], rest, split_of(document, setup.seed))
        at = middle + count


def _require_splits(passages: Sequence[Passage]) -> None:
    there = {p.split for p in passages}
    if missing := [name for name in SPLITS if name not in there]:
        count = len({p.document for p in passages})
        raise UserError(
            f"{count} documents are too few to be split, as their digests would have it: none is "
            f"for {', '.join(missing)}; give more, or more --samples of fewer --passages, or "
            "another --seed"
        )


def _human(subject: Subject, p: Passage) -> Sample:
    decode = subject.tokenizer.decode
    prompt, text = decode(p.prompt.tolist()), decode(p.rest.tolist())
    return Sample(text, False, p.domain, p.document, p.split, prompt)


def _seed(seed: int, name: str, sampler: str, p: Passage) -> int:
    told = f"{seed} {name} {sampler} {p.document} ".encode() + p.prompt.tobytes()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big") >> 1


def _machine(
    subject: Subject, name: str, sampler: str, passages: Sequence[Passage], setup: Setup
) -> Iterator[Sample]:
    rules = asdict(SAMPLERS[sampler]) | {"logit_bias": {subject.tokenizer.end_of_text: _NEVER}}
    requests = [
        Request(
            tuple(p.prompt.tolist()), max_tokens=len(p.rest), sampling=Sampling(**rules),
            seed=_seed(setup.seed, name, sampler, p),
        )
        for p in passages
    ]  # fmt: skip
    written = subject.write(f"{name}, {sampler}", requests)
    for p, made in zip(passages, written, strict=True):
        prompt = subject.tokenizer.decode(p.prompt.tolist())
        yield Sample(made.text, True, p.domain, p.document, p.split, prompt, name, sampler)
