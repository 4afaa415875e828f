"""Texts to fine-tune on, as people keep them: plain, CSV, JSON, Parquet; prompts, instructions,
chats. What cannot be used is told by file and line, and the rest is read all the same.
"""

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from gpt2lab.corpus.compressed import UNENDED_LINE, Damage, read_lines, read_pieces
from gpt2lab.corpus.plaintext import (
    JSON_SUFFIXES,
    SEPARATOR,
    find_files,
    parquet_rows,
    read_blocks,
    seen,
    without_compression,
)
from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.training.records import (
    FIELDS,
    LONGEST,
    PLAIN,
    Example,
    Form,
    Part,
    UnfitError,
    examples_of,
)

TABLES = (".csv", ".tsv")
# A plain text of more characters is cut; a row may be longer, but not than LONGEST.
LONGEST_TEXT = 2 << 20
# How much of a file its encoding is told from.
_SAMPLE = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# Of Western, Cyrillic, Chinese, Japanese, Korean and Central European text.
_COMMON = ("cp1252", "cp1251", "gb18030", "cp932", "cp949", "big5", "cp1250")
_NO_TEXT = ("punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined")
# How far from the best guess another is still as good.
_NEAR = 0.1
# How many rejected rows are remembered word for word.
_MOST_TOLD = 1000
_SEPARATOR = re.compile(re.escape(SEPARATOR))
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")

Documents = Literal["auto", "blank-lines"]


@dataclass
class Reading:
    """What is to be told of files that are read."""

    rejected: int = 0
    """Rows that were left out."""
    told: list[str] = field(default_factory=list)
    """Where the first of them are, and why."""
    encodings: dict[str, str] = field(default_factory=dict)
    """Of files that are not UTF-8, what they were taken for: a guess."""
    skipped: list[str] = field(default_factory=list)
    """Files of a folder that are of no kind that is read."""

    def reject(self, where: str, why: str) -> None:
        """Leave a row out."""
        self.rejected += 1
        if len(self.told) < _MOST_TOLD:
            self.told.append(writable(f"{where}: {why}"))


def writable(name: str) -> str:
    """A name or key as it can be told, whatever bytes it is made of."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_examples(
    path: Path,
    reading: Reading,
    *,
    documents: Documents = "auto",
    column: str = "",
    encoding: str = "",
    form: Form = PLAIN,
) -> Iterator[Example]:
    """Every example of a file or folder, in memory that does not grow with the files.

    documents: what parts a plain text: `<|endoftext|>`, or blank lines.
    column: the column or field that holds the text, if it is not called `text`.
    encoding: of text and tables; UTF-8, or what it looks like, if not given.
    form: how turns of a chat are written.
    Raises UserError naming a file that cannot be read at all.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is no ordinary file; it is read twice, so save it as one")
    files = find_files(path, (*TABLES, ".json"))
    if path.is_dir():
        others = sorted(set(seen(path)) - set(files))[:_MOST_TOLD]
        reading.skipped = [writable(file.name) for file in others]
    for file in files:
        name = without_compression(file.name).lower()
        pieces = _decoded(file, reading, encoding)
        if name.endswith(".parquet"):
            wanted = (column,) if column else FIELDS
            numbered = enumerate(parquet_rows(file, wanted), start=1)
            records = ((f"{file.name}, row {number}", row) for number, row in numbered)
            yield from _of_records(records, reading, column, form)
        elif name.endswith(JSON_SUFFIXES):
            found = _json_lines(file, _line_blocks(file, reading, encoding), reading)
            yield from _of_records(found, reading, column, form)
        elif name.endswith(".json"):
            yield from _of_records(_json(file, pieces), reading, column, form)
        elif name.endswith(TABLES):
            lines = _lines(file, pieces)
            first = next(lines, "")
            tab = "\t" if name.endswith(".tsv") else _delimiter(first)
            rows = csv.reader(chain([first], lines), delimiter=tab, strict=True)
            table = _table(file, rows, reading, column)
            yield from _of_records(table, reading, column, form)
        else:
            for number, text in enumerate(_texts(pieces, documents), start=1):
                if text.strip():
                    yield Example((Part(text, True),), f"{file.name}, document {number}")


