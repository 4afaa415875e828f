"""Sets of questions as files describe them, and what can be wrong with such a file."""

import json

import pytest

from evaluation.slow import Slow
from gpt2lab.errors import UserError
from gpt2lab.evaluation import plots, report, suite
from gpt2lab.evaluation.sources import Data, DataFile
from gpt2lab.evaluation.tasks import Settings, chosen, questions, tasks
from gpt2lab.evaluation.tasks.questions import Question, TaskFile, load, read
from gpt2lab.settings import read_recipe

PIQA = """
name = "things"
kind = "choice"
files = ["things.jsonl"]
[[forms]]
prompt = "Question: {goal}\\nAnswer:"
options = ["{sol1}", "{sol2}"]
answer = "label"
"""
ROWS = [
    {"goal": "open a jar", "sol1": "turn the lid", "sol2": "paint the lid", "label": 0},
    {"goal": "dry a shirt", "sol1": "put it in water", "sol2": "hang it in the sun", "label": 1},
    {"goal": "cut bread", "sol1": "use a spoon", "sol2": "use a knife", "label": 1},
]


@pytest.fixture
def described(tmp_path):
    """Writes a task file and rows, and gives the path of the first."""

    def write(text=PIQA, rows=ROWS, name="things.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
        (tmp_path / "things.toml").write_text(text)
        return tmp_path / "things.toml"

    return write


def run(subject, path, **settings):
    (task,) = chosen([str(path)])
    outcome = task.run(subject, Data(path.parent), Settings(**settings))
    return {s.name: s for s in outcome.scores}, outcome


@pytest.mark.parametrize("shots", [0, 1])
def test_a_file_of_ten_lines(subject, reference, described, shots):
    slow = Slow(*reference)
    found, outcome = run(subject, described(), shots=shots)
    asked = [i["options"][0][0].rpartition("Question: ")[2].split("\n")[0] for i in outcome.items]
    left = [r for r in ROWS if r["goal"] not in asked]
    assert len(left) == shots
    shown = "".join(
        f"Question: {r['goal']}\nAnswer: {r['sol1'] if r['label'] == 0 else r['sol2']}\n\n"
        for r in left
    )
    right, by_length = [], []
    for row in (r for r in ROWS if r["goal"] in asked):
        prompt = f"{shown}Question: {row['goal']}\nAnswer:"
        options = [row["sol1"], row["sol2"]]
        logp = [slow.logp(prompt, f" {o}") for o in options]
        right.append(logp.index(max(logp)) == row["label"])
        each = [p / len(o) for p, o in zip(logp, options, strict=True)]
        by_length.append(each.index(max(each)) == row["label"])
    assert found["things accuracy"].value == pytest.approx(100 * sum(right) / len(right))
    rate = found["things accuracy per character"].value
    assert rate == pytest.approx(100 * sum(by_length) / len(by_length))
    assert found["things accuracy"].settings["shots"] == shots


def test_a_curve_asks_the_same_questions_whatever_is_shown(subject, described, tmp_path):
    task = chosen([str(described())])
    settings = Settings()
    results = suite.evaluate(subject, "m", task, Data(tmp_path), settings, shots=(1, 0, 1))
    names = [m.name for m in results.measurements]
    assert names[:2] == ["things accuracy [0 shots]", "things accuracy per character [0 shots]"]
    points = {(m.settings["curve"], m.settings["at"]): m for m in results.measurements}
    assert len(points) == 4 and all(m.n == 2 for m in points.values())
    alone = run(subject, described(), shots=1)[0]["things accuracy"]
    assert points["things accuracy", 1].value == alone.value
    assert ("shots", "0", "1", "n") in report.curves(results, report.shown)[0]
    plots.curves([results, results], tmp_path / "curves.png")


def test_pairs_endings_and_schemas(subject, reference, tmp_path):
    slow = Slow(*reference)
    files = {
        "pairs": (
            'kind = "pair"\n[[forms]]\noptions = ["{good}", "{bad}"]',
            [{"good": "Dogs bark.", "bad": "Dogs barks."}, {"good": "I am.", "bad": "I is."}],
        ),
        "sums": (
            'kind = "ending"\n[[forms]]\nprompt = "{a}"\nending = "{b}"',
            [{"a": "2 + 3 =", "b": "5"}, {"a": "12 + 30 =", "b": "42"}],
        ),
        "blanks": (
            'kind = "schema"\n[[forms]]\nblank = "text"\noptions = ["{x}", "{y}"]\n'
            'answer = "which"\nfirst = 1',
            [{"text": "Ann beat Sue as _ was quick.", "x": "Ann", "y": "Sue", "which": "1"}],
        ),
    }  # fmt: skip
    found = {}
    for name, (body, rows) in files.items():
        head, _, forms = body.partition("[[forms]]")
        (tmp_path / f"{name}.toml").write_text(
            f'name = "{name}"\nfiles = ["{name}.jsonl"]\n{head}[[forms]]{forms}\n'
        )
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        found |= run(subject, tmp_path / f"{name}.toml")[0]
    better = [slow.logp("", r["good"]) > slow.logp("", r["bad"]) for r in files["pairs"][1]]
    assert found["pairs accuracy"].value == 50 * sum(better)
    each = [slow.tokens(r["a"], f" {r['b']}") for r in files["sums"][1]]
    greedy = [all(rank == 0 for _, rank, _ in tokens) for tokens in each]
    assert found["sums accuracy"].value == 50 * sum(greedy)
    nats = -sum(p for tokens in each for p, _, _ in tokens)
    assert found["sums bits"].value == pytest.approx(nats / 0.6931472 / 5, rel=1e-4)
    ann, sue = (slow.logp(f"Ann beat Sue as {o}", " was quick.") for o in ("Ann", "Sue"))
    assert found["blanks accuracy"].value == 100.0 * (ann > sue)


def test_answers_however_they_are_named():
    right = questions._right
    options = ["red", "blue", "green"]
    for answer, labels, first, expected in (
        (1, [], 0, 1), (1, [], 1, 0), ("blue", [], 0, 1), ("C", [], 0, 2), ("b", [], 0, 1),
        ("2", [], 0, 2), ("2", [], 1, 1), ("B", ["A", "B", "C"], 0, 1), (True, [], 0, 1),
        ("4", ["1", "4", "9"], 0, 1), (3, [], 0, None), (-1, [], 0, None), ("pink", [], 0, None),
        ("D", [], 0, None), (None, [], 0, None), ("0", [], 1, None),
    ):  # fmt: skip
        assert right(answer, options, labels, first) == expected, (answer, labels, first)


def test_public_files_are_read(data):
    """How many questions each of the real files has, and that their right answers vary."""
    for name, count in (
        ("piqa", 1838), ("arc-easy", 2376), ("winogrande", 1267), ("copa", 100),
        ("hellaswag", 1000),
    ):  # fmt: skip
        (task,) = chosen([name])
        described = read_recipe(
            questions.Path(questions.__file__).parent / "files" / f"{name}.toml", TaskFile
        )
        found = read(described, Data(data / "eval").find(task.sources[0]))
        assert len(found) == count
        assert len({q.right for q in found}) > 1
        assert all(a.strip() and b.strip() for q in found for a, b in q.pairs)
    assert found[0].pairs[0][0].startswith("Finance and Business: How to apply")


def test_a_layout_of_the_hub(tmp_path):
    row = {
        "question": "Which?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    }  # fmt: skip
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(row))
    path = questions.Path(questions.__file__).parent / "files" / "arc-easy.toml"
    (question,) = read(read_recipe(path, TaskFile), DataFile(tmp_path / "arc_easy.jsonl"))
    pairs = [("Question: Which?\nAnswer:", f" {x}") for x in "abc"]
    assert question == Question(pairs, 2)


def test_copa_as_published(tmp_path):
    rows = [
        {"premise": "The man fell.", "choice1": "He slipped.", "choice2": "I sang.",
         "question": "cause", "label": 0},
        {"premise": "It rained!", "choice1": "We dried.", "choice2": "The road was wet.",
         "question": "effect", "label": 1},
    ]  # fmt: skip
    (tmp_path / "COPA").mkdir()
    (tmp_path / "COPA" / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (task,) = chosen(["copa"])
    path = questions.Path(questions.__file__).parent / "files" / "copa.toml"
    first, second = read(read_recipe(path, TaskFile), Data(tmp_path).find(task.sources[0]))
    because = "The man fell, because"
    assert first == Question([(because, " he slipped."), (because, " i sang.")], 0)
    assert second.pairs[1] == ("It rained, therefore", " the road was wet.") and second.right == 1


def test_blimp_as_published(subject, tmp_path):
    """67 files anywhere among others; accuracy of the whole and of each of its parts."""
    (task,) = chosen(["blimp"])
    names = task.sources[0].names
    assert len(names) == 67
    for number, name in enumerate(names):
        row = {"sentence_good": f"It is {name}.", "sentence_bad": "Is.",
               "linguistics_term": "syntax" if number % 2 else "voice"}  # fmt: skip
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    (tmp_path / "another.jsonl").write_text("not of this set")
    outcome = task.run(subject, Data(tmp_path), Settings())
    sizes = {s.name: len(s.sums) for s in outcome.scores}
    assert sizes == {
        "blimp accuracy": 67, "blimp accuracy, syntax": 33, "blimp accuracy, voice": 34,
    }  # fmt: skip
    digest = Data(tmp_path).find(task.sources[0]).digest
    (tmp_path / names[-1]).write_text("{}\n")
    assert Data(tmp_path).find(task.sources[0]).digest != digest
    (tmp_path / names[3]).unlink()
    with pytest.raises(UserError, match=f"1 of 67 files are not under .*: {names[3]}"):
        Data(tmp_path).find(task.sources[0])


def test_answers_in_a_file_beside(described, tmp_path, tiny_subject):
    rows = [{k: v for k, v in r.items() if k != "label"} for r in ROWS]
    path = described(PIQA.replace("name =", 'answers = "labels.lst"\nname ='), rows)
    (tmp_path / "labels.lst").write_text("0\n1\n1\n")
    found = read(read_recipe(path, TaskFile), DataFile(tmp_path / "things.jsonl"))
    assert [q.right for q in found] == [0, 1, 1]


def test_every_task_loads_and_has_a_place():
    found = tasks()
    assert len(found) == 27
    for task in found.values():
        assert task.summary
        assert all(s.names and s.published for s in task.sources)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("kind", "knd"), "unknown key 'knd'; did you mean 'kind'"),
        (('"choice"', '"chioce"'), "'kind' must be one of"),
        (("label", ""), "form of kind 'choice' needs 'answer'"),
        (('["things.jsonl"]', "[]"), "files and forms must not be empty"),
        (("[[forms]]", "[[forms"), "not valid TOML"),
        (("{goal}", "{goal|wide}"), r"{goal\|wide}: there are open, small"),
        (('"things"', '"../things"'), "may have letters, digits"),
        (("{goal}", "{goal"), "has braces that are no field"),
        (("{goal}", "{goal|open|small}"), "has braces that are no field"),
        (('"label"', '"label"\nid = "gaol"'), "item 1 has no 'gaol', only goal, sol1"),
        (("name =", 'part = "x"\nname ='), "item 1 has no 'x', only goal, sol1"),
        (('"label"', '"label"\nwhen = ["goal", "x"]'), "have not the values that `when` asks"),
        (('"label"', '"label"\nwhen = ["goal"]'), "`when` must be a field and the value"),
        (("{goal}", "{gaol}"), "item 1: its fields, goal, sol1, sol2, label, are of no layout"),
        (('answer = "label"', 'answer = "goal"'), "item 1: the answer 'open a jar' is none of 2"),
    ],
)
def test_what_is_wrong_with_a_description(described, tiny_subject, change, words):
    path = described(PIQA.replace(*change))
    with pytest.raises(UserError, match=words):
        run(tiny_subject, path)


def test_too_many_examples(described, tiny_subject):
    with pytest.raises(UserError, match="3 questions; 3 to show leave none"):
        run(tiny_subject, described(), shots=3)
    with pytest.raises(UserError, match="limit is 0"):
        run(tiny_subject, described(), limit=0)


def test_templates_reach_only_fields(described, tiny_subject):
    """A file of a stranger cannot look into Python through a template."""
    path = described(PIQA.replace("{goal}", "{goal.__class__.__init__.__globals__}"))
    with pytest.raises(UserError, match="are of no layout"):
        run(tiny_subject, path)
    load(path)
