"""Documents from text files as people keep them: .txt, Markdown, JSON Lines, folders of these."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2lab.corpus.document import Document
from gpt2lab.errors import UserError

if TYPE_CHECKING:
    import zstandard

SEPARATOR = "<|endoftext|>"
TEXT_SUFFIXES = (".txt", ".md", ".rst")
JSON_SUFFIXES = (".jsonl", ".ndjson")
COMPRESSED = ".zst"

# Fewer documents than this cannot be split into training and held-out text by document.
FEW = 20
PASSAGE_CHARS = 8192
MAX_DECOMPRESSED = 4 * 2**30


def read_documents(path: Path) -> list[Document]:
    """Every document at `path`, a file or a folder; UserError names the file that cannot be read.

    A text file is one document unless `<|endoftext|>` separates several; a JSON Lines file is one
    document per line, its text under `text`. When all of it makes fewer than twenty documents,
    they are cut into passages of about 8 KB at blank lines, so that some can be held out.
    """
    files = [path] if not path.is_dir() else _files(path)
    documents = [d for file in files for d in _read(file) if d.text.strip()]
    if not documents:
        raise UserError(f"{path} holds no text; give a file or folder that does")
    if len(documents) < FEW:
        documents = [Document(passage, d.source) for d in documents for passage in passages(d.text)]
    return documents


def _files(folder: Path) -> list[Path]:
    wanted = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *(s + COMPRESSED for s in JSON_SUFFIXES))
    found = sorted(f for f in folder.rglob("*") if f.is_file() and f.name.endswith(wanted))
    if not found:
        raise UserError(f"{folder} holds no file named {', '.join('*' + s for s in wanted)}")
    return found


def _read(file: Path) -> Iterator[Document]:
    if file.name.endswith((*JSON_SUFFIXES, *(s + COMPRESSED for s in JSON_SUFFIXES))):
        yield from _read_json_lines(file)
        return
    for text in _decode(file, _bytes(file)).split(SEPARATOR):
        yield Document(text.strip("\n"), source=file.name)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


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


def _read_json_lines(file: Path) -> Iterator[Document]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["text"]
            text.encode()  # an unpaired surrogate is no text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{file}, line {number}: expected a JSON object with a string under 'text'"
            ) from None
        yield Document(text, source=file.name)


def _lines(file: Path) -> Iterable[bytes]:
    if not file.name.endswith(COMPRESSED):
        return _bytes(file).splitlines()
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{file} is compressed; install the reader with: pip install 'gpt2lab[corpus]'"
        ) from None
    try:
        return _unpack(file, zstandard.ZstdDecompressor()).splitlines()
    except zstandard.ZstdError as error:
        raise UserError(f"{file} is not a whole zstd file ({error}); fetch it again") from None


def _unpack(file: Path, zstd: "zstandard.ZstdDecompressor") -> bytes:
    """All frames of a zstd file, up to a limit, a truncated last one refused."""
    packed = _bytes(file)
    parts, size = [], 0
    while packed:
        frame = zstd.decompressobj()
        for start in range(0, len(packed), 2**16):
            parts.append(frame.decompress(packed[start : start + 2**16]))
            size += len(parts[-1])
            if size > MAX_DECOMPRESSED:
                raise UserError(
                    f"{file} unpacks to more than {MAX_DECOMPRESSED >> 30} GiB; "
                    "split it into smaller files"
                )
            if frame.eof:
                packed = frame.unused_data + packed[start + 2**16 :]
                break
        else:
            raise UserError(f"{file} ends inside a zstd frame; it is truncated, fetch it again")
    return b"".join(parts)


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
