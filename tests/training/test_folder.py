"""Nothing in a run's folder is lost to a command that fails; nothing read from it is trusted."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gpt2lab import UserError
from gpt2lab.cli.main import main
from gpt2lab.corpus.shards import open_split
from gpt2lab.settings import to_toml
from gpt2lab.storage import locked, sha256, write_json
from gpt2lab.training import folder, saved
from gpt2lab.training import run as runs
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.loop import Callback
from small_runs import StopAt, recipe, same, sentence, weights


def tree(run: Path) -> dict[str, str]:
    return {str(p.relative_to(run)): sha256(p) for p in run.rglob("*") if p.is_file()}


@pytest.fixture
def finished(tmp_path, shards):
    runs.start(recipe(shards, steps=6), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def text(tmp_path, small_tokenizer):
    """A recipe that tokenises two texts of its own."""
    small_tokenizer.save(tmp_path / "tokenizer")
    for name, start in (("one", 0), ("two", 1000)):
        lines = [json.dumps({"text": sentence(start + i)}) for i in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    settings = recipe(tmp_path / "one.jsonl", steps=4)
    return replace(
        settings,
        data=replace(settings.data, tokenizer=str(tmp_path / "tokenizer"), held_out=0.1),
    )


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name", ["checkpoints/step-0000500/weights.pt", "metrics.jsonl", "model/x.bin", "data/a.txt"]
)
def test_what_is_no_run_is_never_replaced(tmp_path, shards, name, overwrite):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(UserError, match="no run of gpt2lab; choose another --out"):
        runs.start(recipe(shards), tmp_path / "out", overwrite=overwrite)
    assert mine.read_text() == "precious"
    assert len(tree(tmp_path / "out")) == 1


class Fails(Callback):
    def begin(self, trainer):
        raise OSError("no network")


def test_a_run_that_cannot_start_gives_the_old_one_back(finished, shards, text):
    before = tree(finished)
    small = replace(text, model=replace(text.model, vocab_size=299))
    with pytest.raises(UserError, match=r"model\.vocab_size is 299"):
        runs.start(small, finished, overwrite=True)
    assert tree(finished) == before
    with pytest.raises(OSError, match="no network"):
        runs.start(text, finished, overwrite=True, callbacks=[Fails()])
    assert tree(finished) == before
    with pytest.raises(UserError, match="GiB of cpu memory"):
        huge = replace(text, model=replace(text.model, n_embd=2**17, n_layer=64))
        runs.start(huge, finished, overwrite=True)
    assert tree(finished) == before


def test_a_first_run_that_cannot_start_leaves_nothing(tmp_path, text):
    with pytest.raises(OSError, match="no network"):
        runs.start(text, tmp_path / "run", callbacks=[Fails()])
    assert not tree(tmp_path / "run")


def test_a_run_killed_before_its_first_step_gives_the_old_one_back(finished, shards):
    before = tree(finished)
    killed = folder.replacing(finished, ())
    killed.__enter__()  # and never comes back
    (finished / "recipe.toml").write_text("new")
    (finished / "data").mkdir()
    assert main(["train", "--resume", str(finished)]) == 0
    kept = {name: digest for name, digest in tree(finished).items() if name in before}
    assert {n for n in before if kept.get(n) != before[n]} <= {"model/gpt2lab.json"}
    assert not (finished / "data").exists()


def test_torchrun_starts_again_what_never_made_a_step(finished, shards, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    killed = folder.replacing(finished, ())
    killed.__enter__()
    new = recipe(shards, steps=2, seed=3)
    (finished / folder.RECIPE).write_text(to_toml(new))
    (finished / folder.TORCHRUN).write_text("job\n")
    model = runs.start(new, finished, overwrite=True)
    made = json.loads((model / "gpt2lab.json").read_text())
    assert (made["recipe"]["train"]["seed"], made["step"]) == (3, 2)


def test_after_its_first_step_a_run_is_the_only_one(finished, shards):
    with pytest.raises(RuntimeError, match="crash"):
        settings = recipe(shards, steps=50, seed=3)
        runs.start(settings, finished, overwrite=True, callbacks=[StopAt(1)])
    assert runs.saved_recipe(finished).train.seed == 3
    assert not (finished / "model").exists()
    assert not saved.list_checkpoints(finished)


def test_one_process_at_a_time(finished, shards):
    with locked(finished / ".lock", finished):
        for command in (
            lambda: runs.resume(finished),
            lambda: runs.start(recipe(shards), finished, overwrite=True),
        ):
            with pytest.raises(UserError, match="another run is at work in"):
                command()


def test_shards_in_the_folder_are_no_part_of_an_older_run(tmp_path, shards):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data").symlink_to(shards)
    runs.start(recipe(tmp_path / "run" / "data", steps=2), tmp_path / "run")
    assert (tmp_path / "run" / "data" / "index.json").exists()


def test_another_text_is_read_and_does_not_replace_the_first(tmp_path, text):
    run = tmp_path / "run"
    runs.start(text, run)
    first = open_split(run / "data", "train").digest

    def go_on(name, steps):
        settings = replace(
            text,
            data=replace(text.data, path=str(tmp_path / name)),
            train=replace(text.train, steps=steps),
        )
        runs.resume(run, settings, allow_other_data=True)
        return json.loads((run / "model" / "gpt2lab.json").read_text())["corpus_digest"]

    assert go_on("two.jsonl", 6) != first
    assert open_split(run / "data", "train").digest == first
    runs.resume(run, replace(runs.saved_recipe(run), train=replace(text.train, steps=8)))
    assert go_on("one.jsonl", 10) == first
    with pytest.raises(UserError, match=r"nosuch\.jsonl"):
        go_on("nosuch.jsonl", 12)


def test_an_edited_recipe_is_compared_with_the_checkpoint(finished):
    path = finished / "recipe.toml"
    for old, new, name in (
        ("seed = 0", "seed = 7", r"train\.seed was 0 and is now 7"),
        ('name = "muon"', 'name = "adamw"', r"optimizer\.name was 'muon'"),
    ):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=name):
            runs.resume(finished)
        path.write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        {"step": None}, {"step": 1.5}, {"step": -1}, {"step": 10**30}, {"samples": "x"},
        {"seconds": float("nan")}, {"updates": float("inf")}, {"losses": None}, {"losses": ["a"]},
        {"scale": 0}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_place_no_run_stands_at_is_refused(finished, change):
    last = saved.list_checkpoints(finished)[-1]
    path = last / "state" / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    digests = last / "state" / saved.DIGESTS
    digests.unlink()
    write_json(digests, {"files": saved.digests(last)})
    with pytest.raises(UserError, match="cannot be resumed from") as caught:
        runs.resume(finished, replace(runs.saved_recipe(finished)))
    assert "\n" not in str(caught.value)


BAD_LINES = ["[]", "null", '{"step": 1}', '{"step": "x"}', "[" * 10_000, '{"step": 1', "\x00"]


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:12])
def test_damaged_metrics(finished, tmp_path, capsys, line):
    path = finished / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + line + "\n")
    with pytest.raises(UserError, match="line 7, is damaged"):
        read_metrics(finished)
    assert main(["train", "plot", str(finished), "--out", str(tmp_path / "p")]) == 2
    assert not (tmp_path / "p.png").exists()
    assert main(["train", "--resume", str(finished)]) == 0
    assert path.read_text() == whole


@pytest.mark.parametrize(
    "environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x"}, {"WORLD_SIZE": "2", "RANK": "0"}]
)
def test_variables_without_torchrun(finished, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start several processes with torchrun"):
        runs.resume(finished)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.n-embd", "1000000000"], ["--model.n-layer", "1000000000"],
        ["--model.pad-vocab-to", "100000000000"], ["--train.batch-tokens", "6400000000000"],
        ["--train.threads", "1000000000"], ["--train.seed", "9" * 30],
        ["--train.steps", "9" * 330], ["--train.device", "meta"], ["--train.peak-tflops", "nan"],
        ["--optimizer.learning-rate", "1e300"], ["--data.path", "nosuch"],
        ["--dry-run", "--processes", "0"], ["--dry-run", "--data.path", "nosuch"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_absurd_values_in_a_sentence(tmp_path, shards, capsys, words):
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe(shards)))
    assert main(["train", str(path), "--out", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gpt2lab: error:")
    assert not tree(tmp_path / "run")


def test_sigterm_while_tokenising_leaves_nothing_after_the_next_start(tmp_path, text):
    run = tmp_path / "run"
    code = (
        "import sys, time; from gpt2lab.corpus import build; from pathlib import Path\n"
        "build.BATCH = 1\n"
        "from gpt2lab.tokenizer.bpe import Tokenizer\n"
        "slow = Tokenizer.encode_batch\n"
        "Tokenizer.encode_batch = lambda *a: (time.sleep(0.2), slow(*a))[1]\n"
        "from gpt2lab.training import run as runs\n"
        f"runs.start(runs.read_recipe(Path({str(tmp_path / 'r.toml')!r}), runs.Recipe), "
        f"Path({str(run)!r}))"
    )
    (tmp_path / "r.toml").write_text(to_toml(text))
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"RANK": "0"})
    deadline = time.monotonic() + 60
    while not list(run.glob(".data.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert list(run.glob(".data.*.tmp"))
    runs.start(text, run)
    assert not list(run.glob(".*.tmp"))
    assert same(weights(run / "model"), weights(saved.list_checkpoints(run)[-1]))
