"""Examples to token shards, with beside each token whether loss is taken on it."""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.corpus.document import Document
from gpt2lab.corpus.plaintext import FEW, passages
from gpt2lab.corpus.shards import ShardWriter, write_index
from gpt2lab.errors import UserError
from gpt2lab.storage import atomic_folder, write_json
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training.examples import Reading
from gpt2lab.training.near import NearDuplicates, Overlap
from gpt2lab.training.records import PLAIN, Example, Form, Part

REPORT = "report.json"
# Examples, and characters, that are tokenised together.
_BATCH, _BATCH_CHARS = 512, 4 << 20
# Tokens of a shard; a writer holds one, and four times its bytes while it is written.
_SHARD = 1 << 24

Read = Callable[[Reading], Iterator[Example]]


def learned(split: str) -> str:
    """The split that holds, for each token of a split, 1 if loss is taken on it and 0 if not."""
    return f"{split}-learned"


@dataclass
class _Split:
    """Writes the tokens of one split and, in step, which of them are learned."""

    tokens: ShardWriter
    flags: ShardWriter
    learned: int = 0
    read: int = 0
    characters: int = 0

    def add(self, text: str, ids: Sequence[int], flags: Sequence[int]) -> None:
        self.read += len(ids)
        self.characters += len(text)
        # The `<|endoftext|>` before a text is the end of the one before, and learned.
        self.tokens.add(ids)
        self.flags.add(flags)
        self.learned += 1 + sum(flags)


def prepare(
    read: Read,
    tokenizer: Tokenizer,
    out: Path,
    *,
    held_out: float,
    form: Form = PLAIN,
    step: Callable[[str], AbstractContextManager[Any]],
    others: Mapping[str, Read] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write shards of the examples that `read` gives; return what is also in `report.json`.

    read: gives the same examples each time; it is called twice, and no example is kept.
    held_out: share of examples for `val`, exactly and at least one, by each one's own text or
    conversation: the same is never on both sides.
    form: how chats are written; its template, and the control tokens it needs, go into the
    tokenizer that is left beside the shards, if there are chats.
    others: texts, evaluation sets say, that are looked for among those to learn from.
    Raises UserError if there is no example, or none is left to learn from.
    """
    if not 0 < held_out < 1:
        raise UserError(f"held_out is {held_out}; it must be above 0 and below 1")
    reading = Reading()
    with step("reading"):
        pairs = array("Q")
        prompts = chats = False
        for example in _passages(read(reading)):
            pairs.extend((_number(example.text), _number(example.group)))
            prompts |= not all(part.learned for part in example.parts)
            chats |= bool(example.conversation)
    numbers, groups = np.array(pairs, np.uint64).reshape(-1, 2).T
    every = np.unique(groups)
    if not pairs:
        why = reading.told[0] if reading.told else "the files hold no text; give some that do"
        raise UserError(f"no example was read; {why}")
    if len(every) < 2:
        same = "all examples are the same" if len(numbers) > 1 else "there is one example only"
        raise UserError(f"{same}; give more, so that some can be held out")
    limit = every[min(len(every) - 1, max(1, round(held_out * len(every)))) - 1]
    if chats:
        tokenizer = tokenizer.for_chats(form.template, form.specials)
    if tokenizer.size > 2**16:
        raise UserError(f"the vocabulary has {tokenizer.size:,} tokens; shards hold 65,536 at most")
    with step("tokenising"), atomic_folder(out, overwrite=overwrite) as folder:
        splits = {
            name: _Split(
                ShardWriter(folder, name, tokenizer.end_of_text, _SHARD),
                ShardWriter(folder, learned(name), 1, _SHARD),
            )
            for name in ("train", "val")
        }
        near, overlap = NearDuplicates(), Overlap()
        unfit: dict[str, int] = {}
        for name, read_other in (others or {}).items():
            own = Reading()
            overlap.want(name, (example.text for example in read_other(own)))
            unfit |= {name: own.rejected} if own.rejected else {}
        for batch in _batches(_passages(read(Reading()))):
            texts = [example.text for example in batch]
            near.add(texts)
            overlap.add([example.text for example in batch if _number(example.group) > limit])
            for example, ids, flags in _tokens(batch, tokenizer):
                side = "val" if _number(example.group) <= limit else "train"
                splits[side].add(example.text, ids, flags)
        report = _report(splits, reading, len(numbers) - len(np.unique(numbers)))
        entries: dict[str, dict[str, Any]] = {}
        for name, split in splits.items():
            split.add("", [], [])  # the end of the last text
            entries |= {name: split.tokens.close(), learned(name): split.flags.close()}
        tokenizer.save(folder / "tokenizer")
        write_index(folder, tokenizer.digest, entries)
        report |= {"near_duplicates": near.report(), "overlap": overlap.report()}
        report |= {"rejected_of_others": unfit, "prompts": prompts}
        write_json(folder / REPORT, report)
    return report


def _report(splits: dict[str, _Split], reading: Reading, repeated: int) -> dict[str, Any]:
    return {
        "examples": {name: split.tokens.documents for name, split in splits.items()},
        "learned_tokens": {name: split.learned for name, split in splits.items()},
        "characters_per_token": round(
            sum(split.characters for split in splits.values())
            / max(1, sum(split.read for split in splits.values())),
            3,
        ),
        "repeated": repeated,
        "rejected": reading.rejected,
        "rejected_rows": reading.told,
        "guessed_encodings": reading.encodings,
        "skipped_files": reading.skipped,
    }


def _passages(examples: Iterator[Example]) -> Iterator[Example]:
    """Examples; so few plain texts that none could be held out are cut into passages."""
    first = list(islice(examples, FEW))
    if len(first) < FEW and all(part.learned for e in first for part in e.parts):
        first = [
            Example((Part(piece, True),), e.where) for e in first for piece in passages(e.text)
        ]
    return chain(first, examples)


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += len(example.text)
        if len(batch) == _BATCH or size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _number(text: str) -> int:
    return int(Document(text).id[:16], 16)


def _tokens(
    examples: Sequence[Example], tokenizer: Tokenizer
) -> Iterator[tuple[Example, list[int], list[int]]]:
    """Ids of each, its parts tokenised one by one as they are when it is used; and flags."""
    parts = [part for example in examples for part in example.parts]
    encoded = iter(tokenizer.encode_batch(["" if part.special else part.text for part in parts]))
    for example in examples:
        ids: list[int] = []
        flags: list[int] = []
        for part in example.parts:
            new = next(encoded)
            if part.special:
                new = tokenizer.encode(part.text, specials=True)
            ids += new
            flags += [int(part.learned)] * len(new)
        yield example, ids, flags
