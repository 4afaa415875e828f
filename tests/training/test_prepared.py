"""Examples as token shards: which tokens count, and which examples are held out."""

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest

from gpt2lab.corpus.shards import open_split, verify
from gpt2lab.errors import UserError
from gpt2lab.training.examples import read_examples
from gpt2lab.training.prepared import REPORT, learned, prepare


def made(path, tokenizer, out, **how):
    settings = {"held_out": 0.2, "step": lambda label: nullcontext()} | how
    return prepare(partial(read_examples, path), tokenizer, out, **settings)


def rows(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def documents(folder, split, end):
    """Ids and flags of each document, its `<|endoftext|>` first."""
    tokens, flags = (open_split(folder, s) for s in (split, learned(split)))
    assert len(tokens) == len(flags)
    found = []
    for i, flag in zip(tokens.slice(0, len(tokens)), flags.slice(0, len(flags)), strict=True):
        if i == end:
            found.append([])
        found[-1].append((int(i), int(flag)))
    return found


def test_prompts_are_read_and_completions_learned(tmp_path, small_tokenizer):
    records = [{"prompt": f"the {n}", "completion": f" cat sat {n}"} for n in range(30)]
    report = made(rows(tmp_path / "a.jsonl", records), small_tokenizer, tmp_path / "out")
    assert report["examples"] == {"train": 24, "val": 6} and not report["rejected"]
    end = small_tokenizer.end_of_text
    seen = []
    for split in ("train", "val"):
        *texts, last = documents(tmp_path / "out", split, end)
        assert last == [(end, 1)], "the end of the last text is learned, too"
        for text in texts:
            assert text[0] == (end, 1)
            prompt = [i for i, flag in text[1:] if not flag]
            completion = [i for i, flag in text[1:] if flag]
            assert [i for i, _ in text[1:]] == prompt + completion
            seen.append((small_tokenizer.decode(prompt), small_tokenizer.decode(completion)))
    assert sorted(seen) == sorted((r["prompt"], r["completion"]) for r in records)
    counted = sum(flag for text in documents(tmp_path / "out", "train", end) for _, flag in text)
    assert report["learned_tokens"]["train"] == counted - 1
    assert verify(tmp_path / "out", ["train", "val"]) < small_tokenizer.size
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == report


def test_the_same_text_is_on_one_side(tmp_path, small_tokenizer):
    records = [{"text": f"line {n % 25}"} for n in range(75)]
    report = made(rows(tmp_path / "a.jsonl", records), small_tokenizer, tmp_path / "out")
    assert report["repeated"] == 50 and report["examples"] == {"train": 60, "val": 15}
    end = small_tokenizer.end_of_text
    sides = [
        {tuple(t) for t in documents(tmp_path / "out", split, end)[:-1]}
        for split in ("train", "val")
    ]
    assert not sides[0] & sides[1] and len(sides[1]) == 5


def test_one_long_text_is_cut_so_that_some_is_held_out(tmp_path, small_tokenizer):
    text = "".join(f"Paragraph {n} of a long book.\n\n" for n in range(2000))
    (tmp_path / "book.txt").write_text(text)
    report = made(tmp_path / "book.txt", small_tokenizer, tmp_path / "out")
    assert report["examples"]["val"] >= 1 and report["examples"]["train"] > 3


def test_what_is_left_out_is_told(tmp_path, small_tokenizer):
    records = [{"text": "a"}, {"txt": "b"}, {"text": "c"}, {"text": ""}]
    report = made(rows(tmp_path / "a.jsonl", records), small_tokenizer, tmp_path / "out")
    assert report["rejected"] == 2 and report["rejected_rows"][1] == (
        "a.jsonl, line 4: 'text' is empty"
    )


@pytest.mark.parametrize(
    ("records", "how", "words"),
    [
        ([{"x": 1}], {}, "no example was read; a.jsonl, line 1: has x; wanted are text"),
        ([], {}, "no example was read; the files hold no text"),
        ([{"text": "one"}] * 3, {}, "all examples are the same; give more"),
        ([{"text": "one"}, {"text": "two"}], {"held_out": 0}, "held_out is 0; it must be above 0"),
    ],
)
def test_what_cannot_be_prepared(tmp_path, small_tokenizer, records, how, words):
    with pytest.raises(UserError, match=words):
        made(rows(tmp_path / "a.jsonl", records), small_tokenizer, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_what_is_checked_against_is_counted_among_texts_to_learn_from(tmp_path, small_tokenizer):
    """Not those held out; files of one name are two; a file without a text is refused."""
    pytest.importorskip("numba")
    texts = [" ".join(f"w{i}x{j}" for j in range(30)) for i in range(60)]
    path = rows(tmp_path / "mine.jsonl", [{"text": t} for t in texts])
    for folder, found in (("a", texts), ("b", ["nothing of the kind " * 10])):
        (tmp_path / folder).mkdir()
        rows(tmp_path / folder / "e.jsonl", [*({"text": t} for t in found), {"x": 1}])

    def look(*files):
        others = {str(f): (lambda reading, f=f: read_examples(f, reading)) for f in files}
        out = tmp_path / "out"
        return made(path, small_tokenizer, out, held_out=0.1, others=others, overwrite=True)

    first, second = (str(tmp_path / folder / "e.jsonl") for folder in "ab")
    report = look(tmp_path / "a" / "e.jsonl", tmp_path / "b" / "e.jsonl")
    assert report["examples"]["train"] == report["overlap"][first]["known"] == 54
    assert report["overlap"][second]["share"] == 0.0
    assert report["rejected_of_others"] == {first: 1, second: 1}
    with pytest.raises(UserError, match="none.jsonl holds no text to look for"):
        look(rows(tmp_path / "none.jsonl", [{"x": 1}]))


def test_line_ends_and_odd_names_and_keys(tmp_path, small_tokenizer):
    folder = tmp_path / "in"
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".hidden" / "x.txt").write_text("not seen")
    (folder / "LOUD.TXT").write_bytes(b"One\r\ntwo.\r\n<|endoftext|>Three\rfour.")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / "caf\udce9.jsonl").write_text('{"\\ud800": 1}\n{"text": "five"}\n')
    report = made(folder, small_tokenizer, tmp_path / "out", held_out=0.3)
    assert report["skipped_files"] == ["notes.pdf"] and report["rejected"] == 1
    end = small_tokenizer.end_of_text
    written = [d for side in ("train", "val") for d in documents(tmp_path / "out", side, end)]
    texts = {small_tokenizer.decode(i for i, _ in text[1:]) for text in written}
    assert texts == {"One\ntwo.", "Three\nfour.", "five", ""}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.txt", None),
        ("a.jsonl", "no example was read; a.jsonl: .*a line of over"),
        ("a.csv", "a.csv has a line of over 33,554,432 characters; is it a table"),
        ("a.json", "a.json is too large to be read whole"),
    ],
)
def test_a_line_of_a_gigabyte_in_bounded_memory(tmp_path, small_tokenizer, name, words):
    """Read, or refused in a sentence, by a process that never holds it."""
    small_tokenizer.save(tmp_path / "tokenizer")
    line = b"the cat sat on the mat and it was late " * 26_000
    with (tmp_path / name).open("wb") as file:
        for _ in range(1060):
            file.write(line)
    code = f"""
import contextlib, resource
from pathlib import Path
from gpt2lab.errors import UserError
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training.examples import read_examples
from gpt2lab.training.prepared import prepare
here = Path({str(tmp_path)!r})
try:
    tokenizer = Tokenizer.load(here / "tokenizer")
    report = prepare(lambda r: read_examples(here / {name!r}, r), tokenizer, here / "out",
                     held_out=0.1, step=lambda _: contextlib.nullcontext())
    print(report["examples"])
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, peak = done.stdout.strip().splitlines()
    assert int(peak) < 700, "MiB; the line alone is 1,025"
    assert re.search(words, said) if words else "'val'" in said
    assert (tmp_path / "out").exists() == (words is None)
