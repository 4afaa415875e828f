"""Documents from files as people keep them: text, Markdown, JSON Lines, Parquet, or folders."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt2lab.corpus.compressed import UNENDED_LINE, Damage, read_lines, read_pieces
from gpt2lab.corpus.document import Document
from gpt2lab.errors import DamagedInput, UserError

SEPARATOR = "<|endoftext|>"
TEXT_SUFFIXES = (".txt", ".md", ".rst")
JSON_SUFFIXES = (".jsonl", ".ndjson")
COMPRESSED = (".zst", ".gz", ".xz", ".bz2")
PARQUET = ".parquet"

# Fewer documents than this cannot be split into training and held-out text by document.
FEW = 20
PASSAGE_CHARS = 8192
# A text file is one document or a few: read whole.
MAX_TEXT_BYTES = 4 << 30
# Rows of Parquet held at a time: a small file may hold large ones.
_ROWS = 64


def read_documents(path: Path) -> list[Document]:
    """Every document at `path`, a file or a folder; UserError names the file that cannot be read.

    A text file is one document unless `<|endoftext|>` separates several; a JSON Lines file is one
    document per line, its text under `text`. When all of it makes fewer than twenty documents,
    they are cut into passages of about 8 KB at blank lines, so that some can be held out.
    """
    damage: list[Damage] = []
    documents = [d for f in find_files(path) for d in read_file(f, damage) if d.text.strip()]
    if damage:
        raise DamagedInput(f"{damage[0]}; fetch or make the file again")
    if not documents:
        raise UserError(f"{path} holds no text; give a file or folder that does")
    if len(documents) < FEW:
        documents = [Document(passage, d.source) for d in documents for passage in passages(d.text)]
    return documents


def find_files(path: Path, also: Sequence[str] = ()) -> list[Path]:
    """The files of documents at `path`, a file or a folder, in order of their names.

    also: suffixes of more kinds of files that can be read.
    """
    if not path.is_dir():
        return [path]
    plain = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *also)
    wanted = (*plain, *(s + c for s in plain for c in COMPRESSED), PARQUET)
    found = sorted(f for f in seen(path) if f.name.lower().endswith(wanted))
    if not found:
        shown = ", ".join("*" + s for s in (*plain, PARQUET))
        raise UserError(f"{path} holds no file named {shown} (or these with .zst, .gz, .xz, .bz2)")
    return found


def seen(folder: Path) -> Iterator[Path]:
    """The files of a folder and the folders in it; what is hidden is not seen."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def read_file(file: Path, damage: list[Damage]) -> Iterator[Document]:
    """The documents of one file; what the file has lost is appended to `damage`.

    Raises UserError for what is no document: bytes that are not UTF-8, a line without text.
    """
    name = without_compression(file.name).lower()
    if name.endswith(PARQUET):
        yield from _read_parquet(file)
    elif name.endswith(JSON_SUFFIXES):
        yield from _read_json_lines(file, damage)
    else:
        for text in _decode(file, _bytes(file, damage)).split(SEPARATOR):
            yield Document(text.strip("\n"), source=file.name)


def without_compression(name: str) -> str:
    """`a.jsonl.zst` -> `a.jsonl`."""
    while name.lower().endswith(COMPRESSED):
        name = name.rsplit(".", 1)[0]
    return name


