"""What `--dry-run` says, against arithmetic and against what a step really keeps."""

from dataclasses import replace

import pytest
import torch

from gpt2lab import UserError
from gpt2lab.doctor import DTYPES
from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.training.footprint import memory
from gpt2lab.training.loss import NextTokenLoss
from gpt2lab.training.plan import PF_S_DAY, plan
from gpt2lab.training.recipe import Optimizer, Parallel, Recipe, Train
from small_runs import recipe


def gpt2(size, **train) -> Recipe:
    settings = {"steps": 10, "micro_batch": 32, "dtype": "bfloat16", "device": "cuda"}
    return Recipe(model=GPT2Config.named(size), train=Train(**settings | train))


def test_flops_and_epochs(shards):
    settings = recipe(shards)
    found = plan(settings)
    flops = settings.model.flops_per_token(16) * 12 * 128
    assert found["pf_s_days"] == pytest.approx(flops / PF_S_DAY, rel=0.01)
    assert found["epochs"] == round(12 * 128 / found["train_tokens"], 2)


def test_the_largest_model_fits_one_card_of_80_gb():
    held = memory(gpt2("1.5B", checkpoint_blocks=True))
    params = GPT2Config.named("1.5B").n_params
    assert held.optimizer == 8 * params
    assert held.total < 80e9 / 1.15  # the estimate may be 15 % off
    assert memory(gpt2("1.5B")).total > 80e9


def test_a_plan_for_several_processes(shards):
    settings = replace(recipe(shards), parallel=Parallel(strategy="fsdp", tensor=2))
    assert plan(settings, 4)["processes"] == 4
    with pytest.raises(UserError, match=r"parallel\.tensor 2 does not divide --processes 3"):
        plan(settings, 3)


def test_what_processes_share():
    whole = memory(gpt2("774M"))
    ddp = memory(gpt2("774M"), 8)
    assert ddp == whole
    fsdp = memory(replace(gpt2("774M"), parallel=Parallel(strategy="fsdp")), 8)
    assert fsdp.optimizer == pytest.approx(whole.optimizer / 8, rel=0.01)
    assert fsdp.weights < whole.weights / 3
    halves = memory(replace(gpt2("774M"), parallel=Parallel(tensor=2)), 2)
    assert halves.activations < 0.75 * whole.activations
    muon = memory(replace(gpt2("774M"), optimizer=Optimizer(name="muon")))
    assert 0.5 < muon.optimizer / whole.optimizer < 0.6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_what_the_backward_pass_keeps(recompute, dtype):
    """Counted by PyTorch: every tensor saved between the passes, but for the weights."""
    config = GPT2Config(n_layer=4, n_head=4, n_embd=128, n_positions=128, vocab_size=128)
    settings = Recipe(
        model=config,
        train=Train(
            micro_batch=4, batch_tokens=512, dtype=dtype, device="cpu", checkpoint_blocks=recompute
        ),
    )
    model = GPT2(config).train()
    model.checkpoint_blocks = recompute
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    ids = torch.randint(128, (4, 128))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = NextTokenLoss(model, DTYPES[dtype], None)(ids, ids)
    held = memory(settings)
    low = DTYPES[dtype].itemsize
    copies = 0 if recompute or dtype == "float32" else held.weights - 4 * config.n_params
    passing = 3 * 512 * 4 * 128 * low  # temporaries of the passes, which are not kept
    pattern = 512 * 4 * 128 * low if dtype == "bfloat16" else 0
    block = 512 * 128 * (8 + 15 * low) + pattern if recompute else 0  # recomputed one by one
    expected = held.activations - passing - block
    assert sum(kept.values()) - copies == pytest.approx(expected, rel=0.15)
    loss.backward()
