"""What the README and the guide show in Python does what they say."""

import re
import shutil
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
