"""Results on standard output: for people, or with --json as one object for programs."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from gpt2lab.errors import UserError


def standard_input() -> str:
    """Standard input as UTF-8 text."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 at byte {error.start}; convert it with iconv"
        ) from None


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a flat table of results."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        print(f"{name.replace('_', ' '):<{width}}  {'-' if shown is None else shown}")
