"""Long texts: a model continues the beginnings of documents, and so did their human authors.

Everything is measured on both. By window: how well topic and style of the prompt can be recognised,
how much is repeated, how likely the model finds the text. Over whole texts: repetition, distinct
n-grams, self-BLEU, Zipf's law, MAUVE.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.errors import UserError
from gpt2lab.evaluation import drift, variety
from gpt2lab.evaluation.documents import digest, texts_of
from gpt2lab.evaluation.likelihood import Ids, Window
from gpt2lab.evaluation.mauve import histograms, mauve
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.evaluation.scores import Score, Sums, jackknife, mean, percent, point, ratio
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome
from gpt2lab.generation import Request, Sampling

# Fewer texts than this tell nothing; and nothing of distributions, in clusters of ten.
FEWEST, FEWEST_FOR_MAUVE = 20, 100
# How often people's texts are parted at random into halves that MAUVE compares.
_HALVES = 5
# Of a document, so many characters a token hold the tokens that are wanted, nearly always.
_CHARACTERS = 32
# Added to the logit of the end of text, so that all texts are equally long.
_NEVER = -1e6
MODEL, HUMAN = "model", "human"

Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setup:
    """What is written, and how it is cut up."""

    prompt: int = 128
    """Tokens of a document that are given."""
    tokens: int = 512
    """Tokens that are written, and compared with as many of the document."""
    window: int = 64
    """Tokens of a window."""
    samples: int = 200
    """Documents."""
    sampling: Sampling = field(default_factory=lambda: Sampling(top_k=40))
    """The paper's samples are drawn with top-k 40."""
    seed: int = 0
    """Of the documents and of what is drawn."""

    def __post_init__(self) -> None:
        for name, least in (("prompt", 1), ("window", 8), ("samples", FEWEST), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.tokens < self.window or self.tokens % self.window:
            raise UserError(
                f"tokens is {self.tokens}; it must be a multiple of the window of {self.window}"
            )


def longform(
    subject: Subject, path: Path, setup: Setup, *, judge: Subject | None = None
) -> Outcome:
    """Let the model continue documents, and measure what it writes beside what people wrote.

    path: token shards, of which the held-out split `val` is used, or files of text.
    judge: the model whose hidden states MAUVE compares texts by; the subject itself if not given.
    Raises UserError if the documents are too few or too short, or do not fit the context.
    """
    if setup.prompt + setup.tokens > subject.context:
        raise UserError(
            f"a prompt of {setup.prompt} and {setup.tokens} tokens of text do not fit the model's "
            f"context of {subject.context}; ask for fewer --tokens"
        )
    prompts, human = beginnings(subject, texts_of(path, "val"), setup)
    return Study(subject, judge or subject, setup, prompts, human).outcome(str(path))


def beginnings(
    subject: Subject, documents: Iterable[str], setup: Setup
) -> tuple[list[Ids], list[Ids]]:
    """Prompts drawn at random from documents that are long enough, and how those go on.

    Documents are read once, and no more of them kept than are wanted.
    """
    length = setup.prompt + setup.tokens
    rng = np.random.default_rng(setup.seed)
    drawn: list[Ids] = []
    found = 0
    with subject.step("documents"):
        for text in documents:
            ids = subject.ids(text[: _CHARACTERS * length])
            if len(ids) < length <= len(text):
                ids = subject.ids(text)
            if len(ids) < length:
                continue
            found += 1
            place = int(rng.integers(found))
            if found <= setup.samples:
                drawn.append(ids[:length])
            elif place < setup.samples:
                drawn[place] = ids[:length]
    if found < setup.samples:
        raise UserError(
            f"{found:,} documents have the {length:,} tokens of prompt and text, "
            f"{setup.samples:,} are wanted; give more documents, or fewer --samples or --tokens"
        )
    return [ids[: setup.prompt] for ids in drawn], [ids[setup.prompt :] for ids in drawn]


class Study:
    """What the model writes, what people wrote, and how both are measured."""

    def __init__(
        self,
        subject: Subject,
        judge: Subject,
        setup: Setup,
        prompts: Sequence[Ids],
        human: Sequence[Ids],
    ) -> None:
        self.subject, self.judge, self.setup = subject, judge, setup
        self.prompts = prompts
        self.told = asdict(setup)
        said = self._decoded(prompts)
        self.views: dict[str, drift.Topic | drift.Style] = {
            "topic": drift.Topic(said),
            "style": drift.Style(said),
        }
        self.texts = {MODEL: self._written(), HUMAN: human}

    def _written(self) -> list[Ids]:
        setup, end = self.setup, self.subject.tokenizer.end_of_text
        never = {**setup.sampling.logit_bias, end: _NEVER}
        sampling = replace(setup.sampling, logit_bias=never)
        requests = [
            Request(tuple(ids.tolist()), setup.tokens, sampling, seed=setup.seed + number)
            for number, ids in enumerate(self.prompts)
        ]
        return [np.array(g.ids, np.int32) for g in self.subject.write("long texts", requests)]

    def outcome(self, name: str) -> Outcome:
        """Every number, and every text."""
        prompts, human, model = (
            self._decoded(part) for part in (self.prompts, self.texts[HUMAN], self.texts[MODEL])
        )
        data = digest([*prompts, *human])
        scores = [
            *self._kept("topic"), *self._kept("style"), *self._repeated(), *self._likelihood(),
            *self._variety(),
        ]  # fmt: skip
        others = [*self._of_all_texts(data), *self._mauve(data)]
        items = [
            {"prompt": p, "human": h, "model": m}
            for p, h, m in zip(prompts, human, model, strict=True)
        ]
        return Outcome(scores, data, [name], items, others=others)

    def _kept(self, name: str) -> list[Score]:
        """How well the prompt is recognised by window, over the whole text, and until when."""
        how = (
            f"share of the other prompts that a text is less like in {name} than its own; "
            "50 % is chance"
        )
        view = self.views[name]
        prompts_NV = view.vectors(self._decoded(self.prompts))
        scores: list[Score] = []
        tables: dict[str, Table] = {}
        for who, ids in self.texts.items():
            pieces = [self._decoded(w) for w in self._windows(ids)]
            tables[who] = np.stack(
                [drift.recognised(view.vectors(p), prompts_NV) for p in pieces], axis=1
            )
            whole = drift.recognised(view.vectors(self._decoded(ids)), prompts_NV)
            scores.append(self._mean(f"{name} kept", who, whole, how))
            scores += self._curve(f"{name} kept", who, tables[who], how)
        lost = drift.until_lost(tables[MODEL], tables[HUMAN], self.setup.window)
        how = (
            f"tokens, in windows of {self.setup.window}, after which to the end less than half of "
            f"the {name} is left that people keep; {self.setup.tokens} if it is not lost"
        )
        told = {**self.told, "of": MODEL}
        return [*scores, Score(f"{name} lost after", "tokens", lost, how, drift.lost_after, told)]

    def _repeated(self) -> list[Score]:
        how = "share of tokens that end a 4-gram that stood in prompt or text before"
        scores = []
        for who in self.texts:
            again = [variety.repeats(ids, 4, self.setup.prompt) for ids in self._whole(who)]
            scores += self._curve("repeated", who, self._by_window(np.stack(again)), how)
        return scores

    def _likelihood(self) -> list[Score]:
        how = "-log p of the text's tokens under the model, without any sampling rule"
        scores = []
        for who in self.texts:
            asked = [Window(ids, self.setup.tokens) for ids in self._whole(who)]
            found = self.subject.score(f"likelihood of texts by the {who}", asked)
            table = self._by_window(np.stack([s.nats for s in found]))
            scores.append(self._mean("surprisal", who, table.mean(1), how, ratio))
            scores += self._curve("surprisal", who, table, how, ratio)
        return scores

    def _variety(self) -> list[Score]:
        scores = []
        for who, ids in self.texts.items():
            for n in (1, 2, 3, 4):
                again = [variety.repetition(one, n) for one in ids]
                how = f"share of a text's {n}-grams of tokens that stood in it before (seq-rep-n)"
                scores.append(self._mean(f"rep-{n}", who, again, how))
            how = "BLEU-4 of each text with all others as references, on tokens"
            scores.append(self._mean("self-BLEU", who, variety.self_bleu(ids) / 100, how))
        return scores

    def _of_all_texts(self, data: str) -> list[Measurement]:
        """What is of all texts together and no mean over them."""
        found = []
        for who, ids in self.texts.items():
            told = {**self.told, "of": who}
            for n in (1, 2, 3):
                value, without = variety.distinct(ids, n)
                how = f"different {n}-grams of tokens in all texts together, over all of them"
                name = _of(f"distinct-{n}", who)
                found.append(jackknife(name, "%", 100 * value, 100 * without, how, data, told))
            value, without = variety.zipf(ids)
            how = (
                "least squares of log frequency on log rank over the "
                f"{variety.RANKS:,} most frequent tokens of all texts together"
            )
            name = _of("Zipf's s", who)
            found.append(jackknife(name, "", value, without, how, data, told))
        return found

    def _mauve(self, data: str) -> list[Measurement]:
        """Model against human, and how near random halves of the human texts are to each other."""
        count = len(self.prompts)
        if count < FEWEST_FOR_MAUVE:
            return []
        read = {
            who: self.judge.features(
                f"features of texts by the {who}",
                [self.judge.ids(text) for text in self._decoded(ids)],
            )
            for who, ids in self.texts.items()
        }
        how = (
            "final hidden states at the last token of the text without its prompt, one cluster "
            "for ten texts"
        )
        told = {**self.told, "features": self.judge.digest}
        sums = histograms(read[HUMAN], read[MODEL])
        without = mauve(sums.sum(0) - sums)
        near = jackknife("MAUVE", "of 1", float(mauve(sums.sum(0))), without, how, data, told)
        rng = np.random.default_rng(self.setup.seed)
        values = []
        for _ in range(_HALVES):
            order, half = rng.permutation(count), count // 2
            one, other = read[HUMAN][order[:half]], read[HUMAN][order[half : 2 * half]]
            values.append(float(mauve(histograms(one, other).sum(0))))
        how = f"mean over {_HALVES} random halves of the human texts, each half against the other"
        name = "MAUVE, human halves"
        value = float(np.mean(values))
        return [near, Measurement(name, value, "of 1", half, how, data, settings=told)]

    def _curve(
        self, name: str, who: str, table_NW: Table, how: str,
        form: Callable[[Sums], Sums] = percent,
    ) -> list[Score]:  # fmt: skip
        """A score a window."""
        scores = []
        for w, values in enumerate(table_NW.T):
            first, last = w * self.setup.window + 1, (w + 1) * self.setup.window
            told = point(name, "tokens after the prompt", last, who)
            score = self._mean(name, who, values, f"{how}; tokens {first} to {last}", form)
            label = f"{score.name} [{first}-{last}]"
            scores.append(replace(score, name=label, settings={**score.settings, **told}))
        return scores

    def _mean(
        self, name: str, who: str, values: npt.ArrayLike, how: str,
        form: Callable[[Sums], Sums] = percent,
    ) -> Score:  # fmt: skip
        unit = "%" if form is percent else "nats/token"
        told = {**self.told, "of": who}
        return mean(_of(name, who), values, how, unit=unit, form=form, settings=told)

    def _decoded(self, texts: Sequence[Ids]) -> list[str]:
        return [self.subject.tokenizer.decode(ids.tolist()) for ids in texts]

    def _windows(self, texts: Sequence[Ids]) -> list[list[Ids]]:
        width = self.setup.window
        starts = range(0, self.setup.tokens, width)
        return [[ids[start : start + width] for ids in texts] for start in starts]

    def _whole(self, who: str) -> list[Ids]:
        pairs = zip(self.prompts, self.texts[who], strict=True)
        return [np.concatenate(pair) for pair in pairs]

    def _by_window(self, values_NT: npt.NDArray[Any]) -> Table:
        """Means by window [N, W]."""
        return values_NT.reshape(len(values_NT), -1, self.setup.window).mean(-1, dtype=np.float64)


def _of(name: str, who: str) -> str:
    return name if who == MODEL else f"{name}, {who}"
