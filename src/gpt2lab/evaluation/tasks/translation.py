"""Translation (paper section 3.7): lines `english sentence = french sentence`, the last open."""

import html
import re
from collections.abc import Sequence
from functools import partial

import numpy as np

from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import Score, Sums
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.questions import Question, with_examples
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited
from gpt2lab.generation import Request, Sampling

SHOTS, MOST_TOKENS = 5, 128
_SEGMENT = re.compile(r"<seg[^>]*>(.*?)</seg>", re.DOTALL)
# The first sentence ends where a sentence does.
_SENTENCE = re.compile(r".*?[.!?](?=[\s\"”»)]|$)[\"”»)]*")


def bleu(sums_RK: Sums) -> Sums:
    """Corpus BLEU of summed counts: right and all n-grams of 1 to 4 words, both lengths."""
    right_R4, all_R4 = sums_RK[..., 0:4], sums_RK[..., 4:8]
    length_R, reference_R = sums_RK[..., 8], sums_RK[..., 9]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_R = np.log(right_R4 / all_R4).mean(-1)
        brevity_R = np.minimum(0.0, 1 - reference_R / length_R)
        value = 100 * np.exp(log_R + brevity_R)
    return np.where(np.isfinite(value), value, 0.0)


def counts(written: Sequence[str], references: Sequence[str]) -> Sums:
    """Per sentence what `bleu` adds up, [N, 10]; words as sacrebleu's 13a cuts them."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError(
            "BLEU is computed with sacrebleu; install it with: pip install 'gpt2lab[eval]'"
        ) from None
    metric = BLEU(effective_order=True)
    rows = []
    for one, reference in zip(written, references, strict=True):
        score = metric.sentence_score(one, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.float64)


def _segments(file: DataFile) -> list[str]:
    found = [" ".join(html.unescape(s).split()) for s in _SEGMENT.findall(file.text)]
    if not found:
        raise UserError(f"{file.path} has no <seg> elements; fetch it again")
    return found


def _run(into: str, subject: Subject, data: Data, settings: Settings) -> Outcome:
    files = {"fr": data.find(FRENCH), "en": data.find(ENGLISH)}
    source, target = ("en", "fr") if into == "fr" else ("fr", "en")
    texts = {language: _segments(file) for language, file in files.items()}
    if len(texts["fr"]) != len(texts["en"]):
        raise UserError(
            f"{files['fr'].path} has {len(texts['fr']):,} sentences, {files['en'].path} "
            f"{len(texts['en']):,}; they do not belong together"
        )
    questions = [
        Question([(f"{a} =", f" {b}")], 0)
        for a, b in zip(texts[source], texts[target], strict=True)
    ]
    shots = SHOTS if settings.shots is None else settings.shots
    shown, asked = with_examples(questions, shots, settings, str(files[source].path))
    shown = shown.replace("\n\n", "\n")
    asked = limited(asked, settings, files[source])
    greedy = Sampling(temperature=0)
    requests = [
        Request(
            tuple(subject.tokenizer.encode(shown + q.pairs[0][0])), MOST_TOKENS, greedy,
            stop=("\n",), seed=0,
        )
        for q in asked
    ]  # fmt: skip
    name = f"wmt14-{source}-{target}"
    written = [first_sentence(g.text) for g in subject.write(name, requests)]
    references = [q.pairs[0][1].strip() for q in asked]
    told = {"shots": shots, "example_seed": settings.seed, "most_tokens": MOST_TOKENS}
    score = Score(
        f"{name} BLEU", "BLEU", counts(written, references),
        "lines `sentence = its translation` as examples, then `sentence =`; greedy, the first "
        "sentence; corpus BLEU of sacrebleu's 13a words, no smoothing", bleu, told,
    )  # fmt: skip
    items = [
        {"sentence": q.pairs[0][0].removesuffix(" ="), "written": w, "reference": r}
        for q, w, r in zip(asked, written, references, strict=True)
    ]
    both = ["".join(q.pairs[0]) for q in asked]
    digest = f"{files[source].digest} {files[target].digest}"
    return Outcome([score], digest, [str(f.path) for f in files.values()], items, both)


def first_sentence(text: str) -> str:
    """Up to the first end of a sentence, or all of a line without one."""
    line = text.strip().partition("\n")[0]
    found = _SENTENCE.match(line)
    return found[0] if found else line


_WHERE = "http://www.statmt.org/wmt14/test-full.tgz"
FRENCH = Source(("newstest2014-fren-src.fr.sgm", "newstest2014-fren-src.fr.first-half.sgm"), _WHERE)
ENGLISH = Source(
    ("newstest2014-fren-ref.en.sgm", "newstest2014-fren-ref.en.first-half.sgm"), _WHERE
)
TASKS = tuple(
    Task(f"wmt14-{name}", summary, partial(_run, into), (FRENCH, ENGLISH))
    for name, summary, into in (
        ("en-fr", "translation into French", "fr"),
        ("fr-en", "translation into English", "en"),
    )
)
