"""What the README and the guide show in Python does what they say."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2lab.model import GPT2, GPT2Config, checkpoint
from small_runs import sentence

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/finetuning.md"])
def test_fine_tuning_in_five_lines(tmp_path, monkeypatch, capsys, small_tokenizer, page):
    (code,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
        if "finetune(" in code
    )
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    monkeypatch.chdir(tmp_path)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, n_positions=32, vocab_size=300)
    checkpoint.save("gpt2", GPT2(config), small_tokenizer, {})  # a folder goes before a name
    (tmp_path / "my-texts").mkdir()
    for i in range(40):
        (tmp_path / "my-texts" / f"{i}.txt").write_text(sentence(i))
    exec(compile(code, page, "exec"), {})
    assert re.search(r"perplexity [\d.]+ -> [\d.]+\n.", capsys.readouterr().out)
    assert (tmp_path / "runs" / "mine" / "adapter").is_dir()
    shutil.rmtree(tmp_path / "runs")


@pytest.mark.slow
def test_the_guide_from_raw_text_to_a_server(tmp_path, data):
    """Line by line; only the model, the texts' place and the port are others, and fewer steps."""
    if importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("fastapi") is None:
        pytest.skip("llama-cpp-python[server] is not installed")
    page = (ROOT / "docs" / "finetuning.md").read_text("utf-8")
    (script,) = re.findall(r"```sh\n(mkdir my-texts.*?)```", page, re.DOTALL)
    packed = data / "corpus" / "tinyshakespeare.txt.zst"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    changes = [
        (r"curl -o (\S+) http\S+", rf"zstd -dcq {packed} > \1"),
        (r"\bgpt2\b(?! )|\bgpt2 ", f"{ROOT}/tests/models/reference-3M "),
        (r"(--out runs/shakespeare)\n", r"\1 --steps 40\n"),
        (r"pip install.*\n", ""),
        (r"--port 8000 &", f"--port {port} & echo $! > server.pid"),
        (r"localhost:8000", f"127.0.0.1:{port}"),
    ]
    for pattern, new in changes:
        script, found = re.subn(pattern, new, script)
        assert found, pattern
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        # Into files: the server would hold a pipe open.
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=550,
            )  # fmt: skip
    finally:
        if (tmp_path / "server.pid").exists():
            os.kill(int((tmp_path / "server.pid").read_text()), signal.SIGKILL)
    assert done.returncode == 0, (tmp_path / "err").read_text()
    said = (tmp_path / "out").read_text()
    assert "* full" in said and "perplexity before" in said
    assert (tmp_path / "runs" / "shakespeare" / "plot.png").stat().st_size > 10_000
    answer = json.loads(said[said.index('{"id"') :])
    assert len(answer["choices"][0]["text"]) > 20
