"""LoRA beside peft's: the same logits, gradients and files, there and back."""

import json
import os

import pytest
import torch

from gpt2lab.errors import UserError
from gpt2lab.model import GPT2, GPT2Config, checkpoint
from gpt2lab.training import lora

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=24, vocab_size=100)
IDS = torch.randint(100, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def base(tmp_path):
    model = GPT2(CONFIG, seed=1).eval()
    checkpoint.save(tmp_path / "base", model, None, {})
    return model


@pytest.fixture
def changed(base):
    """With changes that are not zero."""
    lora.attach(base, lora.Shape(rank=4, alpha=8, dropout=0.1), seed=2)
    generator = torch.Generator().manual_seed(3)
    for module in lora.changes(base).values():
        module.lora_B.data.normal_(0, 0.1, generator=generator)
    return base.eval()


def theirs(folder):
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


def test_it_begins_at_the_model_itself(base):
    before = base(IDS)
    lora.attach(base, lora.Shape())
    assert torch.equal(base.eval()(IDS), before)
    moving = {n for n, p in base.named_parameters() if p.requires_grad}
    assert len(moving) == 2 * 4 * 2 and all("lora_" in n for n in moving)
    first = base.h[0].attn.c_attn.lora_A.detach().clone()
    again = GPT2(CONFIG, seed=1)
    lora.attach(again, lora.Shape())
    assert torch.equal(again.h[0].attn.c_attn.lora_A, first), "drawn from the seed alone"
    lora.attach(other := GPT2(CONFIG, seed=1), lora.Shape(), seed=5)
    assert not torch.equal(other.h[0].attn.c_attn.lora_A, first)


def test_peft_opens_what_is_saved(changed, tmp_path):
    peft = pytest.importorskip("peft")
    lora.save(tmp_path / "adapter", changed, "base")
    model = peft.PeftModel.from_pretrained(
        theirs(tmp_path / "base"), tmp_path / "adapter", is_trainable=True
    ).eval()
    torch.testing.assert_close(changed(IDS), model(IDS).logits, atol=1e-5, rtol=0)
    for logits in (changed(IDS), model(IDS).logits):
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
        ).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(found) == 16
    for path, module in lora.changes(changed).items():
        for name in ("lora_A", "lora_B"):
            other = found[f"base_model.model.transformer.{path}.{name}.default.weight"]
            torch.testing.assert_close(getattr(module, name).grad, other, atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for n, p in changed.named_parameters() if "lora" not in n)
    whole = model.merge_and_unload()
    ours = lora.merge(changed)
    torch.testing.assert_close(ours(IDS), whole(IDS).logits, atol=1e-5, rtol=0)


def test_merged_is_an_ordinary_model_that_does_the_same(changed, tmp_path):
    assert len(lora.changes(changed)) == 8
    before = changed(IDS)
    merged = lora.merge(changed)
    torch.testing.assert_close(merged(IDS), before, atol=1e-5, rtol=0)
    assert not lora.changes(merged)
    checkpoint.save(tmp_path / "merged", merged, None, {})
    again = checkpoint.load(tmp_path / "merged").model
    assert torch.equal(again(IDS), merged(IDS))
    torch.testing.assert_close(
        theirs(tmp_path / "merged")(IDS).logits, merged(IDS), atol=1e-5, rtol=0
    )


def test_what_peft_saved_is_opened(base, tmp_path):
    """Also where it changes some of the maps only."""
    peft = pytest.importorskip("peft")
    for targets in (["c_attn", "c_proj", "c_fc"], ["c_attn"]):
        settings = peft.LoraConfig(
            r=3, lora_alpha=6, target_modules=targets, fan_in_fan_out=True, task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(theirs(tmp_path / "base"), settings).eval()
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, 0, 0.1)
        model.save_pretrained(tmp_path / "theirs")
        ours = checkpoint.load(tmp_path / "base").model
        lora.load(tmp_path / "theirs", ours)
        torch.testing.assert_close(ours.eval()(IDS), model(IDS).logits, atol=1e-5, rtol=0)


def test_there_and_back(changed, tmp_path):
    lora.save(tmp_path / "adapter", changed, "base")
    again = GPT2(CONFIG, seed=1).eval()
    lora.load(tmp_path / "adapter", again)
    assert torch.equal(again.eval()(IDS), changed(IDS))
    with pytest.raises(UserError, match="exists"):
        lora.save(tmp_path / "adapter", changed, "base")


def test_half_as_precise_a_base(changed):
    """bfloat16 weights with changes in float32, as large models are trained."""
    expected = changed(IDS)
    for name, p in changed.named_parameters():
        if "lora_" not in name:
            p.data = p.data.bfloat16()
    logits = changed(IDS)
    assert logits.dtype is torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.05)
    logits.float().logsumexp(-1).mean().backward()
    assert changed.h[0].mlp.c_fc.lora_A.grad.dtype is torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "describes no LoRA adapter"),
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"rank_pattern": {"c_attn": 2}}, "rank_pattern is"),
        ({"r": "4"}, "must be numbers"),
        ({"r": 0}, "lora.rank is 0; it must be from 1"),
        ({"r": 8}, "has shape .4, 32., this model needs .8, 32.; the adapter belongs to another"),
    ],
)
def test_adapters_that_do_not_fit(changed, tmp_path, change, words):
    lora.save(tmp_path / "adapter", changed, "base")
    path = tmp_path / "adapter" / lora.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        lora.load(tmp_path / "adapter", GPT2(CONFIG))


def test_adapters_of_other_models(changed, tmp_path):
    lora.save(tmp_path / "adapter", changed, "base")
    small = GPT2Config(n_layer=1, n_head=2, n_embd=32, n_positions=24, vocab_size=100)
    with pytest.raises(UserError, match="is no map of a block of this model's 1"):
        lora.load(tmp_path / "adapter", GPT2(small))
    with pytest.raises(UserError, match="has been changed or quantized already"):
        lora.attach(changed, lora.Shape())
    (tmp_path / "adapter" / lora.WEIGHTS).write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="cannot read"):
        lora.load(tmp_path / "adapter", GPT2(CONFIG))
    (tmp_path / "adapter" / lora.WEIGHTS).unlink()
    with pytest.raises(UserError, match="is missing; give a folder"):
        lora.load(tmp_path / "adapter", GPT2(CONFIG))
