"""Decoding many requests together, with a KV cache: each step gives every one its next token.

Requests come and go between steps. Long prompts are read in chunks beside the others' decoding;
what a prompt shares with the beginning of another sequence in the cache is copied, not computed.
"""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from gpt2lab.generation.backend import Backend, Chunk, backend, shared
from gpt2lab.generation.lookup import Lookup
from gpt2lab.generation.penalties import Penalties
from gpt2lab.generation.random import uniform
from gpt2lab.generation.request import Request, Text
from gpt2lab.generation.sampling import Rules, Sampling, choose, likeliest
from gpt2lab.generation.speculate import Drafter, Guesses, accept
from gpt2lab.generation.watermark import favour
from gpt2lab.model.native import BLOCK
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer

# Sequences at once: keys and values of 1,024 tokens take 75 MB each at 124M.
SLOTS = 16
# Prompt tokens read in one step beside others: enough to keep a processor busy, few enough not to
# hold them up.
CHUNK = 256
# The most tokens guessed at once, by a draft model or where a text repeats itself, and how many a
# draft model begins with. With one known token they fill the rows that the compiled pass sums at
# once, or that twice.
GUESSES, FEW_GUESSES = 11, 5


class Running:
    """A request that has been submitted."""

    def __init__(self, text: Text, owner: str) -> None:
        self.text, self.owner = text, owner
        self.tokens = list(text.prompt)
        """Prompt and output."""
        self.first = 0
        """Of them, the one at position 0: above 0 once the context has been full."""
        self.cached = 0
        """How many from there have their keys and values in the cache."""
        self.lookup = Lookup()
        self.ahead = FEW_GUESSES
        """How far a draft model goes: one further than it was right, or twice as far if it was."""
        self.guesses: Guesses | None = None
        """Of the draft model, in the pass at hand."""

    @property
    def pending(self) -> int:
        """Tokens that have not been through the model yet."""
        return len(self.tokens) - self.first - self.cached


