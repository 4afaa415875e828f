"""How likely a model finds tokens: the core that every measurement of likelihood goes through.

Windows of tokens go through the model several at a time, each in its lane of the KV cache. Windows
that begin alike, as the options of one question or the examples of one prompt do, have their
common beginning computed once: a lane keeps what its last window shares with the next, and copies
what another lane has. So nothing is padded and little is computed twice.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gpt2lab.errors import UserError
from gpt2lab.generation.backend import Backend, Chunk, backend
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.native import BLOCK, FACTS
from gpt2lab.model.transformer import GPT2

Ids = npt.NDArray[np.int32]
# Tokens in one pass: enough to keep a processor busy, few enough to fit its memory.
TOKENS, TOKENS_ON_A_CARD = 1024, 8192
# Of them, those with a prediction that is looked at, where logits are kept.
OUTPUTS_ON_A_CARD = 2048
# Bytes that the keys and values of all lanes may take, and the most lanes.
CACHE, LANES = 2**30, 64
# How far beyond windows that wait for another's beginning the next one to begin is looked for.
AHEAD = 256


@dataclass(frozen=True)
class Window:
    """Tokens that the model sees at once."""

    ids: Ids
    """What it reads and, at the end, a token that it only predicts: up to context + 1."""
    scored: int
    """How many of the last tokens count; those before are context only."""


class Scores:
    """What the model thought of each scored token of a window, before it saw it."""

    def __init__(self, table_TX: npt.NDArray[np.float32]) -> None:
        self.table_TX = table_TX
        """A row a token, as `describe` has them."""
        facts, best = table_TX[:, :FACTS].T, (table_TX.shape[1] - FACTS) // 2
        self.nats, rank, allowed, self.entropy, self.variance, self.above, self.top_nats = facts
        self.rank = rank.astype(np.int32)
        """How many tokens it found likelier; 0 where the token is its greedy choice."""
        self.rank_allowed = allowed.astype(np.int32)
        """The same among tokens that are not excluded."""
        self.best_ids = table_TX[:, FACTS : FACTS + best].astype(np.int32)
        """The tokens it found likeliest [T, best], likeliest first, if they were asked for."""
        self.best_nats = table_TX[:, FACTS + best :]

    @property
    def total(self) -> float:
        """-log p of all scored tokens, nats."""
        return float(self.nats.sum(dtype=np.float64))

    @property
    def greedy(self) -> bool:
        """Whether greedy decoding would have written these tokens."""
        return not self.rank.any()


def windows(ids: Ids, context: int, stride: int) -> Iterator[Window]:
    """Windows that score each token after the first once.

    The first window scores as many tokens as the model reads; each later one scores `stride` more
    and reads what precedes them, as far as the context goes. With stride = context they do not
    overlap, but for the last, which is filled up with what stands before it.
    """
    end = 1
    while end < len(ids):
        stop = min(len(ids), end + (context if end == 1 else stride))
        yield Window(ids[max(0, stop - context - 1) : stop], stop - end)
        end = stop


def continuation(
    context: Sequence[int] | Ids, ids: Sequence[int] | Ids, config: GPT2Config
) -> Window:
    """A window that scores `ids` after `context`, of which the oldest tokens are cut to fit.

    Raises UserError if there is no context at all, nothing to score, or `ids` alone are too long.
    """
    if len(ids) == 0 or len(context) == 0:
        raise UserError("there is no text to score, or none before it")
    if len(ids) > config.n_positions:
        raise UserError(
            f"the text to score is {len(ids):,} tokens long, the model's context "
            f"{config.n_positions:,}; shorten it"
        )
    both = np.array([*context, *ids], np.int32)
    return Window(both[-(config.n_positions + 1) :], len(ids))


class _Lane:
    """A slot of the cache and the window in it."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.index = -1
        self.inputs: Ids = np.empty(0, np.int32)
        self.cached = 0
        self.rows: list[npt.NDArray[np.float32]] = []
        self.busy = False

    def shared(self, inputs: Ids) -> int:
        """How many first tokens its window, computed or not, has in common with `inputs`."""
        n = min(len(inputs), len(self.inputs))
        differ = self.inputs[:n] != inputs[:n]
        return int(differ.argmax()) if differ.any() else n


