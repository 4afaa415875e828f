"""`gpt2lab finetune MODEL TEXTS`, `gpt2lab finetune --resume RUN`, `gpt2lab finetune plan MODEL`"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

from gpt2lab.cli.output import show
from gpt2lab.errors import UserError
from gpt2lab.progress import first_process
from gpt2lab.training.finetune import Finetuned, finetune, outcome, plan
from gpt2lab.training.settings import Settings


@dataclass(frozen=True)
class Command:
    """Go on training a model on your texts: plain text, CSV, JSON, Parquet, alone or in folders;
    where there are prompts, only the answers are learned. What is left open is chosen for this
    machine: see gpt2lab finetune plan MODEL.
    """

    model: tyro.conf.Positional[str | None] = None
    """A checkpoint folder, a published size such as gpt2-xl, or hf:owner/name."""
    data: tyro.conf.Positional[Path | None] = None
    """A file or folder of .txt, .csv, .tsv, .jsonl, .json or Parquet, compressed or not."""
    out: Path = Path("runs/finetune")
    """Folder of the run: recipe, metrics, samples, checkpoints and, at the end, model."""
    resume: Path | None = None
    """Go on with the run in this folder from its last checkpoint; nothing else is given."""
    overwrite: bool = False
    """Start anew in a folder that holds a run."""
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Plan:
    """What each way to fine-tune a model takes of this machine's memory, and which is taken."""

    model: tyro.conf.Positional[str]
    """A checkpoint folder, a published size such as gpt2-xl, or hf:owner/name."""
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    if argv and argv[0] == "plan":
        _plan(tyro.cli(Plan, args=argv[1:], prog="gpt2lab finetune plan"))
        return
    command = tyro.cli(Command, args=argv, prog="gpt2lab finetune")
    done = _start(command) if command.resume is None else _resume(command, command.resume)
    if not first_process():
        return
    result: dict[str, Any] = {
        "model": done.model and str(done.model),
        "adapter": done.adapter and str(done.adapter),
        "steps": done.steps,
        "perplexity_before": done.perplexity_before and round(done.perplexity_before, 3),
        "perplexity": done.perplexity and round(done.perplexity, 3),
    }
    if done.model is None:
        result["stopped"] = f"as asked; continue with: gpt2lab finetune --resume {done.run}"
    show(result, as_json=command.json)


def _start(command: Command) -> Finetuned:
    if command.model is None or command.data is None:
        raise UserError("give a model and texts, as in: gpt2lab finetune gpt2 mytexts/")
    return finetune(
        command.model, command.data, command.out, command.settings, overwrite=command.overwrite
    )


def _resume(command: Command, where: Path) -> Finetuned:
    from gpt2lab.training import run as runs

    if command != Command(resume=where, json=command.json):
        raise UserError(
            "--resume goes on as the run was begun; leave the rest out, or change what may change "
            f"with: gpt2lab train --resume {where}"
        )
    return outcome(where, runs.resume(where))


def _plan(command: Plan) -> None:
    found, taken, limit = plan(command.model, command.settings)
    if command.json:
        rows = [
            asdict(choice.way)
            | {"micro_batch": choice.micro_batch, "memory": choice.memory, "fits": choice.fits,
               "taken": choice == taken}
            for choice in found
        ]  # fmt: skip
        show({"usable": limit, "ways": rows}, as_json=True)
        return
    print(f"{limit / 2**30:,.1f} GiB of memory can be used; * is what finetune takes")
    form = "{:<2}{:<8}{:<11}{:<10}{:<12}{:>10}{:>9}  {}"
    print(form.format("", "method", "optimizer", "weights", "recomputes", "sequences", "GiB", ""))
    for choice in found:
        way = choice.way
        row = form.format(
            "*" if choice == taken else "", way.method, way.optimizer, way.weights,
            "yes" if way.checkpoint_blocks else "no", choice.micro_batch,
            f"{choice.memory / 2**30:,.2f}", "" if choice.fits else "too much",
        )  # fmt: skip
        print(row.rstrip())
    if taken is None:
        print("nothing fits; shorten --context, or take a smaller model")
