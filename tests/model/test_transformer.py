import math

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel

from gpt2lab import UserError
from gpt2lab.model import GPT2, SIZES, GPT2Config, KVCache
from gpt2lab.model import attention as attention_module
from gpt2lab.model.attention import attend
from gpt2lab.model.checkpoint import to_hf_tensors

TINY = GPT2Config(n_layer=3, n_head=4, n_embd=48, n_positions=64, vocab_size=131)


def randomised(config: GPT2Config, dtype=torch.float32) -> GPT2:
    """A model in which every parameter matters: biases and gains drawn too."""
    model = GPT2(config, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator) / math.sqrt(p.shape[-1] / 48))
    return model.to(dtype).eval()


def twin(model: GPT2) -> GPT2LMHeadModel:
    """transformers' model with the same weights."""
    c = model.config
    theirs = GPT2LMHeadModel(
        TheirConfig(
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_embd=c.n_embd,
            n_positions=c.n_positions,
            vocab_size=c.vocab_size,
            activation_function="gelu_new" if c.activation == "gelu_tanh" else "gelu",
        )
    )
    tensors = {f"transformer.{k}": t for k, t in to_hf_tensors(model).items()}
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    theirs.load_state_dict(tensors)
    return theirs.to(model.wte.weight.dtype).eval()


def ids_for(config: GPT2Config, batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(config.vocab_size, (batch, length), generator=generator)


def check_parity(config: GPT2Config, dtype, tolerance, length, *, gradients=True):
    ours = randomised(config, dtype)
    theirs = twin(ours)
    ids = ids_for(config, 2, length)
    if not gradients:
        with torch.inference_mode():
            assert torch.allclose(ours(ids), theirs(ids).logits, atol=tolerance, rtol=tolerance)
        return
    logits, expected = ours(ids), theirs(ids).logits
    assert torch.allclose(logits, expected, atol=tolerance, rtol=tolerance)
    for _model, output in ((ours, logits), (theirs, expected)):
        loss = F.cross_entropy(output[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
    their_grads = {k.removeprefix("transformer."): p.grad for k, p in theirs.named_parameters()}
    names = dict(ours.named_parameters())
    assert set(names) == set(their_grads)
    for name, p in names.items():
        grad = p.grad
        if p.ndim == 2 and name.startswith("h."):
            grad = grad.t()
        assert torch.allclose(grad, their_grads[name], atol=tolerance, rtol=tolerance), name


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu_erf"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_tiny_logits_and_every_gradient_equal_transformers(dtype, tolerance, activation):
    config = GPT2Config(**{**vars(TINY), "activation": activation})
    check_parity(config, dtype, tolerance, length=64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_124m_logits_and_every_gradient_equal_transformers(dtype, tolerance):
    check_parity(GPT2Config.named("124M"), dtype, tolerance, length=24)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_355m_logits_and_every_gradient_equal_transformers(dtype, tolerance):
    check_parity(GPT2Config.named("355M"), dtype, tolerance, length=16)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["774M", "1.5B"])
def test_large_logits_equal_transformers(size):
    check_parity(GPT2Config.named(size), torch.float32, 1e-4, length=16, gradients=False)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("124M", 124439808), ("355M", 354823168), ("774M", 774030080), ("1.5B", 1557611200)],
)
def test_parameter_counts_of_the_four_sizes(size, parameters):
    config = GPT2Config.named(size)
    with torch.device("meta"):
        model = GPT2(config)
    assert config.n_params == parameters == sum(p.numel() for p in model.parameters())
    assert config.n_params_blocks + config.n_params_embedding == parameters
    assert config.n_positions == 1024
    assert config.vocab_size == 50257


def test_flops_per_token_is_the_published_figure():
    config = GPT2Config(vocab_size=50304)
    assert config.flops_per_token(1024) / 1e6 == pytest.approx(854.7, abs=0.1)


def test_padding_rows_never_speak():
    plain = GPT2(TINY, seed=7).eval()
    padded = GPT2(GPT2Config(**{**vars(TINY), "pad_vocab_to": 64}), seed=7).eval()
    assert padded.wte.weight.shape[0] == 192
    padded.load_state_dict(
        {
            k: torch.cat([t, torch.full((192 - 131, 48), 9.0)]) if k == "wte.weight" else t
            for k, t in plain.state_dict().items()
        }
    )
    ids = ids_for(TINY, 2, 20)
    assert padded(ids).shape[-1] == 131
    assert torch.equal(padded(ids), plain(ids))


def test_packed_documents_see_only_themselves():
    model = randomised(TINY, torch.float64)
    ids = ids_for(TINY, 1, 40)
    document = torch.tensor([[3] * 11 + [5] * 1 + [3] * 20 + [0] * 8])
    packed = model(ids, document_BT=document)
    start = 0
    for length in (11, 1, 20, 8):
        alone = model(ids[:, start : start + length])
        assert torch.allclose(packed[:, start : start + length], alone, atol=1e-12)
        start += length


def test_recomputing_blocks_changes_no_gradient():
    grads = []
    for recompute in (False, True):
        model = randomised(TINY, torch.float64).train()
        model.checkpoint_blocks = recompute
        model(ids_for(TINY, 2, 30)).logsumexp(-1).sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("init", ["paper", "openai"])
def test_initialisation(init):
    config = GPT2Config(n_layer=8, n_head=4, n_embd=256, n_positions=128, vocab_size=1000)
    model = GPT2(config, init=init, seed=1)
    block = model.h[3]
    scale = 1 / math.sqrt(16) if init == "paper" else 1.0
    assert block.attn.c_proj.weight.std().item() == pytest.approx(0.02 * scale, rel=0.03)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 * scale, rel=0.03)
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.03)
    wpe = 0.01 if init == "openai" else 0.02
    assert model.wpe.weight.std().item() == pytest.approx(wpe, rel=0.03)
    assert not any(p.any() for n, p in model.named_parameters() if n.endswith("bias"))
    assert torch.equal(block.ln_1.weight, torch.ones(256))
    again = GPT2(config, init=init, seed=1)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    other = GPT2(config, init=init, seed=2)
    assert not torch.equal(model.wte.weight, other.wte.weight)


