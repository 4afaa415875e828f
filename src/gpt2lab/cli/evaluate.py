"""`gpt2lab evaluate MODEL | longform | memorization | compare | plot | tasks | lm-eval`"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from gpt2lab.cli.subject import kept_subject, training_text
from gpt2lab.errors import UserError

if TYPE_CHECKING:
    from gpt2lab.evaluation.subject import Subject
    from gpt2lab.evaluation.suite import Results


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What every measurement of a model takes."""

    model: tyro.conf.Positional[str]
    """A checkpoint folder, a published size such as gpt2-xl, or hf:owner/name."""
    out: Path | None = None
    """Folder for results, a table (Markdown, CSV), a plot and every answer; it is added to."""
    dtype: Literal["float32", "bfloat16", "int8", "int8-weight", "int4"] | None = None
    """Number format of the weights: the checkpoint's own if not given, float32 for float ones."""
    device: str | None = None
    """cpu or cuda; a CUDA card if there is one."""
    store: Path | None = None
    """Folder where answers are kept, so that a run that was stopped goes on; the user's cache if
    not given."""
    json: bool = False
    """Print one JSON object with every measurement."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Measured):
    """Score a model zero-shot, beside the figures of the GPT-2 paper. Other forms: `evaluate
    tasks` lists what there is, `evaluate compare A B` compares two --out folders item by item,
    `evaluate plot PNG A ...` draws them against model size, `evaluate longform` measures how long
    texts hold together, `evaluate memorization` asks how much training text a model gives back,
    `evaluate lm-eval ...` is lm-eval's command line with --model gpt2lab.
    """

    tasks: tuple[str, ...] = ()
    """Names of tasks, or TOML files that describe one."""
    suite: Literal["paper", "choices"] | None = None
    """A list of tasks: those of the paper, or the multiple-choice ones. Tasks whose data is not
    there are left out and named."""
    data: Path | None = None
    """Folder with the data files, in any arrangement; what is not given is asked of the hub."""
    training: Path | None = None
    """What the model was trained on: token shards, text, or the filter `corpus build` wrote. Each
    set's overlap with it is told, and scores over the items that have none."""
    limit: int | None = None
    """Only the first so many items of each task."""
    shots: tuple[int, ...] = ()
    """Solved examples before each question, where a task shows any; the task's own number if not
    given. Several numbers give a curve."""
    stride: int | None = None
    """Tokens by which windows over texts advance; the context if not given."""
    detokenizer: Literal["paper", "megatron", "raw"] = "paper"
    """How tokenised texts are joined."""
    seed: int = 0
    """Of what is drawn: examples, sampled summaries."""
    dry_run: bool = False
    """Print what there is to read and to write, how much of it is answered already, and the time
    that it takes here, and stop."""


@dataclass(frozen=True)
class Compare:
    """Compare two --out folders: differences on the same items, with paired bootstrap."""

    a: tyro.conf.Positional[Path]
    b: tyro.conf.Positional[Path]
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Plot:
    """Draw the paper's numbers against model size, with the paper's own sizes, or curves."""

    png: tyro.conf.Positional[Path]
    """Picture to write."""
    results: tyro.conf.Positional[tuple[Path, ...]]
    """One or several --out folders."""
    curves: bool = False
    """Draw what was measured along an axis: windows of long texts, numbers of examples, tokens of a
    passage."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks, with the files they want."""

    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    others: dict[str, Callable[[Sequence[str]], None]] = {
        "compare": _compare, "plot": _plot, "tasks": _tasks, "longform": _longform,
        "memorization": _memorization, "lm-eval": _lm_eval,
    }  # fmt: skip
    if argv and argv[0] in others:
        others[argv[0]](argv[1:])
    else:
        _evaluate(tyro.cli(Evaluate, args=argv, prog="gpt2lab evaluate"))


def _lm_eval(argv: Sequence[str]) -> None:
    from gpt2lab.evaluation import lm_eval_adapter

    lm_eval_adapter.run(argv)


def _evaluate(command: Evaluate) -> None:
    from gpt2lab.evaluation import plan, suite
    from gpt2lab.evaluation.sources import Data
    from gpt2lab.evaluation.tasks import SUITES, Settings, chosen

    if not command.tasks and not command.suite:
        raise UserError("no --tasks and no --suite; `gpt2lab evaluate tasks` lists what there is")
    wanted = chosen([*command.tasks, *(SUITES[command.suite] if command.suite else ())])
    data = Data(command.data)
    settings = Settings(
        limit=command.limit, stride=command.stride, detokenizer=command.detokenizer,
        seed=command.seed,
    )  # fmt: skip
    skip_absent = command.suite is not None and not command.tasks
    with _subject(command, command.model, command.dtype) as subject:
        if command.dry_run:
            ready, _ = suite.with_data(wanted, data, skip_absent=skip_absent)
            _show_plan(plan.plan(subject, ready, data, settings, command.shots), command.json)
            return
        results = suite.evaluate(
            subject, command.model, wanted, data, settings, out=command.out,
            training=partial(training_text, command.training), shots=command.shots,
            skip_absent=skip_absent,
        )  # fmt: skip
    _show(command, results)


