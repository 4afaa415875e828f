"""Continuing prompts: several together, or one as a stream."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from gpt2lab.generation.engine import SLOTS, Engine, Running
from gpt2lab.generation.request import Generation, Request, check
from gpt2lab.model.transformer import GPT2
from gpt2lab.tokenizer.bpe import Tokenizer


def generate_each(
    model: GPT2,
    tokenizer: Tokenizer,
    requests: Iterable[Request],
    *,
    slots: int = SLOTS,
    draft: GPT2 | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Continue any number of prompts, `slots` at a time; yield number and result as each ends."""
    with _evaluating(model):
        engine = Engine(model, tokenizer, slots=slots, draft=draft)
        coming = enumerate(requests)
        running: dict[int, Running] = {}
        while True:
            for number, request in islice(coming, 2 * slots - len(running)):
                running[number] = engine.submit(request)
            if not running:
                return
            engine.step()
            for number, one in list(running.items()):
                if one.text.reason:
                    yield number, running.pop(number).text.result()


def generate(
    model: GPT2,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    draft: GPT2 | None = None,
) -> list[Generation]:
    """Continue several prompts, sixteen at a time; each result is what its prompt alone gives."""
    for request in requests:
        check(request, model.config, tokenizer)  # before any work is done
    slots = max(1, min(SLOTS, len(requests)))
    found = dict(generate_each(model, tokenizer, requests, slots=slots, draft=draft))
    return [found[number] for number in range(len(requests))]


def stream(
    model: GPT2, tokenizer: Tokenizer, request: Request, *, draft: GPT2 | None = None
) -> Generator[str, None, Generation]:
    """Yield text as it becomes certain; the generator's return value is the `Generation`.

    draft: a smaller model of the same vocabulary, to guess ahead.
    """
    with _evaluating(model):
        engine = Engine(model, tokenizer, slots=1, draft=draft)
        running = engine.submit(request)
        while engine.busy:
            for _, piece in engine.step():
                if piece:
                    yield piece
    return running.text.result()


@contextmanager
def _evaluating(model: GPT2) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
