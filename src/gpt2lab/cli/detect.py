"""`gpt2lab detect collect | train | score | evaluate | watermark`"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from gpt2lab.cli.subject import kept_subject, progress, training_text
from gpt2lab.errors import UserError

if TYPE_CHECKING:
    from gpt2lab.detection.panel import Panel
    from gpt2lab.detection.reading import Reader
    from gpt2lab.evaluation.subject import Subject

USAGE = """\
usage: gpt2lab detect collect | train | score | evaluate | watermark ...

  collect    texts of models beside texts of people, matched by prompt and length
  train      detectors from such a set, calibrated on people's texts
  score      a verdict on a text, with the reasons and a page to look at
  evaluate   what detectors are worth: a report on texts they have not seen
  watermark  whether a text carries the watermark of a key

gpt2lab detect ACTION --help shows an action's options."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What every action that runs models takes."""

    dtype: Literal["float32", "bfloat16", "int8", "int8-weight", "int4"] | None = None
    """Number format of the models' weights: the checkpoint's own if not given."""
    device: str | None = None
    """cpu or cuda; a CUDA card if there is one."""
    store: Path | None = None
    """Folder where texts of models and what models made of texts are kept, so that a run that was
    stopped goes on; the user's cache if not given. Comparisons of two models are not kept."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    actions: dict[str, Callable[[Sequence[str]], None]] = {
        "collect": _collect, "train": _train, "score": _score, "evaluate": _evaluate,
        "watermark": _watermark,
    }  # fmt: skip
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        raise SystemExit(0 if argv else 2)
    if argv[0] not in actions:
        raise UserError(f"no action {argv[0]!r}; there are {', '.join(actions)}")
    actions[argv[0]](argv[1:])


def _collect(argv: Sequence[str]) -> None:
    from gpt2lab.detection import collect

    @dataclass(frozen=True, kw_only=True)
    class Collect(Reads):
        """Let models go on from the beginnings of people's texts, and keep both, in splits."""

        models: tyro.conf.Positional[tuple[str, ...]]
        """Checkpoint folders, published sizes or hf:owner/name, all of one vocabulary."""
        texts: tuple[str, ...]
        """People's texts, a domain each: NAME=PATH, or PATH, whose name is the domain's."""
        out: Path
        """Folder of the set."""
        setup: tyro.conf.OmitArgPrefixes[collect.Setup] = field(default_factory=collect.Setup)
        overwrite: bool = False
        """Replace the folder."""

    command = tyro.cli(Collect, args=argv, prog="gpt2lab detect collect")
    if not command.models or not command.texts:
        raise UserError("name one model or more, and people's texts with --texts")
    sources = [collect.Source.parse(text) for text in command.texts]
    with _subjects(command, command.models) as subjects:
        manifest = collect.collect(
            subjects, sources, command.out, command.setup, overwrite=command.overwrite
        )
    if command.json:
        print(json.dumps(manifest))
        return
    for split, count in manifest["texts"].items():
        print(f"{split:<10} {count['human']:>7,} people's  {count['machine']:>7,} machines'")


def _train(argv: Sequence[str]) -> None:
    from gpt2lab.detection import train
    from gpt2lab.detection.reading import Reader
    from gpt2lab.detection.samples import Set
    from gpt2lab.storage import refuse_existing, require_ours

    @dataclass(frozen=True, kw_only=True)
    class Train(Reads):
        """Train detectors on a set of texts and calibrate them on people's."""

        set: tyro.conf.Positional[Path]
        """What `detect collect` wrote."""
        models: tuple[str, ...]
        """Models that read the texts: best those that wrote them, or what is nearest to those."""
        out: Path
        """Folder of the detectors."""
        detectors: tuple[str, ...] = train.USUAL
        """stats, trees, curvature, binoculars (two --models), tfidf, style, finetuned
        (--backbone); two or more make an ensemble as well."""
        backbone: str | None = None
        """The model that `finetuned` begins from."""
        seed: int = 0
        """Of what is drawn."""
        overwrite: bool = False
        """Replace the folder."""

    command = tyro.cli(Train, args=argv, prog="gpt2lab detect train")
    refuse_existing(command.out, overwrite=command.overwrite)
    require_ours(command.out)
    if not command.models:
        raise UserError("name one model or more with --models")
    texts = Set.load(command.set)
    with _subjects(command, command.models) as subjects, ExitStack() as stack:
        backbone = None
        if command.backbone:
            more = stack.enter_context(_subjects(command, (command.backbone,)))
            backbone = next(iter(more.values()))
        panel = train.train(
            texts, Reader(subjects), command.detectors, backbone=backbone,
            sources=dict(zip(subjects, map(_source, command.models), strict=True)),
            seed=command.seed, step=progress,
        )  # fmt: skip
    panel.save(command.out, overwrite=command.overwrite)
    told = {"out": str(command.out), "detectors": panel.names, **panel.facts}
    print(json.dumps(told) if command.json else f"{', '.join(panel.names)}: {command.out}")


