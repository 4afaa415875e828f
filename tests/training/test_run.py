"""Whole runs: metrics, exact resume, what stops a run and what it leaves behind."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

import gpt2lab
from gpt2lab import UserError
from gpt2lab.corpus.build import shard
from gpt2lab.corpus.document import Document
from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.training import run as runs
from gpt2lab.training import saved
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.loop import Callback, Diverged, Trainer
from gpt2lab.training.plan import plan
from gpt2lab.training.recipe import Data, Every, Optimizer
from small_runs import StopAt, losses, recipe, same, sentence, weights


def test_a_run_learns_and_leaves_an_ordinary_checkpoint(tmp_path, shards):
    out = runs.start(recipe(shards, steps=60), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert [step for step, _, _ in found] == list(range(1, 61))
    assert found[-1][1] < found[0][1] - 1
    assert found[3][2] is not None and found[-1][2] is not None
    loaded = gpt2lab.load(str(tmp_path / "run"))
    ids = torch.arange(16)[None]
    theirs = GPT2LMHeadModel.from_pretrained(out).eval()
    assert torch.allclose(theirs(ids).logits, loaded.model(ids), atol=1e-4)
    meta = json.loads((out / "gpt2lab.json").read_text())
    assert meta["step"] == 60
    assert meta["tokens"] == 60 * 128
    assert meta["recipe"]["train"]["batch_tokens"] == 128
    assert meta["tokenizer_digest"] == loaded.tokenizer.digest
    assert {"torch", "git", "corpus_digest", "best_validation_loss", "device"} <= meta.keys()
    names = [p.name for p in saved.list_checkpoints(tmp_path / "run")]
    assert names[-1] == "step-0000060"
    assert len(names) <= 2


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_resume_is_bit_for_bit(tmp_path, shards, optimizer, dtype):
    settings = recipe(shards, dtype=dtype, optimizer=Optimizer(name=optimizer, learning_rate=3e-3))
    whole = runs.start(settings, tmp_path / "whole")
    for crash in (5, 7):
        broken = tmp_path / f"broken{crash}"
        with pytest.raises(RuntimeError, match="crash"):
            runs.start(settings, broken, callbacks=[StopAt(crash)])
        resumed = runs.resume(broken)
        assert same(weights(whole), weights(resumed))
        assert losses(broken) == losses(tmp_path / "whole")


def test_resume_before_the_first_checkpoint_starts_over(tmp_path, shards):
    whole = runs.start(recipe(shards), tmp_path / "whole")
    with pytest.raises(RuntimeError):
        runs.start(recipe(shards), tmp_path / "broken", callbacks=[StopAt(2)])
    assert same(weights(whole), weights(runs.resume(tmp_path / "broken")))


def test_accumulation_and_packing_change_nothing_but_rounding(tmp_path, shards):
    plain = replace(recipe(shards), model=replace(recipe(shards).model, dropout=0.0))
    results = []
    for micro, pad, recompute in ((8, 1, False), (1, 64, True)):
        settings = replace(
            plain,
            model=replace(plain.model, pad_vocab_to=pad),
            optimizer=Optimizer(learning_rate=1e-3),
            train=replace(plain.train, micro_batch=micro, checkpoint_blocks=recompute),
        )
        results.append(losses_of(settings, tmp_path / f"m{micro}"))
    for (_, a, _), (_, b, _) in zip(*results, strict=True):
        assert a == pytest.approx(b, abs=2e-5)


def losses_of(settings, run):
    runs.start(settings, run)
    return losses(run)


def test_separate_documents_train(tmp_path, shards):
    settings = recipe(shards)
    settings = replace(settings, data=replace(settings.data, separate_documents=True))
    assert losses_of(settings, tmp_path / "run")[0][1] == pytest.approx(5.7, abs=0.2)


@pytest.mark.slow
def test_compiled_equals_eager(tmp_path, shards):
    plain = replace(recipe(shards), model=replace(recipe(shards).model, dropout=0.0))
    compiled = replace(plain, train=replace(plain.train, compile=True))
    a = losses_of(plain, tmp_path / "plain")
    b = losses_of(compiled, tmp_path / "compiled")
    for (_, x, _), (_, y, _) in zip(a, b, strict=True):
        assert x == pytest.approx(y, abs=1e-3)


def test_text_is_sharded_under_the_run(tmp_path, small_tokenizer):
    small_tokenizer.save(tmp_path / "tok")
    text = tmp_path / "text.txt"
    text.write_text("<|endoftext|>".join(sentence(i) for i in range(300)))
    settings = recipe(text)
    settings = replace(settings, data=Data(path=str(text), tokenizer=str(tmp_path / "tok")))
    runs.start(settings, tmp_path / "run")
    assert (tmp_path / "run" / "data" / "index.json").exists()


def test_a_time_budget_ends_on_time(tmp_path, shards):
    settings = recipe(shards, every=Every(evaluate=0, save=0))
    settings = replace(settings, train=replace(settings.train, steps=None, minutes=0.05))
    began = time.monotonic()
    runs.start(settings, tmp_path / "run")
    assert time.monotonic() - began < 20
    metrics = read_metrics(tmp_path / "run")
    assert 3.0 <= metrics[-1]["seconds"] < 6.0
    # By the clock, not by steps: the rate at a moment is the schedule's at that share of the time.
    for before, after in itertools.pairwise(metrics[len(metrics) // 2 :]):
        assert after["rate"] < before["rate"]


class Poison(Callback):
    """Makes a weight infinite, so that the next loss is not finite."""

    def after_step(self, trainer: Trainer, record):
        if trainer.progress.step == 7:
            with torch.no_grad():
                trainer.model.ln_f.weight[0] = torch.inf


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path, shards):
    with pytest.raises(Diverged) as caught:
        runs.start(recipe(shards), tmp_path / "run", callbacks=[Poison()])
    message = str(caught.value)
    assert "step 8 gave loss nan" in message
    assert "start at tokens" in message
    assert "step-0000006" in message
    model = gpt2lab.load(str(saved.list_checkpoints(tmp_path / "run")[-1])).model
    assert all(torch.isfinite(p).all() for p in model.parameters())


class Interrupt(Callback):
    """A signal while step 5 is being computed."""

    def __init__(self, number):
        self.number = number

    def begin(self, trainer):
        loss = trainer.loss

        def interrupted(x_BT, y_BT):
            if trainer.progress.step == 4:
                trainer.loss = loss
                os.kill(os.getpid(), self.number)
            return loss(x_BT, y_BT)

        if trainer.progress.step < 4:
            trainer.loss = interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_first(tmp_path, shards, number):
    whole = runs.start(recipe(shards), tmp_path / "whole")
    assert runs.start(recipe(shards), tmp_path / "run", callbacks=[Interrupt(number)]) is None
    assert saved.list_checkpoints(tmp_path / "run")[-1].name == "step-0000005"
    assert same(weights(whole), weights(runs.resume(tmp_path / "run")))


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path, shards):
    class Worse(Callback):
        """From step 5 on the model only gets worse."""

        def after_step(self, trainer, record):
            if trainer.progress.step >= 5:
                with torch.no_grad():
                    trainer.model.wte.weight.zero_()

    settings = recipe(shards, steps=12, every=Every(evaluate=2, windows=8, save=5))
    runs.start(settings, tmp_path / "run", callbacks=[Worse()])
    names = [p.name for p in saved.list_checkpoints(tmp_path / "run")]
    assert names == ["step-0000004", "step-0000012"]
    best = gpt2lab.load(str(tmp_path / "run" / "checkpoints" / "step-0000004"))
    assert best.metadata["best_step"] == 4


def test_a_finished_run_resumes_to_itself(tmp_path, shards):
    out = runs.start(recipe(shards), tmp_path / "run")
    before = weights(out)
    assert same(before, weights(runs.resume(tmp_path / "run")))


def test_runs_are_not_overwritten_unasked(tmp_path, shards):
    runs.start(recipe(shards, steps=3), tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
        runs.start(recipe(shards, steps=3), tmp_path / "run")
    runs.start(recipe(shards, steps=4), tmp_path / "run", overwrite=True)
    assert read_metrics(tmp_path / "run")[-1]["step"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": None}, "neither train.steps nor train.minutes"),
        ({"device": "cuda:7"}, "'cuda:7' cannot be used here"),
    ],
)
def test_settings_that_cannot_run(tmp_path, shards, change, words):
    with pytest.raises(UserError, match=words):
        runs.start(recipe(shards, **change), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_tokens": 100}, "not a multiple of context x micro_batch"),
        ({"context": 32}, "train.context 32 exceeds model.n_positions 16"),
        ({"minutes": 1.0}, "both given"),
        ({"steps": 0}, "train.steps is 0"),
        ({"steps": None, "minutes": float("nan")}, "train.minutes is nan"),
    ],
)
def test_recipes_that_contradict_themselves(shards, change, words):
    with pytest.raises(UserError, match=words):
        recipe(shards, **change)


def test_vocabulary_too_small_for_the_shards(tmp_path, shards):
    settings = recipe(shards)
    settings = replace(settings, model=replace(settings.model, vocab_size=280))
    with pytest.raises(UserError, match="vocab_size is 280, but the tokenizer has 300"):
        runs.start(settings, tmp_path / "run")


def test_shards_of_another_tokenizer(tmp_path, shards):
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(index | {"tokenizer": "other"}))
    with pytest.raises(UserError, match="written with another tokenizer"):
        runs.start(recipe(copy), tmp_path / "run")


# --- SIGKILL at random moments: the process is another one, the moment is any


def train_process(*args: str) -> subprocess.Popen:
    code = "import sys; from gpt2lab.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_steps(process: subprocess.Popen, metrics: Path, since: float) -> None:
    """Until the process has written metrics, or has ended."""
    end = time.monotonic() + 180.0
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_mtime > since):
        assert time.monotonic() < end, "no step within 180 s"
        time.sleep(0.02)


def kill_again_and_again(tmp_path, shards, kills, steps):
    from gpt2lab.settings import to_toml

    settings = recipe(shards, steps=steps, every=Every(evaluate=40, windows=8, save=7))
    whole = runs.start(settings, tmp_path / "whole")
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(settings))
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    rng = random.Random(0)
    killed = 0
    for _ in range(10 * kills):
        begun = time.time()
        # Killed before its recipe was written, a run begins anew; afterwards it resumes.
        if (run / "recipe.toml").exists():
            process = train_process("--resume", str(run))
        else:
            process = train_process(str(path), "--out", str(run))
        # Starting takes seconds, more on a busy machine: half of the moments lie in the steps.
        if killed % 2 == 0:
            wait_for_steps(process, metrics, begun)
        try:
            process.wait(timeout=rng.uniform(0.1, 2.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        if process.returncode == 0 or killed == kills:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()
    process = train_process("--resume", str(run))
    assert process.wait(timeout=900) == 0, process.stderr.read().decode()
    assert killed == kills, f"the run ended after {killed} kills; make it longer"
    assert same(weights(whole), weights(run / "model"))
    assert losses(run) == losses(tmp_path / "whole")


def test_killed_three_times(tmp_path, shards):
    kill_again_and_again(tmp_path, shards, kills=3, steps=400)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, shards):
    kill_again_and_again(tmp_path, shards, kills=20, steps=9000)


# --- disks that refuse


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB that fills up at once."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_disk_full_while_saving(small_disk, shards):
    run = small_disk / "run"
    settings = recipe(shards, steps=9, every=Every(evaluate=0, save=3))
    filler = small_disk / "filler"

    class Fill(Callback):
        def after_step(self, trainer, record):
            if trainer.progress.step == 5:
                free = shutil.disk_usage(small_disk).free
                filler.write_bytes(b"x" * (free - 100_000))

    with pytest.raises(UserError, match="step-0000006: the disk is full"):
        runs.start(settings, run, callbacks=[Fill()])
    names = [p.name for p in (run / "checkpoints").iterdir()]
    assert names == ["step-0000003"]
    filler.unlink()
    runs.resume(run)
    whole = runs.start(settings, small_disk.parent / "whole")
    assert same(weights(whole), weights(run / "model"))


def test_read_only_output_folder(small_disk, shards):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match="read-only file system; choose another output folder"):
        runs.start(recipe(shards), small_disk / "run")


def test_resuming_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        runs.resume(tmp_path)


def crashed(tmp_path, shards) -> Path:
    with pytest.raises(RuntimeError):
        runs.start(recipe(shards), tmp_path / "run", callbacks=[StopAt(5)])
    return tmp_path / "run"


def test_shards_that_changed_are_not_mixed_in(tmp_path, shards, small_tokenizer):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    run = crashed(tmp_path, copy)
    other = [Document(sentence(i)) for i in range(900, 1400)]
    shard(other, small_tokenizer, copy, held_out=0.1, overwrite=True)
    with pytest.raises(UserError, match="have changed since .*corpus_digest differs"):
        runs.resume(run)


def test_an_edited_recipe_is_not_resumed(tmp_path, shards):
    run = crashed(tmp_path, shards)
    path = run / "recipe.toml"
    path.write_text(path.read_text().replace("n_positions = 16", "n_positions = 32"))
    with pytest.raises(UserError, match=r"model\.n_positions was 16 and is now 32"):
        runs.resume(run)


def test_overwrite_takes_the_new_text_and_a_typo_destroys_nothing(tmp_path, small_tokenizer):
    small_tokenizer.save(tmp_path / "tok")
    for name, first in (("a.txt", 0), ("b.txt", 5000)):
        texts = (sentence(i) for i in range(first, first + 300))
        (tmp_path / name).write_text("<|endoftext|>".join(texts))

    def settings(name):
        found = recipe(tmp_path / name, steps=4)
        return replace(found, data=replace(found.data, tokenizer=str(tmp_path / "tok")))

    out = runs.start(settings("a.txt"), tmp_path / "run")
    before = json.loads((out / "gpt2lab.json").read_text())["corpus_digest"]
    with pytest.raises(UserError, match="does not exist"):
        runs.start(settings("typo.txt"), tmp_path / "run", overwrite=True)
    assert len(saved.list_checkpoints(tmp_path / "run")) > 0
    runs.start(settings("b.txt"), tmp_path / "run", overwrite=True)
    assert json.loads((out / "gpt2lab.json").read_text())["corpus_digest"] != before


def test_damaged_validation_shards_are_named(tmp_path, shards):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    path = copy / "val_000000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match="val_000000.bin has"):
        runs.start(recipe(copy), tmp_path / "run")


def test_a_damaged_state_is_named(tmp_path, shards, capsys):
    with pytest.raises(RuntimeError):
        runs.start(recipe(shards), tmp_path / "run", callbacks=[StopAt(5)])
    (file,) = (saved.list_checkpoints(tmp_path / "run")[-1] / "state").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="no checkpoint .* is sound; restore one"):
        runs.resume(tmp_path / "run")
    assert f"{file} has changed since it was written" in capsys.readouterr().err


def test_dry_run_figures(shards):
    found = plan(recipe(shards))
    assert (
        found["parameters"]
        == GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=16, vocab_size=300).n_params
    )
    assert found["total_tokens"] == 12 * 128
    assert found["epochs"] == round(12 * 128 / found["train_tokens"], 2)
    assert found["seconds_estimate"] >= 0


def test_the_model_folder_has_no_training_state(tmp_path, shards):
    out = runs.start(recipe(shards, steps=3), tmp_path / "run")
    assert not (out / "state").exists()
    assert isinstance(gpt2lab.load(str(out)).model, GPT2)
