"""Requests from a file of JSON Lines."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.generation.request import Request, Text
from gpt2lab.model.config import GPT2Config
from gpt2lab.tokenizer.bpe import Tokenizer

_NUMBER = (int, float)
_REQUEST: dict[str, Any] = {
    "max_tokens": int, "seed": int, "stop": list, "ignore_end": bool, "stride": int,
}  # fmt: skip
_SAMPLING: dict[str, Any] = {
    "temperature": _NUMBER, "top_k": int, "top_p": _NUMBER, "top_p_form": str, "min_p": _NUMBER,
    "repetition_penalty": _NUMBER, "presence_penalty": _NUMBER, "frequency_penalty": _NUMBER,
    "logit_bias": dict,
}  # fmt: skip


def read_requests(
    path: Path, default: Request, config: GPT2Config, tokenizer: Tokenizer
) -> list[Request]:
    """One request a line: `{"prompt": "...", "temperature": 0.7, ...}`; what is left out is as in
    `default`, its seed counted up from line to line.

    Raises UserError naming the line that is not such an object, or that the model cannot meet.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read requests from {path}: {error}") from None
    requests: list[Request] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line), default, len(requests), tokenizer)
            Text(request, config, tokenizer)
        except (UserError, ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        requests.append(request)
    if not requests:
        raise UserError(f"{path} is empty; write one JSON object a line, with a prompt")
    return requests


def _request(table: Any, default: Request, number: int, tokenizer: Tokenizer) -> Request:
    if not isinstance(table, dict) or not isinstance(table.get("prompt"), str):
        raise UserError('not an object with a text under "prompt"')
    known = {"prompt", *_REQUEST, *_SAMPLING}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{key!r} is not a field of a request{hint}")
        wanted = (_REQUEST | _SAMPLING | {"prompt": str})[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise UserError(f"{key} is {value!r}, which is of the wrong kind")
    mine = {key: table[key] for key in _REQUEST if key in table}
    if "stop" in mine:
        mine["stop"] = _strings(mine["stop"])
    if "seed" not in mine and default.seed is not None:
        mine["seed"] = default.seed + number
    rules = {key: table[key] for key in _SAMPLING if key in table}
    if "logit_bias" in rules:
        rules["logit_bias"] = _biases(rules["logit_bias"])
    if rules.get("top_p_form", "nucleus") not in ("nucleus", "openai"):
        raise UserError(f"top_p_form is {rules['top_p_form']!r}; it must be nucleus or openai")
    prompt = tuple(tokenizer.encode(table["prompt"]))
    return replace(default, prompt=prompt, sampling=replace(default.sampling, **rules), **mine)


def _strings(found: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(s, str) for s in found):
        raise UserError("stop is to be a list of strings")
    return tuple(found)


def _biases(found: dict[str, Any]) -> dict[int, float]:
    if not all(k.isdecimal() and isinstance(v, _NUMBER) for k, v in found.items()):
        raise UserError('logit_bias is to be numbers by id, as in {"50256": -100}')
    return {int(k): float(v) for k, v in found.items()}
