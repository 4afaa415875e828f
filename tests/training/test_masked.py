"""Training where loss is taken on completions only: each learned token counts the same."""

import json
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpt2lab.corpus.shards import open_split
from gpt2lab.errors import UserError
from gpt2lab.model import GPT2
from gpt2lab.training import run as runs
from gpt2lab.training.data import Mixture, Windows, validation_windows
from gpt2lab.training.examples import read_examples
from gpt2lab.training.loss import IGNORED
from gpt2lab.training.prepared import learned, prepare
from training.test_parallel import FSDP, losses, recipe, train_on


@pytest.fixture(scope="module")
def masked(tmp_path_factory, small_tokenizer):
    """Prompts of very different lengths, so that batches differ in what they learn."""
    folder = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": "the cat " * int(rng.integers(1, 12)), "completion": f"sat {n} times " * 2}
        for n in range(150)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    prepare(
        partial(read_examples, folder / "rows.jsonl"), small_tokenizer, folder / "shards",
        held_out=0.1, step=lambda label: nullcontext(),
    )  # fmt: skip
    return folder / "shards"


def test_the_loss_is_the_mean_over_all_learned_tokens_of_a_step(tmp_path, masked):
    settings = recipe(masked, dropout=0.0)
    runs.start(settings, tmp_path / "run")
    found = losses(tmp_path / "run")
    model = GPT2(settings.model, init="paper", seed=0).double()
    marks = open_split(masked, learned("train"))
    windows = Windows(open_split(masked, "train"), 16, (0, 0), marks)
    x, y = Mixture([windows], [1.0]).batch(np.arange(settings.sequences))
    assert 0.2 < float((y == IGNORED).double().mean()) < 0.9
    expected = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    assert float(found[0, 0]) == pytest.approx(float(expected.detach()), abs=1e-10)
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert float(found[0, 1]) == pytest.approx(float(norm), rel=1e-9)


def test_validation_is_over_learned_tokens(tmp_path, masked):
    settings = recipe(masked, dropout=0.0, steps=3)
    out = runs.start(settings, tmp_path / "run")
    x, y = validation_windows(open_split(masked, "val"), 16, 9, open_split(masked, learned("val")))
    from gpt2lab.model import checkpoint

    model = checkpoint.load(out).model.double()
    with torch.no_grad():
        expected = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    assert float(losses(tmp_path / "run")[2, 2]) == pytest.approx(float(expected), abs=1e-5)


def test_micro_batches_and_processes_do_not_matter(tmp_path, masked):
    plain = recipe(masked)
    still = recipe(masked, dropout=0.0)
    runs.start(still, tmp_path / "two")
    for micro in (1, 8):
        other = replace(still, train=replace(still.train, micro_batch=micro))
        runs.start(other, tmp_path / f"{micro}")
        torch.testing.assert_close(
            losses(tmp_path / "two"), losses(tmp_path / f"{micro}"), atol=1e-10, rtol=0
        )
    runs.start(plain, tmp_path / "one")
    train_on(
        2, tmp_path,
        {"ddp": ("start", plain), "fsdp": ("start", replace(plain, parallel=FSDP))},
    )  # fmt: skip
    for name in ("ddp", "fsdp"):
        torch.testing.assert_close(
            losses(tmp_path / "one"), losses(tmp_path / name), atol=1e-10, rtol=0
        )


def test_marks_that_are_not_in_step(tmp_path, masked):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(masked, copy)
    index = json.loads((copy / "index.json").read_text())
    index[learned("train")] = index[learned("val")]
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="train-learned is not as long as train; make both again"):
        runs.start(recipe(copy), tmp_path / "run")
