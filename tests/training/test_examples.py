"""Texts to fine-tune on, in every form people have them, and what is said of bad ones."""

import gzip
import json

import pytest

from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.training import examples
from gpt2lab.training.examples import Reading, read_examples
from gpt2lab.training.records import PLAIN, TOKENS, Part


def read(path, **how):
    reading = Reading()
    return list(read_examples(path, reading, **how)), reading


def put(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_plain_text(tmp_path):
    path = put(tmp_path / "a.txt", "One.\n\nStill one.\n<|endoftext|>\nTwo.\n<|endoftext|>\n\n")
    found, _ = read(path)
    assert [e.text for e in found] == ["One.\n\nStill one.", "Two."]
    assert found[1].where == "a.txt, document 2" and found[0].parts[0].learned
    found, _ = read(put(tmp_path / "b.txt", "One\nverse.\n\n \n\nTwo.\n"), documents="blank-lines")
    assert [e.text for e in found] == ["One\nverse.", "Two."]


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_pieces_do_not_show(tmp_path, monkeypatch, size):
    monkeypatch.setattr("gpt2lab.corpus.compressed.PIECE", size)
    monkeypatch.setattr(examples, "_SAMPLE", 2 * size)
    text = "Über alles.\n\nMehr\n\n\nund mehr.\n"
    path = put(tmp_path / "a.txt", f"{text}<|endoftext|>{text}")
    assert [e.text for e in read(path)[0]] == [text.strip("\n")] * 2
    assert [e.text for e in read(path, documents="blank-lines")[0]][:2] == ["Über alles.", "Mehr"]
    table = put(tmp_path / "a.csv", 'prompt,completion\n"a\nß","b, ""c"""\n')
    assert read(table)[0][0].text == 'a\nß\nb, "c"'


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"text": "Hello."}, [("Hello.", True)]),
        ({"prompt": "Q: 2+2? A:", "completion": " 4"}, [("Q: 2+2? A:", False), (" 4", True)]),
        ({"prompt": "Say: ", "completion": "yes"}, [("Say:", False), (" yes", True)]),
        ({"prompt": "Say", "completion": "yes"}, [("Say", False), ("\nyes", True)]),
        ({"prompt": "", "completion": "yes"}, [("yes", True)]),
        (
            {"instruction": "Add.", "input": "2 and 3", "output": "5"},
            [("User: Add.\n\n2 and 3\nAssistant:", False), (" 5", True)],
        ),
        (
            {"instruction": "Sing.", "input": "", "output": "La."},
            [("User: Sing.\nAssistant:", False), (" La.", True)],
        ),
        (
            {"instruction": "Add.", "context": "2 and 3", "response": "5", "category": "sums"},
            [("User: Add.\n\n2 and 3\nAssistant:", False), (" 5", True)],
        ),
        (
            {"conversations": [{"from": "human", "value": "Sing."},
                               {"from": "gpt", "value": "La."}]},
            [("User: Sing.\nAssistant:", False), (" La.", True)],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Sing."}]},
                          {"role": "assistant", "content": [{"type": "text", "text": "La."}]}]},
            [("User: Sing.\nAssistant:", False), (" La.", True)],
        ),
    ],
)  # fmt: skip
def test_records(tmp_path, record, parts):
    """The same from every file that holds records."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    lines = put(tmp_path / "a.jsonl", json.dumps(record))
    whole = put(tmp_path / "a.json", json.dumps([record]))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    for path in (lines, whole, packed, tmp_path / "a.parquet"):
        (found,), reading = read(path)
        assert found.parts == tuple(Part(*p) for p in parts) and not reading.rejected
    everything, _ = read(tmp_path)
    assert len(everything) == 4


TURNS = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Bye\n"},
]  # fmt: skip


def test_chats_end_with_each_answer(tmp_path):
    path = put(tmp_path / "a.jsonl", json.dumps({"messages": TURNS}))
    first, second = read_examples(path, Reading())
    asked = "System: Be brief.\nUser: Hi\nAssistant:"
    assert first.parts == (Part(asked, False), Part(" Hello", True))
    assert second.parts == (
        Part("System: Be brief.\nUser: Hi\nAssistant: Hello\nUser: And?\nAssistant:", False),
        Part(" Bye", True),
    )
    assert first.group == second.group == second.text, "both go to one side"


@pytest.mark.parametrize("form", [PLAIN, TOKENS])
def test_the_recorded_template_writes_what_was_learned(tmp_path, small_tokenizer, form):
    transformers = pytest.importorskip("transformers")
    path = put(tmp_path / "a.jsonl", json.dumps({"messages": TURNS}))
    tokenizer = small_tokenizer.for_chats(form.template, form.specials)
    tokenizer.save(tmp_path / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for example, turns in zip(read_examples(path, Reading(), form=form), (3, 5), strict=True):
        prompt, answer = example.parts[:-1], example.parts[-1]
        asked = theirs.apply_chat_template(
            TURNS[: turns - 1], tokenize=False, add_generation_prompt=True
        )
        assert asked == "".join(part.text for part in prompt)
        whole = theirs.apply_chat_template(TURNS[:turns], tokenize=False)
        assert whole == asked + answer.text
        ids = [i for part in prompt for i in tokenizer.encode(part.text, specials=part.special)]
        assert theirs.encode(asked) == ids
    again = type(tokenizer).load(tmp_path / "tokenizer")
    assert again.vocabulary.chat_template == form.template and again.digest == tokenizer.digest
    assert again.size == small_tokenizer.size + len(form.specials)


def test_tables(tmp_path):
    rows = 'prompt,completion\n"Hi, you",Hello\n"say ""x""","line\nand line"\n'
    found, reading = read(put(tmp_path / "a.csv", rows))
    assert [e.text for e in found] == ["Hi, you\nHello", 'say "x"\nline\nand line']
    assert found[1].where == "a.csv, line 3" and not reading.rejected
    found, _ = read(put(tmp_path / "b.csv", 'tweets\n"One, two"\nThree\n'))
    assert [e.text for e in found] == ["One, two", "Three"], "one column is the text"
    found, _ = read(put(tmp_path / "c.tsv", "id\tbody\n1\tA b.\n"), column="body")
    assert found[0].text == "A b."
    with pytest.raises(UserError, match="no column 'x', only id, body; check its first line"):
        read(tmp_path / "c.tsv", column="x")
    found, _ = read(put(tmp_path / "d.csv", "prompt;completion\r\na;b, c\r\n"))
    assert [p.text for p in found[0].parts] == ["a", "\nb, c"], "as some spreadsheets write it"
    with pytest.raises(UserError, match="two columns 'text'; rename one"):
        read(put(tmp_path / "e.csv", "text,text\na,b\n"))


