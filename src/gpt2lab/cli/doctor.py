"""`gpt2lab doctor`"""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from gpt2lab.cli.output import show


@dataclass(frozen=True)
class Command:
    """What this machine has: torch, device, threads, measured bandwidth and matrix rates, and
    whether text is decoded by compiled code.
    """

    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab doctor")
    from gpt2lab.doctor import report
    from gpt2lab.model.native import status

    show(report() | {"compiled_pass": status()}, as_json=command.json)