def _score(argv: Sequence[str]) -> None:
    from gpt2lab.detection import verdict
    from gpt2lab.detection.panel import Panel
    from gpt2lab.storage import atomic_file, refuse_existing

    @dataclass(frozen=True, kw_only=True)
    class Score(Reads):
        """A verdict on each text: likely generated, inconclusive, or no evidence; never that a
        person wrote it. Standard input is read where no file is named.
        """

        detectors: tyro.conf.Positional[Path]
        """What `detect train` wrote."""
        texts: tyro.conf.Positional[tuple[Path, ...]] = ()
        """Files: text, one document each, or JSON Lines or Parquet with a column `text`."""
        models: tuple[str, ...] = ()
        """Where the models are that the detectors read with, if not where they were trained."""
        setup: tyro.conf.OmitArgPrefixes[verdict.Setup] = field(default_factory=verdict.Setup)
        training: Path | None = None
        """What the models were trained on (text, token shards, or the filter `corpus build` wrote):
        known text is told."""
        html: Path | None = None
        """Write a page with the text coloured, for one text."""
        overwrite: bool = False
        """Replace the page."""

    command = tyro.cli(Score, args=argv, prog="gpt2lab detect score")
    panel = Panel.load(command.detectors)
    panel.require(command.setup.detector or panel.names[0])
    texts = _texts(command.texts)
    if command.html:
        if len(texts) > 1:
            raise UserError(f"--html is for one text, and there are {len(texts)}; name one file")
        refuse_existing(command.html, overwrite=command.overwrite, option="--html")
    with _readers(command, panel, command.models) as reader:
        training = training_text(command.training)
        judge = verdict.Judge(panel, reader, command.setup, training)
        found = judge.judge([text for _, text in texts], [where for where, _ in texts])
    if command.html:
        from gpt2lab.detection.page import page

        with atomic_file(command.html) as temporary:
            temporary.write_text(page(*found[0], title=texts[0][0]), "utf-8")
    if command.json:
        print(json.dumps({"verdicts": [asdict(v) for v, _ in found]}, ensure_ascii=False))
        return
    from rich.console import Console

    from gpt2lab.detection.display import show

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for (where, _), (one, reading) in zip(texts, found, strict=True):
        if len(texts) > 1:
            console.print(f"== {where}", markup=False)
        show(one, reading, console)


def _evaluate(argv: Sequence[str]) -> None:
    from gpt2lab.detection import findings as found
    from gpt2lab.detection import report
    from gpt2lab.detection.evaluate import evaluate
    from gpt2lab.detection.panel import Panel
    from gpt2lab.detection.samples import Set
    from gpt2lab.storage import no_empty_folders, refuse_existing, require_writable_folder

    @dataclass(frozen=True, kw_only=True)
    class Evaluate(Reads):
        """Measure detectors on the test split of the set that they were trained on, and on other
        sets, whose generators they have not seen.
        """

        detectors: tyro.conf.Positional[Path]
        """What `detect train` wrote."""
        sets: tyro.conf.Positional[tuple[Path, ...]]
        """What `detect collect` wrote: the detectors' own set first."""
        out: Path | None = None
        """Folder for the report: Markdown, a page, a picture, JSON."""
        overwrite: bool = False
        """Replace a report."""
        models: tuple[str, ...] = ()
        """Where the models are that the detectors read with, if not where they were trained."""
        setup: tyro.conf.OmitArgPrefixes[found.Setup] = field(default_factory=found.Setup)

    command = tyro.cli(Evaluate, args=argv, prog="gpt2lab detect evaluate")
    if not command.sets:
        raise UserError("name the set that the detectors were trained on")
    panel = Panel.load(command.detectors)
    sets = [Set.load(path) for path in command.sets]
    with ExitStack() as stack:
        if command.out:
            refuse_existing(command.out / report.REPORT, overwrite=command.overwrite)
            stack.enter_context(no_empty_folders(command.out))
            require_writable_folder(command.out)
        reader = stack.enter_context(_readers(command, panel, command.models))
        findings = evaluate(panel, reader, sets, command.setup, progress)
        if command.out:
            report.write(findings, command.out)
    print(json.dumps(report.table(findings)) if command.json else report.text(findings))


