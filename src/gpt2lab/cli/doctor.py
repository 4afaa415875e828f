"""`gpt2lab doctor`"""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from gpt2lab.cli.output import show


@dataclass(frozen=True)
class Command:
    """What this machine has: torch, device, threads, measured bandwidth and matrix rates."""

    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab doctor")
    from gpt2lab.doctor import report

    show(report(), as_json=command.json)
