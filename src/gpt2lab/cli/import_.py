"""`gpt2lab import SOURCE OUT`"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2lab.cli.output import show


@dataclass(frozen=True)
class Command:
    """Bring in a model: a Hugging Face folder or name, OpenAI's TensorFlow folder, nanoGPT's
    ckpt.pt or llm.c's .bin, written as a checkpoint folder that every verb and transformers open.
    """

    source: tyro.conf.Positional[str]
    """Folder, file, published size (gpt2-xl) or hf:owner/name."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    tokenizer: str | None = None
    """Tokenizer to put beside the weights, where the source has none: a folder, file or name."""
    overwrite: bool = False
    """Replace OUT if it exists."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab import")
    from gpt2lab.model.convert import import_model
    from gpt2lab.progress import step

    with step(f"importing {command.source}"):
        checkpoint = import_model(
            command.source,
            command.out,
            tokenizer=command.tokenizer,
            overwrite=command.overwrite,
        )
    config = checkpoint.model.config
    result = {
        "model": str(command.out),
        "parameters": config.n_params,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "vocab_size": config.vocab_size,
        "context": config.n_positions,
        "activation": config.activation,
        "tokenizer": checkpoint.tokenizer is not None,
    }
    show(result, as_json=command.json)
