"""Numbers and their intervals, and whether two models differ."""

import math

import numpy as np
import pytest

from gpt2lab.evaluation import scores
from gpt2lab.evaluation.scores import Score, difference, mean, perplexity, ratio


def score(sums, form=ratio):
    return Score("x", "", np.array(sums, np.float64), "", form)


def test_values():
    assert mean("x", [True, False, True, True], "").value == 75.0
    assert score([(2, 1), (4, 3)]).value == 1.5
    assert score([(2, 1), (4, 3)], perplexity).value == pytest.approx(math.exp(1.5))
    assert score([(1e5, 1), (1e5, 1)], perplexity).value == math.inf


def test_one_item_has_no_interval():
    m = score([(3, 2)]).measurement("d")
    assert (m.low, m.high, m.n, m.value) == (None, None, 1, 1.5)


@pytest.mark.parametrize("n", [1, 20, 1795])
def test_none_right_does_not_mean_none_ever(n):
    """The highest rate at which none of n is right in one of 40 cases."""
    for right in (0, 1):
        m = mean("x", [right] * n, "").measurement("d")
        low, high = (m.low, m.high) if not right else (100 - m.high, 100 - m.low)
        assert low == 0 and (1 - high / 100) ** n == pytest.approx(0.025)
    assert mean("x", [0.5] * 4, "").measurement("d").low == 50


@pytest.mark.parametrize("form", [ratio, perplexity])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(form):
    rng = np.random.default_rng(1)
    truth = 2.0 if form is ratio else math.exp(2)
    covered = 0
    for _ in range(200):
        sizes = rng.integers(50, 500, size=80)
        m = score(np.stack([sizes * rng.normal(2.0, 0.5, size=80), sizes], -1), form)
        m = m.measurement("")
        covered += m.low <= truth <= m.high
    assert 180 <= covered <= 200


def test_resampling_in_parts_is_resampling(monkeypatch):
    rng = np.random.default_rng(0)
    one = score(np.stack([rng.normal(size=5000), np.ones(5000)], -1))
    whole = one.measurement("")
    monkeypatch.setattr(scores, "_MOST_PICKS", 30_000)
    parts = one.measurement("")
    width = whole.high - whole.low
    assert parts.high - parts.low == pytest.approx(width, rel=0.1)
    assert abs(parts.low - whole.low) < 0.1 * width


def test_a_model_does_not_differ_from_itself():
    one = mean("x", np.arange(50) % 2, "")
    d = difference(one, one)
    assert (d.value, d.low, d.high, d.p) == (0.0, 0.0, 0.0, 1.0)


def test_pairs_tell_what_intervals_do_not():
    """Both vary by item far more than they differ; item by item B is above A."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, size=300)
    a = score(np.stack([hard, np.ones(300)], -1))
    b = score(np.stack([hard + rng.normal(0.2, 0.5, size=300), np.ones(300)], -1))
    d = difference(a, b)
    assert 0.1 < d.low < d.value < d.high < 0.3
    assert d.p < 0.01
    m, n = a.measurement(""), b.measurement("")
    assert m.low < n.value < m.high


def test_differences_of_nothing_are_rarely_found():
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(150):
        a, b = (mean("x", rng.random(60) < 0.4, "") for _ in range(2))
        found += difference(a, b).p < 0.05
    assert found <= 15
