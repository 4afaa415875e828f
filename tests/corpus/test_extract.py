"""Pages to text, whatever the pages do to the process that reads them."""

import gzip
import json
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from gpt2lab.corpus import extract
from gpt2lab.corpus.archive import record
from gpt2lab.corpus.documents import read_batches
from gpt2lab.corpus.extract import Extractor
from gpt2lab.corpus.extractor import Job
from gpt2lab.corpus.extractor import extract as extract_one
from gpt2lab.corpus.recipe import Extract
from web import article

BAD = (sys.executable, str(Path(__file__).parents[1] / "hooks" / "bad_extractor.py"))
HTML = [("Content-Type", "text/html; charset=utf-8")]


def archive(path, pages):
    path.write_bytes(
        b"".join(
            record(f"http://a.test/{n}", "200 OK", HTML, p.encode(), {}) for n, p in pages.items()
        )
    )
    return str(path)


def rows(folder):
    files = sorted(folder.glob("documents-*.arrow"))
    return [row for f in files for batch in read_batches(f) for row in batch.to_pylist()]


def run(tmp_path, file, rules=None, block="none"):
    out = tmp_path / "out"
    out.mkdir()
    manifest = extract.read(out, file=file, rules=rules or Extract(), block=block)
    return manifest, rows(out), (out / extract.QUARANTINE).read_text().splitlines()


def test_a_page_that_hangs_or_crashes_is_named_and_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(Extractor, "command", BAD)
    words = (
        "one",
        "HANG",
        "two",
        "CRASH",
        "three",
        "EAT",
        "four",
        "CHATTER",
        "RAISE",
        "DEEP",
        "five",
    )
    file = archive(tmp_path / "a.warc.gz", {w: article(w) for w in words})
    manifest, documents, quarantine = run(tmp_path, file, Extract(seconds=1.0))
    assert [row["url"][14:] for row in documents] == [
        "one",
        "two",
        "three",
        "four",
        "CHATTER",
        "five",
    ]
    assert manifest["counts"] == {
        "responses": 11,
        "documents": 6,
        "timeout": 1,
        "crash": 1,
        "out of memory": 1,
        "extractor failed: KeyError": 1,
        "nested too deep": 1,
    }
    named = {json.loads(line)["url"]: json.loads(line)["reason"] for line in quarantine}
    assert named == {
        "http://a.test/HANG": "timeout",
        "http://a.test/CRASH": "crash",
        "http://a.test/EAT": "out of memory",
    }


def test_the_process_is_renewed_now_and_then(monkeypatch):
    monkeypatch.setattr(extract, "PAGES_PER_PROCESS", 2)
    children = set()
    with closing(Extractor(Extract())) as extractor:
        for i in range(5):
            assert "topic" in extractor.extract(article(f"topic {i}").encode()).text
            children.add(extractor._child.pid)
    assert len(children) == 3


def test_what_is_known_of_a_page(tmp_path):
    page = (
        '<html lang="en"><head><title>Site</title><meta property="og:title" content=" A  title ">'
        '<meta name="author" content="Ann Author"><meta property="article:published_time" '
        'content="2016-03-04T05:06:07Z"></head><body>' + article("rivers").split("<body>")[1]
    )
    about = {"GPT2Lab-Score": "12", "GPT2Lab-Created": "1119552233"}
    path = tmp_path / "a.warc.gz"
    path.write_bytes(record("http://a.test/x", "200 OK", HTML, page.encode(), about))
    _, documents, _ = run(tmp_path, str(path))
    (row,) = documents
    assert (row["title"], row["author"], row["date"]) == ("A title", "Ann Author", "2016-03-04")
    assert (row["score"], row["created"], row["language"]) == (12, 1119552233, "en")
    assert "rivers" in row["text"]
    assert "Imprint" not in row["text"]


def test_pages_that_give_no_document_are_counted(tmp_path):
    german = "<html><body><article>" + "<p>Der Hund und die Katze gehen über die Straße.</p>" * 30
    bomb = gzip.compress(b"<p>x" * 8_000_000)
    records = [
        record("http://a.test/de", "200 OK", HTML, german.encode(), {}),
        record("http://a.test/404", "404 Not Found", HTML, b"gone", {}),
        record("http://a.test/pdf", "200 OK", [("Content-Type", "application/pdf")], b"%PDF", {}),
        record("http://a.test/short", "200 OK", HTML, b"<p>hi</p>", {}),
        record("http://a.test/bomb", "200 OK", [*HTML, ("Content-Encoding", "gzip")], bomb, {}),
        record("http://a.test/br", "200 OK", [*HTML, ("Content-Encoding", "br")], b"xx", {}),
        record("http://en.wikipedia.org/wiki/A", "200 OK", HTML, article("a").encode(), {}),
        record("http://a.test/empty", "200 OK", HTML, b"", {}),
        record("http://a.test/binary", "200 OK", HTML, bytes(range(256)) * 50, {}),
    ]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(records))
    manifest, documents, _ = run(tmp_path, str(path), block="webtext")
    assert documents == []
    counts = manifest["counts"]
    assert counts["responses"] == 9
    assert sum(counts.values()) == 18  # every response has its reason
    for reason in (
        "other language", "status 4xx", "not html", "too large unpacked",
        "content encoding br", "blocked domain",
    ):  # fmt: skip
        assert counts[reason] >= 1, reason


def test_encodings_are_told_by_server_or_page():
    text = "Der Königsweg führt über die Brücke zur grünen Wiese. " * 20
    page = (
        f"<html><head><meta charset=ENC></head><body><article><p>{text}</p></article></body></html>"
    )
    for encoding, charset in (
        ("latin-1", "iso-8859-1"),
        ("utf-8", ""),
        ("cp1252", "no-such-charset"),
    ):
        body = page.replace("ENC", encoding).encode(encoding)
        if charset == "no-such-charset":
            body = page.encode()
        outcome = extract_one(Job(body, charset, "", "default", "", 10**6))
        assert "Königsweg führt über die Brücke" in outcome.text, encoding


@pytest.mark.parametrize(
    ("profile", "least"), [("default", 0.96), ("quality", 0.96), ("fast", 0.92)]
)
def test_text_of_real_pages_is_the_gold_text(data, profile, least):
    """Every fifth page here; benchmarks/extraction.py measures all 181."""
    from extraction import f1, gold_pages

    pages = gold_pages(data)[::5]
    found = [
        extract_one(Job(html, "utf-8", url, profile, "", 10**7)).text for html, url, _ in pages
    ]
    assert f1([gold for *_, gold in pages], found)[0] > least - 0.02


def test_the_65_readability_pages_all_give_text(data):
    reasons = {}
    with tarfile.open(data / "webtext" / "html" / "readability-test-pages.tar.xz") as tar:
        for member in tar:
            if member.name.endswith("source.html"):
                html = tar.extractfile(member).read()
                outcome = extract_one(Job(html, "", "", "default", "", 10**7))
                reasons[member.name] = outcome.reason
    assert len(reasons) == 65
    assert sum(not reason for reason in reasons.values()) >= 63


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_a_page_nested_a_hundred_thousand_deep_costs_only_itself(profile):
    deep = "<div>" * 100_000 + "<p>the end of it" + "</div>" * 100_000
    with closing(Extractor(Extract(profile=profile, seconds=5.0))) as extractor:
        extractor.extract(deep.encode())
        assert "rivers" in extractor.extract(article("rivers").encode()).text
