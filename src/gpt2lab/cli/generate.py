"""`gpt2lab generate MODEL [PROMPT]`"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from gpt2lab.cli.output import standard_input
from gpt2lab.errors import UserError
from gpt2lab.generation.sampling import Sampling
from gpt2lab.progress import step

if TYPE_CHECKING:
    from gpt2lab.generation.request import Generation, Request
    from gpt2lab.model.transformer import GPT2
    from gpt2lab.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Command:
    """Continue a prompt, printing text as it is drawn. With no PROMPT, read prompts: from a file
    (--prompts, --batch), from standard input, or at a terminal one after the other.
    """

    model: tyro.conf.Positional[str]
    """A checkpoint folder, a published size such as gpt2-xl, or hf:owner/name."""
    prompt: tyro.conf.Positional[str | None] = None
    """Text to continue; an empty one ("") starts a new text."""
    prompts: Path | None = None
    """A file of prompts, one a line, decoded together."""
    batch: Path | None = None
    """A file of requests, one JSON object a line, as {"prompt": "...", "temperature": 0.7}; results
    are printed in the same order, one JSON object a line."""
    dtype: Literal["float32", "bfloat16", "int8", "int8-weight", "int4"] | None = None
    """Number format of the weights: the checkpoint's own if not given, float32 for float ones."""
    device: str | None = None
    """cpu or cuda; a CUDA card if there is one."""
    draft: str | None = None
    """A smaller model of the same vocabulary that guesses ahead; texts keep their distribution."""
    beams: int | None = None
    """Search for the likeliest text with so many open ends, instead of drawing one."""
    max_tokens: int = 256
    """Most tokens to draw for each prompt."""
    n: int = 1
    """Texts per prompt, with seeds counted up."""
    seed: int | None = None
    """Same seed, same text; drawn at random if not given."""
    stop: tuple[str, ...] = ()
    """Strings that end the text."""
    specials: bool = False
    """Read control tokens written in prompts, such as <|endoftext|>, as the tokens they name."""
    ignore_end: bool = False
    """Go on past <|endoftext|>."""
    stride: int | None = None
    """Oldest tokens forgotten each time the context is full; half the context if not given."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    json: bool = False
    """Print one JSON object with ids, text, log-probabilities and seeds."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab generate")
    sources = _sources(command)
    import gpt2lab
    from gpt2lab.doctor import named_or_best_device
    from gpt2lab.generation.probe import use_fastest_threads

    device = named_or_best_device(command.device)
    checkpoint = gpt2lab.load(command.model, command.dtype, device)
    model, tokenizer = checkpoint.model, checkpoint.require_tokenizer(command.model)
    use_fastest_threads(model)
    draft = gpt2lab.load(command.draft, command.dtype, device).model if command.draft else None
    if command.batch is not None:
        _run_batch(command, model, tokenizer, draft)
        return
    if not sources and sys.stdin.isatty():
        _interact(command, model, tokenizer, draft)
        return
    prompts = _prompts(command)
    requests = [_request(command, tokenizer, p, i) for p in prompts for i in range(command.n)]
    if len(requests) == 1 and not command.json and command.beams is None:
        _print_stream(model, tokenizer, requests[0], draft, prompts[0])
        return
    from gpt2lab.generation import beam_search, generate

    if command.beams is not None:
        results = [beam_search(model, tokenizer, r, command.beams) for r in requests]
    else:
        results = generate(model, tokenizer, requests, draft=draft)
    texts = [p for p in prompts for _ in range(command.n)]
    if command.json:
        print(json.dumps({"results": _table(texts, results)}, ensure_ascii=False))
        return
    for prompt, result in zip(texts, results, strict=True):
        print(f"{prompt}{result.text}\n{'-' * 20}")


def _sources(command: Command) -> list[str]:
    """Where prompts are from; UserError for options that do not go together."""
    if command.n < 1:
        raise UserError(f"n is {command.n}; it must be at least 1")
    given = {"PROMPT": command.prompt, "--prompts": command.prompts, "--batch": command.batch}
    sources = [name for name, value in given.items() if value is not None]
    if len(sources) > 1:
        raise UserError(f"{' and '.join(sources)} are both given; keep one")
    if command.beams is not None and (command.draft or command.batch):
        raise UserError("--beams goes neither with --draft nor with --batch; leave one out")
    if command.beams is not None and command.sampling.watermark is not None:
        raise UserError("--beams draws nothing, so it leaves no watermark; leave one out")
    if command.batch is not None and command.n > 1:
        raise UserError("--n goes not with --batch, whose lines are one text each; repeat lines")
    return sources


def _run_batch(
    command: Command, model: "GPT2", tokenizer: "Tokenizer", draft: "GPT2 | None"
) -> None:
    from gpt2lab.generation import generate_each
    from gpt2lab.generation.batch import read_requests

    assert command.batch is not None
    default = _request(command, tokenizer, "", 0)
    requests = read_requests(
        command.batch, default, model.config, tokenizer, specials=command.specials
    )
    waiting: dict[int, Generation] = {}
    following = 0
    with step(f"generating {len(requests):,} texts") as bar:
        for done, (number, result) in enumerate(
            generate_each(model, tokenizer, requests, draft=draft), start=1
        ):
            waiting[number] = result
            while following in waiting:
                print(json.dumps(asdict(waiting.pop(following)), ensure_ascii=False), flush=True)
                following += 1
            bar.update(done / len(requests), f"{done:,} of {len(requests):,}")


def _table(prompts: list[str], results: "list[Generation]") -> list[dict[str, object]]:
    return [{"prompt": p} | asdict(r) for p, r in zip(prompts, results, strict=True)]


def _prompts(command: Command) -> list[str]:
    if command.prompt is not None:
        return [command.prompt]
    if command.prompts is None:
        return [standard_input().rstrip("\n")]
    try:
        lines = command.prompts.read_text("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read prompts from {command.prompts}: {error}") from None
    if lines == [""]:
        raise UserError(f"{command.prompts} is empty; write one prompt a line")
    return lines


def _request(command: Command, tokenizer: "Tokenizer", prompt: str, number: int) -> "Request":
    from gpt2lab.generation import Request

    return Request(
        tuple(tokenizer.encode(prompt, specials=command.specials)),
        max_tokens=command.max_tokens,
        sampling=command.sampling,
        seed=None if command.seed is None else command.seed + number,
        stop=command.stop,
        ignore_end=command.ignore_end,
        stride=command.stride,
        logprobs=0 if command.json and command.beams is None else None,
    )


def _print_stream(
    model: "GPT2",
    tokenizer: "Tokenizer",
    request: "Request",
    draft: "GPT2 | None",
    prompt: str = "",
) -> None:
    from gpt2lab.generation import stream

    pieces = stream(model, tokenizer, request, draft=draft)  # refuses before a word is printed
    first = next(pieces, "")
    print(prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _interact(
    command: Command, model: "GPT2", tokenizer: "Tokenizer", draft: "GPT2 | None"
) -> None:
    print("Type a prompt and press return; end with ctrl-D.", file=sys.stderr)
    number = 0
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print(file=sys.stderr)
            return
        try:
            _print_stream(model, tokenizer, _request(command, tokenizer, prompt, number), draft)
        except UserError as error:
            print(f"gpt2lab: {error}", file=sys.stderr)
        number += 1
