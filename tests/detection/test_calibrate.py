"""P-values hold what they promise, and probabilities promise no more than was seen."""

import numpy as np
import pytest
from scipy.special import ndtr

from gpt2lab.detection.calibrate import (
    ALL,
    LENGTHS,
    Calibration,
    PValue,
    Scored,
    combined,
    length_of,
    pieces,
    rate_of_each,
    spans,
)
from gpt2lab.errors import UserError


def drawn(rng, n, machine=False, domain="news", tokens=120, shift=0.0):
    return [
        Scored(float(s), tokens, machine, domain) for s in rng.normal(2.0 * machine + shift, 1, n)
    ]


def fit(given):
    """Detectors that score texts of domains they do not know as any others."""
    return Calibration.fit(given, given)


@pytest.fixture
def calibration():
    rng = np.random.default_rng(0)
    given = drawn(rng, 999) + drawn(rng, 500, True) + drawn(rng, 300, domain="wiki", shift=1.0)
    return fit(given)


@pytest.mark.parametrize("fpr", [0.1, 0.05, 0.01])
def test_fresh_human_texts_are_called_generated_as_rarely_as_promised(fpr):
    """At most the nominal rate and three deviations, over calibrations and texts drawn anew."""
    hits, n = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        made = fit(drawn(rng, 500))
        scores = rng.normal(0, 1, 250)
        hits += sum(made.p(float(s), 120, "news").value <= fpr for s in scores)
        n += 250
    # What a calibration has drawn shifts all its texts alike: n of it counts as well.
    deviation = np.sqrt(fpr * (1 - fpr) * (1 / n + 1 / (40 * 500)))
    assert abs(hits / n - fpr) < 3 * deviation + 1 / 501


def test_a_p_value_by_hand():
    made = fit([Scored(float(s), 60, False, "d") for s in range(10)])
    assert made.p(10.0, 99, "d").value == 1 / 11
    assert made.p(9.0, 50, "d").value == 2 / 11  # as high counts
    assert made.p(-1.0, 60, "d").value == 1
    assert made.p(5.0, 60, "d").n == 10 and made.p(5.0, 60, "d").least == 1 / 11


def test_an_unknown_domain_takes_the_largest_p_value(calibration):
    for score in (0.0, 1.5, 2.5, 5.0):
        news, wiki = (calibration.p(score, 120, d).value for d in ("news", "wiki"))
        found = calibration.p(score, 120)
        assert found.value == max(news, wiki)
    assert calibration.p(2.5, 120).domain == "wiki"  # whose people score higher
    with pytest.raises(UserError, match="no human texts of domain 'law'; there are news, wiki"):
        calibration.p(0.0, 120, "law")
    with pytest.raises(UserError, match="no human texts of domain 'all domains'"):
        calibration.p(0.0, 120, ALL)
    with pytest.raises(UserError, match="a score is nan, so a detector is damaged"):
        calibration.p(float("nan"), 120)


def test_what_is_not_told_is_compared_with_scores_of_detectors_that_do_not_know_it():
    rng = np.random.default_rng(3)
    made = Calibration.fit(drawn(rng, 500), drawn(rng, 300, shift=3.0))
    assert made.p(2.9, 120, "news").value < 0.02 < 0.3 < made.p(2.9, 120).value
    assert made.p(2.9, 120).n == 300


def test_a_told_domain_of_few_texts_is_compared_with_all_of_its_texts():
    rng = np.random.default_rng(4)
    made = Calibration.fit(drawn(rng, 40), drawn(rng, 300))
    assert made.p(9.0, 120, "news", 0.1).n == 40
    assert made.p(9.0, 120, "news", 0.01).n == 300
    assert made.p(9.0, 120, "news", 0.01).value == 1 / 301
    assert [made.p(9.0, 120, "news", fpr).blind for fpr in (0.1, 0.01)] == [False, True]


def test_a_domain_of_few_texts_does_not_decide():
    rng = np.random.default_rng(1)
    made = fit(drawn(rng, 500) + drawn(rng, 20, domain="small"))
    assert made.p(9.0, 120, fpr=0.01).value == pytest.approx(1 / 501, rel=0.05)
    assert made.p(9.0, 120, fpr=0.1).n > 400  # at any rate
    few = fit(drawn(rng, 50) + drawn(rng, 20, domain="small"))
    assert few.p(9.0, 120, fpr=0.1).domain == "small"  # none has more than it takes
    assert made.p(9.0, 120, "small").value == 1 / 21
    alone = fit(drawn(rng, 20, domain="small"))
    assert alone.p(9.0, 120, fpr=0.01).domain == ALL


def test_other_lengths_are_not_compared(calibration):
    assert calibration.p(9.0, 60).n == 0 and calibration.p(9.0, 60).value == 1
    assert calibration.p(9.0, 250, "news").value == 1
    assert calibration.probability(9.0, 60) is None
    assert calibration.sensitivity(60, 0.01) is None


