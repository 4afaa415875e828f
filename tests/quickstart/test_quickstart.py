import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from transformers import GPT2LMHeadModel

import gpt2lab
from gpt2lab import UserError
from gpt2lab.cli.main import main
from gpt2lab.model import GPT2Config
from gpt2lab.quickstart.run import default_recipe, quickstart
from gpt2lab.quickstart.text import installed_documentation


@pytest.fixture(scope="module")
def documents():
    return installed_documentation()


def test_the_documentation_is_real_text_and_plenty(documents):
    assert 15_000 < len(documents) < 60_000
    assert 10e6 < sum(len(d.text.encode()) for d in documents) < 40e6
    assert len({d.text for d in documents}) == len(documents)
    names = {d.source for d in documents}
    assert names == {"python", "torch", "numpy", "sympy", "networkx"}
    joined = "\n".join(d.text for d in documents)
    for phrase in (
        "Return an iterator",  # the standard library
        "symbolic",  # sympy
        "shortest path",  # networkx
        "Returns a tensor",  # torch, in calls to add_docstr
        "with statement",  # pydoc's topics
    ):
        assert phrase.lower() in joined.lower(), phrase


class Strict(HTMLParser):
    """Collects text, and refuses anything fetched from elsewhere."""

    def __init__(self):
        super().__init__()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe")
        assert not any(k in ("src", "href") for k, _ in attrs)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def recipe():
    found = default_recipe()
    return replace(
        found,
        model=GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=32, vocab_size=512),
        train=replace(found.train, minutes=None, steps=120, batch_tokens=512, dtype="float32"),
        every=replace(found.every, evaluate=60, windows=16),
    )


@pytest.fixture(scope="module")
def own_text(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "mine.txt").write_text("<|endoftext|>".join(d.text for d in documents[:400]))
    return folder


def test_own_text_to_model_and_report(tmp_path, recipe, own_text):
    out = tmp_path / "run"
    result = quickstart(out, recipe=recipe, text=own_text)
    table = json.loads((out / "result.json").read_text())
    assert table["bits_per_byte"]["value"] == result.model_bits.value
    assert 1.5 < result.model_bits.value < 6
    assert set(table["baselines_bits_per_byte"]) == {
        "xz -9",
        "5-gram of bytes",
        "5-gram of tokens",
    }
    page = (out / "report.html").read_text("utf-8")
    parser = Strict()
    parser.feed(page)
    assert f"{result.model_bits.value:.3f}" in parser.text
    assert "<svg" in page and "polyline" in page and "http" not in page
    assert len(result.samples) == 3
    loaded = gpt2lab.load(str(out / "model"))
    theirs = GPT2LMHeadModel.from_pretrained(out / "model").eval()
    import torch

    ids = torch.arange(30)[None]
    assert torch.allclose(theirs(ids).logits, loaded.model(ids), atol=1e-4)
    with pytest.raises(UserError, match="--overwrite"):
        quickstart(out, recipe=recipe, text=own_text)


def test_folders_in_the_way_are_kept(tmp_path, recipe, own_text):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="already; pass --overwrite|not a folder gpt2lab made"):
            quickstart(tmp_path, recipe=recipe, text=own_text, overwrite=overwrite)
    assert (tmp_path / "data" / "mine.txt").read_text() == "keep me"


def test_hostile_samples_are_escaped(tmp_path, recipe, own_text):
    from gpt2lab.quickstart import report

    result = quickstart(tmp_path / "run", recipe=recipe, text=own_text)
    result.samples[0].text = "<script>alert(1)</script>"
    report.write_report(result, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no text"),
        (b"\0\1\2", "binary"),
        (b"\xe9", "not UTF-8"),
        (b"short", "too short"),
    ],
)
def test_bad_text_is_one_sentence_and_status_2(tmp_path, capsys, content, words):
    (tmp_path / "text.txt").write_bytes(content)
    out = tmp_path / "run"
    assert main(["quickstart", "--text", str(tmp_path / "text.txt"), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gpt2lab: error: ")
    assert words in error
    assert not (out / "model").exists()


def test_a_line_of_50_megabytes_is_taken(tmp_path, recipe):
    path = tmp_path / "line.txt"
    path.write_text("abc def " * 6_250_000)
    small = replace(recipe, train=replace(recipe.train, steps=2))
    result = quickstart(tmp_path / "run", recipe=small, text=path)
    assert result.metadata["tokens"] == 2 * 512