def read_blocks(
    file: Path, damage: list[Damage], read: Callable[[Path, list[Damage]], Iterator[bytes]]
) -> Iterator[bytes]:
    """Pieces of a file. Files written by hand may lack the end of their last line."""
    own: list[Damage] = []
    try:
        yield from read(file, own)
    except ImportError:
        raise UserError(
            f"{file} is compressed; install the reader with: pip install 'gpt2lab[corpus]'"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    damage += [d for d in own if d.detail != UNENDED_LINE]


def read_bytes(file: Path) -> bytes:
    """All bytes of a file, decompressed.

    Raises UserError if it is larger than what is read as one text, DamagedInput if it is damaged.
    """
    damage: list[Damage] = []
    data = _bytes(file, damage)
    if damage:
        raise DamagedInput(f"{damage[0]}; fetch it again")
    return data


def _bytes(file: Path, damage: list[Damage]) -> bytes:
    pieces, size = [], 0
    for block in read_blocks(file, damage, read_pieces):
        size += len(block)
        if size > MAX_TEXT_BYTES:
            raise UserError(
                f"{file} holds more than {MAX_TEXT_BYTES >> 30} GiB of text; split it into files"
            )
        pieces.append(block)
    return b"".join(pieces)


def _decode(file: Path, data: bytes) -> str:
    if b"\0" in data[:65536]:
        raise UserError(f"{file} is a binary file, not text; give UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; convert "
            f"it, for example: iconv -f latin1 -t utf-8 {file.name}"
        ) from None


def _read_json_lines(file: Path, damage: list[Damage]) -> Iterator[Document]:
    own: list[Damage] = []
    number = 0
    for block in read_blocks(file, own, read_lines):
        yield from read_json_block(file, block, number, damage)
        number += block.count(b"\n")
    damage += own


def read_json_block(
    file: Path, block: bytes, lines_before: int, damage: list[Damage]
) -> Iterator[Document]:
    """The documents of some JSON lines, the first of which has so many lines before it.

    A last line without its end that is no JSON is the piece of one: the file has been cut.
    """
    for number, line in enumerate(block.split(b"\n"), start=lines_before + 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["text"]
            text.encode()  # an unpaired surrogate is no text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if number == lines_before + block.count(b"\n") + 1 and line[:1] == b"{":
                size = file.stat().st_size
                damage.append(Damage(str(file), "truncated", size, "the last line breaks off"))
                return
            raise UserError(
                f"{file}, line {number}: expected a JSON object with a string under 'text'"
            ) from None
        yield document(file, text, record.get("url"), record.get("score"), record.get("date"))


def document(file: Path, text: str, url: Any, score: Any, date: Any) -> Document:
    """A document with what else its record says, as far as it is of the right kind."""
    return Document(
        text,
        source=file.name,
        url=_text(url),
        score=score if type(score) is int and abs(score) < 2**62 else None,
        date=_text(date),
    )


def _text(value: Any) -> str | None:
    """A string that UTF-8 can hold, or None."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _read_parquet(file: Path) -> Iterator[Document]:
    for record in parquet_rows(file, ("text", "url", "score", "date")):
        if "text" not in record:
            raise UserError(f"{file} has no column 'text'; rename the one that holds the text")
        if not isinstance(record["text"], str):
            raise UserError(f"{file}: column 'text' holds something that is not text")
        get = record.get
        yield document(file, record["text"], get("url"), get("score"), get("date"))


def parquet_rows(file: Path, columns: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, some at a time; of these columns, as far as it has them, or all.

    Raises UserError if its reader is missing, DamagedInput if the file is not whole.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(
            f"{file} is Parquet; install the reader with: pip install 'gpt2lab[corpus]'"
        ) from None
    try:
        with pq.ParquetFile(file) as table:
            there = table.schema_arrow.names
            names = [n for n in columns if n in there] if columns else None
            for batch in table.iter_batches(_ROWS, columns=names):
                yield from batch.to_pylist()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; check the path") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedInput(
            f"{file} is not a whole Parquet file ({error}); fetch it again"
        ) from None


def passages(text: str, size: int = PASSAGE_CHARS) -> Iterator[str]:
    """Cut a long text into pieces of about `size` characters: at blank lines, else lines, else
    spaces, else anywhere. Joined, the pieces are the text without the white space cut at.
    """
    start = 0
    while len(text) - start > size:
        end = start + size
        for mark in ("\n\n", "\n", " "):
            cut = text.rfind(mark, start + size // 2, end)
            if cut > start:
                end = cut
                break
        yield text[start:end].strip()
        start = end
    yield text[start:].strip()
