"""`gpt2lab detect`, from people's texts to a verdict, and its refusals."""

import json
from pathlib import Path

import pytest

from docstrings import docstrings
from gpt2lab.cli.main import main

ACTIONS = ("collect", "train", "score", "evaluate", "watermark")
MODEL = str(Path(__file__).parents[1] / "models" / "reference-1M")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set and detectors, by the command line."""
    work = tmp_path_factory.mktemp("detect")
    texts = work / "python.txt"
    texts.write_text("<|endoftext|>".join(docstrings()), "utf-8")
    store = ["--store", str(work / "store")]
    out = str(work / "set")
    more = ["--samplers", "k40", "--longest", "120", "--prompt", "8", *store]
    assert main(["detect", "collect", MODEL, "--texts", str(texts), "--out", out, *more]) == 0
    more = ["--out", str(work / "detectors"), "--detectors", "stats", "curvature", *store]
    assert main(["detect", "train", out, "--models", MODEL, *more]) == 0
    return work


def run(capsys, *argv):
    status = main(["detect", *map(str, argv)])
    out = capsys.readouterr()
    return status, out.out, out.err


def generated(work):
    lines = (work / "set" / "samples.jsonl").read_text().splitlines()
    return max((s["text"] for s in map(json.loads, lines) if s["machine"]), key=len)


def test_a_text_is_scored(made, capsys, tmp_path):
    file, html = tmp_path / "text.txt", tmp_path / "page.html"
    file.write_text(generated(made))
    status, out, _ = run(
        capsys, "score", made / "detectors", file, "--fpr", 0.1, "--html", html, "--json"
    )
    (verdict,) = json.loads(out)["verdicts"]
    assert status == 0 and verdict["verdict"] == "likely generated"
    assert html.read_text().startswith("<!doctype html>")
    page = html.read_text()
    argv = ("score", made / "detectors", file, "--html", html)
    status, _, err = run(capsys, *argv)
    assert status == 2 and "page.html exists; pass --overwrite to replace it or choose" in err
    status, _, _ = run(capsys, *argv, "--overwrite")
    assert status == 0 and html.read_text() != page
    status, out, _ = run(capsys, "score", made / "detectors", file, "--fpr", 0.1)
    assert status == 0 and out.startswith("likely generated: ") and "why" in out


def test_many_texts_are_scored(made, capsys, tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [generated(made), "Too short."]
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in rows))
    status, out, _ = run(capsys, "score", made / "detectors", file, "--json")
    assert status == 0 and len(json.loads(out)["verdicts"]) == 2
    status, _, err = run(capsys, "score", made / "detectors", file, "--html", tmp_path / "x.html")
    assert status == 2 and "--html is for one text, and there are 2" in err


def test_a_report_is_written(made, capsys, tmp_path):
    argv = ("evaluate", made / "detectors", made / "set", "--tokens", 50, "--attacked", 5)
    status, out, _ = run(capsys, *argv, "--out", tmp_path / "report", "--json")
    assert status == 0 and json.loads(out)["tables"][0]["title"] == "Detectors, texts of 50 tokens"
    assert (tmp_path / "report" / "report.md").exists()
    status, _, err = run(capsys, *argv, "--out", tmp_path / "report")
    assert status == 2 and "report.md exists; pass --overwrite" in err


def test_a_watermark_is_looked_for(capsys, tmp_path):
    from gpt2lab.generation import Request, Sampling, generate
    from gpt2lab.model import checkpoint

    loaded = checkpoint.load(MODEL)
    request = Request((), max_tokens=120, sampling=Sampling(watermark=9), seed=1)
    text = generate(loaded.model, loaded.tokenizer, [request])[0].text
    (tmp_path / "text.txt").write_text(text)
    for key, found in ((9, True), (8, False)):
        status, out, _ = run(
            capsys, "watermark", MODEL, tmp_path / "text.txt", "--key", key, "--json"
        )
        assert status == 0 and (json.loads(out)["p"] < 1e-4) is found


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["guess"], "no action 'guess'; there are collect, train, score, evaluate, watermark"),
        (["score", "{tmp}"], "is not a folder of detectors; make one with: gpt2lab detect train"),
        (["train", "{tmp}", "--models", MODEL, "--out", "{tmp}/x"], "is not a set of texts"),
        (["collect", MODEL, "--texts", "{tmp}/none.txt", "--out", "{tmp}/x"], "none.txt"),
        (["collect", MODEL, "--texts", "{tmp}", "--out", "{tmp}/x"], "holds no file named"),
        (["score", "{work}/detectors", "{tmp}/binary"], "is a binary file, not text"),
        (["score", "{work}/detectors", "{tmp}/empty"], "empty is empty; give a text of 50 tokens"),
        (["score", "{work}/detectors", "{tmp}/large"], "has 10,000,000 characters"),
        (["score", "{work}/detectors", "{tmp}/large", "--models", "{tmp}/gone"], "gone"),
        (["score", "{work}/detectors", "{tmp}/large", "--detector", "x"], "no detector 'x' was"),
        (["evaluate", "{work}/detectors"], "name the set that the detectors were trained on"),
        (["train", "{work}/set", "--models", MODEL, "--out", "{tmp}/x", "--seed", "-1"],
         "--seed is -1; it must be from 0 to"),
        (["train", "{work}/set", "--models", MODEL, "--out", "{tmp}/x", "--detectors", "finetuned",
          "--backbone", MODEL, "--dtype", "int8"], "weights are rounded to int8 or int4"),
        (["evaluate", "{work}/detectors", "{tmp}", "--out", "{tmp}/x"], "is not a set of texts"),
        (["evaluate", "{work}/detectors", "{work}/set", "--tokens", "119", "--out", "{tmp}/x"],
         "the test split has only"),
        (["evaluate", "{work}/detectors", "{work}/set", "--seed", "-1"], "--seed is -1"),
        (["score", "{work}/detectors", "{tmp}/short", "--html", "", "--overwrite"],
         "'.' is no file that can be replaced; name another"),
        (["score", "{work}/detectors", "{tmp}/short", "--html", "/dev/null", "--overwrite"],
         "'/dev/null' is no file"),
        (["watermark", MODEL, "{work}/two.jsonl", "--key", "1"], "two.jsonl holds 2 texts"),
        (["watermark", MODEL, "{tmp}/short", "--key", "1"], "places that could carry a watermark"),
    ],
)  # fmt: skip
def test_refusals(made, capsys, tmp_path, argv, message):
    (tmp_path / "binary").write_bytes(b"\0\1\2" * 100)
    (tmp_path / "empty").write_text("")
    (tmp_path / "short").write_text("a b c")
    (made / "two.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "large").write_text("word " * 2_000_000)
    status, out, err = run(capsys, *(a.format(tmp=tmp_path, work=made) for a in argv))
    assert status == 2 and not out and message in err and "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_models_that_are_gone_are_asked_for(made, capsys, tmp_path):
    import shutil

    folder = tmp_path / "detectors"
    shutil.copytree(made / "detectors", folder)
    table = json.loads((folder / "gpt2lab.json").read_text())
    table["scorers"][0]["source"] = str(tmp_path / "gone")
    (folder / "gpt2lab.json").write_text(json.dumps(table))
    (tmp_path / "text.txt").write_text(generated(made))
    status, _, err = run(capsys, "score", folder, tmp_path / "text.txt")
    assert status == 2 and "is no longer at" in err and "say where it is with --models" in err
    status, out, _ = run(
        capsys, "score", folder, tmp_path / "text.txt", "--models", MODEL, "--json"
    )
    assert status == 0 and json.loads(out)["verdicts"][0]["p"] is not None
    other = str(Path(MODEL).parent / "reference-3M")
    status, _, err = run(capsys, "score", folder, tmp_path / "text.txt", "--models", other)
    assert status == 2 and "reference-1M" in err


def test_help():
    for argv in (["--help"], *([a, "--help"] for a in ACTIONS)):
        with pytest.raises(SystemExit) as leaving:
            main(["detect", *argv])
        assert leaving.value.code == 0
    with pytest.raises(SystemExit) as leaving:
        main(["detect"])
    assert leaving.value.code == 2
