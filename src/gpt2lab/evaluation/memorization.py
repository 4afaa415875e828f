"""How much of its training text a model gives back (Carlini et al. 2023; Hayes et al. 2025).

A passage is extracted if greedy decoding after its first tokens writes its next ones exactly. One
pass over prefix and suffix tells: it is so where each suffix token is the likeliest. It also gives
the probability that one sample writes the suffix, and so how likely some number of samples is to.
Held-out passages are the control: what can be foretold without memory.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.corpus import shards
from gpt2lab.corpus.shards import Tokens
from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import Ids, Window
from gpt2lab.evaluation.scores import Score, mean, point
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome

DRAWS = (1, 100, 10_000)
# As Hayes et al. draw.
TOP_K = 40
# Passages are told apart by how often they stand in the training text: once, twice, 3 or 4 times...
_MOST_COPIES = (1, 2, 4, 8, 16, 32, 64)
# Positions hashed at once.
_BLOCK = 2**20
_BASE = np.uint64(0x9E3779B97F4A7C15)

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Passages:
    """Stretches of a text, each as long as the longest prefix and the suffix together."""

    ids: Ids
    """[N, T]"""
    copies: npt.NDArray[np.int64]
    """[N]: how often the end of each, suffix and shortest prefix, is in the training text."""


@dataclass(frozen=True)
class Setup:
    """What is asked of a model."""

    prefixes: tuple[int, ...] = (50, 100, 200, 450)
    """Tokens that are given."""
    suffix: int = 50
    """Tokens that are asked for."""
    samples: int = 1000
    """Passages of each split."""
    seed: int = 0
    """Of the passages that are drawn."""

    def __post_init__(self) -> None:
        if min((*self.prefixes, self.suffix, self.samples), default=0) < 1 or not self.prefixes:
            raise UserError("--prefixes, --suffix and --samples must be at least 1")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; it must be at least 0")

    @property
    def longest(self) -> int:
        """The longest prefix."""
        return max(self.prefixes)


def passages(tokens: Tokens, training: Tokens, end_of_text: int, setup: Setup) -> Passages:
    """Passages of one text, drawn at random, with their copies in the training text."""
    ids_NT = sample(tokens, setup.longest + setup.suffix, setup.samples, setup.seed, end_of_text)
    ends = ids_NT[:, -(min(setup.prefixes) + setup.suffix) :]
    return Passages(ids_NT, copies(training, ends))


def of_shards(subject: Subject, folder: Path, setup: Setup) -> Outcome:
    """Extraction of the `train` split of token shards; their `val` split, if any, is the control.

    Raises UserError if the shards are of another tokenizer, or too small.
    """
    digest = shards.tokenizer_digest(folder)
    if digest not in (None, subject.tokenizer.digest):
        raise UserError(f"{folder} was made with another tokenizer than the model's")
    training = shards.open_split(folder, "train")
    end = subject.tokenizer.end_of_text
    asked = passages(training, training, end, setup)
    control = None
    if shards.has_split(folder, "val"):
        control = passages(shards.open_split(folder, "val"), training, end, setup)
    return Outcome(measure(subject, asked, control, setup), training.digest, [str(folder)])


def sample(
    tokens: Tokens, length: int, count: int, seed: int, end_of_text: int
) -> npt.NDArray[np.int32]:
    """Stretches [N, length] from places drawn at random, no document's end within them.

    Raises UserError if the text has too few such places.
    """
    rng = np.random.default_rng(seed)
    found: dict[int, Ids] = {}
    for _ in range(20):
        if len(tokens) <= length:
            break
        for start in rng.integers(len(tokens) - length, size=2 * count).tolist():
            piece = tokens.slice(start, length)
            if start not in found and not (piece[1:] == end_of_text).any():
                found[start] = piece.astype(np.int32)
        if len(found) >= count:
            return np.stack(list(found.values())[:count])
    raise UserError(
        f"the text has only {len(found):,} passages of {length:,} tokens within one document; ask "
        f"for fewer --samples than {count:,} or shorter --prefixes"
    )


def copies(tokens: Tokens, passages_NT: Ids) -> npt.NDArray[np.int64]:
    """How often each passage [N, T] stands in a text."""
    T = passages_NT.shape[1]
    wanted = np.array([int(_hashes(p.astype(np.int64), T)[0]) for p in passages_NT], np.uint64)
    keys = np.unique(wanted)
    counts = np.zeros(len(keys), np.int64)
    for start in range(0, len(tokens) - T + 1, _BLOCK):
        found = _hashes(tokens.slice(start, min(_BLOCK + T - 1, len(tokens) - start)), T)
        place = np.searchsorted(keys, found).clip(max=len(keys) - 1)
        np.add.at(counts, place[keys[place] == found], 1)
    return counts[np.searchsorted(keys, wanted)]


def _hashes(ids: npt.NDArray[np.int64], length: int) -> U64:
    """A 64-bit hash of each stretch of so many tokens."""
    count = len(ids) - length + 1
    state = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(length):
            state = (state ^ ids[offset : offset + count].astype(np.uint64)) * _BASE
            state ^= state >> np.uint64(29)
    return state


def measure(
    subject: Subject, training: Passages, control: Passages | None, setup: Setup
) -> list[Score]:
    """Extraction by prefix length, by number of copies at the longest prefix, and by draws.

    Raises UserError if prefix and suffix do not fit the context.
    """
    suffix = setup.suffix
    if setup.longest + suffix > subject.context + 1:
        raise UserError(
            f"a prefix of {setup.longest} and a suffix of {suffix} tokens do not fit the context "
            f"of {subject.context}; give shorter --prefixes"
        )
    scores: list[Score] = []
    items = hashlib.sha256(training.ids.tobytes()).hexdigest()
    told = {"suffix": suffix, "training_passages": len(training.ids), "items": items}
    for prefix in sorted(set(setup.prefixes)):
        how = f"greedy decoding after {prefix} tokens writes the next {suffix}"
        asked = _windows(training, prefix, suffix)
        found = subject.score(f"passages after {prefix} tokens", asked)
        greedy = np.array([s.greedy for s in found])
        here = partial(point, "extracted", "tokens given", prefix)
        scores.append(mean(f"extracted[{prefix}]", greedy, how, settings=told | here("greedy")))
        drawn = {
            "": np.array([-s.total for s in found]),
            f", top-k {TOP_K}": _log_p_top(subject, asked, prefix),
        }
        for rule, log_p in drawn.items():
            for draws in DRAWS:
                # 1 - (1 - p)^n without losing a small p.
                chance = -np.expm1(draws * np.log1p(-np.exp(log_p.clip(max=-1e-12))))
                times = f"{draws:,} samples at temperature 1{rule} after {prefix} tokens"
                name = f"extracted[{prefix}, {draws} draws{rule}]"
                how_often = f"one of {times} is the next {suffix}"
                kind = here(f"{draws:,} draws{rule}")
                scores.append(mean(name, chance, how_often, settings=told | kind))
        if control is not None:
            label = f"held-out passages after {prefix} tokens"
            others = subject.score(label, _windows(control, prefix, suffix))
            held = [s.greedy for s in others]
            name = f"control[{prefix}]"
            scores.append(
                mean(name, held, f"{how}; held-out text", settings=told | here("held-out"))
            )
        if prefix == setup.longest:
            scores += _by_copies(greedy, training.copies, how, told)
    return scores


def _windows(passages: Passages, prefix: int, suffix: int) -> list[Window]:
    return [Window(ids[-(prefix + suffix) :], suffix) for ids in passages.ids]


def _log_p_top(subject: Subject, asked: Sequence[Window], prefix: int) -> npt.NDArray[np.float64]:
    """Log p of each suffix where only the likeliest tokens are drawn."""
    log_p = []
    label = f"likeliest tokens after {prefix}"
    for window, top in zip(asked, subject.score(label, asked, best=TOP_K), strict=True):
        hit = top.best_ids == window.ids[-window.scored :, None]
        best = -top.best_nats.astype(np.float64)
        among = np.where(hit, best, -np.inf).max(1)
        log_p.append((among - np.logaddexp.reduce(best, 1)).sum())
    return np.array(log_p)


def _by_copies(
    greedy: npt.NDArray[np.bool_], copies_N: npt.NDArray[np.int64], how: str, told: dict[str, Any]
) -> list[Score]:
    scores = []
    low = 1
    for high in (*_MOST_COPIES, None):
        inside = (copies_N >= low) & (high is None or copies_N <= high)
        between = (
            f"over {low - 1}" if high is None else str(low) if low == high else f"{low} to {high}"
        )
        if inside.any():
            name = f"extracted[copies: {between}]"
            here = point("extracted, by copies", "copies in the text, at least", low, "greedy")
            how_often = f"{how}; by copies in the text"
            scores.append(mean(name, greedy[inside], how_often, settings=told | here))
        low = (high or 0) + 1
    return scores
