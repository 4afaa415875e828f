r"""Sets of questions described by a TOML file: which of some texts is likelier, or how one
ends.

Such a file names the data, and how a question is written from a record's fields:

    name = "piqa"
    kind = "choice"
    files = ["piqa.jsonl"]
    [[forms]]
    prompt = "Question: {goal}\nAnswer:"
    options = ["{sol1}", "{sol2}"]
    answer = "label"
"""

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import Scores
from gpt2lab.evaluation.scores import Score, mean, ratio
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited
from gpt2lab.settings import read_recipe

Kind = Literal["choice", "schema", "pair", "ending"]
_NAME = re.compile(r"\w[\w.\[\]-]*")
_FIELD = re.compile(r"\{([\w.]+)(?:\|(\w+))?\}")
# What may be done to a field: `{premise|open}`.
_CHANGES: dict[str, Callable[[str], str]] = {
    "open": lambda text: text.strip().rstrip(".!?"),  # so that the sentence can go on
    "small": lambda text: text[:1].lower() + text[1:],
}


@dataclass(frozen=True)
class Form:
    """How a record of one layout becomes a question.

    `{a.b}` stands for field b of field a, `{a|open}` for a without its full stop, `{a|small}` for a
    with its first letter small.
    """

    options: tuple[str, ...] = ()
    """Templates of the options; one that is a field holding a list stands for all of the list."""
    prompt: str = ""
    """choice, ending: what comes before every option, or before the ending."""
    ending: str = ""
    """schema, ending: what comes after."""
    answer: str = ""
    """Field with the right option: its number, its label, its letter or its text."""
    labels: str = ""
    """Field with the options' labels."""
    first: int = 0
    """The number that the first option has."""
    blank: str = ""
    """schema: field with a text in which the options take the place of `_`."""
    id: str = ""
    """Field that is the same in records which repeat one question."""
    when: tuple[str, ...] = ()
    """A field and the value it must have for this form."""


@dataclass(frozen=True)
class TaskFile:
    """A set of questions."""

    name: str
    kind: Kind
    """choice: the likeliest option after the prompt; schema: the option after which the ending is
    likeliest; pair: the likeliest option by itself, the first being right; ending: whether greedy
    decoding goes on as the ending says."""
    files: tuple[str, ...]
    """Names that the data file may have, the published one first."""
    forms: tuple[Form, ...]
    """Layouts; the first whose fields a record has is taken."""
    summary: str = ""
    published: str = "wherever you have it from"
    sha256: str = ""
    hub: str = ""
    answers: str = ""
    """A file beside the first with the answers, one a line."""
    all: bool = False
    """Whether the set is all of `files` together, and not any one of them."""
    part: str = ""
    """Field that parts the questions; accuracy is told for each part, too."""
    between: str = " "
    """What is written between prompt and option, or option and ending."""
    shots: int = 0


class Question(NamedTuple):
    """Pairs of texts, of which the likelihood of the second after the first counts."""

    pairs: list[tuple[str, str]]
    right: int
    part: str = ""


def load(path: Path) -> Task:
    """The task that a TOML file describes; UserError naming what is wrong in it."""
    described = read_recipe(path, TaskFile)
    if not _NAME.fullmatch(described.name):
        raise UserError(
            f"{path}: name {described.name!r} may have letters, digits, '.', '_', '-' and brackets"
        )
    if not described.files or not described.forms:
        raise UserError(f"{path}: files and forms must not be empty")
    needs = {
        "choice": ("options", "answer"), "schema": ("options",), "pair": ("options",),
        "ending": ("ending",),
    }[described.kind]  # fmt: skip
    for form in described.forms:
        for name in needs:
            if not getattr(form, name):
                raise UserError(f"{path}: a form of kind {described.kind!r} needs {name!r}")
        if len(form.when) not in (0, 2):
            raise UserError(f"{path}: `when` must be a field and the value it must have")
        for template in (*form.options, form.prompt, form.ending):
            _check_template(template, path)
    source = Source(
        described.files, described.published, described.sha256, described.hub, described.all
    )
    return Task(described.name, described.summary, partial(_run, described, source), (source,))


