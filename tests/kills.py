"""Building a corpus while killing the build, and telling two corpora apart."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

from gpt2lab.corpus.recipe import Recipe
from gpt2lab.settings import to_toml


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files."""
    state = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            state.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return state.hexdigest()


def build_killed(
    recipe: Recipe,
    out: Path,
    kills: int,
    *,
    seed: int,
    longest: float,
    environment: dict | None = None,
) -> int:
    """Build with SIGKILL at up to `kills` random moments, then to the end; return how many hit.

    The whole group of processes is not killed, only the first: what it leaves behind must cope.
    """
    path = out.with_suffix(".toml")
    path.write_text(to_toml(recipe))
    command = [
        sys.executable,
        "-m",
        "gpt2lab.cli.main",
        "corpus",
        "build",
        str(path),
        "--out",
        str(out),
    ]
    rng = random.Random(seed)
    hits = 0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for _ in range(kills):
        run = subprocess.Popen(command, env=os.environ | (environment or {}), **quiet)
        try:
            run.wait(rng.uniform(0.7, longest))
        except subprocess.TimeoutExpired:
            hits += 1
        run.kill()
        run.wait()
        if out.exists():
            break
    done = subprocess.run(
        command, env=os.environ | (environment or {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "--overwrite" in done.stderr, done.stderr
    return hits
