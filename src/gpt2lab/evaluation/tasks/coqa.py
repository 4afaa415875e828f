"""CoQA (paper section 3.5): questions about a text in conversation, answered by greedy decoding."""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import Score, percent
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited
from gpt2lab.generation import Request, Sampling

ANSWER_TOKENS = 32
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Turn(NamedTuple):
    """One question, with everything said before it."""

    prompt: str
    answers: list[str]
    """By one or several people."""
    domain: str
    story: int
    text: str


def normal(text: str) -> list[str]:
    """Words without case, punctuation and articles, as SQuAD's script compares them."""
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def f1(answer: str, truth: str) -> float:
    """Overlap of words: the harmonic mean of precision and recall, 0 to 1."""
    a, b = normal(answer), normal(truth)
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def turn_f1(answer: str, truths: Sequence[str]) -> float:
    """As CoQA has it: one person's answer after the other is left out, as people are compared."""
    if len(truths) == 1:
        return f1(answer, truths[0])
    each = [f1(answer, truth) for truth in truths]
    return sum(max(each[:i] + each[i + 1 :]) for i in range(len(each))) / len(each)


def read(file: DataFile) -> list[Turn]:
    """All turns of all conversations."""
    if file.path.name.endswith(".parquet"):
        raise UserError(f"{file.path}: CoQA is read from its own JSON; give coqa-dev-v1.0.json")
    try:
        stories = json.loads(file.text)["data"]
        return [turn for number, story in enumerate(stories) for turn in _turns(story, number)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file.path} is not CoQA's JSON ({error!r}); fetch it again") from None


def _turns(story: dict[str, Any], number: int) -> list[Turn]:
    said = story["story"].strip() + "\n\n"
    turns = []
    more = story.get("additional_answers", {}).values()
    for i, (question, answer) in enumerate(zip(story["questions"], story["answers"], strict=True)):
        said += f"Q: {question['input_text']}\n"
        truths = [answer["input_text"], *(person[i]["input_text"] for person in more)]
        turns.append(Turn(said + "A:", truths, story["source"], number, story["story"]))
        said += f"A: {answer['input_text']}\n"
    return turns


def _run(subject: Subject, data: Data, settings: Settings) -> Outcome:
    file = data.find(SOURCE)
    turns: list[Turn] = limited(read(file), settings, file)
    greedy = Sampling(temperature=0)
    requests = [
        Request(
            tuple(subject.tokenizer.encode(t.prompt)), ANSWER_TOKENS, greedy, stop=("\n",), seed=0
        )
        for t in turns
    ]
    written = [g.text.strip() for g in subject.write("coqa", requests)]
    scored = [turn_f1(w, t.answers) for w, t in zip(written, turns, strict=True)]
    told = {"answer_tokens": ANSWER_TOKENS}
    protocol = (
        "text, `Q:` and `A:` lines so far with people's answers, then `A:`; greedy to the line "
        "end; mean over questions, interval over texts"
    )
    domains = sorted({t.domain for t in turns})
    scores = [_score("coqa F1", turns, scored, protocol, told)]
    for domain in domains if len(domains) > 1 else []:
        inside = [(t, s) for t, s in zip(turns, scored, strict=True) if t.domain == domain]
        part = _score(
            f"coqa[{domain}] F1", [t for t, _ in inside], [s for _, s in inside], protocol, told
        )
        scores.append(part)
    items = [
        {"domain": t.domain, "question": t.prompt.rsplit("Q: ", 1)[1], "answers": t.answers,
         "written": w, "f1": s}
        for t, w, s in zip(turns, written, scored, strict=True)
    ]  # fmt: skip
    texts = list({t.story: t.text for t in turns}.values())
    return Outcome(scores, file.digest, [str(file.path)], items, texts)


def _score(
    name: str, turns: Sequence[Turn], f1s: Sequence[float], protocol: str, told: dict[str, Any]
) -> Score:
    """Questions about one text are not independent, so texts are what is drawn again."""
    sums = {t.story: np.zeros(2) for t in turns}
    for turn, value in zip(turns, f1s, strict=True):
        sums[turn.story] += (value, 1)
    return Score(name, "F1", np.stack(list(sums.values())), protocol, percent, told)


SOURCE = Source(
    ("coqa-dev-v1.0.json",),
    "https://nlp.stanford.edu/data/coqa/coqa-dev-v1.0.json",
    "dfa367a9733ce53222918d0231d9b3bedc2b8ee831a2845f62dfc70701f2540a",
)
TASKS = (Task("coqa", "questions in conversation about a text", _run, (SOURCE,)),)
