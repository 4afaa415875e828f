"""`gpt2lab corpus shard TEXT OUT`"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2lab.cli.output import show


@dataclass(frozen=True)
class Shard:
    """Turn text into token shards that `train` reads."""

    text: tyro.conf.Positional[Path]
    """A file or folder of .txt, .md, .rst, .jsonl or .jsonl.zst."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    tokenizer: str = "gpt2"
    """A folder, a file or a published name."""
    held_out: float = 0.05
    """Share of documents for validation."""
    overwrite: bool = False
    """Replace OUT if it exists."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"shard": Shard}, args=argv, prog="gpt2lab corpus"
    )
    from gpt2lab.corpus import build, plaintext
    from gpt2lab.progress import step
    from gpt2lab.storage import refuse_existing
    from gpt2lab.tokenizer.bpe import Tokenizer

    refuse_existing(command.out, overwrite=command.overwrite)
    tokenizer = Tokenizer.load(command.tokenizer)
    documents = plaintext.read_documents(command.text)
    with step("tokenising") as bar:
        tokens = build.shard(
            documents,
            tokenizer,
            command.out,
            held_out=command.held_out,
            overwrite=command.overwrite,
            on_progress=bar.update,
        )
    result = {
        "shards": str(command.out),
        "documents": len(documents),
        "train_tokens": tokens["train"],
        "validation_tokens": tokens["val"],
    }
    show(result, as_json=command.json)
