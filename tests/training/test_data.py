import numpy as np
import pytest

from gpt2lab import UserError
from gpt2lab.corpus.shards import Tokens
from gpt2lab.training.data import Windows, validation_windows


def tokens(n):
    half = n // 2
    ids = np.arange(n, dtype=np.uint16)
    return Tokens((ids[:half], ids[half:]), "digest")


def test_an_epoch_sees_every_window_once_and_the_next_is_shifted():
    windows = Windows(tokens(1000), 16, seed=3)
    n = windows.per_epoch
    first = [windows.starts(step, 1)[0] for step in range(n)]
    second = [windows.starts(step, 1)[0] for step in range(n, 2 * n)]
    assert len(set(first)) == len(set(second)) == n
    assert len({s % 16 for s in first}) == 1
    assert first[0] % 16 != second[0] % 16 or sorted(first) != first
    assert first != second
    assert max(first + second) + 17 <= 1000


def test_the_order_is_a_function_of_seed_and_step_alone():
    a, b = Windows(tokens(5000), 16, seed=3), Windows(tokens(5000), 16, seed=3)
    expected = [a.starts(step, 8) for step in range(100)]
    assert [b.starts(step, 8) for step in reversed(range(100))] == expected[::-1]
    assert Windows(tokens(5000), 16, seed=4).starts(0, 8) != expected[0]
    # Halves of a batch are what two processes would read.
    assert a.starts(5, 8) == [a._start(5 * 8 + i) for i in range(8)]


def test_targets_are_the_next_tokens():
    windows = Windows(tokens(1000), 16, seed=0)
    x, y = windows.batch(windows.starts(2, 4))
    assert x.shape == y.shape == (4, 16)
    assert (y == x + 1).all()


def test_validation_windows_are_spread_and_fixed():
    x, y = validation_windows(tokens(1001), 10, 5)
    assert x[:, 0].tolist() == [0, 240, 490, 740, 990]
    assert (y == x + 1).all()
    assert len(validation_windows(tokens(35), 10, 500)[0]) == 3


def test_too_little_text():
    with pytest.raises(UserError, match="20 tokens; sequences of 16 need at least 33"):
        Windows(tokens(20), 16, seed=0)
    with pytest.raises(UserError, match="fewer than one window"):
        validation_windows(tokens(5), 10, 5)
