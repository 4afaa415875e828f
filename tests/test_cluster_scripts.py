"""The launch files, with stand-ins for ssh, srun and scontrol that start everything right here."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpt2lab.corpus.build import shard
from gpt2lab.corpus.document import Document
from gpt2lab.settings import to_toml
from gpt2lab.training.callbacks import read_metrics
from small_runs import recipe, sentence

HERE = Path(__file__).resolve().parents[1] / "recipes" / "cluster"
STAND_INS = {
    # ssh -n HOST COMMAND
    "ssh": 'shift 2; exec bash -c "$*"',
    "srun": 'exec "$@"',
    "scontrol": "echo localhost",
}


@pytest.fixture
def around(tmp_path, small_tokenizer):
    folder = tmp_path / "shards"
    shard([Document(sentence(i)) for i in range(200)], small_tokenizer, folder, held_out=0.1)
    settings = recipe(folder, steps=6)
    settings = replace(settings, train=replace(settings.train, threads=1))
    (tmp_path / "recipe.toml").write_text(to_toml(settings))
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    commands = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{commands}:{os.environ['PATH']}",
        "PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def run_script(script, tmp_path, environment, *options):
    words = ["bash", str(HERE / script), str(tmp_path / "recipe.toml"), str(tmp_path / "run")]
    done = subprocess.run(
        [*words, *options], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


SSH = {"HOSTS": "localhost localhost", "PROCESSES_PER_NODE": "1", "TORCHRUN": "torchrun"}
SLURM = {
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_NNODES": "1",
    "SLURM_JOB_ID": "17",
    "PROCESSES_PER_NODE": "2",
}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "told"), [("ssh.sh", SSH), ("slurm.sbatch", SLURM)])
def test_a_run_and_its_second_start(tmp_path, around, script, told):
    run_script(script, tmp_path, around | told, "--every.save", "2")
    assert read_metrics(tmp_path / "run")[-1]["step"] == 6
    assert "after step 6" in run_script(script, tmp_path, around | told)