def test_bad_rows_are_told_and_the_rest_is_read(tmp_path):
    lines = [
        '{"text": "good"}', '{"txt": "x"}', '{"text": 3}', '{"text": " "}', "[1]", '{"text"',
        '{"prompt": "p", "completion": ""}', '{"prompt": "p"}', '{"text": "\\ud800"}',
        '{"messages": [{"role": "user", "content": "u"}]}', '{"messages": []}',
        '{"messages": [{"role": "bot", "content": "u"}]}', '{"text": "good too"}',
        '{"messages": [{"role": ["u"], "content": "u"}]}',
    ]  # fmt: skip
    found, reading = read(put(tmp_path / "a.jsonl", "\n".join(lines)))
    assert [e.text for e in found] == ["good", "good too"]
    assert found[1].where == "a.jsonl, line 13"
    assert reading.rejected == 12 and reading.told[0] == (
        "a.jsonl, line 2: has txt; wanted are text, prompt and completion, instruction and output, "
        "or messages; --column names another"
    )
    for place, words in (
        (1, "'text' is not text"), (2, "'text' is empty"), (3, "not an object"),
        (4, "is not JSON"), (5, "'completion' is empty"), (6, "has no 'completion'"),
        (7, "half a surrogate pair"), (8, "the last turn is not the assistant's"),
        (9, "not a list of turns"), (10, "turn 1 has role 'bot'"),
    ):  # fmt: skip
        assert words in reading.told[place]
    found, reading = read(put(tmp_path / "b.csv", 'text,n\ngood,1\n"bad" x,2\nshort\nfine,3\n'))
    assert [e.text for e in found] == ["good", "fine"]
    assert reading.told[0].startswith("b.csv, line 3: quotes are broken")
    assert reading.told[1] == "b.csv, line 4: has 1 fields, the first line 2"
    found, reading = read(put(tmp_path / "c.csv", 'text,n\ngood,1\n"open,2\nx,3\n'))
    assert len(found) == 1 and "up to line 4 is lost with it" in reading.told[0]


