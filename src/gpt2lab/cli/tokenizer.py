"""`gpt2lab tokenizer train | encode | decode | info`"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2lab.cli.output import show, standard_input
from gpt2lab.errors import UserError


@dataclass(frozen=True)
class Train:
    """Learn a vocabulary from text."""

    text: tyro.conf.Positional[Path]
    """A file or folder of .txt, .md, .rst, .jsonl or .jsonl.zst."""
    out: tyro.conf.Positional[Path]
    """Folder to write, in Hugging Face's form."""
    vocab_size: int = 50257
    """Number of ids, `<|endoftext|>` included."""
    overwrite: bool = False
    """Replace OUT if it exists."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Encode:
    """Ids of a text, from the argument or standard input."""

    tokenizer: tyro.conf.Positional[str]
    """A folder, a file or a published name such as gpt2."""
    text: tyro.conf.Positional[str | None] = None
    """The text; standard input if not given."""
    specials: bool = False
    """Turn `<|endoftext|>` written in the text into its one id."""
    json: bool = False
    """Print one JSON object with ids and tokens."""


@dataclass(frozen=True)
class Decode:
    """Text of ids, from the arguments or standard input."""

    tokenizer: tyro.conf.Positional[str]
    """A folder, a file or a published name such as gpt2."""
    ids: tyro.conf.Positional[tuple[int, ...]] = ()
    """The ids; standard input if none is given."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Info:
    """Size, special tokens and digest of a tokenizer."""

    tokenizer: tyro.conf.Positional[str]
    """A folder, a file or a published name such as gpt2."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"train": Train, "encode": Encode, "decode": Decode, "info": Info},
        args=argv,
        prog="gpt2lab tokenizer",
    )
    from gpt2lab.tokenizer import Tokenizer

    if isinstance(command, Train):
        _train(command)
        return
    tokenizer = Tokenizer.load(command.tokenizer)
    if isinstance(command, Encode):
        text = standard_input() if command.text is None else command.text
        ids = tokenizer.encode(text, specials=command.specials)
        if command.json:
            tokens = [tokenizer.token(i).decode("utf-8", "backslashreplace") for i in ids]
            print(json.dumps({"ids": ids, "tokens": tokens}, ensure_ascii=False))
        else:
            print(*ids)
    elif isinstance(command, Decode):
        ids = list(command.ids) or _numbers(standard_input())
        text = tokenizer.decode(ids)
        print(json.dumps({"text": text}, ensure_ascii=False) if command.json else text)
    else:
        result = {
            "size": tokenizer.size,
            "merges": len(tokenizer.vocabulary.merges),
            "specials": ", ".join(f"{t} {i}" for t, i in tokenizer.vocabulary.specials.items()),
            "digest": tokenizer.digest,
        }
        show(result, as_json=command.json)


def _train(command: Train) -> None:
    from gpt2lab.corpus.plaintext import read_documents
    from gpt2lab.progress import step
    from gpt2lab.storage import atomic_folder, refuse_existing
    from gpt2lab.tokenizer import train

    refuse_existing(command.out, overwrite=command.overwrite)
    documents = read_documents(command.text)
    with step("learning merges"):
        tokenizer = train((d.text for d in documents), command.vocab_size)
    with atomic_folder(command.out, overwrite=command.overwrite) as folder:
        tokenizer.save(folder)
    result = {
        "tokenizer": str(command.out),
        "size": tokenizer.size,
        "documents": len(documents),
        "digest": tokenizer.digest,
    }
    show(result, as_json=command.json)


def _numbers(text: str) -> list[int]:
    words = text.replace(",", " ").replace("[", " ").replace("]", " ").split()
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UserError(f"standard input should hold token ids, but: {error}") from None
