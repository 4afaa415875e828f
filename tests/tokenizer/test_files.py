import base64
import json
import shutil

import pytest
from transformers import GPT2TokenizerFast

from gpt2lab import UserError
from gpt2lab.tokenizer import Tokenizer, train
from gpt2lab.tokenizer.vocabulary import to_visible

TEXT = "Don't stop: naïve café 🦜, 1234 tokens\n\n  indented\t<|endoftext|>"


@pytest.fixture
def forms(tmp_path, small_tokenizer):
    """The same vocabulary in all four forms."""
    hf = tmp_path / "hf"
    small_tokenizer.save(hf, max_length=48)
    fast, slow, openai, ranks = (tmp_path / n for n in ("fast", "slow", "openai", "tiktoken"))
    for folder in (fast, slow, openai, ranks):
        folder.mkdir()
    shutil.copy(hf / "tokenizer.json", fast)
    shutil.copy(hf / "vocab.json", slow)
    shutil.copy(hf / "merges.txt", slow)
    shutil.copy(hf / "vocab.json", openai / "encoder.json")
    shutil.copy(hf / "merges.txt", openai / "vocab.bpe")
    lines = [
        f"{base64.b64encode(token).decode()} {i}"
        for token, i in small_tokenizer.vocabulary.ids.items()
    ]
    (ranks / "small.tiktoken").write_text("\n".join(lines))
    return {"fast": fast, "slow": slow, "openai": openai, "tiktoken": ranks, "hf": hf}


@pytest.mark.parametrize("form", ["fast", "slow", "openai", "tiktoken", "hf"])
def test_every_form_reads_equal(forms, small_tokenizer, form):
    read = Tokenizer.load(forms[form])
    assert read.digest == small_tokenizer.digest
    assert read.encode(TEXT, specials=True) == small_tokenizer.encode(TEXT, specials=True)


def test_single_files_are_accepted(forms, small_tokenizer):
    for file in ("fast/tokenizer.json", "slow/merges.txt", "openai/encoder.json"):
        path = forms["hf"].parent / file
        assert Tokenizer.load(path).digest == small_tokenizer.digest
    assert Tokenizer.load(forms["tiktoken"] / "small.tiktoken").size == small_tokenizer.size


def test_transformers_opens_what_is_written(forms, small_tokenizer, gpt2, tmp_path):
    theirs = GPT2TokenizerFast.from_pretrained(forms["hf"])
    plain = TEXT.replace("<|endoftext|>", "")
    assert theirs.encode(plain) == small_tokenizer.encode(plain)
    assert theirs.encode(TEXT) == small_tokenizer.encode(TEXT, specials=True)
    assert theirs.eos_token_id == small_tokenizer.end_of_text
    gpt2.save(tmp_path / "gpt2")
    published = GPT2TokenizerFast.from_pretrained(tmp_path / "gpt2")
    assert published.encode(plain) == gpt2.encode(plain)


def test_ids_out_of_merge_order_are_mapped(tmp_path, forms, small_tokenizer):
    """A file trained elsewhere may number specials first: ids differ, texts survive."""
    file = json.loads((forms["fast"] / "tokenizer.json").read_text())
    size = small_tokenizer.size
    file["model"]["vocab"] = {t: (i + 1) % size for t, i in file["model"]["vocab"].items()}
    file["added_tokens"][0]["id"] = 0
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    shifted = Tokenizer.load(path)
    assert shifted.end_of_text == 0
    assert shifted.encode("the cat") == [i + 1 for i in small_tokenizer.encode("the cat")]
    assert shifted.decode(shifted.encode(TEXT)) == TEXT


def broken(tmp_path, forms, change):
    file = json.loads((forms["fast"] / "tokenizer.json").read_text())
    change(file)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    return path


def drop_byte(file):
    file["model"]["vocab"].pop("a")


def double_id(file):
    file["model"]["vocab"]["a"] = 5


def foreign_character(file):
    file["model"]["vocab"]["☃x"] = file["model"]["vocab"].pop("Ġt", 256)


