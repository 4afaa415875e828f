"""Repetition, distinct n-grams, self-BLEU and Zipf's law beside slow definitions."""

import math

import numpy as np
import pytest
import sacrebleu

from gpt2lab.evaluation import variety
from gpt2lab.evaluation.scores import jackknife

TEXTS = [np.random.default_rng(n).zipf(1.6, 60).clip(max=40).astype(np.int32) for n in range(12)]


def grams(ids, n):
    return [tuple(ids[i : i + n].tolist()) for i in range(len(ids) - n + 1)]


def test_repetition_by_hand():
    ids = np.array([1, 2, 3, 1, 2, 4], np.int32)
    assert variety.repetition(ids, 1) == pytest.approx(2 / 6)
    assert variety.repetition(ids, 2) == pytest.approx(1 / 5)
    assert variety.repetition(ids, 3) == 0
    assert variety.repetition(ids[:2], 3) == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_is_of_all_texts_together(n):
    every = [g for ids in TEXTS for g in grams(ids, n)]
    value, without = variety.distinct(TEXTS, n)
    assert value == pytest.approx(len(set(every)) / len(every))
    for i, rest in enumerate(without):
        left = [g for j, ids in enumerate(TEXTS) if j != i for g in grams(ids, n)]
        assert rest == pytest.approx(len(set(left)) / len(left))


def test_repeats_are_those_of_text_and_prompt():
    for ids in TEXTS:
        found = variety.repeats(ids, 3, 20)
        naive = [tuple(ids[i - 2 : i + 1]) in grams(ids[:i], 3) for i in range(20, len(ids))]
        assert found.tolist() == naive
    assert variety.repeats(np.arange(2, dtype=np.int32), 4, 0).tolist() == [False, False]


def test_self_bleu_is_that_of_sacrebleu():
    texts = [ids[: 30 + 3 * n] for n, ids in enumerate(TEXTS)]
    texts += [np.array([999, 998, 997, 996, 995], np.int32)]  # shares nothing with any
    said = [" ".join(map(str, ids)) for ids in texts]
    expected = [
        sacrebleu.sentence_bleu(
            one, said[:i] + said[i + 1 :], tokenize="none", use_effective_order=False
        ).score
        for i, one in enumerate(said)
    ]
    assert variety.self_bleu(texts) == pytest.approx(expected, rel=1e-9)
    assert expected[0] > 10 > expected[-1]


def test_a_text_said_twice_has_self_bleu_100():
    assert variety.self_bleu([*TEXTS, TEXTS[0]])[[0, -1]] == pytest.approx([100, 100])


@pytest.mark.parametrize("slope", [0.7, 1.0, 1.3])
def test_zipf_finds_the_law_it_is_given(slope):
    counts = [round(20_000 * rank**-slope) for rank in range(1, 400)]
    ids = np.repeat(np.arange(399, dtype=np.int32), counts)
    parts = np.array_split(np.random.default_rng(0).permutation(ids), 30)
    value, without = variety.zipf(parts)
    assert value == pytest.approx(slope, abs=0.01)
    assert without[3] == pytest.approx(variety.zipf(parts[:3] + parts[4:])[0])
    assert math.isfinite(variety.zipf([np.zeros(4, np.int32)] * 2)[0])


def test_intervals_are_as_wide_as_corpora_differ():
    """Distinct-n and Zipf's s of many corpora from one source."""
    rng = np.random.default_rng(0)

    def corpus():
        return [rng.zipf(1.3, 200).clip(max=5000).astype(np.int32) for _ in range(60)]

    for measure in (lambda texts: variety.distinct(texts, 2), variety.zipf):
        spread = np.std([measure(corpus())[0] for _ in range(40)])
        found = jackknife("x", "", *measure(corpus()), "", "", {})
        assert found.low < found.value < found.high
        assert (found.high - found.value) / 1.96 == pytest.approx(spread, rel=0.5)
