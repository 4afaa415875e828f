"""Reading compressed files: whole ones whole, damaged ones with every loss told."""

import bz2
import gzip
import json
import lzma
import random

import pytest
import zstandard

from gpt2lab.corpus import compressed
from gpt2lab.corpus.compressed import read_lines, read_pieces
from gpt2lab.errors import UserError

TEXT = "".join(
    json.dumps({"id": i, "text": f"row {i} {random.Random(i).random()}"}) + "\n"
    for i in range(20_000)
).encode()


def zstd(data, window=31):
    """As Pushshift packs its dumps: a window of 2 GiB, with a checksum."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=window, enable_ldm=True, write_checksum=True
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


PACKERS = {
    "a.ndjson": bytes,
    "a.zst": zstd,
    "a.xz": lzma.compress,
    "a.bz2": bz2.compress,
    "a.gz": gzip.compress,
}


@pytest.mark.parametrize("name", PACKERS)
def test_whole_files(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(PACKERS[name](TEXT))
    damage = []
    blocks = list(read_lines(path, damage))
    assert b"".join(blocks) == TEXT
    assert damage == []
    assert all(block.endswith(b"\n") for block in blocks)
    assert max(map(len, blocks)) < 3 << 20


@pytest.mark.parametrize("name", [n for n in PACKERS if n != "a.ndjson"])
def test_several_streams_one_after_another(tmp_path, name):
    half = TEXT.index(b"\n", len(TEXT) // 2) + 1
    path = tmp_path / name
    path.write_bytes(PACKERS[name](TEXT[:half]) + PACKERS[name](TEXT[half:]))
    damage = []
    assert b"".join(read_pieces(path, damage)) == TEXT
    assert damage == []


def test_skippable_zstd_frames_are_skipped(tmp_path):
    frame = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    path = tmp_path / "a.zst"
    path.write_bytes(frame + zstd(TEXT) + frame)
    damage = []
    assert b"".join(read_pieces(path, damage)) == TEXT
    assert damage == []


@pytest.mark.parametrize("name", PACKERS)
def test_every_truncation_is_told(tmp_path, name):
    """40 cuts of each form; 200 in all."""
    whole = PACKERS[name](TEXT)
    generator = random.Random(7)
    path = tmp_path / name
    for cut in [1, 2, 3, 5, 9, len(whole) - 1, *generator.sample(range(10, len(whole) - 1), 34)]:
        path.write_bytes(whole[:cut])
        if name == "a.ndjson" and whole[cut - 1 : cut] == b"\n":
            continue  # a plain file cut between two lines looks whole; only a checksum tells
        damage = []
        got = b"".join(read_lines(path, damage))
        assert damage, f"{name} cut at {cut} of {len(whole)}"
        assert TEXT.startswith(got)
        assert got.endswith(b"\n") or name == "a.ndjson" or not got
        assert damage[0].kind in ("truncated", "corrupt")


@pytest.mark.parametrize("name", [n for n in PACKERS if n != "a.ndjson"])
def test_every_flipped_bit_is_told_or_harmless(tmp_path, name):
    """50 flips of each form, 200 in all. Some bits of a header change nothing that is read (a time,
    the name of the system); then the text must be the very same.
    """
    whole = PACKERS[name](TEXT)
    generator = random.Random(11)
    path = tmp_path / name
    harmless = 0
    for position in list(range(6)) + generator.sample(range(6, len(whole)), 44):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        damage = []
        try:
            got = b"".join(read_pieces(path, damage))
        except UserError:  # a window that asks for more memory than there is
            continue
        if not damage:
            assert got == TEXT, f"{name}: flip at {position} went unnoticed"
            harmless += 1
    assert harmless <= 6


def test_after_a_corrupt_zstd_frame_reading_goes_on(tmp_path):
    first, second = zstd(b"lost\n" * 50_000), zstd(TEXT)
    broken = bytearray(first)
    broken[len(first) // 2] ^= 0xFF
    path = tmp_path / "a.zst"
    path.write_bytes(bytes(broken) + second)
    damage = []
    assert b"".join(read_pieces(path, damage)).endswith(TEXT)
    assert damage[0].kind == "corrupt"
    assert 0 < damage[0].offset <= len(first)


def test_no_line_is_put_together_across_a_gap(tmp_path):
    frame = zstd(TEXT)
    broken = bytearray(frame)
    broken[len(frame) * 2 // 3] ^= 0xFF
    path = tmp_path / "a.zst"
    path.write_bytes(bytes(broken) + frame)
    damage = []
    lines = b"".join(read_lines(path, damage)).splitlines()
    assert damage
    assert set(lines) <= set(TEXT.splitlines())
    assert len(lines) >= 19_999


def test_a_window_that_does_not_fit_is_refused_with_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "available_memory", lambda: 100 << 20)
    path = tmp_path / "a.zst"
    path.write_bytes(zstd(TEXT))
    with pytest.raises(UserError, match=r"a\.zst needs 2048 MB of memory.*100 MB are free"):
        list(read_pieces(path, []))


def test_a_bomb_is_read_in_bounded_pieces(tmp_path):
    path = tmp_path / "a.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        for _ in range(200):
            out.write(b"\0" * (1 << 20))
    assert path.stat().st_size < 50_000
    assert max(len(piece) for piece in read_pieces(path, [])) <= 1 << 21


def test_a_compressed_file_without_its_suffix_is_refused(tmp_path):
    (tmp_path / "dump.ndjson").write_bytes(zstd(TEXT))
    with pytest.raises(UserError, match=r"dump\.ndjson is compressed but its name"):
        list(read_pieces(tmp_path / "dump.ndjson", []))
