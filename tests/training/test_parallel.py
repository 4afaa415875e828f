"""Many processes: the losses of one, checkpoints for any number, and what happens if one fails."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

import gpt2lab
from gpt2lab.model import GPT2Config
from gpt2lab.settings import to_toml
from gpt2lab.training import run as runs
from gpt2lab.training import saved
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.recipe import Data, Every, Optimizer, Parallel, Recipe, Train

SCRIPT = Path(__file__).parent / "many_runs.py"


def recipe(shards, *, dropout=0.1, every=None, parallel=None, **train) -> Recipe:
    """Three heads, which neither two nor four processes can share evenly."""
    settings = {"steps": 6, "batch_tokens": 256, "micro_batch": 2, "dtype": "float64"}
    return Recipe(
        model=GPT2Config(
            n_layer=3, n_head=3, n_embd=24, n_positions=16, vocab_size=300, dropout=dropout
        ),
        data=Data(path=str(shards)),
        optimizer=Optimizer(name="muon", learning_rate=3e-3, warmup=0.1),
        train=Train(**settings | {"threads": 1, "peak_tflops": 0.1, "device": "cpu"} | train),
        parallel=parallel or Parallel(),
        every=every or Every(evaluate=3, windows=9, save=3),
    )


def torchrun(processes: int, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
         "--standalone", *options, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def train_on(
    processes: int, tmp_path: Path, jobs: dict[str, tuple[str, Recipe]], seconds=150
) -> str:
    """Start or resume runs by name, one after another on so many processes; what they printed."""
    words = []
    for name, (what, settings) in jobs.items():
        path = tmp_path / f"{name}-{processes}.toml"
        path.write_text(to_toml(settings))
        words.append(f"{what}:{path}:{tmp_path / name}")
    process = torchrun(processes, str(SCRIPT), *words)
    told, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, told
    return told


def losses(run: Path) -> torch.Tensor:
    found = [(m["loss"], m["grad_norm"], m.get("validation_loss", 0.0)) for m in read_metrics(run)]
    return torch.tensor(found, dtype=torch.float64)


def assert_same_run(a: Path, b: Path) -> None:
    assert losses(a).shape == losses(b).shape
    assert torch.allclose(losses(a), losses(b), rtol=0, atol=1e-10)
    first, second = (load_file(run / "model" / "model.safetensors") for run in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=0, atol=1e-10), name


FSDP = Parallel(strategy="fsdp")


def test_any_number_of_processes_gives_the_same_losses(tmp_path, shards):
    plain, still = recipe(shards), recipe(shards, dropout=0.0)
    adamw = replace(plain, optimizer=replace(plain.optimizer, name="adamw"))
    for name, settings in (("one", plain), ("one-still", still), ("one-adamw", adamw)):
        runs.start(settings, tmp_path / name)
    train_on(
        2,
        tmp_path,
        {
            "ddp2": ("start", plain),
            "fsdp2": ("start", replace(plain, parallel=FSDP)),
            "adamw2": ("start", replace(adamw, parallel=replace(FSDP, reshard=False))),
            "tensor2": ("start", replace(still, parallel=Parallel(tensor=2))),
        },
    )
    recompute = replace(plain, train=replace(plain.train, checkpoint_blocks=True))
    train_on(
        4,
        tmp_path,
        {
            "ddp4": ("start", plain),
            "fsdp4": ("start", replace(recompute, parallel=FSDP)),
            "grid4": ("start", replace(still, parallel=replace(FSDP, tensor=2))),
        },
    )
    for name in ("ddp2", "fsdp2", "ddp4", "fsdp4"):
        assert_same_run(tmp_path / "one", tmp_path / name)
    assert_same_run(tmp_path / "one-adamw", tmp_path / "adamw2")
    for name in ("tensor2", "grid4"):
        assert_same_run(tmp_path / "one-still", tmp_path / name)


def test_low_precision_is_the_same_up_to_rounding(tmp_path, shards):
    """Norms and the residual stream stay float32; a resharded copy is what is saved."""
    plain = recipe(shards, dtype="bfloat16", every=Every(evaluate=3, windows=9, save=3, sample=3))
    runs.start(plain, tmp_path / "one")
    kept = replace(plain, parallel=replace(FSDP, reshard=False))
    dropped = replace(kept, parallel=FSDP)
    train_on(2, tmp_path, {"kept": ("start", kept), "dropped": ("crash", dropped)})
    train_on(2, tmp_path, {"dropped": ("resume", dropped)})
    for name in ("kept", "dropped"):
        assert torch.allclose(losses(tmp_path / "one"), losses(tmp_path / name), atol=5e-3)
    weights = load_file(tmp_path / "kept" / "model" / "model.safetensors")
    matrix = weights["transformer.h.0.mlp.c_fc.weight"]
    assert not torch.equal(matrix, matrix.bfloat16().float())
    assert torch.equal(losses(tmp_path / "kept"), losses(tmp_path / "dropped"))


@pytest.mark.slow
def test_compiled_blocks_under_fsdp(tmp_path, shards):
    plain = recipe(shards, dtype="bfloat16", dropout=0.0, checkpoint_blocks=True)
    compiled = replace(plain, train=replace(plain.train, compile=True), parallel=FSDP)
    runs.start(plain, tmp_path / "one")
    train_on(2, tmp_path, {"two": ("start", compiled)})
    assert torch.allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), atol=2e-2)


def test_a_run_goes_on_on_another_number_of_processes(tmp_path, shards):
    still = recipe(shards, dropout=0.0)
    fsdp = replace(still, parallel=FSDP)
    grid = replace(still, parallel=replace(FSDP, tensor=2))
    runs.start(still, tmp_path / "one")
    train_on(2, tmp_path, {"a": ("crash", fsdp), "b": ("crash", still)})
    train_on(4, tmp_path, {"a": ("resume", grid), "c": ("crash", grid), "d": ("crash", fsdp)})
    train_on(2, tmp_path, {"b": ("resume", fsdp), "c": ("resume", fsdp)})
    runs.resume(tmp_path / "d", still)
    for name in "abcd":
        assert_same_run(tmp_path / "one", tmp_path / name)
        model = GPT2LMHeadModel.from_pretrained(tmp_path / name / "model", dtype=torch.float64)
        assert sum(p.numel() for p in model.parameters()) == still.model.n_params


def command(what: str, run: Path, recipe_file: Path | None = None) -> list[str]:
    return ["-m", "gpt2lab", "train", *([str(recipe_file)] if recipe_file else []), what, str(run)]


def long_run(shards, tmp_path, **parallel) -> Path:
    """A recipe that leaves time to be killed in."""
    settings = recipe(
        shards,
        steps=160,
        batch_tokens=128,
        every=Every(evaluate=50, windows=9, save=20),
        parallel=Parallel(**parallel),
    )
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(settings))
    return path


def wait_for_step(run: Path, step: int) -> None:
    for _ in range(600):
        time.sleep(0.1)
        if (run / "metrics.jsonl").exists() and read_whole(run) >= step:
            return
    raise AssertionError(f"step {step} was never reached")


def read_whole(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


def workers(process: subprocess.Popen) -> dict[int, int]:
    """Process ids of torchrun's workers by rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [v for v in environment if v.startswith(b"RANK=")]
        if parent == process.pid and ranks:
            found[int(ranks[0][5:])] = int(entry.name)
    return found