class Engine:
    """A model with slots for sequences.

    draft: a smaller model of the same vocabulary that guesses ahead where one text runs alone.
    speculate: guess from the text itself where it runs alone and there is no draft model.

    A text depends on its request alone (seed included), not on what runs beside it. That is exact
    with the compiled pass; PyTorch's products of several rows round otherwise than of one, which
    can turn a draw that lies on a border.
    """

    def __init__(
        self,
        model: GPT2,
        tokenizer: Tokenizer,
        *,
        slots: int = SLOTS,
        draft: GPT2 | None = None,
        speculate: bool = True,
    ) -> None:
        self.config, self.tokenizer = model.config, tokenizer
        self._backend: Backend = backend(model, slots)
        self._speculate = speculate
        self._drafter = Drafter(draft, tokenizer.size, model.config.n_positions) if draft else None
        self._waiting: deque[Running] = deque()
        self._running: dict[int, Running] = {}
        self._free = deque(range(slots))
        self._resident: list[list[int]] = [[] for _ in range(slots)]
        self._owners = [""] * slots
        self._samplings = [Sampling()] * slots
        self._rules = Rules.of(self._samplings, self._backend.device)
        self._seed_S = np.zeros(slots, dtype=np.uint64)
        self._simple = False
        self._all_V = torch.ones(model.config.vocab_size, device=self._backend.device)
        self._penalties = Penalties(slots, tokenizer.size, self._backend.device)

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._waiting or self._running)

    def submit(self, request: Request, owner: str = "") -> Running:
        """Queue a request; UserError if it cannot be met.

        owner: whose it is. What is in the cache is shared among one owner's texts alone, so that
        nobody can tell by the time that it takes what others wrote.
        """
        running = Running(Text(request, self.config, self.tokenizer), owner)
        if running.text.reason is None:
            self._waiting.append(running)
        return running

    def cancel(self, running: Running) -> None:
        """End a request; its slot is free from the next step on."""
        running.text.cancel()

    def step(self) -> list[tuple[Running, str]]:
        """One pass of the model: the requests that drew tokens, with the text they gained."""
        self._leave()
        self._enter()
        plan: list[tuple[Running, Chunk]] = []
        room = CHUNK if len(self._running) > 1 else self.config.n_positions
        room -= self._score(room)
        for slot, running in self._running.items():
            if running.text.unscored or running.text.reason:
                continue
            chunk = self._chunk(slot, running, room)
            if running.pending > 1:
                room -= len(chunk.ids)
            if chunk.ids:
                plan.append((running, chunk))
        if not plan:
            self._leave()
            return []
        logits_OV = self._backend.forward([chunk for _, chunk in plan])
        if self.config.vocab_size > self.tokenizer.size:
            logits_OV = logits_OV[:, : self.tokenizer.size]
        drawn = self._take(plan, logits_OV)
        self._leave()
        return drawn

    def _score(self, room: int) -> int:
        """Read up to `room` tokens of prompts whose log-probabilities are wanted; how many it was.

        The last token of a prompt is none of them: it goes through the model to give logits.
        """
        count = 0
        for slot, running in self._running.items():
            if not (unscored := running.text.unscored) or count >= room:
                continue
            start = running.cached
            size = min(unscored, room - count)
            ids = running.tokens[start : start + size + 1]
            chunk, best = Chunk(slot, start, ids[:-1], size), running.text.request.prompt_logprobs
            running.text.score(self._backend.score([chunk], ids[1:], self._all_V, best or 0))
            running.cached += size
            count += size
        return count

    def _leave(self) -> None:
        """Free the slots of requests that have ended."""
        for slot, running in list(self._running.items()):
            if running.text.reason:
                self._resident[slot] = self._kept(slot)
                del self._running[slot]
                self._free.append(slot)

    def _enter(self) -> None:
        """Give free slots to waiting requests."""
        while self._waiting and self._free:
            running = self._waiting.popleft()
            if running.text.reason:
                continue
            slot, running.cached = self._place(running)
            self._running[slot], self._owners[slot] = running, running.owner
            request = running.text.request
            self._penalties.put(slot, request.sampling, running.text.prompt, [])
            self._samplings[slot] = request.sampling
            self._rules = Rules.of(self._samplings, self._backend.device)
            self._seed_S[slot] = running.text.seed
        samplings = [r.text.request.sampling for r in self._running.values()]
        self._simple = all(s.temperature == 0 and s.plain for s in samplings)

    def _place(self, running: Running) -> tuple[int, int]:
        """A free slot for a text, and how many of its first tokens are in it then."""
        # At least the last token must go through the model, to give logits; where the prompt's
        # log-probabilities are wanted, all of it.
        tokens = [] if running.text.unscored else running.tokens[:-1]
        common = [
            shared(tokens, self._kept(s)) // BLOCK * BLOCK if owner == running.owner else 0
            for s, owner in enumerate(self._owners)
        ]
        slot = max(self._free, key=lambda s: common[s])
        best = int(np.argmax(common))
        if common[best] > common[slot]:
            slot = self._free[0]
            self._backend.copy(best, slot, common[best])
        self._free.remove(slot)
        return slot, common[best]

    def _kept(self, slot: int) -> list[int]:
        """The tokens whose keys and values a slot holds, from position 0."""
        running = self._running.get(slot)
        if running:
            return running.tokens[running.first : running.first + running.cached]
        return self._resident[slot]

    def _chunk(self, slot: int, running: Running, room: int) -> Chunk:
        """The tokens a request puts through the model next; none if others fill the step."""
        context, text = self.config.n_positions, running.text
        while running.cached + running.pending > context:
            # Positions are learned and absolute, so old keys cannot be moved: what is kept is
            # computed afresh.
            running.first, running.cached = running.first + text.stride, 0
        start, pending = running.cached, running.pending
        begin = running.first + start
        running.guesses = None
        if pending > 1:
            size = min(pending, room)
            ids = running.tokens[begin : begin + size]
            return Chunk(slot, start, ids, int(size == pending))
        guesses: list[int] = []
        if len(self._running) == 1 and text.request.sampling.plain:
            most = min(GUESSES, context - start - 1, text.request.max_tokens - len(text.ids) - 1)
            if self._drafter:
                window, rules = running.tokens[running.first :], self._rules.rows([slot])
                most, at = min(most, running.ahead), len(text.ids)
                guesses, running.guesses = self._drafter.guess(window, most, rules, text.seed, at)
            elif self._speculate:
                guesses = running.lookup.guess(running.tokens, most)
        return Chunk(slot, start, [running.tokens[-1], *guesses], 1 + len(guesses))

    def _take(
        self, plan: list[tuple[Running, Chunk]], logits_OV: Tensor
    ) -> list[tuple[Running, str]]:
        """Draw the tokens after each output and hand them to their texts.

        Guesses from the text itself are right where the draw, made as it would have been without
        them, gives the same token; so they change no text.
        """
        id_O = self._draw(plan, logits_OV)
        drawn, o = [], 0
        for running, chunk in plan:
            ids = id_O[o : o + chunk.outputs]
            if running.guesses and ids:
                rules, at = self._rules.rows([chunk.slot]), len(running.text.ids)
                outputs_NV = logits_OV[o : o + chunk.outputs]
                ids = accept(outputs_NV, running.guesses, rules, running.text.seed, at)
            piece = self._grow(running, chunk, ids, logits_OV, o)
            if ids:
                drawn.append((running, piece))
            o += chunk.outputs
        return drawn

    def _draw(self, plan: list[tuple[Running, Chunk]], logits_OV: Tensor) -> list[int]:
        if self._simple:  # PyTorch's calls, out of a processor's cache, take a tenth of a token
            return likeliest(logits_OV).tolist()
        of = [(r, c, j) for r, c in plan for j in range(c.outputs)]
        slots = np.array([c.slot for _, c, _ in of], dtype=np.int64)
        position_O = np.array([len(r.text.ids) + j for r, _, j in of], dtype=np.int64)
        points = torch.from_numpy(uniform(self._seed_S[slots], position_O)).to(logits_OV.device)
        slot_O = torch.from_numpy(slots).to(logits_OV.device)
        logits_OV = self._penalties.apply(logits_OV, slot_O)
        # A text with rules of its own has no guesses: each of its outputs is its next token's.
        if any(self._samplings[slot].watermark is not None for slot in slots):
            rows = zip(logits_OV, of, strict=True)
            marked = [favour(v, self._samplings[c.slot], r.tokens) for v, (r, c, _) in rows]
            logits_OV = torch.stack(marked)
        id_O = choose(logits_OV, self._rules.rows(slot_O), points)
        self._penalties.note(slot_O, id_O)
        return id_O.tolist()

    def _grow(
        self, running: Running, chunk: Chunk, ids: list[int], logits_OV: Tensor, first: int
    ) -> str:
        """Take drawn tokens as far as the guesses they were drawn after were right.

        first: the row of the first one's logits.
        """
        guesses = chunk.ids[len(chunk.ids) - chunk.outputs + 1 :] if chunk.outputs else ()
        running.cached = chunk.start + len(chunk.ids) - len(guesses)
        piece, text, right = "", running.text, 0
        for j, i in enumerate(ids):
            piece += text.accept(i, None if text.logprobs is None else logits_OV[first + j])
            running.tokens.append(i)
            if text.reason or j == len(guesses) or guesses[j] != i:
                break
            right += 1
        running.cached += right
        if guesses:
            running.ahead = right + 1 if right < len(guesses) else min(2 * right, GUESSES)
        return piece