def _show_plan(found: dict[str, Any], as_json: bool) -> None:
    from gpt2lab.evaluation import report

    print(json.dumps(found) if as_json else report.plan_table(found))


def _longform(argv: Sequence[str]) -> None:
    from gpt2lab.evaluation import longform, suite

    @dataclass(frozen=True, kw_only=True)
    class Longform(Measured):
        """Let a model continue documents, and measure the texts beside what people wrote: by
        window, how well the prompt's topic and style can be recognised, what is repeated, and
        likelihood; and over whole texts repetition, distinct n-grams, self-BLEU, Zipf's law and
        MAUVE.
        """

        texts: tyro.conf.Positional[Path]
        """Documents: text, JSON Lines, Parquet, or token shards with a held-out split."""
        setup: tyro.conf.OmitArgPrefixes[longform.Setup] = field(default_factory=longform.Setup)
        judge: str | None = None
        """The model whose hidden states MAUVE compares texts by, the same one for models that are
        to be compared; the model itself if not given."""

    command = tyro.cli(Longform, args=argv, prog="gpt2lab evaluate longform")
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError(
            "evaluate longform needs scikit-learn; pip install 'gpt2lab[eval]'"
        ) from None
    with ExitStack() as stack:
        subject = stack.enter_context(_subject(command, command.model, command.dtype))
        judge = None
        if command.judge:  # in its own format, whatever the model is run in
            judge = stack.enter_context(_subject(command, command.judge, None))
        results = suite.begun(subject, command.model, command.out)
        outcome = longform.longform(subject, command.texts, command.setup, judge=judge)
    suite.record(results, "longform", outcome, command.out)
    _show(command, results)


def _memorization(argv: Sequence[str]) -> None:
    from gpt2lab.evaluation import memorization, suite

    @dataclass(frozen=True, kw_only=True)
    class Memorization(Measured):
        """How much of its training text a model gives back: passages of token shards are asked for
        by their beginnings, and held-out ones of the same shards as control.
        """

        shards: tyro.conf.Positional[Path]
        """Folder of token shards that the model was trained on."""
        setup: tyro.conf.OmitArgPrefixes[memorization.Setup] = field(
            default_factory=memorization.Setup
        )

    command = tyro.cli(Memorization, args=argv, prog="gpt2lab evaluate memorization")
    with _subject(command, command.model, command.dtype) as subject:
        results = suite.begun(subject, command.model, command.out)
        outcome = memorization.of_shards(subject, command.shards, command.setup)
    suite.record(results, "memorization", outcome, command.out)
    _show(command, results)


def _subject(command: Measured, model: str, dtype: str | None) -> "AbstractContextManager[Subject]":
    return kept_subject(model, dtype, device=command.device, store=command.store)


def _show(command: Measured, results: "Results") -> None:
    from gpt2lab.evaluation import report

    if command.out is not None:
        report.write(results, command.out)
    if command.json:
        table = {
            "model": results.model,
            "weights": results.weights,
            "measurements": [asdict(m) for m in results.measurements],
            "absent": results.absent,
        }
        print(json.dumps(table, ensure_ascii=False))
        return
    print(report.table(results))
    for name, why in results.absent.items():
        print(f"{name}: not measured: {why}")


def _compare(argv: Sequence[str]) -> None:
    from gpt2lab.evaluation import report, suite

    command = tyro.cli(Compare, args=argv, prog="gpt2lab evaluate compare")
    a, b = suite.load(command.a), suite.load(command.b)
    differences = report.differences(a, b)
    if command.json:
        print(json.dumps({name: asdict(d) for name, d in differences.items()}))
    else:
        print(report.comparison(a, b, differences))


def _plot(argv: Sequence[str]) -> None:
    from gpt2lab.evaluation import plots, suite

    command = tyro.cli(Plot, args=argv, prog="gpt2lab evaluate plot")
    if not command.results:
        raise UserError("no results to plot; give one or more --out folders")
    draw = plots.curves if command.curves else plots.sizes
    draw([suite.load(folder) for folder in command.results], command.png)


def _tasks(argv: Sequence[str]) -> None:
    from gpt2lab.evaluation.tasks import tasks

    command = tyro.cli(Tasks, args=argv, prog="gpt2lab evaluate tasks")
    found = tasks()
    if command.json:
        print(json.dumps({t.name: [asdict(s) for s in t.sources] for t in found.values()}))
        return
    width = max(map(len, found))
    for task in found.values():
        files = ", ".join(source.names[0] for source in task.sources)
        print(f"{task.name:<{width}}  {task.summary} ({files})")
