"""Areas, rates and calibration beside scikit-learn's and tables of others."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gpt2lab.detection import metrics
from gpt2lab.detection.metrics import Rate


def scored(n=500, seed=0):
    rng = np.random.default_rng(seed)
    machine = rng.random(n) < 0.3
    return np.round(rng.normal(machine * 1.0, 1), 1), machine  # rounded, so that there are ties


def test_auroc_is_scikit_learns():
    scores, machine = scored()
    assert metrics.auroc(scores, machine) == pytest.approx(roc_auc_score(machine, scores))


def test_its_interval_covers_the_truth():
    """The area of two normals a deviation apart is 0.7602; 95 % intervals miss it now and then."""
    hits = 0
    for seed in range(40):
        scores, machine = scored(300, seed)
        documents = [str(i // 2) for i in range(300)]
        low, high = metrics.auroc_interval(scores, machine, documents)
        hits += low <= 0.7602 <= high
    assert hits >= 34


def test_rates_have_exact_intervals():
    # Clopper and Pearson: none of 100 is 0 to 3.62 %; 5 of 100 is 1.64 to 11.28 %.
    assert Rate(0, 100).interval == pytest.approx((0, 0.0362), abs=1e-4)
    assert Rate(5, 100).interval == pytest.approx((0.0164, 0.1128), abs=1e-4)
    assert Rate(0, 0).interval == (0.0, 1.0)


@pytest.mark.parametrize("fpr", [0.05, 0.01, 0.001])
def test_thresholds_let_no_more_people_through(fpr):
    human = np.random.default_rng(1).integers(0, 50, 1000).astype(float)  # many ties
    above = (human > metrics.threshold(human, fpr)).mean()
    assert above <= fpr
    distinct = np.arange(1000.0)
    assert (distinct > metrics.threshold(distinct, fpr)).mean() == pytest.approx(fpr)


def test_calibration_error_by_hand():
    probability = np.array([0.05, 0.05, 0.95, 0.95])
    machine = np.array([False, True, True, True])
    # People weigh 1/2, machines 1/6 each. In the first bin 1/6 of 2/3 is a machine's.
    found = metrics.reliability(probability, machine)
    assert found.ece == pytest.approx(2 / 3 * abs(0.05 - 0.25) + 1 / 3 * 0.05)
    honest = np.random.default_rng(2).random(50_000)
    true = np.random.default_rng(3).random(50_000) < honest
    assert metrics.reliability(honest, true).ece < 0.01


def test_both_kinds_count_alike_for_accuracy():
    said = np.array([True, True, False, False, False])
    machine = np.array([True, False, False, False, False])
    assert metrics.accuracy(said, machine) == pytest.approx((1 + 3 / 4) / 2)
