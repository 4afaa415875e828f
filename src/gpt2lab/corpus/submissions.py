"""Reddit submissions from dumps and lists: what a link needs of each, and nothing else."""

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gpt2lab.corpus.compressed import UNENDED_LINE, Damage, read_lines
from gpt2lab.errors import UserError

_COMPRESSION = (".zst", ".xz", ".bz2", ".gz")
_TRUE = {True, "True", "true", "1"}


class Submission(NamedTuple):
    """One post that may link somewhere. `created` is in seconds since 1970, 0 if not known."""

    url: str
    score: int
    created: int
    subreddit: str
    over_18: bool
    is_self: bool
    id: str


class _Row(msgspec.Struct, gc=False):
    """The fields read; dumps of different years write them as numbers, strings or not at all."""

    url: Any = None
    score: Any = None
    created_utc: Any = None
    subreddit: Any = None
    over_18: Any = None
    is_self: Any = None
    id: Any = None


_decoder = msgspec.json.Decoder(_Row)


def read_submissions(
    path: Path, damage: list[Damage], counts: Counter[str], *, scored: bool = False
) -> Iterator[Submission]:
    """Submissions of one file: JSON Lines dumps, CSV with a `url` column, or one URL per line.

    The suffix before that of the compression tells: `.csv`, `.txt`, anything else is JSON Lines.
    Rows that cannot be read are counted under `bad rows`, scores that are no numbers under `score
    not readable` and taken for 0; losses of the file go to `damage`. scored: refuse a CSV that has
    no column `score`.
    """
    name = path.name
    while name.endswith(_COMPRESSION):
        name = name.rsplit(".", 1)[0]
    # Lists are written by hand, and their last line may lack its end; a dump's may not.
    own: list[Damage] = []
    if name.endswith(".csv"):
        yield from _csv(path, own, counts, scored=scored)
    elif name.endswith(".txt"):
        yield from _plain(path, own)
    else:
        yield from _json(path, damage, counts)
    damage += [d for d in own if d.detail != UNENDED_LINE]


def _json(path: Path, damage: list[Damage], counts: Counter[str]) -> Iterator[Submission]:
    for block in read_lines(path, damage):
        try:
            rows = _decoder.decode_lines(block)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            rows = list(_one_by_one(block, counts))
        for row in rows:
            yield _submission(row, counts)


def _one_by_one(block: bytes, counts: Counter[str]) -> Iterator[_Row]:
    for line in block.split(b"\n"):
        if line.strip():
            try:
                yield _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                counts["bad rows"] += 1


def _submission(row: _Row, counts: Counter[str]) -> Submission:
    url = row.url
    score = _integer(row.score)
    if score is None:
        counts["score not readable"] += row.score is not None
        score = 0
    return Submission(
        url if isinstance(url, str) else "",
        score,
        _integer(row.created_utc) or 0,
        row.subreddit if isinstance(row.subreddit, str) else "",
        row.over_18 in _TRUE if isinstance(row.over_18, bool | str | int) else False,
        row.is_self in _TRUE if isinstance(row.is_self, bool | str | int) else False,
        str(row.id or ""),
    )


def _integer(value: Any) -> int | None:
    """A whole number however it is written; None for what is none, or too large for any use."""
    if type(value) is int:
        return value if abs(value) < 2**62 else None
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 2**62 else None


def _csv(
    path: Path, damage: list[Damage], counts: Counter[str], *, scored: bool
) -> Iterator[Submission]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # strict: a quote that is never closed would take the rest of the file for one field.
    reader = csv.DictReader(_text_lines(path, damage), strict=True)
    line = 0
    try:
        for name in ("url", "score") if scored else ("url",):
            if name not in (reader.fieldnames or ()):
                raise UserError(f"{path} has no column {name!r} in its first line; add a header")
        for record in reader:
            line = reader.line_num
            if record.get("url") is None:
                counts["bad rows"] += 1
                continue
            yield _submission(_Row(**{f: record.get(f) for f in _Row.__struct_fields__}), counts)
    except csv.Error as error:
        detail = f"from line {line + 1} on: {error}"
        damage.append(Damage(str(path), "corrupt", path.stat().st_size, detail))


def _plain(path: Path, damage: list[Damage]) -> Iterator[Submission]:
    for line in _text_lines(path, damage):
        if url := line.strip():
            yield Submission(url, 0, 0, "", False, False, "")


def _text_lines(path: Path, damage: list[Damage]) -> Iterator[str]:
    for block in read_lines(path, damage):
        yield from io.StringIO(block.decode("utf-8-sig", "replace"), newline="")