def _of_records(
    records: Iterator[tuple[str, Any]], reading: Reading, column: str, form: Form
) -> Iterator[Example]:
    for where, record in records:
        try:
            yield from examples_of(record, where, column, form)
        except UnfitError as why:
            reading.reject(where, str(why))


def _line_blocks(file: Path, reading: Reading, encoding: str) -> Iterator[bytes]:
    """Whole lines in UTF-8, whatever they are in, if that is said or marked."""
    if encoding or _marked(file):
        pieces = _decoded(file, reading, encoding)
        yield from (line.encode("utf-8", "surrogatepass") for line in _lines(file, pieces))
        return
    damage: list[Damage] = []
    yield from read_blocks(file, damage, read_lines)
    _tell(damage, reading)


def _marked(file: Path) -> bool:
    """Whether a file begins with a byte-order mark."""
    head = next(read_blocks(file, [], read_pieces), b"")
    return head.startswith(tuple(mark for mark, _ in _MARKS))


def _json_lines(file: Path, blocks: Iterator[bytes], reading: Reading) -> Iterator[tuple[str, Any]]:
    number = 0
    for block in blocks:
        for line in block.removesuffix(b"\n").split(b"\n"):
            number += 1
            if not line.strip():
                continue
            where = f"{file.name}, line {number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                reading.reject(where, f"is not JSON ({error})")


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
            twice = next((name for name in head if head.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"{file} has two columns {twice!r}; rename one in its first line")
            if len(head) == 1 and not column:
                head = ["text"]
        elif len(row) != len(head):
            reading.reject(where, f"has {len(row)} fields, the first line {len(head)}")
        else:
            yield where, dict(zip(head, row, strict=True))


def _delimiter(heading: str) -> str:
    """What parts the columns: a comma, but some programs write semicolons or tabs."""
    return "," if "," in heading else next((mark for mark in ";\t" if mark in heading), ",")


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
        while len(rest) > LONGEST_TEXT:
            cut = rest.rfind(" ", LONGEST_TEXT // 2, LONGEST_TEXT)
            cut = cut if cut > 0 else LONGEST_TEXT
            yield rest[:cut]
            rest = rest[cut:]
    yield rest.strip("\n")


def _decoded(file: Path, reading: Reading, encoding: str) -> Iterator[str]:
    """The text of a file, piece by piece; UserError if its encoding cannot be told."""
    damage: list[Damage] = []
    pieces = read_blocks(file, damage, read_pieces)
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _SAMPLE:
            break
    if not encoding:
        encoding = _known_encoding(file, head) or _guessed_encoding(file, head)
        if not encoding.startswith("utf"):
            reading.encodings[writable(str(file))] = encoding
    decoder = _decoder(encoding)
    # Line ends of Windows and of old Macintoshes become \n.
    decode = io.IncrementalNewlineDecoder(decoder, translate=True).decode
    place = 0
    try:
        yield decode(head)
        place += len(head)
        for piece in pieces:
            yield decode(piece)
            place += len(piece)
        yield decode(b"", True)
    except UnicodeError as error:
        at = f" at byte {place + error.start:,}" if isinstance(error, UnicodeDecodeError) else ""
        raise UserError(
            f"{file} is not {encoding}{at}; give --encoding, or convert it, for example: "
            f"iconv -f latin1 -t utf-8 {file.name}"
        ) from None
    if damage:
        raise DamagedInput(f"{damage[0]}; fetch or make the file again")


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    """Of an encoding of text; Python's others turn bytes into bytes, or text into anything."""
    try:
        known = codecs.lookup(encoding).name not in _NO_TEXT
        with contextlib.suppress(UnicodeError):
            b"a".decode(encoding)
    except (LookupError, ValueError):
        known = False
    if not known:
        raise UserError(f"there is no encoding {encoding!r} of text; try utf-8 or cp1252")
    return codecs.getincrementaldecoder(encoding)()


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
