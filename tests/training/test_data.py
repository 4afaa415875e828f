import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab import UserError
from gpt2lab.corpus.shards import Tokens
from gpt2lab.training.data import Mixture, Prefetch, Windows, validation_windows
from gpt2lab.training.loss import IGNORED
from gpt2lab.training.permutation import permuted


def tokens(n, first=0):
    half = n // 2
    ids = np.arange(first, first + n, dtype=np.uint16)
    return Tokens((ids[:half], ids[half:]), "digest")


def samples(*numbers):
    return np.array(numbers, dtype=np.int64)


@given(st.integers(1, 3000), st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_permutation_hits_everything_once(n, key):
    assert sorted(permuted(np.arange(n), n, (key,))) == list(range(n))


def test_a_permutation_looks_random():
    """Against the binomial spread: where the first tenth lands, and how far neighbours part."""
    n = 100_000
    order = permuted(np.arange(n), n, (1, 2))
    landed = np.bincount(order[: n // 10] * 10 // n, minlength=10)
    assert np.abs(landed - n / 100).max() < 5 * np.sqrt(n / 100)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(n)
    other = permuted(np.arange(n), n, (1, 3))
    assert (order == other).mean() < 10 / n


def test_a_permutation_of_a_huge_range_takes_no_room():
    n = 10**12
    found = permuted(np.arange(1000), n, (0,))
    assert len(set(found)) == 1000
    assert found.min() >= 0 and found.max() < n


def test_an_epoch_sees_every_window_once_and_the_next_is_shifted():
    windows = Windows(tokens(1000), 16, (3,))
    n = windows.per_epoch
    first, second = (windows.starts(np.arange(n) + start) for start in (0, n))
    assert len(set(first)) == len(set(second)) == n
    assert len({s % 16 for s in first}) == 1
    assert sorted(first) != list(first)
    assert list(first) != list(second)
    assert max(*first, *second) + 17 <= 1000
    # One batch may reach over the end of an epoch.
    across = windows.starts(np.arange(n - 3, n + 3))
    assert list(across) == [*first[-3:], *second[:3]]


def test_the_order_is_a_function_of_key_and_sample_alone():
    a, b = Windows(tokens(5000), 16, (3,)), Windows(tokens(5000), 16, (3,))
    expected = [list(a.starts(np.arange(8 * s, 8 * s + 8))) for s in range(100)]
    again = [list(b.starts(np.arange(8 * s, 8 * s + 8))) for s in reversed(range(100))]
    assert again == expected[::-1]
    assert list(Windows(tokens(5000), 16, (4,)).starts(np.arange(8))) != expected[0]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers(0, 10**12))
@settings(max_examples=60, deadline=None)
def test_sources_share_samples_without_gaps(weights, first):
    sources = [Windows(tokens(200), 16, (i,)) for i in range(len(weights))]
    placed = Mixture(sources, weights).place(np.arange(first, first + 500))
    taken = np.stack([own >= 0 for own in placed])
    assert (taken.sum(axis=0) == 1).all()
    for own, weight in zip(placed, weights, strict=True):
        mine = own[own >= 0]
        assert (np.diff(mine) == 1).all()
        # Each rounding on the way moves a source by less than one sample.
        assert abs(len(mine) - 500 * weight / sum(weights)) <= len(weights)


def test_a_mixture_reads_from_all_its_sources():
    sources = [Windows(tokens(1000), 16, (0,)), Windows(tokens(1000, 5000), 16, (1,))]
    mixture = Mixture(sources, [3.0, 1.0])
    x, y = mixture.batch(np.arange(8))
    assert x.shape == y.shape == (8, 16)
    assert (y == x + 1).all()
    assert int((x[:, 0] >= 5000).sum()) == 2
    assert mixture.epochs(0) == [0.0, 0.0]
    seen = mixture.epochs(8)
    assert seen == [6 / sources[0].per_epoch, 2 / sources[1].per_epoch]
    first = mixture.where(np.arange(8)).split(", ")
    assert len(first) == 8
    assert sum(word.startswith("1:") for word in first) == 2


def test_prefetched_batches_are_those_asked_for():
    mixture = Mixture([Windows(tokens(1000), 16, (0,))], [1.0])
    ahead = Prefetch(mixture, pin=False)
    a, b, c = samples(0, 1), samples(2, 3), samples(7, 8)
    for now, after in ((a, b), (b, c), (a, None), (c, b), (b, None)):
        x, y = ahead.batch(now, after)
        expected = mixture.batch(now)
        assert (x == expected[0]).all() and (y == expected[1]).all()


def test_validation_windows_are_spread_and_fixed():
    x, y = validation_windows(tokens(1001), 10, 5)
    assert x[:, 0].tolist() == [0, 240, 490, 740, 990]
    assert (y == x + 1).all()
    assert len(validation_windows(tokens(35), 10, 500)[0]) == 3


def test_too_little_text():
    with pytest.raises(UserError, match="20 tokens; sequences of 16 need at least 33"):
        Windows(tokens(20), 16, (0,))
    with pytest.raises(UserError, match="fewer than one window"):
        validation_windows(tokens(5), 10, 5)


def test_what_is_not_learned_is_no_target():
    ids = np.arange(5, 905, dtype=np.uint16)
    flags = (np.random.default_rng(0).random(900) < 0.5).astype(np.uint16)
    whole, marks = Tokens((ids,), ""), Tokens((flags[:300], flags[300:]), "")
    samples = np.arange(40)
    plain = Mixture([Windows(whole, 16, (0,))], [1.0]).batch(samples)
    masked = Mixture([Windows(whole, 16, (0,), marks)], [1.0]).batch(samples)
    for (x, y), (x0, y0) in (
        (masked, plain),
        (validation_windows(whole, 16, 20, marks), validation_windows(whole, 16, 20)),
    ):
        assert torch.equal(x, x0)
        expected = torch.where(torch.from_numpy(flags[y0.numpy() - 5] > 0), y0, IGNORED)
        assert torch.equal(y, expected) and 0 < (y == IGNORED).sum() < y.numel()