def test_probabilities_rise_with_the_score_and_never_reach_an_end(calibration):
    found = [calibration.probability(s, 120) for s in np.linspace(-9, 9, 100)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(1 / 502) and found[-1] == pytest.approx(501 / 502)
    even, rare = (calibration.probability(1.5, 120, prior) for prior in (0.5, 0.01))
    assert rare / (1 - rare) == pytest.approx(even / (1 - even) / 99)


def test_sensitivity_is_the_share_that_is_found(calibration):
    scores = calibration.machine[100]
    for fpr in (0.05, 0.01):
        by_hand = np.mean([calibration.p(float(s), 120, fpr=fpr).value <= fpr for s in scores])
        assert calibration.sensitivity(120, fpr) == pytest.approx(by_hand)


def test_a_table_gives_the_same_back_and_damage_is_told(calibration):
    import json

    table = json.loads(json.dumps(calibration.table()))
    again = Calibration.of_table(table, "file")
    assert again.table() == calibration.table()
    for damage in (
        {"human": {}}, {"blind": {}}, {"odds": {"100": [[1.0], [1.5]]}}, {"machine": {}},
        {"machine": {"100": []}},        {"human": {ALL: {"100": [10**400]}}},
        {"human": {ALL: {"100": [2.0, 1.0]}}}, {"human": {ALL: {"101": [1.0]}}},
        {"human": {ALL: {"100": [float("nan")]}}}, {"human": []},
    ):  # fmt: skip
        with pytest.raises(UserError, match="file is damaged; train the detector again"):
            Calibration.of_table(table | damage, "file")
    with pytest.raises(UserError, match="file is damaged"):
        Calibration.of_table([], "file")


def test_long_texts_are_cut_alike_and_judged_by_half_of_their_windows():
    assert spans(100, 450) == [(0, 100)]
    assert spans(451, 450) == [(0, 225), (225, 451)]
    assert spans(0, 450) == [(0, 0)]
    values = [PValue(p, 99, "d") for p in (0.3, 0.02, 0.01)]
    assert combined(values[2:]) == 0.01 and combined(values[1:]) == pytest.approx(0.02)
    assert combined(values) == pytest.approx(0.03) and combined(values[:1] * 4) == 0.6
    assert rate_of_each(0.01, 1) == 0.01 and rate_of_each(0.03, 3) == pytest.approx(0.02)


@pytest.mark.parametrize("windows", [2, 3, 4, 9])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_windows_together_hold_the_rate_however_alike_they_are(windows, alike):
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(20_000, 1)), rng.normal(size=(20_000, windows))
    p = 1 - ndtr(np.sqrt(alike) * common + np.sqrt(1 - alike) * own)
    called = [combined([PValue(value, 99, "d") for value in row]) <= 0.05 for row in p]
    assert np.mean(called) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20_000)


def test_a_higher_rate_never_finds_less():
    rng = np.random.default_rng(5)
    made = fit(drawn(rng, 400) + drawn(rng, 40, domain="small", shift=2.0))
    for score in np.linspace(-1, 5, 50):
        called = [made.p(score, 120, fpr=fpr).value <= fpr for fpr in (0.01, 0.03, 0.05, 0.2)]
        assert called == sorted(called)
        together = [
            combined([made.p(score, 120, None, fpr, 3)] * 3) <= fpr for fpr in (0.01, 0.05, 0.2)
        ]
        assert together == sorted(together)
    assert made.too_small(120, 0.05) == ["small"]


def test_texts_of_a_length_that_few_people_wrote_are_read_in_windows():
    rng = np.random.default_rng(0)
    given = drawn(rng, 200) + drawn(rng, 200, tokens=300) + drawn(rng, 20, tokens=420)
    assert fit(given).reach(420) == 399
    some = drawn(rng, 90) + drawn(rng, 90, tokens=300)
    assert fit(some).reach(300) == 300  # windows would have too few as well
    other = drawn(rng, 100, tokens=420, domain="wiki")
    assert fit(given + other).reach(420) == 420
    assert fit(given + drawn(rng, 100, tokens=420)).reach(420) == 420
    assert fit(drawn(rng, 20) + drawn(rng, 20, tokens=300)).reach(300) == 300


def test_lengths():
    assert [length_of(n) for n in (50, 99, 100, 399, 400, 9999)] == [50, 50, 100, 200, 400, 400]
    rng = np.random.default_rng(0)
    for tokens in (49, 50, 70, 150, 333, 450, 2000):
        found = pieces(tokens, rng)
        assert len(found) == sum(n <= tokens for n in LENGTHS)
        assert [length_of(n) for n in found] == [n for n in LENGTHS if n <= tokens]
        assert all(n <= tokens for n in found)


def test_nothing_to_calibrate_on_is_refused():
    with pytest.raises(UserError, match="no human text of 50 tokens"):
        fit([Scored(0.0, 49, False, "d"), Scored(0.0, 80, True, "d")])
