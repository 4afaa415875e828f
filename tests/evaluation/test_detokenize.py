"""What was taken apart is joined as it was written, and comes apart again to the very same line."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2lab.evaluation import megatron
from gpt2lab.evaluation.detokenize import (
    CHILDRENS_BOOKS,
    ONE_BILLION,
    PENN_TREEBANK,
    WIKITEXT,
    join,
)
from gpt2lab.evaluation.sources import DataFile

STYLES = {
    "wikitext": WIKITEXT, "1bw": ONE_BILLION, "cbt": CHILDRENS_BOOKS, "ptb": PENN_TREEBANK,
}  # fmt: skip


@pytest.mark.parametrize(
    ("style", "line", "text"),
    [
        ("wikitext", " = = Early life = = ", "== Early life =="),
        ("wikitext", " ", ""),
        (
            "wikitext",
            " He paid $ 1 @,@ 250 @.@ 5 ( 3 % ) in 1861 – 65 — and wasn 't <unk> 's heir . ",
            "He paid $1,250.5 (3%) in 1861–65—and wasn't <unk>'s heir.",
        ),
        (
            "wikitext",
            ' The " well @-@ known " U.S. firm Smith & Co. of St. Paul closed at 9 : 30 a.m. ',
            'The "well-known" U.S. firm Smith & Co. of St. Paul closed at 9:30 a.m.',
        ),
        ("wikitext", " the dogs ' bark ; O 'Brien ", "the dogs' bark; O'Brien"),
        ("wikitext", " <unk> @-@ made , 2 @,@ <unk> ", "<unk>-made, 2,<unk>"),
        ("1bw", '" It \'s time , " he said . " Don \'t . "', '"It\'s time," he said. "Don\'t."'),
        ("1bw", "Prices rose 2.5 % ( or $ 1,000 ) .", "Prices rose 2.5% (or $1,000)."),
        (
            "cbt",
            "`` Well , '' said Mr. Fox , `` I do n't know ; it 's -LRB- maybe -RRB- so ! ''",
            '"Well," said Mr. Fox, "I don\'t know; it\'s (maybe) so!"',
        ),
        ("cbt", "` Come , ' cried she ; ` the king 's ! '", "'Come,' cried she; 'the king's!'"),
        ("ptb", " mr. <unk> 's $ N & did n't say ", "mr. <unk>'s $N & didn't say"),
        ("ptb", " the dow jones inc. index in oct. N ", "the dow jones inc. index in oct. N"),
    ],
)  # fmt: skip
def test_lines_as_they_were_written(style, line, text):
    assert join(line, STYLES[style]) == (text, True)
    assert STYLES[style].apart(text) == line


TOKENS = """
, . ; : ? ! ( ) [ ] " ' `` '' ` $ # % & / - – — ... @-@ @,@ @.@ 's 't n't 'll = <unk> U.S. Mr. J.
-LRB- -RRB- -LSB- 12 1,000 3.5 .5 well-known don't a the House d'être é 猫 "x x" '' (x Movement. '
"""


@given(st.lists(st.sampled_from(TOKENS.split()), max_size=14), st.sampled_from(sorted(STYLES)))
def test_any_line_comes_back_or_is_left_as_it_is(tokens, name):
    style = STYLES[name]
    line = style.margin + (f"{' '.join(tokens)}{style.margin}" if tokens else "")
    text, invertible = join(line, style)
    if invertible:
        assert style.apart(text) == line
    else:
        assert text == line


@given(st.text(max_size=60), st.sampled_from(sorted(STYLES)))
def test_no_text_breaks_them(line, name):
    text, invertible = join(line, STYLES[name])
    assert (STYLES[name].apart(text) if invertible else text) == line


@pytest.mark.parametrize(
    ("file", "style", "exceptions"),
    [
        ("wikitext-2/wiki.valid.tokens", WIKITEXT, 0),
        # Two titles of books whose full stop is part of their last word.
        ("wikitext-103/wiki.valid.tokens", WIKITEXT, 2),
    ],
)
def test_every_line_of_the_real_files(data, file, style, exceptions):
    lines = DataFile(data / "eval" / file).text.removesuffix("\n").split("\n")
    assert len(lines) == 3760
    left = apart = 0
    for line in lines:
        text, invertible = join(line, style)
        left += not invertible
        if invertible:
            assert style.apart(text) == line
            words = text.split()
            apart += sum(w in {",", ".", ";", ")", "'s", "@-@", "@,@"} for w in words)
    assert left == exceptions
    assert apart < 0.001 * sum(len(line.split()) for line in lines), "joins are made, not avoided"


def test_every_line_of_real_childrens_books(data):
    lines = []
    for path in sorted((data / "eval" / "cbt").glob("sample_*.txt")):
        lines += [x.split("\t")[0].partition(" ")[2] for x in path.read_text().split("\n") if x]
    assert len(lines) == 63
    for line in lines:
        text, invertible = join(line.strip(), CHILDRENS_BOOKS)
        assert invertible
        assert CHILDRENS_BOOKS.apart(text) == line.strip()


def test_treebank_style_on_thousands_of_passages(data):
    """LAMBADA's published text is in the treebank's style; tokens such as `9:00` are its own."""
    lines = DataFile(data / "eval/lambada/lambada_development_plain_text.txt.zst").text.split("\n")
    lines = [line for line in lines if line]
    whole = sum(join(line.strip(), CHILDRENS_BOOKS).invertible for line in lines)
    assert len(lines) == 4869
    assert whole / len(lines) > 0.99


def test_megatrons_is_lm_evals(data):
    preprocess = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    text = (data / "eval/wikitext-2/wiki.valid.tokens").read_text("utf-8")
    assert megatron.wikitext(text) == preprocess.wikitext_detokenizer({"page": text})


def test_megatrons_for_the_treebank():
    joined = megatron.penn_treebank(" he paid $ N and did n't say \n it 's N \n")
    assert joined == " he paid $1 and didn't say\nit's N\n"


def test_joining_is_linear_in_a_line():
    """A line of a megabyte without a sentence's end."""
    words = random.Random(0).choices(["a", "'s", ",", "(", "@-@", '"'], k=200_000)
    line = f" {' '.join(words)} "
    text, invertible = join(line, WIKITEXT)
    assert WIKITEXT.apart(text) == line if invertible else text == line