def _check_template(template: str, path: Path) -> None:
    if set(_FIELD.sub("", template)) & set("{}"):
        raise UserError(f"{path}: {template!r} has braces that are no field, such as {{question}}")
    for name, change in _FIELD.findall(template):
        if change and change not in _CHANGES:
            raise UserError(f"{path}: {{{name}|{change}}}: there are {', '.join(_CHANGES)}")


def _run(
    task: TaskFile, source: Source, subject: Subject, data: Data, settings: Settings
) -> Outcome:
    file = data.find(source)
    questions = read(task, file)
    shots = task.shots if settings.shots is None else settings.shots
    shown, asked = with_examples(questions, shots, settings, str(file.path))
    asked = limited(asked, settings, file)
    found = iter(subject.endings(task.name, [(shown + a, b) for q in asked for a, b in q.pairs]))
    each = [[next(found) for _ in q.pairs] for q in asked]
    told = {"shots": shots, "example_seed": settings.seed} if shots else {"shots": 0}
    score = _scores_of_endings if task.kind == "ending" else _scores_of_choices
    scores, items = score(task, asked, each, told)
    texts = ["".join(q.pairs[q.right]) for q in asked]
    return Outcome(scores, file.digest, [str(file.path)], items, texts)


def _scores_of_endings(
    task: TaskFile, asked: Sequence[Question], each: Sequence[list[Scores]], told: dict[str, Any]
) -> tuple[list[Score], list[dict[str, Any]]]:
    first = [group[0] for group in each]
    bits = [
        (one.total / math.log(2), float(len(q.pairs[0][1].encode())))
        for q, one in zip(asked, first, strict=True)
    ]
    scores = [
        mean(
            f"{task.name} accuracy", [one.greedy for one in first],
            "greedy decoding gives the ending", settings=told,
        ),
        Score(
            f"{task.name} bits", "bits/byte", np.array(bits), "per byte of the endings", ratio, told
        ),
    ]  # fmt: skip
    items = [
        {"prompt": q.pairs[0][0], "ending": q.pairs[0][1], "nats": o.total, "greedy": o.greedy}
        for q, o in zip(asked, first, strict=True)
    ]
    return scores, items


def _scores_of_choices(
    task: TaskFile, asked: Sequence[Question], each: Sequence[list[Scores]], told: dict[str, Any]
) -> tuple[list[Score], list[dict[str, Any]]]:
    totals = [[one.total for one in group] for group in each]
    protocol = {
        "choice": "the option that is likeliest after the prompt",
        "schema": "the option after which the ending is likeliest",
        "pair": "the likelier text, after <|endoftext|>",
    }[task.kind]
    chosen = [t.index(min(t)) for t in totals]
    right = [c == q.right for c, q in zip(chosen, asked, strict=True)]
    scores = [mean(f"{task.name} accuracy", right, protocol, settings=told)]
    for part in sorted({q.part for q in asked if q.part}):
        inside = [r for r, q in zip(right, asked, strict=True) if q.part == part]
        scores.append(mean(f"{task.name} accuracy, {part}", inside, protocol, settings=told))
    if task.kind == "choice":
        # Characters of the option alone, as lm-eval counts for its acc_norm.
        rates = [
            [
                t / max(1, len(b) - len(task.between))
                for t, (_, b) in zip(group, q.pairs, strict=True)
            ]
            for group, q in zip(totals, asked, strict=True)
        ]
        by_length = [r.index(min(r)) == q.right for r, q in zip(rates, asked, strict=True)]
        how = f"{protocol} by its nats per character"
        scores.append(mean(f"{task.name} accuracy per character", by_length, how, settings=told))
    items = [
        {"options": [list(p) for p in q.pairs], "right": q.right, "chosen": c, "nats": t}
        for q, c, t in zip(asked, chosen, totals, strict=True)
    ]
    return scores, items


