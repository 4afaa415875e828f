"""Texts to fine-tune on, as people keep them: plain, CSV, JSON, Parquet; prompts, instructions,
chats. What cannot be used is told by file and line, and the rest is read all the same.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpt2lab.corpus.compressed import UNENDED_LINE, Damage, read_lines, read_pieces
from gpt2lab.corpus.plaintext import (
    JSON_SUFFIXES,
    SEPARATOR,
    find_files,
    parquet_rows,
    without_compression,
)
from gpt2lab.errors import DamagedInput, UserError

TABLES = (".csv", ".tsv")
# The longest document, row or line, in characters: a longer text is cut, a longer row refused.
LONGEST = 16 << 20
# How much of a file its encoding is told from.
_SAMPLE = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# Of Western, Cyrillic, Chinese, Japanese, Korean and Central European text.
_COMMON = ("cp1252", "cp1251", "gb18030", "cp932", "cp949", "big5", "cp1250")
# How far from the best guess another is still as good.
_NEAR = 0.1
# How many rejected rows are remembered word for word.
_MOST_TOLD = 1000
_SEPARATOR = re.compile(re.escape(SEPARATOR))
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
ROLES = {"system": "System:", "user": "User:", "assistant": "Assistant:"}

Documents = Literal["auto", "blank-lines"]


class Part(NamedTuple):
    """A stretch of an example."""

    text: str
    learned: bool
    """Whether loss is taken on it; prompts are only read."""


@dataclass(frozen=True)
class Example:
    """One text, after which the model is to stop."""

    parts: tuple[Part, ...]
    where: str
    """File and line or row."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(part.text for part in self.parts)


@dataclass
class Reading:
    """What is to be told of files that are read."""

    rejected: int = 0
    """Rows that were left out."""
    told: list[str] = field(default_factory=list)
    """Where the first of them are, and why."""
    encodings: dict[str, str] = field(default_factory=dict)
    """Of files that are not UTF-8, what they were taken for: a guess."""

    def reject(self, where: str, why: str) -> None:
        """Leave a row out."""
        self.rejected += 1
        if len(self.told) < _MOST_TOLD:
            self.told.append(f"{where}: {why}")


class _UnfitError(Exception):
    """Why a row cannot be used."""


def read_examples(
    path: Path,
    reading: Reading,
    *,
    documents: Documents = "auto",
    column: str = "",
    encoding: str = "",
) -> Iterator[Example]:
    """Every example of a file or folder, in memory that does not grow with the files.

    documents: what parts a plain text: `<|endoftext|>`, or blank lines.
    column: the column or field that holds the text, if it is not called `text`.
    encoding: of text and tables; UTF-8, or what it looks like, if not given.
    Raises UserError naming a file that cannot be read at all.
    """
    for file in find_files(path, (*TABLES, ".json")):
        name = without_compression(file.name).lower()
        pieces = _decoded(file, reading, encoding)
        if name.endswith(".parquet"):
            numbered = enumerate(parquet_rows(file), start=1)
            records = ((f"{file.name}, row {number}", row) for number, row in numbered)
            yield from _of_records(records, reading, column)
        elif name.endswith(JSON_SUFFIXES):
            yield from _of_records(_json_lines(file, reading), reading, column)
        elif name.endswith(".json"):
            yield from _of_records(_json(file, pieces), reading, column)
        elif name.endswith(TABLES):
            rows = csv.reader(
                _lines(file, pieces), delimiter="\t" if name.endswith(".tsv") else ",", strict=True
            )
            yield from _of_records(_table(file, rows, reading, column), reading, column)
        else:
            for number, text in enumerate(_texts(pieces, documents), start=1):
                if text.strip():
                    yield Example((Part(text, True),), f"{file.name}, document {number}")


def _of_records(
    records: Iterator[tuple[str, Any]], reading: Reading, column: str
) -> Iterator[Example]:
    for where, record in records:
        try:
            yield Example(_parts(record, column), where)
        except _UnfitError as why:
            reading.reject(where, str(why))


