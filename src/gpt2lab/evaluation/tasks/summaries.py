"""Summaries of CNN and Daily Mail articles (paper section 3.6): what follows `TL;DR:`."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import Score, percent
from gpt2lab.evaluation.sources import Data, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited
from gpt2lab.generation import Request, Sampling

HINT = "\nTL;DR:"
TOKENS, TOP_K, SENTENCES = 100, 2, 3
ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeLsum": "ROUGE-L"}
_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]?[A-Z0-9])|\n+")


def sentences(text: str) -> list[str]:
    """The sentences of a text: parted after . ! ? before what begins one, and at line ends."""
    return [part for piece in _END.split(text.strip()) if (part := piece.strip())]


def scorer() -> Callable[[str, str], dict[str, float]]:
    """F1 by kind of ROUGE, of a summary and a reference with a sentence a line."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError(
            "ROUGE is computed with rouge-score; install it with: pip install 'gpt2lab[eval]'"
        ) from None
    rouge = RougeScorer(list(ROUGE), use_stemmer=True)
    return lambda summary, reference: {
        kind: found.fmeasure for kind, found in rouge.score(reference, summary).items()
    }


def _run(subject: Subject, data: Data, settings: Settings) -> Outcome:
    file = data.find(SOURCE)
    rows = limited(file.records("article", "highlights"), settings, file)
    articles = [str(row["article"]).strip() for row in rows]
    draw = random.Random(settings.seed)
    ways: dict[str, list[list[str]]] = {
        "": _written(subject, articles, HINT, settings.seed),
        ".no_hint": _written(subject, articles, "", settings.seed),
        ".lead_3": [sentences(a)[:SENTENCES] for a in articles],
        ".random_3": [_some(sentences(a), draw) for a in articles],
    }
    rouge = scorer()
    told = {"tokens": TOKENS, "top_k": TOP_K, "sampling_seed": settings.seed}
    protocols = {
        "": f"first {SENTENCES} sentences of {TOKENS} tokens, top-k {TOP_K}, after the article "
        "(its end is cut where it does not fit) and TL;DR:",
        ".no_hint": "the same without TL;DR:",
        ".lead_3": "the article's first sentences",
        ".random_3": "sentences of the article drawn at random, in their order",
    }
    references = ["\n".join(sentences(str(row["highlights"]))) for row in rows]
    scores: list[Score] = []
    items: list[dict[str, Any]] = [{"reference": r} for r in references]
    for way, summaries in ways.items():
        each = [
            rouge("\n".join(summary), reference)
            for summary, reference in zip(summaries, references, strict=True)
        ]
        for item, summary in zip(items, summaries, strict=True):
            item[f"cnn-dailymail{way}"] = summary
        values = np.array([[one[kind] for kind in ROUGE] for one in each])
        columns = [*zip(ROUGE.values(), values.T, strict=True), ("ROUGE average", values.mean(1))]
        for name, value in columns:
            sums = np.stack([value, np.ones_like(value)], -1)
            scores.append(
                Score(f"cnn-dailymail{way} {name}", "F1", sums, protocols[way], percent, told)
            )
    return Outcome(scores, file.digest, [str(file.path)], items, articles)


def _written(subject: Subject, articles: Sequence[str], hint: str, seed: int) -> list[list[str]]:
    end = subject.tokenizer.encode(hint)
    room = subject.context - TOKENS - len(end)
    requests = [
        Request(
            (*subject.tokenizer.encode(article)[: max(0, room)], *end), TOKENS,
            Sampling(top_k=TOP_K), seed=seed + number,
        )
        for number, article in enumerate(articles)
    ]  # fmt: skip
    label = "cnn-dailymail" + ("" if hint else ", no hint")
    return [sentences(g.text)[:SENTENCES] for g in subject.write(label, requests)]


def _some(texts: Sequence[str], draw: random.Random) -> list[str]:
    picks = sorted(draw.sample(range(len(texts)), min(SENTENCES, len(texts))))
    return [texts[i] for i in picks]


SOURCE = Source(
    ("3.0.0/test-00000-of-00001.parquet", "cnn_dailymail.jsonl", "cnn_dailymail_test.jsonl"),
    "https://huggingface.co/datasets/abisee/cnn_dailymail (rows of article and highlights)",
    "04e322d2634a96dba76bf9a6294fbbe48e0b36abeae43f13d86ba2c3bebffe4e",
    "abisee/cnn_dailymail:3.0.0/test-00000-of-00001.parquet",
)
TASKS = (Task("cnn-dailymail", "summaries after TL;DR:", _run, (SOURCE,)),)
