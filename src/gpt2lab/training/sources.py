"""The shards a run reads: found or made, checked whole before the first step, and mixed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2lab.corpus import build, plaintext
from gpt2lab.corpus.shards import Tokens, has_split, open_split, tokenizer_digest, verify
from gpt2lab.errors import UserError
from gpt2lab.progress import step
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training.data import Data, Mixture, Windows
from gpt2lab.training.parallel import World
from gpt2lab.training.prepared import learned
from gpt2lab.training.recipe import Recipe


@dataclass(frozen=True)
class Sources:
    """Data, and what is recorded of it."""

    data: Data
    digest: str
    train_tokens: int


def open_sources(
    recipe: Recipe, run: Path, world: World, *, anew: bool, other_text: bool = False
) -> Sources:
    """Open everything the recipe names; all processes together.

    anew: tokenise text even if there are shards of it already, which may have changed since.
    other_text: the run has read another text so far, or has read it otherwise.
    Raises UserError naming the file if a shard is damaged or made with another tokenizer.
    """
    first = world.first(lambda: _shards(recipe, run, anew=anew, other=other_text))
    folders = [first, *(Path(p) for p in recipe.data.also)]
    tokenizer = _tokenizer(recipe, folders)
    if tokenizer.size > recipe.model.vocab_size:
        raise UserError(
            f"model.vocab_size is {recipe.model.vocab_size}, but the tokenizer has "
            f"{tokenizer.size} ids; set it to at least that"
        )
    trains = [open_split(folder, "train") for folder in folders]
    vals = [open_split(folder, "val") for folder in folders if has_split(folder, "val")]
    with step("checking shards") as bar:
        for number, folder in enumerate(folders):
            top = _check(folder, world, lambda f: bar.update((number + f) / len(folders)))  # noqa: B023
            if top >= recipe.model.vocab_size:
                raise UserError(
                    f"{folder} holds token id {top}, above model.vocab_size "
                    f"{recipe.model.vocab_size}; the shards were made with another tokenizer"
                )
    windows = [
        Windows(tokens, recipe.context, (recipe.train.seed, number), _learned(folder, "train"))
        for number, (folder, tokens) in enumerate(zip(folders, trains, strict=True))
    ]
    weights = recipe.data.weights or [float(len(tokens)) for tokens in trains]
    val = _joined(vals) if vals else None
    marks = [_learned(folder, "val") for folder in folders if has_split(folder, "val")]
    if any(marks):
        marks = [m or _all(tokens) for m, tokens in zip(marks, vals, strict=True)]
    digest = trains[0].digest
    if len(trains) > 1:
        digest = hashlib.sha256(",".join(t.digest for t in trains).encode()).hexdigest()
    val_learned = _joined([m for m in marks if m]) if any(marks) else None
    data = Data(Mixture(windows, weights), val, tokenizer, val_learned)
    return Sources(data, digest, sum(map(len, trains)))


def _learned(folder: Path, split: str) -> Tokens | None:
    """Which tokens of a split loss is taken on, if not on all; UserError if that is not in step."""
    if not has_split(folder, learned(split)):
        return None
    marks = open_split(folder, learned(split))
    if len(marks) != len(open_split(folder, split)):
        raise UserError(f"{folder}: {learned(split)} is not as long as {split}; make both again")
    return marks


def _all(tokens: Tokens) -> Tokens:
    return Tokens((np.ones(len(tokens), np.uint16),), "")


def _joined(splits: list[Tokens]) -> Tokens:
    return Tokens(tuple(part for tokens in splits for part in tokens.parts), "")


def _check(folder: Path, world: World, on_progress: Callable[[float], None]) -> int:
    """Compare all shards of a folder with their digests, each process a part; the largest id."""
    named = ("train", "val", learned("train"), learned("val"))
    splits = [split for split in named if has_split(folder, split)]

    def mine() -> int:
        return verify(folder, splits, part=world.rank, parts=world.size, on_progress=on_progress)

    return max(world.each(mine))


def text_settings(recipe: Recipe) -> tuple[object, ...]:
    """What decides which shards text becomes."""
    return recipe.data.path, recipe.data.held_out, recipe.data.tokenizer


def _shards(recipe: Recipe, run: Path, *, anew: bool, other: bool) -> Path:
    """The folder of shards: the recipe's own, or made from its text under the run."""
    if not recipe.data.path:
        raise UserError("data.path is not set; give shards, a text file or a folder of texts")
    path = Path(recipe.data.path)
    if path.is_dir() and has_split(path, "train"):
        return path
    # Another text does not replace the one the run has read, to which it may go back.
    named = hashlib.sha256(repr(text_settings(recipe)).encode()).hexdigest()[:8]
    beside = run / f"data-{named}"
    made = beside if other or beside.exists() else run / "data"
    if anew or not has_split(made, "train"):
        documents = plaintext.read_documents(path)
        tokenizer = Tokenizer.load(recipe.data.tokenizer)
        with step("tokenising") as bar:
            build.shard(
                documents,
                tokenizer,
                made,
                held_out=recipe.data.held_out,
                overwrite=True,
                on_progress=bar.update,
            )
    return made


def _tokenizer(recipe: Recipe, folders: list[Path]) -> Tokenizer:
    """The tokenizer the shards were written with; UserError if that of some is another."""
    beside = folders[0] / "tokenizer"
    tokenizer = Tokenizer.load(beside if beside.exists() else recipe.data.tokenizer)
    for folder in folders:
        if tokenizer_digest(folder) not in (None, tokenizer.digest):
            raise UserError(
                f"{folder} was written with another tokenizer than {tokenizer.vocabulary.where}; "
                "set data.tokenizer to that one"
            )
    return tokenizer