def reorder_merges(file):
    file["model"]["merges"].reverse()


def drop_merge(file):
    file["model"]["merges"].pop(3)


def metaspace(file):
    file["pre_tokenizer"] = {"type": "Metaspace"}


def prefix_space(file):
    file["pre_tokenizer"]["add_prefix_space"] = True


def unigram(file):
    file["model"]["type"] = "Unigram"


def three_part_merge(file):
    file["model"]["merges"][0] = "a b c"


def ids_as_text(file):
    file["model"]["vocab"]["a"] = "1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_byte, "no token for byte 0x61"),
        (double_id, "once each"),
        (foreign_character, "stands for no byte"),
        (reorder_merges, "no earlier merge makes|never reached"),
        (drop_merge, "do not follow from 256 bytes"),
        (metaspace, "split by Metaspace"),
        (prefix_space, "add_prefix_space"),
        (unigram, "not a byte-level BPE"),
        (three_part_merge, "two tokens with one space"),
        (ids_as_text, "must map token strings to ids"),
    ],
)
def test_damaged_vocabularies_are_refused(tmp_path, forms, change, words):
    with pytest.raises(UserError, match=words) as caught:
        Tokenizer.load(broken(tmp_path, forms, change))
    assert "tokenizer.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_vocabulary(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid JSON"):
        Tokenizer.load(tmp_path)
    (tmp_path / "x.tiktoken").write_text("not base64 at all\n")
    with pytest.raises(UserError, match=r"x.tiktoken, line 1"):
        Tokenizer.load(tmp_path / "x.tiktoken")
    (tmp_path / "notes.doc").write_text("hello")
    with pytest.raises(UserError, match="not a tokenizer file"):
        Tokenizer.load(tmp_path / "notes.doc")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(UserError, match="larger than 64 MiB"):
        Tokenizer.load(tmp_path / "huge.json")


def lowercase(file):
    file["normalizer"] = {"type": "Lowercase"}


def nameless_special(file):
    file["added_tokens"] = [{"id": 5}]


def empty_special(file):
    file["added_tokens"][0]["content"] = ""


def merges_of_numbers(file):
    file["model"]["merges"] = [["a", 5]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lowercase, "normalises text"),
        (nameless_special, "malformed"),
        (empty_special, "empty token"),
        (merges_of_numbers, "two tokens with one space"),
    ],
)
def test_hostile_fast_files(tmp_path, forms, change, words):
    with pytest.raises(UserError, match=words):
        Tokenizer.load(broken(tmp_path, forms, change))


def test_truncated_merges_are_refused(forms):
    path = forms["slow"] / "merges.txt"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:20]))
    with pytest.raises(UserError, match=r"merges.txt: no merge makes the token"):
        Tokenizer.load(forms["slow"])


def test_a_pair_of_two_tokenizers_is_refused(tmp_path, forms, gpt2):
    gpt2.save(tmp_path / "other")
    shutil.copy(forms["slow"] / "vocab.json", tmp_path)
    shutil.copy(tmp_path / "other" / "merges.txt", tmp_path)
    with pytest.raises(UserError, match="two tokenizers|no merge makes"):
        Tokenizer.load(tmp_path)


def test_training_lays_ids_out_as_gpt2(small_tokenizer, gpt2):
    assert small_tokenizer.size == 300
    assert small_tokenizer.end_of_text == 299
    assert [small_tokenizer.token(i) for i in range(256)] == [gpt2.token(i) for i in range(256)]
    first = small_tokenizer.vocabulary.merges[0]
    assert small_tokenizer.token(256) == first[0] + first[1]
    assert to_visible(small_tokenizer.token(256)) in ("he", "Ġt", "th", "at", "in", "e,", "or")


def test_training_says_what_is_wrong():
    with pytest.raises(UserError, match="need 257"):
        train(["text"], 100)
    with pytest.raises(UserError, match="yields only"):
        train(["abc"], 5000)
