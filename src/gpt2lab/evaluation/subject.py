"""The model that is measured: what tasks may ask of it, with every answer kept."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt

from gpt2lab.errors import UserError
from gpt2lab.evaluation.hidden import features
from gpt2lab.evaluation.likelihood import Ids, Scores, Window, continuation, score, windows
from gpt2lab.evaluation.store import Store, weights_digest
from gpt2lab.generation import Generation, Request, generate_each
from gpt2lab.model.native import FACTS
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

# Text is turned into tokens in pieces of so many characters.
_PIECE = 2**20
Progress = Callable[[float], None]
Step = Callable[[str], AbstractContextManager[Progress]]
# Of what has no answer yet, by number: pairs of place among those, and answer.
Ask = Callable[[list[int], Progress], Iterator[tuple[int, bytes]]]


def silent(label: str) -> AbstractContextManager[Progress]:
    """Show no progress."""
    return nullcontext(lambda fraction: None)


class Subject:
    """A model and its tokenizer under measurement.

    store: where answers are kept, and found again.
    step: called with what is done; the context it gives takes the share that is done.
    Raises UserError if model and tokenizer do not belong together.
    """

    def __init__(
        self,
        model: GPT2,
        tokenizer: Tokenizer,
        *,
        store: Store | None = None,
        step: Step = silent,
    ) -> None:
        if tokenizer.size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.size} ids, the model only "
                f"{model.config.vocab_size}; the two do not belong together"
            )
        self.model, self.tokenizer = model, tokenizer
        self.digest = weights_digest(model)
        self.store, self.step = store, step

    @property
    def context(self) -> int:
        """Most tokens the model reads at once."""
        return self.model.config.n_positions

    def ids(self, text: str) -> Ids:
        """Tokens of a text of any length."""
        pieces = self.tokenizer.encode_batch(list(_pieces(text)))
        return np.concatenate([np.array(p, np.int32) for p in pieces] or [np.empty(0, np.int32)])

    def score(
        self, label: str, asked: Sequence[Window], *, excluded: Collection[int] = (), best: int = 0
    ) -> list[Scores]:
        """Scores of windows, in their order; see `likelihood.score`.

        Those with the likeliest tokens are too large to be kept.
        """
        if best:
            with self.step(label) as on_progress:
                scored = score(
                    self.model, asked, excluded=excluded, best=best, on_progress=on_progress
                )
                found = dict(scored)
            return [found[i] for i in range(len(asked))]
        keys = self.score_keys(asked, excluded)

        def ask(new: list[int], on_progress: Progress) -> Iterator[tuple[int, bytes]]:
            these = [asked[i] for i in new]
            for i, found in score(self.model, these, excluded=excluded, on_progress=on_progress):
                yield i, found.table_TX.tobytes()

        answers = self._answers(label, keys, ask)
        return [Scores(np.frombuffer(a, np.float32).reshape(-1, FACTS)) for a in answers]

    def score_keys(self, asked: Sequence[Window], excluded: Collection[int]) -> list[bytes]:
        """Under which scores are kept."""
        kind = f"score {FACTS} {sorted(excluded)}".encode()
        return [self._key(kind, w.scored, w.ids.tobytes()) for w in asked]

    def endings(
        self,
        label: str,
        pairs: Sequence[tuple[str, str]],
        *,
        excluded: Collection[int] = (),
    ) -> list[Scores]:
        """Scores of the second text of each pair, coming after the first.

        A first text that is empty stands for the beginning of a text. Blanks at its end are read
        with the second, as tokens begin with their blank.
        Raises UserError naming the pair that cannot be scored.
        """
        firsts, wholes = [], []
        for first, second in pairs:
            bare = first.rstrip()
            firsts.append(bare)
            wholes.append(bare + first[len(bare) :] + second)
        encoded = self.tokenizer.encode_batch([*firsts, *wholes])
        asked = []
        for number, (before, whole) in enumerate(
            zip(encoded[: len(pairs)], encoded[len(pairs) :], strict=True)
        ):
            context = before or [self.tokenizer.end_of_text]
            try:
                asked.append(continuation(context, whole[len(before) :], self.model.config))
            except UserError as error:
                raise UserError(f"{label}, text {number + 1}: {error}") from None
        return self.score(label, asked, excluded=excluded)

    def rolling(
        self, label: str, texts: Iterable[Ids], stride: int, *, best: int = 0
    ) -> list[list[Scores]]:
        """Scores of every token of each text, in windows that advance by `stride`.

        Each text comes after `<|endoftext|>`.
        """
        first = np.array([self.tokenizer.end_of_text], np.int32)
        each = [list(windows(np.concatenate([first, t]), self.context, stride)) for t in texts]
        flat = iter(self.score(label, [w for group in each for w in group], best=best))
        return [[next(flat) for _ in group] for group in each]

    def features(self, label: str, texts: Sequence[Ids]) -> npt.NDArray[np.float32]:
        """The model's final hidden state after each text [N, D]; long ones are cut at their end."""
        cut = [ids[: self.context] for ids in texts]
        keys = [self._key(b"features", 0, ids.astype(np.int32).tobytes()) for ids in cut]

        def ask(new: list[int], on_progress: Progress) -> Iterator[tuple[int, bytes]]:
            for i, state in features(self.model, [cut[i] for i in new], on_progress=on_progress):
                yield i, state.tobytes()

        answers = self._answers(label, keys, ask)
        return np.stack([np.frombuffer(a, np.float32) for a in answers])

    def write(self, label: str, requests: Sequence[Request]) -> list[Generation]:
        """Continue prompts, of which the oldest tokens are cut so that all that is written fits.

        Raises UserError if a request leaves no room for its prompt.
        """
        cut = self.fitting(label, requests)

        def ask(new: list[int], on_progress: Progress) -> Iterator[tuple[int, bytes]]:
            results = generate_each(self.model, self.tokenizer, [cut[i] for i in new])
            for count, (i, result) in enumerate(results, start=1):
                yield i, json.dumps(asdict(result)).encode()
                on_progress(count / len(new))

        answers = self._answers(label, self.write_keys(cut), ask)
        return [Generation(**json.loads(a)) for a in answers]

    def write_keys(self, requests: Sequence[Request]) -> list[bytes]:
        """Under which texts are kept."""
        return [self._key(b"write", 0, json.dumps(asdict(r)).encode()) for r in requests]

    def fitting(self, label: str, requests: Sequence[Request]) -> list[Request]:
        """Requests with prompts cut as `write` does."""
        return [self._cut(label, i, r) for i, r in enumerate(requests)]

    def find(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The answers that are kept already."""
        return self.store.find(keys) if self.store else {}

    def _cut(self, label: str, number: int, request: Request) -> Request:
        room = self.context - request.max_tokens
        if room < 1:
            raise UserError(
                f"{label}, text {number + 1}: {request.max_tokens} tokens to write leave no room "
                f"for the prompt in the model's context of {self.context}"
            )
        return replace(request, prompt=request.prompt[-room:])

    def _key(self, kind: bytes, number: int, data: bytes) -> bytes:
        head = b"%b %b %d " % (self.digest.encode(), kind, number)
        return hashlib.sha256(head + data).digest()

    def _answers(self, label: str, keys: Sequence[bytes], ask: Ask) -> list[bytes]:
        """An answer to each key: those that are kept, and those that are then asked for."""
        found = self.find(keys)
        new = list({key: i for i, key in enumerate(keys) if key not in found}.values())
        with self.step(label) as on_progress:
            for number, answer in ask(new, on_progress):
                key = keys[new[number]]
                found[key] = answer
                if self.store:
                    self.store.keep(key, answer)
        if self.store:  # others may write to it, whatever is done next
            self.store.commit()
        return [found[key] for key in keys]


def _pieces(text: str) -> Iterable[str]:
    """Parts of a long text whose tokens, one after the other, are those of the text."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        # No token goes on past a blank between two characters that are none.
        while end < len(text) and not (
            text[end] == " "
            and not text[end - 1].isspace()
            and not text[end + 1 : end + 2].isspace()
        ):
            end += 1
        yield text[start:end]
        start = end
