"""A GPT-2 of the real shape with random weights, and the same one in transformers."""

import pytest
import torch

from gpt2lab.evaluation.subject import Subject
from gpt2lab.model import GPT2, GPT2Config, checkpoint

TINY = GPT2Config(n_layer=2, n_head=4, n_embd=64, n_positions=48, vocab_size=300)


@pytest.fixture(scope="session")
def gpt2_folder(gpt2, tmp_path_factory):
    """124M, with weights large enough that predictions differ from each other."""
    model = GPT2(GPT2Config.named("124M"), seed=3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight") and ".ln" not in name and not name.startswith("ln"):
                p.mul_(3)
    folder = tmp_path_factory.mktemp("evaluated") / "124M"
    checkpoint.save(folder, model, gpt2, {})
    return folder


@pytest.fixture(scope="session")
def subject(gpt2_folder):
    made = checkpoint.load(gpt2_folder)
    return Subject(made.model, made.tokenizer)


@pytest.fixture(scope="session")
def reference(gpt2_folder):
    """Transformers' model and tokenizer, which share no code with ours."""
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()
    return model, transformers.GPT2TokenizerFast.from_pretrained(gpt2_folder)


@pytest.fixture
def tiny_subject(tiny, small_tokenizer):
    return Subject(tiny, small_tokenizer)