def test_torchrun_restarts_from_the_last_checkpoint(tmp_path, shards):
    path = long_run(shards, tmp_path, strategy="fsdp")
    whole, run = tmp_path / "whole", tmp_path / "run"
    quiet = torchrun(2, *command("--out", whole, path))
    assert quiet.wait(timeout=120) == 0, quiet.stdout.read()
    process = torchrun(2, *command("--out", run, path), options=("--max-restarts", "2"))
    for rank, step in ((1, 50), (0, 100)):
        wait_for_step(run, step)
        os.kill(workers(process)[rank], signal.SIGKILL)
        time.sleep(1)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    again = [int(line.rsplit(None, 1)[1]) for line in told.splitlines() if "resuming" in line]
    assert len(again) == 2
    # Only the steps since the last checkpoint, which is at most two intervals old: it may have
    # been on its way to the disk.
    assert again[0] >= 50 - 40 and again[1] >= 100 - 40
    assert torch.equal(losses(whole), losses(run))


def test_all_processes_killed_at_once(tmp_path, shards):
    path = long_run(shards, tmp_path)
    whole, run = tmp_path / "whole", tmp_path / "run"
    quiet = torchrun(4, *command("--out", whole, path))
    assert quiet.wait(timeout=180) == 0, quiet.stdout.read()
    process = torchrun(4, *command("--out", run, path))
    wait_for_step(run, 70)
    for pid in (process.pid, *workers(process).values()):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    again = torchrun(4, *command("--resume", run))
    told, _ = again.communicate(timeout=180)
    assert again.returncode == 0, told
    # DDP orders its buckets anew after a first step, and four numbers have sums that depend on it.
    assert torch.allclose(losses(whole), losses(run), rtol=0, atol=1e-10)


