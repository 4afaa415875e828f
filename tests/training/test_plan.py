"""What `--dry-run` says, against arithmetic and against what a step really keeps."""

from dataclasses import replace

import pytest
import torch

from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.training.loss import NextTokenLoss
from gpt2lab.training.plan import PF_S_DAY, memory, plan
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


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_what_the_backward_pass_keeps(recompute):
    """Counted by PyTorch: every tensor saved between the passes, but for the parameters."""
    config = GPT2Config(n_layer=4, n_head=4, n_embd=128, n_positions=128, vocab_size=128)
    settings = Recipe(
        model=config,
        train=Train(
            micro_batch=4, batch_tokens=512, dtype="float32", device="cpu",
            checkpoint_blocks=recompute,
        ),
    )  # fmt: skip
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
        loss = NextTokenLoss(model, torch.float32, None)(ids, ids)
    held = memory(settings)
    passing = 3 * 512 * 4 * 128 * 4  # temporaries of the passes, which are not kept
    block = 512 * 128 * 4 * 17 if recompute else 0  # one is recomputed at a time, later
    assert sum(kept.values()) == pytest.approx(held.activations - passing - block, rel=0.15)
    loss.backward()
