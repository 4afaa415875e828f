"""Vocabulary files: the four forms GPT-2's tokenizer comes in, read; Hugging Face's form, written.

| form | files | who writes it |
|---|---|---|
| OpenAI | `encoder.json` + `vocab.bpe` | openai/gpt-2 |
| Hugging Face, slow | `vocab.json` + `merges.txt` | transformers |
| Hugging Face, fast | `tokenizer.json` | tokenizers |
| tiktoken | `NAME.tiktoken`: base64 token and rank per line | tiktoken |
"""

import base64
import binascii
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

from gpt2lab.errors import UserError
from gpt2lab.storage import read_json
from gpt2lab.tokenizer.vocabulary import (
    END_OF_TEXT,
    Vocabulary,
    from_visible,
    merges_from_ranks,
    to_visible,
)

# A vocabulary file is a few megabytes; a stranger's of a gigabyte is an attack or a mistake.
MAX_BYTES = 64 * 2**20
# GPT-2's longest token has 128 bytes. Checking merges is quadratic in this.
MAX_TOKEN = 1024

CONFIG = "tokenizer_config.json"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def read(path: Path) -> Vocabulary:
    """Read a vocabulary from a folder holding one of the four forms, or from one of its files."""
    if path.is_dir():
        found = _read_folder(path)
        template = _chat_template(path / CONFIG)
        return dataclasses.replace(found, chat_template=template) if template else found
    if not path.exists():
        raise UserError(f"tokenizer {path} does not exist; check the path")
    for vocab, merges in PAIRS:
        if path.name in (vocab, merges):
            return _read_pair(path.with_name(vocab), path.with_name(merges))
    if path.suffix == ".tiktoken":
        return _read_tiktoken(path)
    if path.suffix == ".json":
        return _read_fast(path)
    raise UserError(
        f"{path} is not a tokenizer file; give tokenizer.json, vocab.json + merges.txt, "
        "encoder.json + vocab.bpe or a .tiktoken file"
    )


def _read_folder(folder: Path) -> Vocabulary:
    if (folder / "tokenizer.json").exists():
        return _read_fast(folder / "tokenizer.json")
    for vocab, merges in PAIRS:
        if (folder / vocab).exists() and (folder / merges).exists():
            return _read_pair(folder / vocab, folder / merges)
    ranked = sorted(folder.glob("*.tiktoken"))
    if len(ranked) == 1:
        return _read_tiktoken(ranked[0])
    raise UserError(
        f"{folder} holds no tokenizer; put tokenizer.json, vocab.json + merges.txt, "
        "encoder.json + vocab.bpe or one .tiktoken file there"
    )


def _chat_template(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        table = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON; fetch or make the file again") from None
    found = table.get("chat_template") if isinstance(table, dict) else None
    return found if isinstance(found, str) else None


def _check_size(path: Path) -> None:
    if path.exists() and path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{path} is larger than {MAX_BYTES >> 20} MiB; it is not a tokenizer's file"
        )


def _text(path: Path) -> str:
    _check_size(path)
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; both files of a pair are needed") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; fetch or make it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _ids(path: Path, table: Any) -> dict[str, int]:
    if not isinstance(table, dict) or not all(type(i) is int for i in table.values()):
        raise UserError(f"{path}: the vocabulary must map token strings to ids; fetch it again")
    return table


def _token(path: Path, text: str) -> bytes:
    try:
        if len(text) > MAX_TOKEN:
            raise UserError(f"{path}: a token of {len(text)} bytes; {MAX_TOKEN} is the most taken")
        return from_visible(text)
    except KeyError as error:
        raise UserError(
            f"{path}: token {text!r} holds {error.args[0]!r}, which stands for no byte; "
            "this is not a byte-level vocabulary like GPT-2's"
        ) from None


def _pair(path: Path, where: str, parts: list[str]) -> tuple[bytes, bytes]:
    match parts:
        case [str(left), str(right)]:
            return _token(path, left), _token(path, right)
    raise UserError(f"{path}, {where}: a merge is two tokens with one space between")