def score(
    model: GPT2,
    given: Sequence[Window],
    *,
    excluded: Collection[int] = (),
    best: int = 0,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[tuple[int, Scores]]:
    """Score windows in whatever order is quickest; yield each one's number and scores.

    excluded: ids that `rank_allowed` leaves out.
    best: how many of the likeliest tokens are told beside each scored one.
    Raises UserError if the model gives NaN or infinity.
    """
    was_training = model.training
    model.eval()
    try:
        yield from _Run(model, given, excluded, best, on_progress).results()
    finally:
        model.train(was_training)


class _Run:
    def __init__(
        self,
        model: GPT2,
        given: Sequence[Window],
        excluded: Collection[int],
        best: int,
        on_progress: Callable[[float], None],
    ) -> None:
        self.given, self.best, self.on_progress = given, best, on_progress
        # In the order of their tokens, windows that begin alike stand together.
        self.waiting = sorted(range(len(given)), key=lambda i: given[i].ids.astype(">i4").tobytes())
        longest = max((len(w.ids) for w in given), default=1) - 1
        self.backend = _backend(model, min(len(given), LANES), longest)
        self.lanes = [_Lane(slot) for slot in range(self.backend.slots)]
        self.allowed_V = torch.ones(model.config.vocab_size, device=self.backend.device)
        self.allowed_V[list(excluded)] = 0
        on_card = self.backend.device.type != "cpu"
        self.tokens = TOKENS_ON_A_CARD if on_card else TOKENS
        self.outputs = OUTPUTS_ON_A_CARD if on_card else TOKENS

    def results(self) -> Iterator[tuple[int, Scores]]:
        done = 0
        while self._enter():
            plan = self._plan()
            self._take(plan)
            for lane in self.lanes:
                if lane.busy and lane.cached == len(lane.inputs):
                    lane.busy = False
                    done += 1
                    yield lane.index, Scores(np.concatenate(lane.rows))
            self.on_progress(done / len(self.given))

    def _enter(self) -> bool:
        """Give windows to free lanes while a pass has room for them; whether any lane is busy."""
        pending = sum(len(lane.inputs) - lane.cached for lane in self.lanes if lane.busy)
        while pending < self.tokens and not all(lane.busy for lane in self.lanes):
            ahead = enumerate(self.waiting[:AHEAD])
            position = next((p for p, index in ahead if not self._too_early(index)), None)
            if position is None:
                break
            lane = self._begin(self.waiting.pop(position))
            pending += len(lane.inputs) - lane.cached
        return pending > 0

    def _too_early(self, index: int) -> bool:
        """Whether a busy lane is about to compute more of this window than any lane has."""
        inputs = self.given[index].ids[:-1]
        shared = [(lane.shared(inputs), lane) for lane in self.lanes]
        coming = max((n for n, lane in shared if lane.busy), default=0)
        return coming - max(min(n, lane.cached) for n, lane in shared) >= BLOCK

    def _begin(self, index: int) -> _Lane:
        window = self.given[index]
        inputs = window.ids[:-1]
        # What is before the first scored token can be taken over; it itself must give logits.
        limit = len(inputs) - window.scored
        have = {lane: min(lane.shared(inputs), lane.cached, limit) for lane in self.lanes}
        # A few tokens more are not worth memory that no lane has touched yet.
        free = (lane for lane in self.lanes if not lane.busy)
        lane = max(free, key=lambda one: have[one] // BLOCK)
        source = max(self.lanes, key=lambda one: have[one])
        count = have[source] // BLOCK * BLOCK
        if count > have[lane]:
            self.backend.copy(source.slot, lane.slot, count)
        lane.index, lane.inputs, lane.rows, lane.busy = index, inputs, [], True
        lane.cached = max(count, have[lane])
        return lane

    def _plan(self) -> list[tuple[_Lane, Chunk]]:
        plan: list[tuple[_Lane, Chunk]] = []
        tokens, outputs = self.tokens, self.outputs
        for lane in self.lanes:
            if not lane.busy or not tokens:
                continue
            first = len(lane.inputs) - self.given[lane.index].scored  # whose logits are wanted
            end = min(len(lane.inputs), lane.cached + tokens, max(first, lane.cached) + outputs)
            if end > lane.cached:
                wanted = max(0, end - max(first, lane.cached))
                ids = lane.inputs[lane.cached : end].tolist()
                plan.append((lane, Chunk(lane.slot, lane.cached, ids, wanted)))
                tokens, outputs = tokens - len(ids), outputs - wanted
        return plan

    def _take(self, plan: list[tuple[_Lane, Chunk]]) -> None:
        chunks = [chunk for _, chunk in plan]
        targets: list[int] = []
        for lane, chunk in plan:
            lane.cached = end = chunk.start + len(chunk.ids)
            targets += self.given[lane.index].ids[end + 1 - chunk.outputs : end + 1].tolist()
        scores_OX = self.backend.score(chunks, targets, self.allowed_V, self.best).cpu().numpy()
        if not np.isfinite(scores_OX).all():
            raise UserError(
                "the model gives NaN or infinity; its weights are damaged, or too large for this "
                "number format: try --dtype float32"
            )
        row = 0
        for lane, chunk in plan:
            lane.rows.append(scores_OX[row : row + chunk.outputs])
            row += chunk.outputs


def _backend(model: GPT2, lanes: int, longest: int) -> Backend:
    width = model.wpe.weight.element_size()
    each = 2 * model.config.n_layer * model.config.n_embd * (longest + BLOCK) * width
    return backend(model, max(1, min(lanes, CACHE // each)), longest)
