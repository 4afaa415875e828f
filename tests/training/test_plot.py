"""Pictures of runs, and the places metrics can go to."""

import gzip
import json
from dataclasses import replace

import pytest

from gpt2lab import UserError
from gpt2lab.cli.main import main
from gpt2lab.training import run as runs
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.plot import plot, read_curve
from small_runs import recipe


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-4), ("a<b>", 3e-3)):
        settings = recipe(shards, steps=20)
        settings = replace(settings, optimizer=replace(settings.optimizer, learning_rate=rate))
        runs.start(settings, folder / name)
    return [folder / "slow", folder / "a<b>"]


def test_a_plot_of_two_runs(tmp_path, two_runs):
    png, page = plot(two_runs, tmp_path / "v1.2")
    assert (png.name, page.name) == ("v1.2.png", "v1.2.html")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "a&lt;b&gt;" in text and "<b>" not in text
    assert "<svg" in text and "http" not in text.split("<svg")[0]
    assert f"{20 * 128 / 1e6:,.1f}" in text


def test_curves(two_runs):
    curve = read_curve(two_runs[0])
    assert curve.tokens[-1] == 20 * 128
    assert curve.flops[-1] == 20 * 128 * curve.recipe.model.flops_per_token(16)
    smooth = curve.smooth("loss")
    assert smooth[0] == pytest.approx(curve.metrics[0]["loss"])
    assert all(m["peak_memory_mib"] > 10 for m in curve.metrics)


def test_plots_on_the_command_line(tmp_path, two_runs, capsys):
    out = tmp_path / "plot"
    words = ["train", "plot", *map(str, two_runs), "--out", str(out), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"png": f"{out}.png", "html": f"{out}.html"}
    assert main(words) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main(["train", "plot", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(["train", "plot"]) == 2


def test_a_damaged_line_is_named(tmp_path, two_runs):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 1, is damaged"):
        plot([run], tmp_path / "p")
    (run / "metrics.jsonl").write_text("")
    (run / "recipe.toml").write_text((two_runs[0] / "recipe.toml").read_text())
    with pytest.raises(UserError, match="is empty; wait for"):
        plot([run], tmp_path / "p")


def test_tensorboard_gets_every_step(tmp_path, shards):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs.start(recipe(shards, steps=5, sinks=("tensorboard",)), tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = [(e.step, e.value) for e in found.Scalars("loss")]
    expected = [(m["step"], pytest.approx(m["loss"])) for m in read_metrics(tmp_path / "run")]
    assert losses == expected


def test_wandb_without_a_network(tmp_path, shards, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    runs.start(recipe(shards, steps=3, sinks=("wandb",)), tmp_path / "run")
    (log,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    assert log.stat().st_size > 0


def test_a_sink_that_is_not_installed(tmp_path, shards, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r"trackio, which is not installed; pip install"):
        runs.start(recipe(shards, sinks=("trackio",)), tmp_path / "run")


def test_a_trace_of_three_steps(tmp_path, shards):
    runs.start(recipe(shards, steps=8, profile=3), tmp_path / "run")
    with gzip.open(tmp_path / "run" / "profile" / "rank-0.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = [e for e in events if e.get("name") == "Optimizer.step#AdamW.step"]
    assert len(steps) == 3


def test_resume_on_the_command_line(tmp_path, two_runs, shards, capsys):
    run = tmp_path / "run"
    runs.start(recipe(shards, steps=4), run)
    assert main(["train", "--resume", str(run), "--train.steps", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert main(["train", f"--resume={run}", "--train.seed", "5"]) == 2
    assert "pass --override-resume" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--train.steps", "7", "--train.seed", "5",
                 "--override-resume"]) == 0  # fmt: skip
    assert read_metrics(run)[-1]["step"] == 7
    assert main(["train", "--override-resume"]) == 2