def _parts(record: Any, column: str) -> tuple[Part, ...]:
    """The parts of a record; _UnfitError says what it lacks."""
    if not isinstance(record, Mapping):
        raise _UnfitError("not an object")
    if column:
        return (Part(_string(record, column), True),)
    if "messages" in record:
        return _chat(record["messages"])
    if "instruction" in record:
        asked = _string(record, "instruction")
        if record.get("input"):
            asked += "\n\n" + _string(record, "input")
        turns = [("user", asked), ("assistant", _string(record, "output"))]
        return _chat([{"role": role, "content": text} for role, text in turns])
    if "prompt" in record or "completion" in record:
        prompt, completion = (
            _string(record, name, empty=name == "prompt") for name in ("prompt", "completion")
        )
        # A prompt is read by itself when it is used: its last blank belongs to what follows.
        bare = prompt.rstrip()
        between = prompt[len(bare) :]
        if bare and not between and not completion[:1].isspace():
            between = "\n"
        return (*_given(bare), Part(between + completion, True))
    if "text" in record:
        return (Part(_string(record, "text"), True),)
    shown = ", ".join(map(str, list(record)[:5])) or "nothing"
    raise _UnfitError(
        f"has {shown}; wanted are text, prompt and completion, instruction and output, or messages"
    )


def _given(text: str) -> tuple[Part, ...]:
    return (Part(text, False),) if text else ()


