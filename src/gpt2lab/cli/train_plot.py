"""`gpt2lab train plot RUN...`"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2lab.cli.output import show
from gpt2lab.errors import UserError


@dataclass(frozen=True)
class Command:
    """Draw runs over each other: loss against tokens, time and FLOPs, gradient norms, rates."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, finished or not."""
    out: Path = Path("runs/plot")
    """Where to write; .png and .html are added."""
    overwrite: bool = False
    """Replace earlier plots."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab train plot")
    if not command.runs:
        raise UserError("name the folder of at least one run")
    if not command.out.name:
        raise UserError(f"--out {command.out} names no file; give one, as in --out runs/plot")

    from gpt2lab.storage import refuse_existing
    from gpt2lab.training.plot import plot

    for suffix in (".png", ".html"):
        refuse_existing(
            command.out.with_name(command.out.name + suffix), overwrite=command.overwrite
        )
    paths = plot(list(command.runs), command.out)
    show({path.suffix[1:]: str(path) for path in paths}, as_json=command.json)
