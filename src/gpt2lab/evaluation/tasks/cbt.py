"""Children's Book Test (paper section 3.2): which of ten words was left out of a sentence."""

import re
from functools import partial
from typing import NamedTuple

from gpt2lab.errors import UserError
from gpt2lab.evaluation.detokenize import CHILDRENS_BOOKS, join
from gpt2lab.evaluation.scores import mean
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited

BLANK = "X" * 5
_NUMBER = re.compile(r"^\d+ ")


class _Question(NamedTuple):
    sentences: list[str]
    """Twenty, and the one with the blank."""
    answer: str
    options: list[str]


def _read(file: DataFile) -> list[_Question]:
    """Questions of 21 numbered lines; the last is `21 query TAB answer TAB TAB a|b|c`."""
    questions: list[_Question] = []
    sentences: list[str] = []
    for number, line in enumerate(file.text.split("\n"), start=1):
        if not line.strip():
            continue
        sentence, *rest = _NUMBER.sub("", line).split("\t")
        sentences.append(sentence.strip())
        if not rest:
            continue
        where = f"{file.path}, line {number}"
        options = rest[-1].strip().split("|")
        answer = rest[0].strip()
        if BLANK not in sentence or answer not in options:
            raise UserError(f"{where}: no {BLANK}, or its answer is no option; check the file")
        questions.append(_Question(sentences, answer, options))
        sentences = []
    return questions


def _run(kind: str, source: Source, subject: Subject, data: Data, settings: Settings) -> Outcome:
    file = data.find(source)
    questions = limited(_read(file), settings, file)
    pairs: list[tuple[str, str]] = []
    lines = joined = 0
    whole: list[str] = []
    for question in questions:
        texts = [join(s, CHILDRENS_BOOKS) for s in question.sentences]
        lines += len(texts)
        joined += sum(t.invertible for t in texts)
        before, _, after = texts[-1].text.partition(BLANK)
        context = " ".join([*(t.text for t in texts[:-1]), before])
        whole.append(context + question.answer + after)
        pairs += [(context, option + after) for option in question.options]
    name = f"cbt-{kind}"
    found = iter(subject.endings(name, pairs))
    chosen = []
    for question in questions:
        nats = {option: next(found).total for option in question.options}
        chosen.append(min(nats, key=lambda option: nats[option]))
    right = [q.answer == c for q, c in zip(questions, chosen, strict=True)]
    protocol = (
        "the option after which option and rest of the sentence together are likeliest, after "
        "the twenty sentences before; text joined from its tokens"
    )
    settings_told = {"detokenizer": "Penn Treebank", "round_trip": f"{joined:,}/{lines:,} lines"}
    items = [
        {"sentence": q.sentences[-1], "answer": q.answer, "chosen": c}
        for q, c in zip(questions, chosen, strict=True)
    ]
    score = mean(f"{name} accuracy", right, protocol, settings=settings_told)
    return Outcome([score], file.digest, [str(file.path)], items, whole)


TASKS = tuple(
    Task(f"cbt-{kind.lower()}", f"{summary} left out of children's books", run, (source,))
    for kind, summary in (("CN", "common nouns"), ("NE", "named entities"))
    for source in [
        Source(
            (
                f"cbtest_{kind}_valid_2000ex.txt",
                f"sample_cbtest_{kind}_valid_2000ex.txt",
            ),
            "http://www.thespermwhale.com/jaseweston/babi/CBTest.tgz",
            "932df0cadc1337b2a12b4c696b1041c1d1c6d4b6bd319874c6288f02e4a61e92",
        )
    ]
    for run in [partial(_run, kind.lower(), source)]
)
