import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2lab import UserError
from gpt2lab.generation.sampling import Sampling, choose, penalise, truncate, uniform

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def kept(rules):
    return truncate(LOGITS, rules).nonzero().flatten().tolist()


def test_top_k_keeps_ties():
    assert kept(Sampling(top_k=2)) == [0, 1]
    ties = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert truncate(ties, Sampling(top_k=2)).count_nonzero() == 4


def test_top_p_in_both_forms():
    probs = torch.softmax(LOGITS, 0)
    two = float(probs[:2].sum())
    assert kept(Sampling(top_p=two + 0.01)) == [0, 1, 2]
    assert kept(Sampling(top_p=two + 0.01, top_p_form="openai")) == [0, 1]
    assert kept(Sampling(top_p=0.01)) == kept(Sampling(top_p=0.01, top_p_form="openai")) == [0]


def test_openais_order_cuts_top_p_from_what_top_k_left():
    rules = Sampling(top_k=2, top_p=0.7)
    assert kept(rules) == [0]
    assert kept(Sampling(top_p=0.7)) == [0, 1]


def test_min_p():
    assert kept(Sampling(min_p=math.exp(-1.4))) == [0, 1]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(1, 40),
    top_p=st.floats(0.05, 0.99),
    min_p=st.floats(0.0, 0.5),
)
def test_truncation_equals_transformers(seed, temperature, top_k, top_p, min_p):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 3
    processors = LogitsProcessorList(
        [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)]
        + ([MinPLogitsWarper(min_p)] if min_p else [])
    )
    expected = torch.softmax(processors(torch.tensor([[0]]), logits[None])[0], -1)
    found = truncate(logits, Sampling(temperature, top_k, top_p, min_p=min_p))
    # The two may part only on a token that lies on a threshold to the last bit.
    assert (found - expected).abs().max() < 1e-5 or (found > 0).ne(expected > 0).sum() <= 1


@settings(max_examples=60, deadline=None)
@given(history=st.lists(st.integers(0, 5), min_size=1, max_size=8), penalty=st.floats(0.5, 2.0))
def test_repetition_penalty_equals_transformers(history, penalty):
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([history]), LOGITS[None])[0]
    middle = len(history) // 2
    found = penalise(
        LOGITS, Sampling(repetition_penalty=penalty), history[:middle], history[middle:]
    )
    assert torch.allclose(found, expected)


def test_presence_and_frequency_count_output_only():
    rules = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    found = penalise(LOGITS, rules, prompt=[0, 0], output=[1, 1, 3])
    assert (LOGITS - found).tolist() == [0, 1.0, 0, 0.75, 0, 0]


def test_bias():
    assert choose(LOGITS, Sampling(0, logit_bias={5: 100}), [], [], 0) == 5
    assert choose(LOGITS, Sampling(0, logit_bias={0: -100}), [], [], 0) == 1
    with pytest.raises(UserError, match="logit_bias names token 6; ids are 0 to 5"):
        choose(LOGITS, Sampling(0, logit_bias={6: 1}), [], [], 0)


def test_greedy_and_no_change_of_input():
    before = LOGITS.clone()
    assert choose(LOGITS, Sampling(temperature=0, presence_penalty=9), [], [0], 0) == 1
    assert torch.equal(LOGITS, before)


def test_draws_follow_the_distribution():
    """Chi-squared over 20,000 seeds; 5 degrees of freedom, 99.9 % point 20.5."""
    probs = torch.softmax(LOGITS, 0).numpy()
    n = 20_000
    counts = np.bincount([choose(LOGITS, Sampling(), [], [], s) for s in range(n)], minlength=6)
    assert float(((counts - n * probs) ** 2 / (n * probs)).sum()) < 20.5


def test_the_random_number_depends_on_seed_and_position_alone():
    assert uniform(5, 7) == uniform(5, 7)
    values = {uniform(s, p) for s in range(30) for p in range(30)}
    assert len(values) == 900
    assert all(0 <= v < 1 for v in values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", float("nan")), ("top_k", -1), ("top_p", 0),
        ("top_p", 1.1), ("min_p", 2), ("repetition_penalty", 0), ("presence_penalty", math.inf),
    ],
)  # fmt: skip
def test_rules_out_of_range(field, value):
    with pytest.raises(UserError, match=f"{field} is .*; it must be"):
        Sampling(**{field: value})
