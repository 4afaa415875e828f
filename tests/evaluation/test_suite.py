"""The whole table from a folder of files, what is written, and what is said of mistakes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gpt2lab
from gpt2lab.cli.main import main
from gpt2lab.errors import UserError
from gpt2lab.evaluation import report, suite
from gpt2lab.evaluation.paper import ROWS
from gpt2lab.evaluation.tasks import SUITES, chosen, tasks

MODELS = Path(__file__).resolve().parents[1] / "models"
PASSAGES = ["The function returns a list of the", "He took the lamp and lit the lamp"]
ONE, THREE = str(MODELS / "reference-1M"), str(MODELS / "reference-3M")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A few items of every set of the paper, in the layouts in which the sets are published."""
    folder = tmp_path_factory.mktemp("sets")

    def put(name, text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    put("lambada_test.jsonl", "".join(json.dumps({"text": p}) + "\n" for p in PASSAGES))
    put("lambada/lambada_test_plain_text.txt", "\n".join(PASSAGES).lower())
    for kind in ("CN", "NE"):
        question = "1 It rained .\n2 The cat slept .\n21 The @ slept .\tcat\t\tcat|dog|hen\n\n"
        put(f"CBTest/data/cbtest_{kind}_valid_2000ex.txt", question.replace("@", "X" * 5) * 3)
    for name in ("wikitext-2", "wikitext-103"):
        put(f"{name}/wiki.test.tokens", " \n = River = \n \n It 's long , and @-@ wide . \n")
    put("ptb.test.txt", " it was n't sold \n mr. <unk> paid $ N \n")
    put("heldout/news.en.heldout-00000-of-00050", "He left .\nIt 's late .\nWe don 't know .\n")
    put("enwik8", "<page>text</page>\n" * 5)
    put("text8", " anarchism originated as a term")
    rows = [{"context_options": ["the jug", "the cup"], "continuation": "fell.", "gold": 0}]
    put("winograd_wsc.jsonl", json.dumps(rows[0]) + "\n")
    story = {
        "source": "cnn", "story": "Ann ran.", "questions": [{"input_text": "Who ran?"}],
        "answers": [{"input_text": "Ann"}],
    }  # fmt: skip
    put("coqa-dev-v1.0.json", json.dumps({"data": [story, story]}))
    article = {"article": "A barge sank. Nobody was hurt. It was coal.", "highlights": "A barge."}
    put("cnn_dailymail.jsonl", json.dumps(article) + "\n")
    for name in ("src.fr", "ref.en"):
        segments = "".join(f"<seg>Number {n} here.</seg>\n" for n in range(7))
        put(f"newstest2014-fren-{name}.sgm", segments)
    questions = [{"question": f"who was {n}", "answer": [f"Mr {n}"]} for n in range(8)]
    put("NQ-open.dev.jsonl", "".join(json.dumps(q) + "\n" for q in questions))
    return folder


def evaluate(capsys, *args):
    status = main(["evaluate", *map(str, args)])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """Every task of the paper on two models, by the command line."""
    folder = tmp_path_factory.mktemp("results")
    for name, model in (("one", ONE), ("three", THREE)):
        arguments = [
            "evaluate", model, "--suite", "paper", "--data", str(files), "--out",
            str(folder / name), "--store", str(folder / "store"),
        ]  # fmt: skip
        assert main(arguments) == 0
    return folder


def test_every_row_of_the_paper_is_measured(whole):
    results = suite.load(whole / "one")
    assert not results.absent
    for row, m in report.paper_table(results):
        assert m is not None, row.label
        assert m.n >= 1 and len(m.data) >= 64 and m.protocol
    assert {m.name for m in results.measurements} == set(results.scores)


def test_what_is_written(whole):
    folder = whole / "one"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {"results.json", "results.md", "results.csv", "results.png"} <= names
    assert {f"items/{name}.jsonl" for name in SUITES["paper"]} <= names
    page = (folder / "results.md").read_text("utf-8")
    assert page.count("not measured") == 0
    for row in ROWS:
        assert f"| {row.label} |" in page
    bars = {line.replace("\\|", "").count("|") for line in page.splitlines() if line[:2] == "| "}
    assert bars == {9, 5}, "every row has its table's number of cells"
    assert "65.85" in page and "| 1 |" in page and "\n1. " in page
    rows = list(csv.DictReader((folder / "results.csv").open(encoding="utf-8")))
    assert len(rows) == len(suite.load(folder).measurements)
    assert float(rows[0]["value"]) == suite.load(folder).measurements[0].value
    items = [json.loads(x) for x in (folder / "items/cbt-cn.jsonl").read_text().splitlines()]
    assert len(items) == 3 and items[0]["answer"] == "cat"
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_added_to_and_belong_to_one_model(whole, files, capsys, tmp_path):
    arguments = ("--data", files, "--store", whole / "store")
    out = tmp_path / "out"
    assert evaluate(capsys, ONE, "--tasks", "ptb", "--out", out, *arguments)[0] == 0
    assert evaluate(capsys, ONE, "--tasks", "text8", "--out", out, *arguments)[0] == 0
    names = [m.name for m in suite.load(out).measurements]
    assert "ptb.word perplexity" in names and "text8.character bits" in names
    status, _, error = evaluate(capsys, THREE, "--tasks", "ptb", "--out", out, *arguments)
    assert status == 2 and "holds results of another model" in error


def test_json(whole, files, capsys):
    status, output, _ = evaluate(
        capsys, ONE, "--tasks", "text8", "ptb", "--json", "--data", files, "--store",
        whole / "store",
    )  # fmt: skip
    table = json.loads(output)
    assert status == 0
    assert {m["name"] for m in table["measurements"]} >= {"text8.character bits"}
    assert table["measurements"][0]["settings"]["context"] > 0


def test_compare_and_plot(whole, capsys, tmp_path):
    status, output, _ = evaluate(capsys, "compare", whole / "one", whole / "three")
    assert status == 0
    assert "ptb.word perplexity" in output and "difference" in output
    status, output, _ = evaluate(capsys, "compare", whole / "one", whole / "three", "--json")
    found = json.loads(output)["ptb.word perplexity"]
    a, b = (suite.load(whole / name).find("ptb.word perplexity") for name in ("one", "three"))
    assert found["value"] == pytest.approx(b.value - a.value)
    assert found["low"] <= found["value"] <= found["high"]
    png = tmp_path / "plot.png"
    assert evaluate(capsys, "plot", png, whole / "one", whole / "three")[0] == 0
    assert png.stat().st_size > 20_000
    (tmp_path / "results.json").write_text("{}")
    status, _, error = evaluate(capsys, "compare", tmp_path, whole / "one")
    assert status == 2 and "does not hold results" in error
    assert evaluate(capsys, "compare", tmp_path / "none", whole / "one")[0] == 2


def test_a_plan_counts_what_a_run_then_asks(files, capsys, tmp_path, whole):
    arguments = [ONE, "--suite", "paper", "--data", files, "--dry-run", "--store"]
    status, said, _ = evaluate(capsys, *arguments, tmp_path / "store", "--json")
    assert status == 0
    plan = json.loads(said)
    tasks = {task["task"]: task for task in plan["tasks"]}
    assert len(tasks) == 16
    assert all(t["texts"] > t["already_answered"] == 0 for t in tasks.values())
    assert all(t["tokens_to_read"] > 0 for t in tasks.values())
    encode = gpt2lab.load(ONE).tokenizer.encode
    read = sum(len(encode(f"\n{p}")) - 1 for p in PASSAGES)
    assert tasks["lambada[openai]"]["tokens_to_read"] == read
    assert tasks["cnn-dailymail"]["tokens_to_write_at_most"] == 2 * 100
    assert plan["seconds"] > 0
    # All of it is in the store of the whole run.
    status, said, _ = evaluate(capsys, *arguments, whole / "store", "--json")
    for task in json.loads(said)["tasks"]:
        assert task["already_answered"] == task["texts"] > 0, task
        assert task["tokens_to_read"] == task["tokens_to_write_at_most"] == task["seconds"] == 0
    status, said, _ = evaluate(capsys, *arguments, tmp_path / "store")
    assert status == 0 and "answered already" in said and "written a second" in said


def test_sets_that_are_not_there(files, capsys, tmp_path):
    (tmp_path / "text8").write_text(" anarchism originated")
    store = ("--store", tmp_path / "store")
    status, output, _ = evaluate(capsys, ONE, "--suite", "paper", "--data", tmp_path, *store)
    assert status == 0
    assert "ptb: not measured: ptb.test.txt (or ptb.valid.txt) is not under" in output
    status, _, error = evaluate(capsys, ONE, "--tasks", "ptb", "--data", tmp_path, *store)
    assert status == 2 and "dd65dff31e70846b2a6030a87482edcd" in error
    (tmp_path / "text8").unlink()
    status, _, error = evaluate(capsys, ONE, "--suite", "paper", "--data", tmp_path, *store)
    assert status == 2 and "no data for any of the tasks" in error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((ONE,), "no --tasks and no --suite"),
        ((ONE, "--tasks", "lamdada"), "no task 'lamdada'; did you mean 'lambada'"),
        ((ONE, "--tasks", "xyzzy"), "no task 'xyzzy'; there are lambada"),
        ((ONE, "--tasks", "none.toml"), "none.toml does not exist"),
        ((ONE, "--tasks", "ptb", "--data", "nowhere"), "--data nowhere is not a folder"),
        (("nomodel", "--tasks", "ptb", "--data", "."), "nomodel is neither a path"),
        ((ONE, "--tasks", "text8", "--stride", "5000"), "stride is 5000; it must be from 1 to"),
        ((ONE, "--tasks", "1bw", "--detokenizer", "megatron"), "Megatron-LM has no de-tokeniser"),
        ((ONE, "--tasks", "cbt-cn", "--limit", "-1"), "limit is -1"),
        ((ONE, "--tasks", "ptb", "--device", "tpu"), "--device 'tpu' cannot be used"),
        (("plot", "x.png"), "no results to plot"),
    ],
)
def test_mistakes_are_one_sentence(files, capsys, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    more = ["--store", str(tmp_path)] if args[0] != "plot" else []
    if "--data" not in args and args[0] != "plot":
        more += ["--data", str(files)]
    status, output, error = evaluate(capsys, *args, *more)
    assert status == 2
    assert words in error
    assert output == "" and "Traceback" not in error


def test_lists_of_tasks(capsys):
    assert evaluate(capsys, "tasks")[0] == 0
    _, output, _ = evaluate(capsys, "tasks", "--json")
    assert list(json.loads(output)) == list(tasks())
    assert [t.name for t in chosen(["lambada", "ptb", "ptb"])] == [
        "lambada[openai]", "lambada[std]", "ptb",
    ]  # fmt: skip


def test_damaged_files_are_named(files, capsys, tmp_path):
    for name, content, task, words in (
        ("lambada_test.jsonl", '{"text": "word"}', "lambada[openai]", "passage 1: it is one word"),
        ("cbtest_CN_valid_2000ex.txt", "21 no blank\ta\t\ta|b", "cbt-cn", "line 1: no " + "X" * 5),
        ("cbtest_NE_valid_2000ex.txt", "1 a\n", "cbt-ne", "holds no items"),
        ("winograd_wsc.jsonl", '{"gold": 3}', "winograd", "item 1: KeyError"),
        ("WSCollection.xml", "<a><b></a>", "winograd", "is not the collection's XML"),
        ("coqa-dev-v1.0.json", '{"data": 3}', "coqa", "is not CoQA's JSON"),
        ("cnn_dailymail.jsonl", '{"article": "x"}', "cnn-dailymail", "has no 'highlights'"),
        ("NQ-open.dev.jsonl", '{"question": "x", "answer": "y"}', "natural-questions", "no list"),
        ("newstest2014-fren-src.fr.sgm", "text", "wmt14-fr-en", "no <seg> elements"),
    ):
        (tmp_path / "newstest2014-fren-ref.en.sgm").write_text("<seg>x</seg>")
        (tmp_path / name).write_text(content)
        status, _, error = evaluate(
            capsys, ONE, "--tasks", task, "--data", tmp_path, "--store", tmp_path / "store"
        )
        assert (status, words in error) == (2, True), (name, error)
    bomb = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><collection>&z;</collection>'
    (tmp_path / "WSCollection.xml").write_text(bomb)
    status, _, error = evaluate(
        capsys, ONE, "--tasks", "winograd", "--data", tmp_path, "--store", tmp_path / "store"
    )
    assert status == 2 and "defines entities" in error


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """kill -9 in the middle; what is on disk then is not asked again."""
    (tmp_path / "lambada_test.jsonl").write_text(
        "".join(json.dumps({"text": f"The {n} men went to the {n} old houses"}) + "\n"
                for n in range(4000))
    )  # fmt: skip
    code = (
        "import sys; from gpt2lab.evaluation import store; store.SECONDS_BETWEEN_COMMITS = 0.05\n"
        "from gpt2lab.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable, "-c", code, "evaluate", ONE, "--tasks", "lambada[openai]", "--data",
        str(tmp_path), "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = tmp_path / "store"
    for _ in range(600):
        time.sleep(0.05)
        if any(p.stat().st_size > 200_000 for p in kept.glob("*.sqlite")) or running.poll() == 0:
            break
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    import sqlite3

    (file,) = kept.glob("*.sqlite")
    with sqlite3.connect(file) as table:
        (before,) = table.execute("SELECT count(*) FROM answers").fetchone()
    assert 0 < before < 4000
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr
    fresh = [*command[:-1], str(tmp_path / "other")]
    again = subprocess.run(fresh, capture_output=True, text=True, timeout=300, check=False)
    assert made.stdout == again.stdout


def test_nothing_is_measured_with_a_broken_model(files, capsys, tmp_path):
    from safetensors.torch import load_file, save_file

    from gpt2lab.model import checkpoint

    made = checkpoint.load(ONE)
    checkpoint.save(tmp_path / "model", made.model, made.tokenizer, {})
    path = tmp_path / "model" / checkpoint.WEIGHTS
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("ln_f.weight"))
    tensors[name] = tensors[name] * 1e38
    save_file(tensors, path)
    status, _, error = evaluate(
        capsys, tmp_path / "model", "--tasks", "ptb", "--data", files, "--out", tmp_path / "out",
        "--store", tmp_path / "store",
    )  # fmt: skip
    assert status == 2
    assert "NaN or infinity" in error
    assert not (tmp_path / "out" / "results.json").exists()


def test_results_of_another_make_are_refused(tmp_path):
    (tmp_path / suite.RESULTS).write_text(json.dumps({"model": 3}))
    with pytest.raises(UserError, match="does not hold results"):
        suite.load(tmp_path)
