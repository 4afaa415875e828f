"""Requests from a file of JSON Lines."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.generation.request import Request, check
from gpt2lab.generation.sampling import Sampling
from gpt2lab.model.config import GPT2Config
from gpt2lab.settings import from_table
from gpt2lab.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class _Line(Sampling):
    """What a line may set: the rules of sampling, and these fields of a request."""

    max_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    stride: int | None = None


_RULES = [f.name for f in fields(Sampling)]
_OTHERS = [f.name for f in fields(_Line) if f.name not in _RULES]


def read_requests(
    path: Path,
    default: Request,
    config: GPT2Config,
    tokenizer: Tokenizer,
    *,
    specials: bool = False,
) -> list[Request]:
    """One request a line: `{"prompt": "...", "temperature": 0.7, ...}`; what is left out is as in
    `default`, its seed counted up from line to line.

    specials: control tokens written in prompts are read as such.
    Raises UserError naming the line that is not such an object, or that the model cannot meet.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # JSON strings may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read requests from {path}: {error}") from None
    requests: list[Request] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            table = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: {error}") from None
        requests.append(_request(table, default, len(requests), tokenizer, where, specials))
        try:
            check(requests[-1], config, tokenizer)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if not requests:
        raise UserError(f"{path} is empty; write one JSON object a line, with a prompt")
    return requests


def _request(
    table: Any, default: Request, number: int, tokenizer: Tokenizer, where: str, specials: bool
) -> Request:
    if not isinstance(table, dict) or not isinstance(table.get("prompt"), str):
        raise UserError(f'{where}: not an object with a text under "prompt"')
    try:
        prompt = tuple(tokenizer.encode(table.pop("prompt"), specials=specials))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    line = from_table(_Line, table, where=where)
    given = {name: getattr(line, name) for name in table}
    if "seed" not in given and default.seed is not None:
        given["seed"] = default.seed + number
    rules = {name: given.get(name, getattr(default.sampling, name)) for name in _RULES}
    others = {name: given.get(name, getattr(default, name)) for name in _OTHERS}
    return replace(default, prompt=prompt, sampling=Sampling(**rules), **others)
