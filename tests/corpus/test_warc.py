"""WARC files as they should be, and as disks and strangers leave them."""

import gzip
import hashlib
import random
import zlib

import pytest
from warcio.archiveiterator import ArchiveIterator

from gpt2lab.corpus.archive import record
from gpt2lab.corpus.warc import (
    MAX_BLOCK,
    Message,
    TooLarge,
    http_message,
    read_records,
    unpacked,
)
from gpt2lab.errors import UserError


def pages(count=12, size=3000):
    generator = random.Random(5)
    return [
        record(
            f"http://a.test/{i}",
            "200 OK",
            [("Content-Type", "text/html")],
            generator.randbytes(size) + b"\r\n\r\nWARC/1.0 is only text here",
            {},
        )
        for i in range(count)
    ]


def read(path):
    damage = []
    return list(read_records(path, damage)), damage


@pytest.mark.parametrize("packed", [True, False])
def test_what_warcio_writes_and_reads(tmp_path, packed):
    data = b"".join(pages())
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(data if packed else gzip.decompress(data))
    ours, damage = read(path)
    assert damage == []
    with path.open("rb") as file:
        for mine, theirs in zip(ours, ArchiveIterator(file), strict=True):
            assert mine.url == theirs.rec_headers.get_header("WARC-Target-URI")
            message = http_message(mine.block)
            assert message.status == 200
            assert message.body == theirs.content_stream().read()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("whirlwind.warc.gz", ["warcinfo", "request", "response", "metadata"]),
        ("whirlwind.warc.wet.gz", ["warcinfo", "conversion"]),
        ("example.warc.gz", ["warcinfo", "warcinfo", "response", "request", "revisit", "request"]),
        ("example.warc", ["warcinfo", "warcinfo", "response", "request", "revisit", "request"]),
        ("example-wget-bad-target-uri.warc.gz", None),
        ("post-test.warc.gz", None),
        ("example-resource.warc.gz", None),
    ],
)
def test_real_archives(data, name, kinds):
    records, damage = read(data / "webtext" / "warc" / name)
    assert damage == []
    if kinds:
        assert [r.kind for r in records] == kinds
    with (data / "webtext" / "warc" / name).open("rb") as file:
        theirs = [r.rec_headers.get_header("WARC-Target-URI") or "" for r in ArchiveIterator(file)]
    assert [r.url for r in records] == [url.strip("<>") for url in theirs]


def test_a_real_archive_compressed_as_a_whole(data):
    """Not record by record, as it should be: warcio refuses it, all that is in it can be read."""
    records, damage = read(data / "webtext" / "warc" / "example-bad.warc.gz.bad")
    assert damage == []
    kinds = ["warcinfo", "response", "request", "revisit", "request", "response"]
    assert [r.kind for r in records] == kinds


@pytest.mark.parametrize("packed", [True, False])
def test_every_truncation_is_told_and_what_was_whole_is_given(tmp_path, packed):
    """100 cuts of each form, 200 in all."""
    members = pages()
    data = b"".join(members) if packed else gzip.decompress(b"".join(members))
    ends, at = [], 0
    for member in members:
        at += len(member) if packed else len(gzip.decompress(member))
        ends.append(at)
    generator = random.Random(1)
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    for cut in [*range(1, 30), *generator.sample(range(30, len(data)), 71)]:
        if cut in ends:
            continue
        path.write_bytes(data[:cut])
        records, damage = read(path)
        assert len(damage) == 1, cut
        assert len(records) == sum(end <= cut for end in ends)


@pytest.mark.parametrize("packed", [True, False])
def test_every_flipped_bit_is_told_or_harmless(tmp_path, packed):
    """100 flips of each form, 200 in all: each costs at most the record it is in, and is told, or
    has changed nothing that is read (the time in a gzip header).
    """
    members = pages()
    data = b"".join(members) if packed else gzip.decompress(b"".join(members))
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(data)
    whole = {hashlib.sha256(r.block).digest() for r in read(path)[0]}
    generator = random.Random(2)
    harmless = 0
    for position in generator.sample(range(len(data)), 100):
        flipped = bytearray(data)
        flipped[position] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        records, damage = read(path)
        found = {hashlib.sha256(r.block).digest() for r in records}
        assert found <= whole
        if damage:
            assert len(whole - found) <= 1
        else:
            assert found == whole, position
            harmless += 1
    # Uncompressed, header lines carry no checksum: a date may change in silence, a text may not.
    assert harmless <= (5 if packed else 25)


