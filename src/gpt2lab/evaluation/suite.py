"""Running tasks, and keeping what they found: a folder that can be read, compared and published."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2lab import __version__
from gpt2lab.errors import UserError
from gpt2lab.evaluation.documents import digest
from gpt2lab.evaluation.drift import lost_after
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.scores import Score, percent, perplexity, point, ratio
from gpt2lab.evaluation.sources import Data
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks import Outcome, Settings, Task
from gpt2lab.evaluation.tasks.translation import bleu
from gpt2lab.storage import atomic_file, read_json, require_writable_folder, write_json

if TYPE_CHECKING:
    from gpt2lab.evaluation.overlap import Training

RESULTS, ITEMS = "results.json", "items"
_FORMS = {f.__name__: f for f in (ratio, percent, perplexity, bleu, lost_after)}


@dataclass
class Results:
    """What is known of one model."""

    model: str
    weights: str
    """Digest."""
    parameters: int
    measurements: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Tasks that could not be run, and what is missing."""
    scores: dict[str, Score] = field(default_factory=dict)
    """By name, to compare item by item."""
    tasks: dict[str, list[str]] = field(default_factory=dict)
    """Names of the measurements that each task made."""

    def find(self, name: str) -> Measurement | None:
        """The measurement of a name, if it was made."""
        return next((m for m in self.measurements if m.name == name), None)


def evaluate(
    subject: Subject,
    name: str,
    wanted: Sequence[Task],
    data: Data,
    settings: Settings,
    *,
    out: Path | None = None,
    shots: Sequence[int] = (),
    skip_absent: bool = False,
    training: "Callable[[], Training | None]" = lambda: None,
) -> Results:
    """Run tasks one after the other.

    out: a folder to which each task's results are written as soon as it ends.
    shots: numbers of solved examples to try, where a task shows any; the settings' own if none.
    skip_absent: go on without tasks whose data is not there.
    training: opens the training text, of which each set's overlap is told, with its scores without
    that; asked when nothing else can be found wrong.
    Raises UserError if no task at all has its data.
    """
    results = begun(subject, name, out)
    ready, absent = with_data(wanted, data, skip_absent=skip_absent)
    results.absent |= absent
    text = training()
    for task in ready:
        outcome = run_task(task, subject, data, settings, shots)
        if text:
            outcome.scores += text.scores(task.name, outcome.texts, outcome.scores)
        record(results, task.name, outcome, out)
    return results


def with_data(
    wanted: Sequence[Task], data: Data, *, skip_absent: bool
) -> tuple[list[Task], dict[str, str]]:
    """Tasks whose data is there, and what the others miss; UserError as in `evaluate`."""
    ready: list[Task] = []
    absent: dict[str, str] = {}
    for task in wanted:
        try:
            for source in task.sources:
                data.find(source)
            ready.append(task)
        except UserError as error:
            if not skip_absent:
                raise
            absent[task.name] = str(error)
    if not ready:
        raise UserError(f"no data for any of the tasks; {next(iter(absent.values()))}")
    return ready, absent


def run_task(
    task: Task, subject: Subject, data: Data, settings: Settings, shots: Sequence[int]
) -> Outcome:
    """What a task finds, with each number of examples if there are several."""
    shots = sorted(set(shots))
    if len(shots) < 2:
        one = replace(settings, shots=next(iter(shots), settings.shots))
        return _with_items(task.run(subject, data, one))
    tried = (replace(settings, shots=k, reserved=shots[-1]) for k in shots)
    first = _with_items(task.run(subject, data, next(tried)))
    if not any("shots" in score.settings for score in first.scores):
        return first
    outcomes = [first, *(_with_items(task.run(subject, data, one)) for one in tried)]
    scores = [
        replace(
            score, name=f"{score.name} [{k} shots]",
            settings={**score.settings, **point(score.name, "shots", k)},
        )
        for k, outcome in zip(shots, outcomes, strict=True)
        for score in outcome.scores
    ]  # fmt: skip
    items = [
        {"shots": k, **item}
        for k, outcome in zip(shots, outcomes, strict=True)
        for item in outcome.items
    ]
    return replace(first, scores=scores, items=items)


def _with_items(outcome: Outcome) -> Outcome:
    """Scores that say of which items they are, so that no others are compared with them."""
    items = {"items": digest(outcome.texts)}
    scores = [replace(s, settings={**s.settings, **items}) for s in outcome.scores]
    return replace(outcome, scores=scores)


def begun(subject: Subject, name: str, out: Path | None) -> Results:
    """The results in a folder, or none yet; UserError if they are of another model."""
    if out is not None:
        require_writable_folder(out / ITEMS)
    if out is None or not (out / RESULTS).exists():
        return Results(name, subject.digest, subject.model.config.n_params)
    earlier = load(out)
    if earlier.weights != subject.digest:
        raise UserError(f"{out} holds results of another model; choose another --out")
    return earlier


def record(results: Results, task: str, outcome: Outcome, out: Path | None) -> None:
    """Put what a task found in place of what it did before; write it where there is a folder."""
    results.absent.pop(task, None)
    new = [*(score.measurement(outcome.data) for score in outcome.scores), *outcome.others]
    names = [m.name for m in new]
    gone = {*results.tasks.get(task, ()), *names}
    results.measurements = [m for m in results.measurements if m.name not in gone] + new
    results.scores = {name: s for name, s in results.scores.items() if name not in gone}
    results.scores |= {score.name: score for score in outcome.scores}
    results.tasks[task] = names
    if out is not None:
        _write_items(out, task, outcome)
        write_json(out / RESULTS, _table(results))


def _write_items(out: Path, name: str, outcome: Outcome) -> None:
    """What was asked and answered, a JSON object a line."""
    folder = out / ITEMS
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in outcome.items]
    with atomic_file(folder / f"{name}.jsonl") as temporary:
        temporary.write_text("".join(lines), "utf-8")


def _table(results: Results) -> dict[str, Any]:
    return {
        "gpt2lab": __version__,
        "model": results.model,
        "weights": results.weights,
        "parameters": results.parameters,
        "measurements": [asdict(m) for m in results.measurements],
        "absent": results.absent,
        "tasks": results.tasks,
        "sums": {
            name: {"form": score.form.__name__, "items": score.sums.tolist()}
            for name, score in results.scores.items()
        },
    }


def load(folder: Path) -> Results:
    """Results that `evaluate` wrote; UserError if the folder holds none."""
    path = folder / RESULTS
    table = read_json(path)
    try:
        measurements = [Measurement(**m) for m in table["measurements"]]
        scores = {
            m.name: Score(
                m.name, m.unit, np.array(sums["items"], np.float64), m.protocol,
                _FORMS[sums["form"]], m.settings,
            )
            for m in measurements
            if (sums := table["sums"].get(m.name))
        }  # fmt: skip
        return Results(
            table["model"], table["weights"], table["parameters"], measurements,
            dict(table["absent"]), scores, dict(table["tasks"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not hold results of `gpt2lab evaluate` ({error!r}); run it again"
        ) from None
