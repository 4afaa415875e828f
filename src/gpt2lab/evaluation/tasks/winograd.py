"""Winograd schemas (paper section 3.4; Trinh and Le 2018): whom a pronoun stands for.

Each candidate is put in the pronoun's place. Full scoring takes the likelihood of the whole
sentence, partial scoring that of what follows the candidate only, which does not favour candidates
that are likely by themselves.
"""

import xml.etree.ElementTree as ET
from typing import Any, NamedTuple

from gpt2lab.errors import UserError
from gpt2lab.evaluation.scores import mean
from gpt2lab.evaluation.sources import Data, DataFile, Source
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks.task import Outcome, Settings, Task, limited

# The collection has grown to 285; the set that is reported on is its first 273.
WSC = 273
_POSSESSIVE = {"my", "his", "her", "our", "their"}
_ARTICLES = {"a", "an", "the", "she", "he", "it", "they", *_POSSESSIVE}


class Schema(NamedTuple):
    """A sentence up to its pronoun with each candidate in its place, and how it goes on."""

    beginnings: list[str]
    rest: str
    right: int


def read(file: DataFile) -> list[Schema]:
    """Schemas of Davis's XML, of rows with text and options, or of rows with context_options."""
    if file.path.name.removesuffix(".zst").endswith(".xml"):
        return _read_xml(file)
    schemas = []
    for number, row in enumerate(file.records(), start=1):
        try:
            if "context_options" in row:
                beginnings = [str(b) for b in row["context_options"]]
                schema = Schema(beginnings, _after(row["continuation"]), int(row["gold"]))
            else:
                text, at = str(row["text"]), int(row["pronoun_loc"])
                parts = text[:at], str(row["pronoun"]), text[at + len(row["pronoun"]) :]
                schema = _schema(*parts, list(row["options"]), int(row["label"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{file.path}, item {number}: {error!r}; check the file") from None
        if not 0 <= schema.right < len(schema.beginnings):
            raise UserError(f"{file.path}, item {number}: no option {schema.right}")
        schemas.append(schema)
    return schemas


def _read_xml(file: DataFile) -> list[Schema]:
    if b"<!ENTITY" in file.content:
        raise UserError(f"{file.path} defines entities, which its format does not; fetch it again")
    try:
        found = ET.fromstring(file.content).findall("schema")[:WSC]
        return [_xml_schema(one) for one in found]
    except (ET.ParseError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file.path} is not the collection's XML ({error!r})") from None


def _xml_schema(one: ET.Element) -> Schema:
    def text(path: str) -> str:
        return " ".join((one.findtext(path) or "").split())

    options = [" ".join((a.text or "").split()) for a in one.findall("answers/answer")]
    right = "AB".index(text("correctAnswer").strip(" ."))
    before = text("text/txt1")
    return _schema(
        f"{before} " if before else "", text("text/pron"), text("text/txt2"), options, right
    )


def _schema(before: str, pronoun: str, rest: str, options: list[str], right: int) -> Schema:
    """Candidates as they would be written in the pronoun's place."""
    inside = bool(before.strip()) and before.rstrip()[-1] not in ".!?"
    written = []
    for option in options:
        first, blank, more = option.partition(" ")
        word = first.lower() if inside and first.lower() in _ARTICLES else first
        possessive = "'s" if pronoun.lower() in _POSSESSIVE else ""
        written.append(f"{before}{word}{blank}{more}{possessive}")
    return Schema(written, _after(rest), right)


def _after(rest: str) -> str:
    """How a sentence goes on, with its blank."""
    rest = rest.strip()
    return rest if rest[:1] in tuple(".,;:!?'") else f" {rest}"


def _run(subject: Subject, data: Data, settings: Settings) -> Outcome:
    file = data.find(SOURCE)
    schemas: list[Schema] = limited(read(file), settings, file)
    partial_pairs = [(b, s.rest) for s in schemas for b in s.beginnings]
    full_pairs = [("", b + s.rest) for s in schemas for b in s.beginnings]
    partial = _chosen(schemas, [s.total for s in subject.endings("winograd", partial_pairs)])
    full = _chosen(schemas, [s.total for s in subject.endings("winograd, full", full_pairs)])
    right = [s.right for s in schemas]
    scores = [
        mean(
            f"winograd.{name} accuracy",
            [a == b for a, b in zip(chosen, right, strict=True)],
            f"the candidate in the pronoun's place with which {what} is likelier",
        )
        for name, chosen, what in (
            ("partial", partial, "what follows it"),
            ("full", full, "the whole sentence, after <|endoftext|>,"),
        )
    ]
    items: list[dict[str, Any]] = [
        {"options": s.beginnings, "rest": s.rest, "right": s.right, "partial": p, "full": f}
        for s, p, f in zip(schemas, partial, full, strict=True)
    ]
    texts = [s.beginnings[s.right] + s.rest for s in schemas]
    return Outcome(scores, file.digest, [str(file.path)], items, texts)


def _chosen(schemas: list[Schema], nats: list[float]) -> list[int]:
    each = iter(nats)
    totals = [[next(each) for _ in s.beginnings] for s in schemas]
    return [t.index(min(t)) for t in totals]


SOURCE = Source(
    ("WSCollection.xml", "winograd_wsc.jsonl"),
    "https://cs.nyu.edu/faculty/davise/papers/WinogradSchemas/WSCollection.xml",
    "98c845a5b33c109f2c49742e726fac592bbb1fdc3b3706b604de12f9c9f58c91",
    "ErnestSDavis/winograd_wsc:wsc273/test-00000-of-00001.parquet",
)
TASKS = (Task("winograd", "whom a pronoun stands for, 273 schemas", _run, (SOURCE,)),)
