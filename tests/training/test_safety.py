"""Spikes, damaged checkpoints, retention, and what may change on resume."""

import json
from dataclasses import replace

import pytest

from gpt2lab import UserError
from gpt2lab.training import run as runs
from gpt2lab.training import saved, state
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.loop import Callback, Diverged
from gpt2lab.training.recipe import Every, Optimizer
from gpt2lab.training.spikes import deviations
from small_runs import StopAt, losses, recipe, same, weights


def test_deviations():
    calm = [3.0, 3.1, 2.9, 3.05, 2.95] * 4
    assert deviations(3.0, calm) == pytest.approx(0, abs=0.01)
    assert deviations(3.7, calm) == pytest.approx(0.7 / 0.0707, rel=0.01)
    assert deviations(9.0, calm[:10]) == 0
    assert deviations(float("nan"), []) == deviations(float("inf"), calm) == float("inf")
    assert deviations(3.005, [3.0] * 20) == pytest.approx(0.5)


class Outlier(Callback):
    """A text that cannot be predicted: the losses of some steps' samples are multiplied."""

    def __init__(self, steps, factor=20.0):
        self.samples = {8 * (step - 1) for step in steps}
        self.factor = factor
        self.wrapped = False

    def begin(self, trainer):
        if self.wrapped:
            return
        self.wrapped = True
        gradients = trainer._gradients

        def spoiled(first):
            factor = self.factor if first in self.samples else 1.0
            loss = trainer.loss
            trainer.loss = lambda x_BT, y_BT: loss(x_BT, y_BT) * factor
            try:
                return gradients(first)
            finally:
                trainer.loss = loss

        trainer._gradients = spoiled


def spiky(shards, policy, steps=40, **change):
    return recipe(
        shards, steps=steps, spike=8.0, on_spike=policy,
        optimizer=Optimizer(learning_rate=1e-3, warmup=0.1),
        every=Every(evaluate=0, windows=8, save=10), **change,
    )  # fmt: skip


def test_a_spike_is_recorded(tmp_path, shards):
    runs.start(spiky(shards, "record"), tmp_path / "run", callbacks=[Outlier([25])])
    found = {m["step"]: m for m in read_metrics(tmp_path / "run") if "spike" in m}
    assert list(found) == [25]
    assert found[25]["spike"] > 8
    assert not found[25]["skipped"]


@pytest.mark.parametrize("factor", [20.0, float("nan")])
def test_a_spike_is_left_out(tmp_path, shards, factor):
    outlier = Outlier([25], factor)
    out = runs.start(spiky(shards, "skip"), tmp_path / "run", callbacks=[outlier])
    found = [m for m in read_metrics(tmp_path / "run") if "spike" in m]
    assert [(m["step"], m["skipped"]) for m in found] == [(25, True)]
    assert read_metrics(tmp_path / "run")[-1]["loss"] < 5
    assert json.loads((out / "gpt2lab.json").read_text())["step"] == 40
    (event,) = map(json.loads, (tmp_path / "run" / "events.jsonl").read_text().splitlines())
    assert event["event"] == "skip"
    assert "step 25 gave loss" in event["what"]


def test_a_spike_sends_the_run_back_and_past_the_text(tmp_path, shards):
    run = tmp_path / "run"
    settings = spiky(shards, "rollback")
    runs.start(settings, run, callbacks=[Outlier([25])])
    steps = [m["step"] for m in read_metrics(run)]
    assert steps == list(range(1, 41))
    (event,) = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["now_at"]) == ("rollback", 20)
    last = saved.list_checkpoints(run)[-1]
    progress = json.loads((last / "state" / "progress.json").read_text())
    # Five steps, to the spike and with it, were read and taken back.
    assert progress["samples"] == 8 * (40 + 5)
    # A crash after the rollback resumes to the same end.
    broken = tmp_path / "broken"
    with pytest.raises(RuntimeError, match="crash"):
        runs.start(settings, broken, callbacks=[Outlier([25]), StopAt(33)])
    runs.resume(broken)
    assert losses(broken) == losses(run)
    assert same(weights(run / "model"), weights(broken / "model"))


def test_spikes_without_end_end_the_run(tmp_path, shards):
    with pytest.raises(Diverged, match="step 35 gave loss"):
        runs.start(
            spiky(shards, "skip"), tmp_path / "run", callbacks=[Outlier(range(25, 40))]
        )  # fmt: skip


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, shards, capsys):
    settings = recipe(shards, every=Every(evaluate=0, windows=8, save=3, keep=2))
    whole = runs.start(settings, tmp_path / "whole")
    run = tmp_path / "run"
    with pytest.raises(RuntimeError):
        runs.start(settings, run, callbacks=[StopAt(7)])
    assert [p.name for p in saved.list_checkpoints(run)] == ["step-0000003", "step-0000006"]
    file = saved.list_checkpoints(run)[-1] / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    runs.resume(run)
    told = capsys.readouterr().err
    assert f"{file} has changed since it was written; trying the checkpoint before it" in told
    assert "after step 3" in told
    assert same(weights(whole), weights(run / "model"))


def test_what_is_written_is_read_back(tmp_path, shards, monkeypatch):
    """A disk that loses a bit on the way."""
    real = state.save_file

    def lossy(tensors, file):
        real(tensors, file)
        data = bytearray(file.read_bytes())
        data[-3] ^= 4
        file.write_bytes(data)

    monkeypatch.setattr(state, "save_file", lossy)
    with pytest.raises(UserError, match="did not come back from the disk as it was written"):
        runs.start(recipe(shards), tmp_path / "run")
    assert saved.list_checkpoints(tmp_path / "run") == []


def test_retention_by_count_and_by_step(tmp_path, shards):
    every = Every(evaluate=0, windows=8, save=2, keep=2, keep_each=6)
    runs.start(recipe(shards, steps=17, every=every), tmp_path / "run")
    kept = [saved.step_of(p) for p in saved.list_checkpoints(tmp_path / "run")]
    assert kept == [6, 12, 16, 17]


def test_a_run_can_be_made_longer(tmp_path, shards):
    settings = recipe(shards, steps=6)
    run = tmp_path / "run"
    runs.start(settings, run)
    longer = replace(settings, train=replace(settings.train, steps=9, micro_batch=4))
    runs.resume(run, longer)
    assert read_metrics(run)[-1]["step"] == 9
    assert runs.saved_recipe(run).train.steps == 9


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("model", {"n_layer": 3}, "model.n_layer was 2 and is now 3: the run's checkpoints"),
        ("optimizer", {"name": "adamw"}, "optimizer.name was 'muon' and is now 'adamw'"),
        ("train", {"seed": 7}, "train.seed was 0 and is now 7, which changes what the run reads"),
        ("train", {"batch_tokens": 64}, "train.batch_tokens was 128 and is now 64"),
        ("data", {"separate_documents": True}, "data.separate_documents was False"),
    ],
)
def test_changes_that_a_resume_refuses(tmp_path, shards, table, change, words):
    settings = recipe(shards, steps=6)
    run = tmp_path / "run"
    with pytest.raises(RuntimeError):
        runs.start(settings, run, callbacks=[StopAt(4)])
    other = replace(settings, **{table: replace(getattr(settings, table), **change)})
    with pytest.raises(UserError, match=words):
        runs.resume(run, other)
    if table in ("train", "data"):
        runs.resume(run, other, allow_other_data=True)
        assert read_metrics(run)[-1]["step"] == 6
    assert json.loads(json.dumps(runs.saved_recipe(run).model.n_layer)) == 2
