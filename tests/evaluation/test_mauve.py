"""MAUVE beside its definition, point by point."""

import itertools
import math

import numpy as np
import pytest

from gpt2lab.evaluation.mauve import histograms, mauve


def slow(p, q):
    """Area under (exp -5 KL(Q|R), exp -5 KL(P|R)) for mixtures R of histograms P and Q."""

    def divergence(a, r):
        return sum(x * math.log(x / y) for x, y in zip(a, r, strict=True) if x)

    points = [(1.0, 0.0), (0.0, 1.0)]
    for step in range(25):
        w = 1e-6 + step * (1 - 2e-6) / 24
        r = [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]
        points.append((math.exp(-5 * divergence(q, r)), math.exp(-5 * divergence(p, r))))
    points.sort(key=lambda point: (point[0], -point[1]))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def test_the_area_under_the_frontier():
    rng = np.random.default_rng(0)
    for k in (2, 5, 20):
        counts = rng.integers(0, 6, (7, 2 * k)).astype(float) + np.eye(2 * k)[:1]
        counts[:, k] += 1
        expected = [slow(c[:k] / c[:k].sum(), c[k:] / c[k:].sum()) for c in counts]
        assert mauve(counts) == pytest.approx(expected, rel=1e-9)


# From the program of its authors (0.4.0) for these histograms.
@pytest.mark.parametrize(
    ("p", "q", "value"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([5, 3, 2, 0], [1, 2, 3, 4], 0.2711696522515651),
        ([9, 7, 4], [8, 7, 5], 0.9997020971069848),
        ([10, 0], [0, 10], 0.0040720962619612555),
    ],
)
def test_the_authors_program_finds_the_same(p, q, value):
    assert mauve(np.array([*p, *q], float)) == pytest.approx(value, rel=1e-12)


def test_like_texts_are_near_and_unlike_ones_far():
    rng = np.random.default_rng(1)
    human = rng.normal(size=(200, 16)).astype(np.float32)
    alike = rng.normal(size=(200, 16)).astype(np.float32)
    unlike = rng.normal(size=(200, 16)).astype(np.float32) + np.eye(16, dtype=np.float32)[0] * 3
    near, far = (float(mauve(histograms(human, other).sum(0))) for other in (alike, unlike))
    assert near > 0.9 > 0.5 > far
    sums = histograms(human, alike)
    assert sums.shape == (200, 40)
    assert (sums.reshape(200, 2, 20).sum(-1) == 1).all()
