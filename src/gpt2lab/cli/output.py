"""Results on standard output: for people, or with --json as one object for programs."""

import json
from collections.abc import Mapping
from typing import Any


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a flat table of results."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        print(f"{name.replace('_', ' '):<{width}}  {'-' if shown is None else shown}")
