"""What an evaluation would cost: its tasks are gone through with a model that only counts."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from gpt2lab.evaluation.likelihood import Scores, Window, score
from gpt2lab.evaluation.sources import Data
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.suite import run_task
from gpt2lab.evaluation.tasks import Settings, Task
from gpt2lab.generation import Generation, Request, Sampling, generate_each
from gpt2lab.model.native import FACTS

# What speed is measured with: texts, tokens of each to read, and to write.
_TEXTS, _READ, _WRITE = 8, 128, (8, 40)


class Rehearsal(Subject):
    """Counts what is asked of a subject and has no answer yet; what it gives back means nothing."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.model, subject.tokenizer, store=subject.store)
        self.begin()

    def begin(self) -> None:
        """Count from nothing."""
        self.asked = self.known = self.read = self.written = 0

    def score(
        self, label: str, asked: Sequence[Window], *, excluded: Collection[int] = (), best: int = 0
    ) -> list[Scores]:
        """Count tokens to read."""
        for i in self._unknown(self.score_keys(asked, excluded)):
            self.read += len(asked[i].ids) - 1
        return [Scores(np.zeros((w.scored, FACTS + 2 * best), np.float32)) for w in asked]

    def write(self, label: str, requests: Sequence[Request]) -> list[Generation]:
        """Count tokens to read, and to write at most."""
        cut = self.fitting(label, requests)
        for i in self._unknown(self.write_keys(cut)):
            self.read += len(cut[i].prompt)
            self.written += cut[i].max_tokens
        return [Generation([], "", "length", 0) for _ in cut]

    def _unknown(self, keys: Sequence[bytes]) -> list[int]:
        places = {key: i for i, key in enumerate(keys)}
        known = self.find(places)
        self.asked += len(places)
        self.known += len(known)
        return [i for key, i in places.items() if key not in known]


def plan(
    subject: Subject, wanted: Sequence[Task], data: Data, settings: Settings, shots: Sequence[int]
) -> dict[str, Any]:
    """Tokens, FLOPs and expected time of tasks, beginnings that texts share counted each time."""
    read_rate, write_rate = _rates(subject)
    parameters = subject.model.config.n_params
    tasks: list[dict[str, Any]] = []
    rehearsal = Rehearsal(subject)
    for task in wanted:
        rehearsal.begin()
        run_task(task, rehearsal, data, settings, shots)
        tokens = rehearsal.read + rehearsal.written
        tasks.append(
            {
                "task": task.name,
                "texts": rehearsal.asked,
                "already_answered": rehearsal.known,
                "tokens_to_read": rehearsal.read,
                "tokens_to_write_at_most": rehearsal.written,
                "flops": 2 * parameters * tokens,
                "seconds": round(rehearsal.read / read_rate + rehearsal.written / write_rate, 3),
            }
        )
    return {
        "parameters": parameters,
        "weight_bytes": sum(p.numel() * p.element_size() for p in subject.model.parameters()),
        "tokens_read_per_second": round(read_rate),
        "tokens_written_per_second": round(write_rate),
        "seconds": round(sum(t["seconds"] for t in tasks), 3),
        "tasks": tasks,
    }


def _rates(subject: Subject) -> tuple[float, float]:
    """Tokens a second that the model reads and writes here, from a short trial."""
    rng = np.random.default_rng(0)
    length = min(_READ, subject.context)
    texts = rng.integers(subject.tokenizer.size, size=(_TEXTS, length + 1)).astype(np.int32)
    list(score(subject.model, [Window(texts[0], length)]))  # compiled and warm
    read = _seconds(lambda: score(subject.model, [Window(ids, length) for ids in texts]))

    def write(count: int) -> float:
        requests = [
            Request((int(ids[0]),), count, Sampling(temperature=0), seed=0, ignore_end=True)
            for ids in texts
        ]
        return _seconds(lambda: generate_each(subject.model, subject.tokenizer, requests))

    # The difference leaves out what it takes to begin.
    few, many = (min(count, subject.context - 1) for count in _WRITE)
    each = max(write(many) - write(few), 1e-6) / max(1, many - few)
    return _TEXTS * length / read, _TEXTS / each


def _seconds(work: Callable[[], Iterable[Any]]) -> float:
    start = time.perf_counter()
    for _ in work():
        pass
    return time.perf_counter() - start
