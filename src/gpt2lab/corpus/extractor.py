"""The process that takes text out of pages: `python -m gpt2lab.corpus.extractor`.

HTML parsers crash, hang and leak on some pages of the web, so they run in a process of their own,
which extract.py starts, feeds, times, and kills. Messages are msgpack with a length before each.
"""

import os
import re
import resource
import sys
from pathlib import Path
from typing import IO, Any

import msgspec

from gpt2lab.corpus.language import detect_language

# A page of fewer characters holds no document, and too few to tell its language.
MIN_CHARS = 64
_DATE = re.compile(r"(19|20)\d\d-[01]\d-[0-3]\d")
_AUTHORS = ('meta[name="author"]', 'meta[property="article:author"]', '[rel="author"]')
_DATES = (
    'meta[property="article:published_time"]',
    'meta[name="date"]',
    'meta[itemprop="datePublished"]',
    "time[datetime]",
)


class Job(msgspec.Struct, array_like=True):
    """One page: its bytes, the charset its server named, where it is from, and what to do."""

    html: bytes
    charset: str
    url: str
    profile: str
    language: str
    max_chars: int


class Outcome(msgspec.Struct, array_like=True):
    """The text and what is known of it, or why there is none."""

    reason: str = ""
    text: str = ""
    title: str = ""
    author: str = ""
    date: str = ""
    language: str = ""


def extract(job: Job) -> Outcome:
    """Text, title, author, date and language of one page."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    encoding = job.charset or detect_encoding(job.html) or "utf-8"
    try:
        page = bytes_to_str(job.html, encoding)
    except LookupError:  # a charset no one knows
        page = bytes_to_str(job.html, "utf-8")
    tree = HTMLTree.parse(page)
    if tree.body is None:
        return Outcome("no text")
    visible = extract_plain_text(tree, preserve_formatting=False)
    if len(visible) < MIN_CHARS:
        return Outcome("no text")
    language = detect_language(visible)
    if job.language and language != job.language:
        return Outcome("other language", language=language)
    if job.profile == "fast":
        text = extract_plain_text(
            tree,
            main_content=True,
            comments=False,
            post_meta=False,
            alt_texts=False,
            list_bullets=False,
        )
    else:
        text = _trafilatura(page, job) or ""
    text = text.strip()
    if not text:
        return Outcome("nothing extracted", language=language)
    if len(text) > job.max_chars:
        return Outcome("text too long", language=language)
    return Outcome("", text, *_metadata(tree), language)


def _trafilatura(page: str, job: Job) -> str | None:
    import trafilatura

    precise = job.profile == "quality"
    text = trafilatura.extract(
        page,
        url=job.url or None,
        include_comments=False,
        favor_precision=precise,
        favor_recall=not precise,
        fast=not precise,
    )
    return str(text) if text else None


def _metadata(tree: Any) -> tuple[str, str, str]:
    """Title, author and date of publication, as the page states them."""
    og = tree.document.query_selector('meta[property="og:title"]')
    title = (og.getattr("content") if og else None) or tree.title or ""
    author = _first(tree, _AUTHORS)
    found = _DATE.search(_first(tree, _DATES))
    return _clip(title), _clip(author), found[0] if found else ""


def _first(tree: Any, selectors: tuple[str, ...]) -> str:
    for selector in selectors:
        node = tree.document.query_selector(selector)
        if node is not None:
            value = node.getattr("content") or node.getattr("datetime") or node.text
            if value and value.strip():
                return str(value)
    return ""


def _clip(text: str) -> str:
    return " ".join(text.split())[:300]


def send(stream: IO[bytes], message: msgspec.Struct) -> None:
    """Write one message."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(4, "little") + data)
    stream.flush()


def main(memory_mb: int) -> None:
    """Answer jobs on standard input until it closes."""
    import trafilatura  # noqa: F401  loaded before the limit is set

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # What libraries print must not get between the messages.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    decode = msgspec.msgpack.Decoder(Job).decode
    send(output, Outcome("ready"))
    while len(head := sys.stdin.buffer.read(4)) == 4:
        job = decode(sys.stdin.buffer.read(int.from_bytes(head, "little")))
        try:
            outcome = extract(job)
        except MemoryError:
            outcome = Outcome("out of memory")
        except RecursionError:
            outcome = Outcome("nested too deep")
        except Exception as error:  # whatever a parser throws at one page
            outcome = Outcome(f"extractor failed: {type(error).__name__}")
        send(output, outcome)


if __name__ == "__main__":
    main(int(sys.argv[1]))
