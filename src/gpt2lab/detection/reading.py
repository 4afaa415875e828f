"""What models think of each token of texts: the evidence that detectors weigh.

Each text goes once through each model, and once more through both where their expectations are
compared. Long ones are read in windows of the context that advance by half of it, so that each
token is seen after at least half a context. White space is read as single blanks: the layout of a
text is lost or changed on its way to a detector, and people's texts in a set have that of the files
they are from, so what it would tell is not who wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import Ids, Scores, Window, windows
from gpt2lab.evaluation.subject import Subject
from gpt2lab.generation.backend import Backend, Chunk, backend
from gpt2lab.model.native import FACTS
from gpt2lab.tokenizer.bpe import Tokenizer

# Predictions of two models that are held at once.
_OUTPUTS = 128


@dataclass(frozen=True, eq=False)
class Reading:
    """A text as models saw it."""

    ids: Ids
    """[T]."""
    tokenizer: Tokenizer
    scores: tuple[Scores, ...] = ()
    """Of each model in order: T rows."""
    cross: npt.NDArray[np.float32] | None = None
    """Nats that the second model expects the first one to need, at each token [T]."""

    @cached_property
    def text(self) -> str:
        """The text."""
        return self.tokenizer.decode(self.ids.tolist())

    def part(self, start: int, end: int) -> "Reading":
        """Some of its tokens; those before them are still what they were read after."""
        return replace(
            self,
            ids=self.ids[start:end],
            scores=tuple(Scores(s.table_TX[start:end]) for s in self.scores),
            cross=None if self.cross is None else self.cross[start:end],
        )

    def __len__(self) -> int:
        return len(self.ids)


class Reader:
    """Models of one vocabulary that read texts.

    Raises UserError if their tokens differ.
    """

    def __init__(self, scorers: Mapping[str, Subject]) -> None:
        self.scorers = dict(scorers)
        first = next(iter(self.scorers.values()))
        for name, subject in self.scorers.items():
            if subject.tokenizer.digest != first.tokenizer.digest:
                raise UserError(
                    f"{name} has other tokens than {next(iter(self.scorers))}; models that read "
                    "texts together must share one vocabulary"
                )
        self.tokenizer, self._step = first.tokenizer, first.step
        self._first = first

    @property
    def names(self) -> list[str]:
        """The models, in the order of a reading's scores."""
        return list(self.scorers)

    def ids(self, text: str) -> Ids:
        """The tokens of a text, its white space as single blanks."""
        return self._first.ids(" ".join(text.split()))

    def read(self, texts: Sequence[str], *, best: int = 0, cross: bool = False) -> list[Reading]:
        """Read texts.

        best: how many alternatives the first model tells for each token.
        cross: whether what the second expects of the first is computed too, with every logit.
        """
        ids = [self.ids(text) for text in texts]
        return self.read_ids(ids, best=best, cross=cross)

    def read_ids(self, ids: Sequence[Ids], *, best: int = 0, cross: bool = False) -> list[Reading]:
        """Read texts given as tokens."""
        columns: list[list[Scores]] = []
        for name, subject in self.scorers.items():
            stride = max(1, subject.context // 2)
            tell = best if not columns else 0
            found = subject.rolling(f"reading with {name}", ids, stride, best=tell)
            columns.append([concatenated(parts) for parts in found])
        crossed = self._crossed(ids) if cross else [None] * len(ids)
        rows = zip(ids, zip(*columns, strict=True), crossed, strict=True)
        return [Reading(i, self.tokenizer, scores, x) for i, scores, x in rows]

    def _crossed(self, ids: Sequence[Ids]) -> list[npt.NDArray[np.float32]]:
        if len(self.scorers) < 2:
            raise UserError("two models are needed to compare what they expect; name a second one")
        performer, observer = list(self.scorers.values())[:2]
        context = min(performer.context, observer.context)
        one_backend, other = (backend(s.model, 1, context) for s in (performer, observer))
        end = np.array([self.tokenizer.end_of_text], np.int32)
        found = []
        with self._step("comparing what two models expect") as on_progress:
            for number, one in enumerate(ids, start=1):
                whole = np.concatenate([end, one])
                each = windows(whole, context, max(1, context // 2))
                parts = [_cross(one_backend, other, w) for w in each]
                found.append(np.concatenate(parts or [np.empty(0, np.float32)]))
                on_progress(number / len(ids))
        return found


def concatenated(parts: Sequence[Scores]) -> Scores:
    """Scores of tokens that follow each other."""
    if not parts:
        return Scores(np.empty((0, FACTS), np.float32))
    return Scores(np.concatenate([p.table_TX for p in parts]))


@torch.inference_mode()
def _cross(performer: Backend, observer: Backend, window: Window) -> npt.NDArray[np.float32]:
    """Cross-entropy of the performer's predictions under the observer's, at each scored token."""
    inputs = window.ids[:-1].tolist()
    rows: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(inputs), _OUTPUTS):
        chunk = inputs[start : start + _OUTPUTS]
        expected, tried = (
            b.forward([Chunk(0, start, chunk, len(chunk))]).float().log_softmax(-1)
            for b in (observer, performer)
        )
        rows.append(-(expected.exp() * tried).sum(-1).cpu().numpy())
    return np.concatenate(rows)[-window.scored :]