def test_cache_in_chunks_equals_one_pass():
    model = randomised(TINY, torch.float64)
    ids = ids_for(TINY, 3, 50)
    whole = model(ids)
    cache = KVCache.empty(TINY, 3, dtype=torch.float64)
    parts = [model(ids[:, a:b], cache=cache) for a, b in ((0, 1), (1, 17), (17, 18), (18, 50))]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-12)


def test_cache_rows_of_different_lengths_equal_each_alone():
    model = randomised(TINY, torch.float64)
    ids = ids_for(TINY, 3, 40)
    lengths = torch.tensor([5, 30, 17])
    cache = KVCache.empty(TINY, 3, dtype=torch.float64)
    padded = ids[:, :30].clone()
    padded[0, 5:] = 0
    padded[2, 17:] = 0
    model(padded, cache=cache)
    cache = cache.view(0, 3, lengths.clone())
    for step in range(4):
        column = torch.stack([ids[b, n + step] for b, n in enumerate(lengths)])[:, None]
        logits = model(column, cache=cache)
        for b, n in enumerate(lengths.tolist()):
            alone = model(ids[b : b + 1, : n + step + 1])[:, -1]
            assert torch.allclose(logits[b], alone, atol=1e-12)


def test_context_overflow_is_one_sentence():
    model = GPT2(TINY).eval()
    with pytest.raises(UserError, match="65 tokens exceed the model's context of 64"):
        model(ids_for(TINY, 1, 65))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_head": 5}, "n_embd 48 is not divisible by model.n_head 5"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_shapes(change, words):
    with pytest.raises(UserError, match=words):
        GPT2Config(**{**vars(TINY), **change})


def test_unknown_size_lists_the_four():
    with pytest.raises(UserError, match=", ".join(SIZES)):
        GPT2Config.named("2B")


def test_batched_attention_equals_pytorchs():
    """The bfloat16 road on CPU against the fused kernel, forward and backward, in float64."""
    generator = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(2, 3, 33, 8, generator=generator).double() for _ in range(3))
    results = []
    for function in (attention_module._batched, lambda q, k, v: attend(q, k, v, None, 0.0)):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        out = function(*leaves)
        out.square().sum().backward()
        results.append([out, *(t.grad for t in leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_bfloat16_training_after_generation(tiny):
    """The cached causal mask must serve autograd whoever made it first."""
    model = tiny.to(torch.bfloat16)
    attention_module._future.cache_clear()
    ids = ids_for(tiny.config, 1, 9)
    with torch.inference_mode():
        model(ids)
    model.train()
    model(ids).float().logsumexp(-1).sum().backward()
    assert model.wte.weight.grad is not None


def test_onednn_road_equals_the_plain_one(tiny):
    ids = ids_for(tiny.config, 3, 20)
    with torch.no_grad():
        fast = tiny(ids)
    assert torch.allclose(fast, tiny(ids), atol=1e-5)