def _string(record: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = record.get(name)
    if value is None:
        raise _UnfitError(f"has no {name!r}")
    if not isinstance(value, str):
        raise _UnfitError(f"{name!r} is not text")
    if not empty and not value.strip():
        raise _UnfitError(f"{name!r} is empty")
    if len(value) > LONGEST:
        raise _UnfitError(f"{name!r} has over {LONGEST:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _UnfitError(f"{name!r} holds half a surrogate pair, which is no text") from None
    return value


def _chat(messages: Any) -> tuple[Part, ...]:
    """Turns as plain text, `User: ...`; loss is taken on what the assistant says."""
    if not isinstance(messages, list) or not messages:
        raise _UnfitError("'messages' is not a list of turns")
    parts: list[Part] = []
    waiting = ""
    for number, turn in enumerate(messages, start=1):
        if not isinstance(turn, Mapping):
            raise _UnfitError(f"turn {number} is not an object with role and content")
        role = turn.get("role")
        if role not in ROLES:
            raise _UnfitError(f"turn {number} has role {role!r}; there are {', '.join(ROLES)}")
        said = _string(turn, "content").strip()
        begin = "\n" if parts or waiting else ""
        if role == "assistant":
            parts += [Part(waiting + begin + ROLES[role], False), Part(f" {said}", True)]
            waiting = ""
        else:
            waiting += f"{begin}{ROLES[role]} {said}"
    if waiting:
        raise _UnfitError("the last turn is not the assistant's; nothing follows it to learn")
    return tuple(parts)


def _json_lines(file: Path, reading: Reading) -> Iterator[tuple[str, Any]]:
    damage: list[Damage] = []
    number = 0
    for block in read_lines(file, damage):
        for line in block.removesuffix(b"\n").split(b"\n"):
            number += 1
            if not line.strip():
                continue
            where = f"{file.name}, line {number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                reading.reject(where, f"is not JSON ({error})")
    _tell(damage, reading)


def _tell(damage: list[Damage], reading: Reading) -> None:
    """Long lines are rejected rows; a file that is broken is not gone on with."""
    for one in damage:
        if "a line of over" in one.detail:
            reading.reject(Path(one.path).name, one.detail)
        elif one.detail != UNENDED_LINE:
            raise DamagedInput(f"{one}; fetch or make the file again")


def _json(file: Path, pieces: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The elements of a list."""
    data: list[str] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > 16 * LONGEST:
            raise UserError(f"{file} is too large to be read whole; write it as JSON Lines")
        data.append(piece)
    try:
        found = json.loads("".join(data))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not JSON ({error}); for an object a line, name it .jsonl"
        ) from None
    if not isinstance(found, list):
        raise UserError(
            f"{file} holds no list of objects; write one, or an object a line as .jsonl"
        )
    for number, record in enumerate(found, start=1):
        yield f"{file.name}, element {number}", record


def _table(
    file: Path, rows: Any, reading: Reading, column: str
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Rows of a table under their headings; of one column, whatever it is called."""
    csv.field_size_limit(LONGEST)
    head: list[str] = []
    while True:
        first = rows.line_num + 1
        where = f"{file.name}, line {first}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            lost = f"; what follows up to line {rows.line_num:,} is lost with it"
            reading.reject(
                where, f"quotes are broken ({error}{lost if rows.line_num > first else ''})"
            )
            continue
        if row is None:
            return
        if not any(row):
            continue
        if not head:
            head = [name.strip() for name in row]
            if column and column not in head:
                raise UserError(
                    f"{file} has no column {column!r}, only {', '.join(head)}; check its first line"
                )
            if len(head) == 1 and not column:
                head = ["text"]
        elif len(row) != len(head):
            reading.reject(where, f"has {len(row)} fields, the first line {len(head)}")
        else:
            yield where, dict(zip(head, row, strict=True))


def _lines(file: Path, pieces: Iterator[str]) -> Iterator[str]:
    """Lines with their ends, none longer than what is refused anyway."""
    rest = ""
    for piece in pieces:
        whole, mark, last = (rest + piece).rpartition("\n")
        rest = last
        yield from (line + "\n" for line in whole.split("\n")) if mark else ()
        if len(rest) > 2 * LONGEST:
            raise UserError(f"{file} has a line of over {2 * LONGEST:,} characters; is it a table?")
    if rest:
        yield rest


def _texts(pieces: Iterator[str], documents: Documents) -> Iterator[str]:
    """Documents of a plain text; what is too long for one is cut where a word ends."""
    mark = _BLANK_LINES if documents == "blank-lines" else _SEPARATOR
    rest = ""
    for piece in pieces:
        *whole, rest = mark.split(rest + piece)
        yield from (text.strip("\n") for text in whole)
        while len(rest) > LONGEST:
            cut = rest.rfind(" ", LONGEST // 2, LONGEST)
            cut = cut if cut > 0 else LONGEST
            yield rest[:cut]
            rest = rest[cut:]
    yield rest.strip("\n")


def _decoded(file: Path, reading: Reading, encoding: str) -> Iterator[str]:
    """The text of a file, piece by piece; UserError if its encoding cannot be told."""
    damage: list[Damage] = []
    pieces = read_pieces(file, damage)
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _SAMPLE:
            break
    if not encoding:
        encoding = _known_encoding(file, head) or _guessed_encoding(file, head)
        if not encoding.startswith("utf"):
            reading.encodings[str(file)] = encoding
    try:
        decode = codecs.getincrementaldecoder(encoding)().decode
    except LookupError:
        raise UserError(f"there is no encoding {encoding!r}; try utf-8 or cp1252") from None
    place = 0
    try:
        yield decode(head)
        place += len(head)
        for piece in pieces:
            yield decode(piece)
            place += len(piece)
        yield decode(b"", True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not {encoding} at byte {place + error.start:,}; give --encoding, or "
            f"convert it, for example: iconv -f latin1 -t utf-8 {file.name}"
        ) from None
    if damage:
        raise DamagedInput(f"{damage[0]}; fetch or make the file again")


def _known_encoding(file: Path, head: bytes) -> str | None:
    """The encoding that a mark or the bytes themselves leave no doubt of."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head:
        raise UserError(f"{file} is a binary file, not text; give text")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return "utf-8"


def _guessed_encoding(file: Path, head: bytes) -> str:
    """What bytes look like: of what is about as likely, what is in common use."""
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise UserError(
            f"{file} is not UTF-8; give --encoding, or pip install 'gpt2lab[corpus]' to have it "
            "guessed"
        ) from None
    found = from_bytes(head)
    best = found.best()
    if best is None:
        raise UserError(f"{file} is in no encoding that can be told; give --encoding")
    near = {
        name
        for match in found
        if match.chaos <= best.chaos + _NEAR and match.coherence >= best.coherence - _NEAR
        for name in match.could_be_from_charset
    }
    return next((name for name in _COMMON if name in near), str(best.encoding))