def test_reading_goes_on_after_a_broken_record(tmp_path):
    members = pages()
    broken = bytearray(members[4])
    broken[len(broken) // 2] ^= 0xFF
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join([*members[:4], bytes(broken), *members[5:]]))
    records, damage = read(path)
    assert [r.url[-2:].strip("/") for r in records] == [str(i) for i in range(12) if i != 4]
    assert len(damage) == 1
    assert damage[0].offset == sum(map(len, members[:4]))
    assert f"{len(members[4]):,} bytes lost" in str(damage[0])


def test_a_member_that_unpacks_for_ever_is_left(tmp_path):
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 3000000000\r\n\r\n"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packer.compress(head)
    zeros = b"\0" * (1 << 24)
    body += b"".join(packer.compress(zeros) for _ in range(70)) + packer.flush()
    good = pages(1)[0]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(body + good)
    records, damage = read(path)
    assert [r.url for r in records] == ["http://a.test/0"]
    assert len(damage) == 1


def test_a_long_record_is_given_in_part_and_says_so(tmp_path):
    path = tmp_path / "a.warc.gz"
    long = record("http://a.test/long", "200 OK", [], b"x" * (MAX_BLOCK + 10), {})
    path.write_bytes(long + pages(1)[0])
    records, damage = read(path)
    assert damage == []
    assert [r.whole for r in records] == [False, True]
    assert len(records[0].block) == MAX_BLOCK


@pytest.mark.parametrize(
    "content", [b"", b"not a warc", b"\x1f\x8b", b"\0" * 5000, b"WARC/1.0\r\n"]
)
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_what_is_no_archive_is_told(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    records, damage = read(tmp_path / name)
    assert records == []
    assert damage


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.warc does not exist"):
        read(tmp_path / "none.warc")


def body_of(headers, body, **limits):
    return unpacked(Message(200, headers, body), **({"most": 10_000_000, "ratio": 100} | limits))


def test_bodies_are_unpacked():
    text = b"<p>hello</p>" * 100
    packed = gzip.compress(text)
    chunks = b"".join(
        f"{len(packed[i : i + 7]):x};x=y\r\n".encode() + packed[i : i + 7] + b"\r\n"
        for i in range(0, len(packed), 7)
    )
    assert body_of({}, text) == text
    assert body_of({"content-encoding": "gzip"}, packed) == text
    assert body_of({"content-encoding": "deflate"}, zlib.compress(text)) == text
    raw = zlib.compressobj(wbits=-15)
    assert body_of({"content-encoding": "deflate"}, raw.compress(text) + raw.flush()) == text
    two = gzip.compress(text) + gzip.compress(b"and more")
    assert body_of({"content-encoding": "gzip"}, two) == text + b"and more"
    assert body_of({"content-encoding": "gzip"}, text) == text  # a server that only says so
    both = {"content-encoding": "gzip", "transfer-encoding": "chunked"}
    assert body_of(both, chunks + b"0\r\n\r\n") == text
    assert body_of({"transfer-encoding": "chunked"}, text) == text


def test_bombs_are_stopped_at_the_limit():
    bomb = gzip.compress(b"\0" * 300_000_000, 9)
    assert len(bomb) < 300_000
    with pytest.raises(TooLarge):
        body_of({"content-encoding": "gzip"}, bomb)
    with pytest.raises(TooLarge):  # under the size, over the ratio
        body_of({"content-encoding": "gzip"}, gzip.compress(b"\0" * 5_000_000, 9), ratio=50)
    with pytest.raises(TooLarge):
        body_of({}, b"x" * 101, most=100)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-encoding": "br"}, b"whatever"),
        ({"content-encoding": "gzip"}, gzip.compress(b"x" * 10_000)[:-20]),
        ({"content-encoding": "gzip"}, b"\x1f\x8b\x08" + b"\xff" * 50),
    ],
)
def test_bodies_that_cannot_be_read(headers, body):
    with pytest.raises(ValueError, match=r"content encoding br|breaks off|corrupt"):
        body_of(headers, body)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"HTTP/1.1 200 OK",
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 2\xb2 OK\r\n\r\n",
    ],
)
def test_blocks_without_a_response(block):
    assert http_message(block) is None


def test_records_are_read_one_at_a_time(tmp_path):
    """Memory does not grow with the archive."""
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(pages(3)) * 50)
    stream = read_records(path, [])
    assert next(stream).url == "http://a.test/0"
    stream.close()
