"""LAMBADA (paper section 3.3): the last word of a passage, in the variants whose figures are told.

Accuracy depends on three choices that papers seldom name: which text (OpenAI's own, with case and
punctuation, or the published one, in lower case and tokens), what is to be right (the last token or
all of the last word), and whether stop words may be answers.
"""

from functools import partial

import numpy as np

from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import Score, mean, perplexity
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited
from gpt2lab.tokenizer.bpe import Tokenizer

# NLTK's list of English stop words as it was in 2019.
_WORDS = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her
hers herself it its itself they them their theirs themselves what which who whom this that these
those am is are was were be been being have has had having do does did doing a an the and but if or
because as until while of at by for with about against between into through during before after
above below to from up down in out on off over under again further then once here there when where
why how all any both each few more most other some such no nor not only own same so than too very s
t can will just don should now"""
STOP_WORDS = frozenset(_WORDS.split())
_QUOTES = str.maketrans({"“": '"', "”": '"'})
_FILTER = (
    "tokens that spell one of NLTK's 127 stop words of 2019 are no answers for the word's first "
    "token"
)


def _openai(file: DataFile) -> list[str]:
    """The text as its author describes it (openai/gpt-2 issue 131)."""
    texts = [str(r["text"]).translate(_QUOTES) for r in file.records("text")]
    return ["\n" + t.replace("``", '"').replace("''", '"').strip() for t in texts]


def _published(file: DataFile) -> list[str]:
    return [line.strip() for line in file.text.split("\n") if line.strip()]


def stop_tokens(tokenizer: Tokenizer) -> set[int]:
    """Tokens that spell a stop word, with or without a blank before it."""
    texts = (tokenizer.decode([i]).strip().lower() for i in range(tokenizer.size))
    return {i for i, text in enumerate(texts) if text in STOP_WORDS}


def _run(text: str, source: Source, subject: Subject, data: Data, settings: Settings) -> Outcome:
    file = data.find(source)
    passages = _openai(file) if text == "openai" else _published(file)
    passages = limited(passages, settings, file)
    pairs = []
    for number, passage in enumerate(passages, start=1):
        before, blank, word = passage.rpartition(" ")
        if not before.strip():
            raise UserError(f"{file.path}, passage {number}: it is one word; check the file")
        pairs.append((before, blank + word))
    name = f"lambada[{text}]"
    stops = stop_tokens(subject.tokenizer)
    found = subject.endings(name, pairs, excluded=stops)
    word_nats = np.array([s.total for s in found])
    token_nats = np.array([float(s.nats[-1]) for s in found])
    # A token that is filtered out is no answer, which rank_allowed does not say of itself.
    whole = subject.tokenizer.encode_batch(passages)
    allowed = [
        not s.rank_allowed[0] and ids[-len(s.nats)] not in stops
        for s, ids in zip(found, whole, strict=True)
    ]
    token_allowed = [
        not s.rank_allowed[-1] and ids[-1] not in stops for s, ids in zip(found, whole, strict=True)
    ]
    rest = [not s.rank[1:].any() for s in found]
    form = "OpenAI's text, after a line end" if text == "openai" else "the published text"
    token = f"{form}; the last token of the passage"
    word = f"{form}; every token of the last word"
    scores = [
        mean(f"{name}.last_token accuracy", [not s.rank[-1] for s in found], f"{token} is greedy"),
        mean(f"{name}.last_token+stopfilter accuracy", token_allowed, f"{token}; {_FILTER}"),
        mean(f"{name}.last_word accuracy", [s.greedy for s in found], f"{word} is greedy"),
        mean(
            f"{name}.last_word+stopfilter accuracy",
            [a and r for a, r in zip(allowed, rest, strict=True)],
            f"{word}; {_FILTER}",
        ),
        _perplexity(f"{name}.last_token perplexity", token_nats, token),
        _perplexity(f"{name}.last_word perplexity", word_nats, word),
    ]
    items = [
        {"passage": before, "word": word.strip(), "nats": s.total, "greedy": s.greedy}
        for (before, word), s in zip(pairs, found, strict=True)
    ]
    return Outcome(scores, file.digest, [str(file.path)], items, passages)


def _perplexity(name: str, nats: "np.typing.NDArray[np.float64]", protocol: str) -> Score:
    sums = np.stack([nats, np.ones_like(nats)], -1)
    return Score(name, "perplexity", sums, protocol, perplexity)


_OPENAI = Source(
    ("lambada_test.jsonl", "lambada_test_en.jsonl"),
    "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
    "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
    "EleutherAI/lambada_openai:data/lambada_test_en.jsonl",
)
_STANDARD = Source(
    ("lambada_test_plain_text.txt", "lambada_development_plain_text.txt"),
    "https://zenodo.org/record/2630551/files/lambada-dataset.tar.gz",
    "8fbe499096ddbdcbbd0cac406861b5026fb451d15b8fe04e0e4f3d082f2ad5d7",
)
TASKS = tuple(
    Task(f"lambada[{text}]", summary, partial(_run, text, source), (source,))
    for text, summary, source in (
        ("openai", "the last word of 5,153 passages, OpenAI's text", _OPENAI),
        ("std", "the same, the published text in lower case and tokens", _STANDARD),
    )
)