FRENCH = "Les élèves étudiaient à l’école où naît l’été. Ça gêne déjà. "
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастлива по-своему. "


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        (FRENCH, "utf-8-sig", None),
        (FRENCH, "utf-16", None),
        (FRENCH, "cp1252", "cp1252"),
        (RUSSIAN, "cp1251", "cp1251"),
        (
            "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 3,
            "cp932",
            "cp932",
        ),
        ("Größe und Übermut führen selten zu schönen Ergebnissen. ", "latin1", "cp1252"),
    ],
)
def test_encodings(tmp_path, text, encoding, guess):
    """What leaves a doubt is told."""
    pytest.importorskip("charset_normalizer")
    path = put(tmp_path / "a.txt", text, encoding)
    (found,), reading = read(path)
    assert found.text == text
    assert reading.encodings == ({str(path): guess} if guess else {})
    if guess:
        (found,), reading = read(path, encoding=encoding)
        assert found.text == text and not reading.encodings
    for unknown in ("utf-9", "base64", "rot13", "punycode", "undefined", "a\0b"):
        with pytest.raises(UserError, match="there is no encoding .* of text"):
            read(path, encoding=unknown)


def test_encodings_of_json_lines(tmp_path):
    line = json.dumps({"text": FRENCH}, ensure_ascii=False) + "\n"
    for encoding, said in (("latin1", "latin1"), ("utf-16", ""), ("utf-8-sig", "")):
        plain = line.replace("’", "'").replace("œ", "oe")
        found, reading = read(put(tmp_path / "a.jsonl", plain * 3, encoding), encoding=said)
        assert len(found) == 3 and not reading.rejected and "élèves" in found[2].text
    with pytest.raises(UserError, match="is not utf-16; give --encoding"):
        read(put(tmp_path / "a.txt", "no mark", "utf-8"), encoding="utf-16")


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.txt", b"\x00\x01\x02", UserError, "is a binary file"),
        ("a.txt", b"a" * 40 + b"\n" * 30 + b"\xff", UserError, "is not utf-8 at byte 70"),
        ("a.json", b'{"text": 1}', UserError, "holds no list of objects"),
        ("a.json", b"[1", UserError, "is not JSON"),
        ("a.parquet", b"PAR1", DamagedInput, "is not a whole Parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999)[:60], DamagedInput, "truncated"),
        ("a.txt", gzip.compress(b"x"), UserError, "is compressed but its name does not say so"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, monkeypatch, name, content, error, words):
    monkeypatch.setattr(examples, "_SAMPLE", 16)
    monkeypatch.setattr("gpt2lab.corpus.compressed.PIECE", 16)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words):
        read(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "nothing.txt")


def test_one_endless_line(tmp_path, monkeypatch):
    """Cut where a word ends in a text, refused in a table or as JSON; never held whole."""
    monkeypatch.setattr(examples, "LONGEST", 100)
    monkeypatch.setattr(examples, "LONGEST_TEXT", 100)
    monkeypatch.setattr("gpt2lab.corpus.compressed.PIECE", 64)
    monkeypatch.setattr("gpt2lab.corpus.compressed.MAX_LINE", 200)
    text = "word " * 200
    found, _ = read(put(tmp_path / "a.txt", text))
    assert all(len(e.text) <= 100 for e in found) and len(found) > 9
    assert "".join(e.text for e in found) == text
    with pytest.raises(UserError, match=r"a line of over 200 characters; is it a table\?"):
        read(put(tmp_path / "a.csv", "text\n" + text))
    found, reading = read(put(tmp_path / "a.jsonl", json.dumps({"text": text}) + "\n{}\n"))
    assert not found and "a line of over" in reading.told[-1]