def test_a_process_that_hangs_is_named(tmp_path, shards):
    path = long_run(shards, tmp_path, timeout=3.0)
    run = tmp_path / "run"
    process = torchrun(2, *command("--out", run, path))
    wait_for_step(run, 30)
    stopped = workers(process)[1]
    os.kill(stopped, signal.SIGSTOP)
    told = ""
    for line in process.stdout:
        told += line
        if "has waited" in line:
            break
    os.kill(stopped, signal.SIGKILL)  # torchrun itself would give it half a minute
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert "gpt2lab: error: rank 0 has waited" in told
    assert "for rank 1, which stopped in step" in told


def test_a_stop_is_agreed_on(tmp_path, shards):
    path = long_run(shards, tmp_path)
    run = tmp_path / "run"
    process = torchrun(2, *command("--out", run, path))
    wait_for_step(run, 30)
    os.kill(workers(process)[1], signal.SIGTERM)  # one is asked, both stop
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "as asked; continue with: gpt2lab train --resume" in told
    last = saved.step_of(saved.list_checkpoints(run)[-1])
    assert last == read_metrics(run)[-1]["step"] < 160


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parallel": Parallel(tensor=3)}, "parallel.tensor 3 does not divide the 2 processes"),
        ({"micro_batch": 16}, "16 sequences, which do not go evenly to 2 processes"),
    ],
)
def test_settings_that_do_not_fit_the_processes(tmp_path, shards, change, words):
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe(shards, **change)))
    process = torchrun(2, *command("--out", tmp_path / "run", path))
    told, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert words in told
    assert not (tmp_path / "run" / "recipe.toml").exists()


@pytest.mark.slow
def test_124m_under_fsdp_and_on_alone(tmp_path, data):
    """Twenty steps on two processes, three more on one, and transformers opens the result."""
    settings = Recipe(
        model=GPT2Config.named("124M"),
        data=Data(
            path=str(data / "corpus" / "us-inaugural.jsonl.zst"),
            tokenizer=str(data / "tokenizer" / "gpt2"),
        ),
        optimizer=Optimizer(learning_rate=6e-4, warmup=0.1),
        train=Train(
            steps=20, batch_tokens=512, context=128, micro_batch=1, dtype="float32", device="cpu",
            threads=1, peak_tflops=0.1,
        ),
        parallel=FSDP,
        every=Every(evaluate=10, windows=4, save=10),
    )  # fmt: skip
    run = tmp_path / "run"
    train_on(2, tmp_path, {"run": ("start", settings)}, seconds=1200)
    found = [m["loss"] for m in read_metrics(run)]
    assert len(found) == 20
    assert found[0] > 10.5 and found[-1] < found[0] - 2
    assert saved.step_of(saved.list_checkpoints(run)[-1]) == 20
    out = runs.resume(run, replace(settings, train=replace(settings.train, steps=23)))
    assert read_metrics(run)[-1]["step"] == 23
    assert read_metrics(run)[-1]["loss"] < found[0] - 2
    theirs = GPT2LMHeadModel.from_pretrained(out).eval()
    ours = gpt2lab.load(str(out))
    ids = torch.tensor([ours.tokenizer.encode("We the people of the United States")])
    assert torch.allclose(theirs(ids).logits, ours.model(ids), atol=1e-3)
