"""`gpt2lab doctor`"""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from gpt2lab.cli.output import show


@dataclass(frozen=True)
class Command:
    """What this machine has: torch, device, threads, measured bandwidth and matrix rates, and
    whether text is decoded by compiled code, on how many threads.
    """

    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab doctor")
    from gpt2lab.doctor import report
    from gpt2lab.generation.probe import kept
    from gpt2lab.model.native import status

    threads = ", ".join(f"{n} for {kind}" for kind, n in sorted(kept().items()))
    decoding = {"compiled_pass": status(), "decoding_threads": threads or "not measured yet"}
    show(report() | decoding, as_json=command.json)