def _watermark(argv: Sequence[str]) -> None:
    import numpy as np

    from gpt2lab.cli.output import show
    from gpt2lab.detection.watermark import look
    from gpt2lab.tokenizer.bpe import Tokenizer

    @dataclass(frozen=True, kw_only=True)
    class Watermark:
        """Whether a text carries the watermark that `generate --watermark KEY` leaves."""

        tokenizer: tyro.conf.Positional[str]
        """The model's folder or published name, or its tokenizer's."""
        text: tyro.conf.Positional[Path | None] = None
        """A file of text; standard input if not given."""
        key: int
        """The secret key."""
        json: bool = False
        """Print one JSON object."""

    command = tyro.cli(Watermark, args=argv, prog="gpt2lab detect watermark")
    tokenizer = Tokenizer.load(command.tokenizer)
    texts = _texts([command.text] if command.text else [])
    if len(texts) > 1:
        raise UserError(f"{command.text} holds {len(texts)} texts; give a file of one")
    ((where, text),) = texts
    found = look(np.array(tokenizer.encode(text)), command.key)
    show({"text": where, **asdict(found)}, as_json=command.json)


def _texts(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Documents of files with what they are called; of standard input where none is named."""
    from gpt2lab.cli.output import standard_input
    from gpt2lab.corpus.compressed import Damage
    from gpt2lab.corpus.plaintext import read_file
    from gpt2lab.detection.display import safe
    from gpt2lab.errors import DamagedInput

    if not files:
        return [("standard input", standard_input())]
    damage: list[Damage] = []
    found = []
    for file in files:
        documents = list(read_file(file, damage))
        if damage:
            raise DamagedInput(f"{damage[0]}; fetch or make the file again")
        several = len(documents) > 1
        for number, document in enumerate(documents, start=1):
            called = safe(file.name.replace("\n", " "))
            name = f"{called}, text {number}" if several else called
            found.append((name, document.text))
    if not found:
        raise UserError(f"there is no text in {', '.join(map(str, files))}; check the files")
    return found


@contextmanager
def _readers(command: Reads, panel: "Panel", models: Sequence[str]) -> "Iterator[Reader]":
    """The models that detectors read with, from where they were or are said to be."""
    sources = list(models) or [s.source for s in panel.scorers]
    if not models:
        for scorer in panel.scorers:
            path = Path(scorer.source)
            if path.is_absolute() and not path.exists():
                raise UserError(
                    f"the detectors read with {scorer.name}, which is no longer at "
                    f"{scorer.source}; say where it is with --models"
                )
    with _subjects(command, sources) as subjects:
        by_weights = {s.digest: s for s in subjects.values()}
        named = {s.name: by_weights.get(s.weights) for s in panel.scorers}
        yield panel.reader({n: s for n, s in named.items() if s} or subjects)


def _source(model: str) -> str:
    """Where a model is, from any folder."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _name(source: str) -> str:
    """What a model is called: its folder's name, or of OUT/model, as training writes it, OUT's."""
    path = Path(source)
    last = path.parent if path.name == "model" and path.parent.name else path
    return last.name or source


@contextmanager
def _subjects(command: Reads, models: Sequence[str]) -> "Iterator[dict[str, Subject]]":
    """Models by name, with their answers kept."""
    with ExitStack() as stack:
        found: dict[str, Subject] = {}
        for source in models:
            name = _name(source)
            if name in found:
                raise UserError(f"two models are named {name}; rename one's folder")
            found[name] = stack.enter_context(
                kept_subject(source, command.dtype, device=command.device, store=command.store)
            )
        yield found
