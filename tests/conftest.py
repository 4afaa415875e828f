"""What many tests share: the data beside the project, and models small enough to be quick."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.tokenizer import Tokenizer, train

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

TEXTS = [
    "The cat sat on the mat, and the dog lay beside the cat.",
    "It's a test of tokens; they're joined by frequency, and we'll see which.",
    "Numbers 1234 and 5678, symbols !?#, and an é or two: naïve café.",
] * 40


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data beside the checkout."""
    if not DATA.is_dir():
        pytest.skip(f"no data folder at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def gpt2(data: Path) -> Tokenizer:
    """OpenAI's own vocabulary."""
    return Tokenizer.load(data / "tokenizer" / "gpt2")


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """A vocabulary of 300 learned from a few sentences."""
    return train(TEXTS, 300)


@pytest.fixture
def tiny() -> GPT2:
    """Two layers of 32, context 48, vocabulary 300."""
    config = GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=48, vocab_size=300)
    return GPT2(config, seed=1).eval()
