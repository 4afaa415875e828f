"""The number of threads that decode fastest: measured once, then kept."""

import time

import pytest
import torch

from gpt2lab.generation import probe
from gpt2lab.model import GPT2, GPT2Config

MODEL = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=16, vocab_size=300))


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Timed:
    """A backend whose passes take so many milliseconds on so many threads."""

    def __init__(self, milliseconds):
        self.milliseconds = milliseconds

    def forward(self, chunks):
        time.sleep(self.milliseconds[torch.get_num_threads()] / 1000)


@pytest.mark.parametrize(
    ("milliseconds", "best"),
    [
        ({8: 5, 4: 10, 2: 15, 1: 30}, 8),
        ({8: 30, 4: 20, 2: 5, 1: 15}, 2),
        ({8: 30, 4: 29, 2: 28.5, 1: 40}, 8),  # fewer must win by a tenth
    ],
)
def test_the_fastest_of_halves(milliseconds, best):
    torch.set_num_threads(8)
    assert probe.fastest(Timed(milliseconds)) == best


def test_measured_once_and_kept(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(probe, "fastest", lambda backend: calls.append(1) or 1)
    assert probe.kept() == {}
    probe.use_fastest_threads(MODEL)
    probe.use_fastest_threads(MODEL)
    assert len(calls) == 1
    assert torch.get_num_threads() == 1
    assert list(probe.kept().values()) == [1]
    assert "float32 up to" in next(iter(probe.kept()))
    for damaged in ("", "[]", "{", '{"a": "b"}', '{"a": 100000}'):
        (tmp_path / "gpt2lab" / probe.KEPT).write_text(damaged)
        assert probe.kept() == {}
        probe.use_fastest_threads(MODEL)
    assert len(calls) == 6


def test_the_environment_comes_first(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(probe, "fastest", lambda backend: pytest.fail("measured"))
    probe.use_fastest_threads(MODEL)
