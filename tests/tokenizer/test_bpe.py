import json
from pathlib import Path

import pytest
import tiktoken
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

import reference_bpe
from gpt2lab import UserError
from gpt2lab.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def oracle(data: Path) -> tiktoken.Encoding:
    """tiktoken's own "gpt2", built as tiktoken_ext builds it but from local files."""
    folder = data / "tokenizer" / "gpt2"
    return tiktoken.Encoding(
        "gpt2",
        pat_str=(
            r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
        ),
        mergeable_ranks=data_gym_to_mergeable_bpe_ranks(
            vocab_bpe_file=str(folder / "vocab.bpe"),
            encoder_json_file=str(folder / "encoder.json"),
        ),
        special_tokens={"<|endoftext|>": 50256},
    )


def texts_under(folder: Path) -> list[str]:
    """Every text file below a folder, decompressed, whole and line by line for JSON lines."""
    texts = []
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        raw = file.read_bytes()
        if file.suffix == ".zst":
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        text = raw.decode("utf-8")
        if ".jsonl" in file.name:
            lines = [json.loads(line) for line in text.splitlines()]
            texts += [line["text"] for line in lines if "text" in line] or [text]
        else:
            texts.append(text)
    return texts


def test_equals_tiktoken_on_all_tokenizer_and_corpus_data(data, gpt2, oracle):
    texts = texts_under(data / "tokenizer") + texts_under(data / "corpus")
    assert len(texts) > 3000
    expected = oracle.encode_ordinary_batch(texts, num_threads=2)
    found = gpt2.encode_batch(texts)
    assert found == expected
    assert sum(map(len, found)) > 10_000_000
    naughty = json.loads((data / "tokenizer/edge/blns.json").read_text("utf-8"))
    for text in naughty:
        assert gpt2.encode(text) == oracle.encode_ordinary(text)
        assert gpt2.decode(gpt2.encode(text)) == text


def test_equals_the_plain_reference_on_real_text(data, gpt2):
    text = (data / "tokenizer/edge/blns.txt").read_text("utf-8")
    hindi = zstandard.ZstdDecompressor().decompress(
        (data / "tokenizer/edge/multilingual/newstest2014-hien-src.hi.sgm.zst").read_bytes(),
        max_output_size=2**22,
    )
    for part in (text, hindi.decode()[:20000]):
        assert gpt2.encode(part) == reference_bpe.encode(gpt2.vocabulary, part)


@settings(max_examples=400, deadline=None)
@given(text=st.text(max_size=60))
def test_any_unicode_equals_oracle_and_reference_and_round_trips(gpt2, oracle, text):
    ids = gpt2.encode(text)
    assert ids == oracle.encode_ordinary(text) == reference_bpe.encode(gpt2.vocabulary, text)
    assert gpt2.decode(ids) == text
    assert "".join(gpt2.decode_stream(ids)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=" \t\n\r\x0b\x1c\x85\u00a0\u2003ab's1.", max_size=40))
def test_white_space_and_contractions(gpt2, oracle, small_tokenizer, text):
    assert gpt2.encode(text) == oracle.encode_ordinary(text)
    vocabulary = small_tokenizer.vocabulary
    assert small_tokenizer.encode(text) == reference_bpe.encode(vocabulary, text)


@pytest.mark.parametrize("length", [4095, 4096, 5000])
@pytest.mark.parametrize("tail", ["", "word", "\nword"])
def test_long_white_space_is_cut_exactly(gpt2, oracle, length, tail):
    text = "start" + " \u2003\n"[length % 3] * length + tail
    assert gpt2.encode(text) == oracle.encode_ordinary(text)
    assert gpt2.encode_batch([text, "x"]) == [oracle.encode_ordinary(text), gpt2.encode("x")]


def test_a_million_blanks_do_not_end_the_process(gpt2):
    text = "a" + " " * 1_000_000 + "b"
    assert gpt2.decode(gpt2.encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 50256), max_size=30))
def test_stream_never_splits_a_character(gpt2, ids):
    pieces = list(gpt2.decode_stream(ids))
    assert "".join(pieces) == gpt2.decode(ids)
    for piece in pieces:
        piece.encode()


def test_stream_holds_back_half_a_character(gpt2):
    ids = gpt2.encode("🦜")
    assert len(ids) > 1
    pieces = list(gpt2.decode_stream(ids))
    assert pieces == [""] * (len(ids) - 1) + ["🦜"]


def test_specials_only_when_asked(gpt2):
    assert gpt2.end_of_text == 50256
    text = "one<|endoftext|>two"
    assert 50256 not in gpt2.encode(text)
    assert gpt2.encode(text, specials=True) == [*gpt2.encode("one"), 50256, *gpt2.encode("two")]
    assert gpt2.decode([50256]) == "<|endoftext|>"


def test_published_ids(gpt2):
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.size == 50257
    assert gpt2.token(256) == b" t"
    assert gpt2.token(50255) == b" gazed"


def test_bad_input_is_one_sentence(gpt2):
    with pytest.raises(UserError, match="50257 is outside"):
        gpt2.decode([50257])
    with pytest.raises(UserError, match="-1 is outside"):
        gpt2.token(-1)
    with pytest.raises(UserError, match=r"unpaired surrogate U\+D83D at character 3"):
        gpt2.encode("abc\ud83d")
    with pytest.raises(UserError, match="surrogate"):
        gpt2.encode_batch(["fine", "\udc00"])


def test_unknown_name_says_what_to_do():
    with pytest.raises(UserError, match="neither a path that exists nor a published model"):
        Tokenizer.load("no-such-thing")


def test_no_network_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"copy its config.json, model.safetensors, vocab.json"):
        Tokenizer.load("hf:nobody/nothing")
