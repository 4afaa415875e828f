"""Natural Questions (paper section 3.8): facts from memory, after some solved examples."""

import math

import numpy as np

from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import mean
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.coqa import normal
from gpt2lab.evaluation.tasks.questions import Question, with_examples
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited
from gpt2lab.generation import Request, Sampling

SHOTS, ANSWER_TOKENS = 5, 16
# Of the questions, those that the model is surest of.
SUREST = 0.01


def _run(subject: Subject, data: Data, settings: Settings) -> Outcome:
    file = data.find(SOURCE)
    questions, answers = _read(file)
    shots = SHOTS if settings.shots is None else settings.shots
    shown, asked = with_examples(questions, shots, settings, str(file.path))
    asked = limited(asked, settings, file)
    greedy = Sampling(temperature=0)
    requests = [
        Request(
            tuple(subject.tokenizer.encode(shown + q.pairs[0][0])),
            ANSWER_TOKENS, greedy, stop=("\n",), seed=0, logprobs=0,
        )
        for q in asked
    ]  # fmt: skip
    found = subject.write("natural-questions", requests)
    written = [g.text.strip() for g in found]
    right = [
        any(normal(w) == normal(a) for a in answers[q.pairs[0][0]])
        for w, q in zip(written, asked, strict=True)
    ]
    sure = np.array([sum(g.logprobs or [-math.inf]) for g in found])
    surest = np.argsort(-sure, kind="stable")[: max(1, round(SUREST * len(asked)))]
    told = {"shots": shots, "example_seed": settings.seed, "answer_tokens": ANSWER_TOKENS}
    protocol = (
        "`Q:` and `A:` lines of the examples, then `Q: question` and `A:`; greedy to the line end; "
        "right if it is one of the answers but for case, punctuation and articles"
    )
    scores = [
        mean("natural-questions exact match", right, protocol, settings=told),
        mean(
            "natural-questions.surest exact match",
            [right[i] for i in surest],
            f"{protocol}; of the {SUREST:.0%} of answers that the model finds likeliest",
            settings=told,
        ),
    ]
    items = [
        {"question": q.pairs[0][0], "answers": answers[q.pairs[0][0]], "written": w, "right": r,
         "log_p": float(p)}
        for q, w, r, p in zip(asked, written, right, sure, strict=True)
    ]  # fmt: skip
    texts = ["".join(q.pairs[0]) for q in asked]
    return Outcome(scores, file.digest, [str(file.path)], items, texts)


def _read(file: DataFile) -> tuple[list[Question], dict[str, list[str]]]:
    questions: list[Question] = []
    answers: dict[str, list[str]] = {}
    for number, record in enumerate(file.records("question", "answer"), start=1):
        each = [str(a) for a in record["answer"]] if isinstance(record["answer"], list) else []
        if not each:
            raise UserError(f"{file.path}, item {number}: no list of answers; check the file")
        prompt = f"Q: {str(record['question']).strip().rstrip('?')}?\nA:"
        questions.append(Question([(prompt, f" {each[0]}")], 0))
        answers[prompt] = each
    return questions, answers


SOURCE = Source(
    ("NQ-open.dev.jsonl", "NQ-open.efficientqa.dev.1.1.jsonl"),
    "https://raw.githubusercontent.com/google-research-datasets/natural-questions/master/nq_open/"
    "NQ-open.dev.jsonl",
    "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
    "google-research-datasets/nq_open:nq_open/validation-00000-of-00001.parquet",
)
TASKS = (Task("natural-questions", "facts from memory", _run, (SOURCE,)),)