def with_examples(
    questions: Sequence[Question], shots: int, settings: Settings, where: str
) -> tuple[str, list[Question]]:
    """Solved questions to show before all others, the same before each; and the others."""
    reserved = max(shots, settings.reserved)
    if shots < 0:
        raise UserError(f"--shots is {shots}; it must be at least 0")
    if reserved >= len(questions):
        raise UserError(
            f"{where} has {len(questions)} questions; {reserved} to show leave none to ask"
        )
    picks = random.Random(settings.seed).sample(range(len(questions)), reserved)
    solved = [questions[i].pairs[questions[i].right] for i in picks[:shots]]
    left = [q for i, q in enumerate(questions) if i not in set(picks)]
    return "".join(f"{a}{b}\n\n" for a, b in solved), left


def read(task: TaskFile, file: DataFile) -> list[Question]:
    """The questions of a data file; UserError naming a record that is none."""
    answers: list[str] | None = None
    if task.answers and (beside := file.path.with_name(task.answers)).exists():
        answers = DataFile(beside).text.split()
    questions = []
    seen = set()
    for number, record in enumerate(file.records()):
        where = f"{file.path}, item {number + 1}"
        form = next((f for f in task.forms if _has(record, f)), None)
        if form is None:
            raise UserError(
                f"{where}: its fields, {', '.join(record)}, are of no layout of {task.name}, or "
                "have not the values that `when` asks for"
            )
        name = json.dumps(_needed(record, form.id, where)) if form.id else number
        if name in seen:
            continue
        seen.add(name)
        answer = answers[number] if answers and number < len(answers) else None
        question = _question(task, form, record, answer, where)
        part = str(_needed(record, task.part, where)) if task.part else ""
        questions.append(question._replace(part=part))
    return questions


def _has(record: Mapping[str, Any], form: Form) -> bool:
    names = [name for name, _ in _FIELD.findall("".join([*form.options, form.prompt, form.ending]))]
    names += [form.blank] * bool(form.blank)
    met = not form.when or str(_lookup(record, form.when[0])) == form.when[1]
    return met and all(_lookup(record, name) is not None for name in names)


def _lookup(record: Any, path: str) -> Any:
    for name in path.split("."):
        record = record.get(name) if isinstance(record, Mapping) else None
    return record


def _needed(record: Mapping[str, Any], field: str, where: str) -> Any:
    found = _lookup(record, field)
    if found is None:
        raise UserError(f"{where} has no {field!r}, only {', '.join(record)}; check the task file")
    return found


def _write(template: str, record: Mapping[str, Any]) -> str:
    def written(match: re.Match[str]) -> str:
        text = str(_lookup(record, match[1]))
        return _CHANGES[match[2]](text) if match[2] else text

    return _FIELD.sub(written, template)


def _question(
    task: TaskFile, form: Form, record: Mapping[str, Any], answer: Any, where: str
) -> Question:
    options: list[str] = []
    for template in form.options:
        whole = _FIELD.fullmatch(template)
        value = _lookup(record, whole[1]) if whole else None
        change = _CHANGES.get(whole[2] or "", str) if whole else str
        if isinstance(value, list):
            options += [change(str(v)) for v in value]
        else:
            options.append(_write(template, record))
    prompt, ending = _write(form.prompt, record), _write(form.ending, record)
    between = task.between
    if form.blank:
        before, _, ending = str(_lookup(record, form.blank)).partition("_")
        options, between = [before + option for option in options], ""
    if task.kind == "ending":
        return Question([(prompt, task.between + ending)], 0)
    if task.kind == "pair":
        return Question([("", option) for option in options], 0)
    if answer is None:
        answer = _lookup(record, form.answer)
    right = _right(answer, options, _lookup(record, form.labels) or [], form.first)
    if right is None:
        raise UserError(f"{where}: the answer {answer!r} is none of {len(options)} options")
    if task.kind == "schema":
        return Question([(option, between + ending) for option in options], right)
    return Question([(prompt, task.between + option) for option in options], right)


def _right(answer: Any, options: Sequence[str], labels: Sequence[Any], first: int) -> int | None:
    """The number of the right option, however the data names it."""
    if answer in labels:
        return labels.index(answer)
    if isinstance(answer, str):
        if answer in options:
            return options.index(answer)
        if len(answer) == 1 and answer.isalpha():
            answer = ord(answer.upper()) - ord("A") + first
        elif answer.isdecimal():
            answer = int(answer)
    if isinstance(answer, int) and first <= answer < first + len(options):
        return int(answer) - first
    return None