def _read_pair(vocab: Path, merges: Path) -> Vocabulary:
    _check_size(vocab)
    table = _ids(vocab, read_json(vocab))
    lines = _text(merges).split("\n")
    first = 1 if lines and lines[0].startswith("#version") else 0
    pairs = tuple(
        _pair(merges, f"line {number}", line.split(" "))
        for number, line in enumerate(lines[first:], start=first + 1)
        if line
    )
    # What no merge makes and is no single byte must be a control token, kept as literal text.
    made = {to_visible(a + b) for a, b in pairs}
    specials = {text: i for text, i in table.items() if len(text) > 1 and text not in made}
    for text in specials:
        if (text[0], text[-1]) not in (("<", ">"), ("[", "]")):
            raise UserError(
                f"{merges}: no merge makes the token {text!r} of {vocab.name}; the file is "
                "truncated, or the two are of two tokenizers"
            )
    ids = {_token(vocab, text): i for text, i in table.items() if text not in specials}
    return Vocabulary(ids, pairs, specials, where=str(vocab))


def _read_tiktoken(path: Path) -> Vocabulary:
    ids: dict[bytes, int] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            token, rank = line.split()
            ids[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(
                f"{path}, line {number}: expected a base64 token and a rank; fetch the file again"
            ) from None
    merges = merges_from_ranks(ids, str(path))
    return Vocabulary(ids, merges, {END_OF_TEXT: len(ids)}, where=str(path))


def _read_fast(path: Path) -> Vocabulary:
    _check_size(path)
    file = read_json(path)
    model = file.get("model") if isinstance(file, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise UserError(f"{path} is not a byte-level BPE tokenizer; GPT-2's are")
    _require_gpt2_splitting(path, file.get("pre_tokenizer"))
    table = _ids(path, model.get("vocab"))
    if file.get("normalizer") is not None or model.get("ignore_merges"):
        raise UserError(f"{path}: it normalises text or ignores merges, which GPT-2 does not do")
    try:
        pairs = tuple(
            _pair(path, f"merge {rank}", merge.split(" ") if isinstance(merge, str) else merge)
            for rank, merge in enumerate(model["merges"])
        )
        specials = {str(e["content"]): int(e["id"]) for e in file.get("added_tokens") or []}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: merges or added_tokens are malformed; fetch it again") from None
    if "" in specials:
        raise UserError(f"{path}: added_tokens holds an empty token; remove it")
    ids = {_token(path, text): i for text, i in table.items() if text not in specials}
    return Vocabulary(ids, pairs, specials, where=str(path))


def _require_gpt2_splitting(path: Path, splitter: Any) -> None:
    """Refuse other families: their ids would look right and be wrong."""
    kind = splitter.get("type") if isinstance(splitter, dict) else None
    if kind != "ByteLevel" or not splitter.get("use_regex", True):
        raise UserError(f"{path}: text is split by {kind}, not as GPT-2 does; it cannot be used")
    if splitter.get("add_prefix_space", False):
        raise UserError(f"{path}: add_prefix_space is on, which GPT-2 does not do; set it to false")


def write(vocabulary: Vocabulary, folder: Path, *, max_length: int | None = None) -> None:
    """Write `tokenizer.json`, `vocab.json`, `merges.txt` and `tokenizer_config.json` to `folder`.

    The files are those of Hugging Face's `GPT2TokenizerFast`, so transformers and others open them.
    max_length: the model's context, recorded for transformers' truncation.
    """
    table = {to_visible(token): i for token, i in vocabulary.ids.items()} | vocabulary.specials
    table = dict(sorted(table.items(), key=lambda item: item[1]))
    pairs = [f"{to_visible(a)} {to_visible(b)}" for a, b in vocabulary.merges]
    specials = sorted(vocabulary.specials.items(), key=lambda item: item[1])
    folder.mkdir(parents=True, exist_ok=True)
    _dump(folder / "vocab.json", table, indent=None)
    text = "".join(f"{line}\n" for line in itertools.chain(["#version: 0.2"], pairs))
    (folder / "merges.txt").write_text(text, "utf-8")
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    _dump(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": i,
                    "content": text,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for text, i in specials
            ],
            "normalizer": None,
            "pre_tokenizer": byte_level | {"add_prefix_space": False},
            "post_processor": byte_level | {"add_prefix_space": True, "trim_offsets": False},
            "decoder": byte_level | {"add_prefix_space": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": table,
                "merges": pairs,
            },
        },
        indent=None,
    )
    config: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}
    if END_OF_TEXT in vocabulary.specials:
        config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    if vocabulary.chat_template is not None:
        config["chat_template"] = vocabulary.chat_template
    if max_length is not None:
        config["model_max_length"] = max_length
    _dump(folder / CONFIG, config, indent=2)


def _dump(path: Path, value: Any, *, indent: int | None) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", "utf-8")
