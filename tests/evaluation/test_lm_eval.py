"""lm-eval asks our model what it asks transformers', and hears the same."""

import json

import pytest

from gpt2lab.evaluation.sources import Data, DataFile
from gpt2lab.evaluation.tasks import questions, winograd
from gpt2lab.evaluation.tasks.questions import TaskFile
from gpt2lab.settings import read_recipe

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytest.importorskip("accelerate", reason="lm-eval's hf model needs accelerate")


@pytest.fixture(scope="module")
def ours(gpt2_folder):
    from gpt2lab.evaluation.lm_eval_adapter import GPT2LabLM

    return GPT2LabLM(str(gpt2_folder))


@pytest.fixture(scope="module")
def theirs(gpt2_folder):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(gpt2_folder), device="cpu", dtype="float32", batch_size=8)


def asked(kind, all_args):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i) for i, args in enumerate(all_args)]


def pairs(data, name, count):
    if name == "lambada":
        rows = DataFile(data / "eval/lambada/lambada_test.jsonl").records("text")
        texts = [r["text"] for r in rows[:count]]
        return [(t.rpartition(" ")[0], " " + t.rpartition(" ")[2]) for t in texts]
    if name == "winograd":
        schemas = winograd.read(Data(data / "eval").find(winograd.SOURCE))
        return [(b, s.rest) for s in schemas for b in s.beginnings][:count]
    path = questions.Path(questions.__file__).parent / "files" / f"{name}.toml"
    described = read_recipe(path, TaskFile)
    file = Data(data / "eval").find(questions.load(path).sources[0])
    return [p for q in questions.read(described, file) for p in q.pairs][:count]


@pytest.mark.parametrize(
    ("name", "count"), [("lambada", 40), ("winograd", 40), ("piqa", 40), ("arc-easy", 40)]
)
def test_log_likelihoods(data, ours, theirs, name, count):
    requests = asked("loglikelihood", pairs(data, name, count))
    mine = ours.loglikelihood(requests, disable_tqdm=True)
    other = theirs.loglikelihood(requests, disable_tqdm=True)
    assert len({round(p) for p, _ in mine}) > 5
    # Two float32 models agree to some units in the last place of a sum, however large it is.
    for (p, greedy), (q, also) in zip(mine, other, strict=True):
        assert p == pytest.approx(q, abs=1e-4, rel=3e-7)
        assert greedy == also


@pytest.mark.slow
def test_200_of_lambada(data, ours, theirs):
    requests = asked("loglikelihood", pairs(data, "lambada", 200))
    mine = ours.loglikelihood(requests, disable_tqdm=True)
    other = theirs.loglikelihood(requests, disable_tqdm=True)
    assert max(abs(p - q) for (p, _), (q, _) in zip(mine, other, strict=True)) < 1e-4
    assert [g for _, g in mine] == [g for _, g in other]


def test_no_context_and_long_texts(ours, theirs):
    long = "one two three four five " * 220
    requests = asked("loglikelihood", [("", "Hello there"), (long, " six"), ("a ", " b")])
    mine, other = (lm.loglikelihood(requests, disable_tqdm=True) for lm in (ours, theirs))
    assert [p for p, _ in mine] == pytest.approx([q for q, _ in other], abs=2e-4)
    rolling = asked("loglikelihood_rolling", [(long,), ("short",)])
    mine, other = (lm.loglikelihood_rolling(rolling, disable_tqdm=True) for lm in (ours, theirs))
    assert mine == pytest.approx(other, rel=1e-5)


def test_texts(ours, theirs):
    options = {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False}
    requests = asked("generate_until", [("The river", options), ("Once more", options)])
    mine, other = (lm.generate_until(requests, disable_tqdm=True) for lm in (ours, theirs))
    assert mine == other


def test_the_command_line(tmp_path, tiny, small_tokenizer):
    """A task of local files, by lm-eval's own program."""
    import os
    import subprocess
    import sys

    from gpt2lab.model import checkpoint

    checkpoint.save(tmp_path / "model", tiny, small_tokenizer, {})
    rows = [
        {"q": "the cat", "a": ["sat", "dog"], "right": 0},
        {"q": "a", "a": ["b", "c"], "right": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "local.yaml").write_text(
        f"""task: local_rows
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{a}}}}"
doc_to_target: right
metric_list: [{{metric: acc}}]
"""
    )
    command = [
        sys.executable, "-m", "gpt2lab.cli.main", "evaluate", "lm-eval", "run",
        "--model", "gpt2lab", "--model_args", f"pretrained={tmp_path}/model",
        "--tasks", "local_rows",
        "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    made = subprocess.run(
        command, capture_output=True, text=True, timeout=300,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    (found,) = (tmp_path / "out").rglob("results_*.json")
    assert 0 <= json.loads(found.read_text())["results"]["local_rows"]["acc,none"] <= 1
