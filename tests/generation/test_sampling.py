import math
import random

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

import reference_sampling as plain
from gpt2lab import UserError
from gpt2lab.generation.penalties import Penalties
from gpt2lab.generation.random import philox, uniform
from gpt2lab.generation.sampling import Rules, Sampling, choose
from gpt2lab.generation.sampling import truncate as truncate_rows

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def truncate(logits, rules):
    """Probabilities of one row."""
    probs = truncate_rows(logits[None], Rules.of([rules]))[0]
    return probs / probs.sum()


def penalise(logits, rules, prompt, output):
    table = Penalties(2, len(logits))
    table.put(1, rules, prompt, output[:1])
    for i in output[1:]:
        table.note(torch.tensor([1]), torch.tensor([i]))
    return table.apply(logits[None], torch.tensor([1]))[0]


def one(logits, rules, seed, position=0):
    point = torch.from_numpy(uniform(np.array([seed], np.uint64), np.array([position])))
    return int(choose(logits[None], Rules.of([rules]), point))


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
    rules = Sampling(logit_bias={5: 100, 0: -3})
    assert (penalise(LOGITS, rules, [], []) - LOGITS).tolist() == [-3, 0, 0, 0, 0, 100]


def test_greedy_and_no_change_of_input():
    before = LOGITS.clone()
    assert penalise(LOGITS, Sampling(presence_penalty=9), [], [0]).argmax() == 1
    assert one(LOGITS, Sampling(temperature=0), 0) == 0
    assert torch.equal(LOGITS, before)


def some_rules(draw_from):
    return Sampling(
        temperature=draw_from.choice([0, 0.5, 1.0, 2.0]),
        top_k=draw_from.choice([0, 1, 5, 5000]),
        top_p=draw_from.choice([1.0, 0.3, 0.9, 0.9999]),
        top_p_form=draw_from.choice(["nucleus", "openai"]),
        min_p=draw_from.choice([0.0, 0.05]),
        repetition_penalty=draw_from.choice([1.0, 1.3, 0.8]),
        presence_penalty=draw_from.choice([0.0, 0.5]),
        frequency_penalty=draw_from.choice([0.0, 0.3]),
        logit_bias=draw_from.choice([{}, {3: 5.0, 40: -2.0}]),
    )


@pytest.mark.parametrize("seed", range(3))
def test_256_rows_of_different_rules_equal_the_plain_version_row_by_row(seed):
    rng = random.Random(seed)
    rows, vocabulary = 256, 3000
    # Flat rows have nuclei longer than the shortlist; rounded ones have ties.
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))
    logits *= torch.tensor([rng.choice([0.1, 2.0]) for _ in range(rows)])[:, None]
    logits[::3] = (logits[::3] * 4).round() / 4
    rules = [some_rules(rng) for _ in range(rows)]
    texts = [[rng.randrange(vocabulary) for _ in range(9)] for _ in range(rows)]
    table = Penalties(rows, vocabulary)
    for slot, (rule, text) in enumerate(zip(rules, texts, strict=True)):
        table.put(slot, rule, text[:4], text[4:])
    order = torch.tensor(rng.sample(range(rows), rows))
    seeds = np.array([rng.getrandbits(64) for _ in range(rows)], np.uint64)
    point = torch.from_numpy(uniform(seeds, np.arange(rows)))
    found = choose(table.apply(logits[order], order), Rules.of(rules).rows(order), point[order])
    for at, row in enumerate(order.tolist()):
        text = texts[row]
        expected = plain.choose(logits[row], rules[row], text[:4], text[4:], float(point[row]))
        assert int(found[at]) == expected, rules[row]
        alone = choose(
            table.apply(logits[row : row + 1], order[at : at + 1]),
            Rules.of([rules[row]]),
            point[row : row + 1],
        )
        assert int(alone) == int(found[at])


def test_draws_follow_the_distribution():
    """Chi-squared over 20,000 seeds; 5 degrees of freedom, 99.9 % point 20.5."""
    probs = torch.softmax(LOGITS, 0).numpy()
    n = 20_000
    points = torch.from_numpy(uniform(np.arange(n, dtype=np.uint64), np.zeros(n, np.int64)))
    ids = choose(LOGITS.expand(n, 6), Rules.of([Sampling()] * n), points)
    counts = np.bincount(ids.numpy(), minlength=6)
    assert float(((counts - n * probs) ** 2 / (n * probs)).sum()) < 20.5


def test_philox_equals_its_authors_known_answers():
    """Random123's kat_vectors, philox4x32 10."""

    def words(text):
        return [np.array([int(w, 16)], np.uint64) for w in text.split()]

    for counter, key, answer in (
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ):
        assert philox(tuple(words(counter)), tuple(words(key))) == words(answer)


def test_the_random_number_depends_on_seed_and_position_alone():
    seeds = np.repeat(np.arange(30, dtype=np.uint64), 30)
    values = uniform(seeds, np.tile(np.arange(30), 30))
    assert len(set(values)) == 900
    assert all(0 <= v < 1 for v in values)
    assert uniform(seeds[31:32], np.array([1])) == values[31]
    assert uniform(seeds[31:32], np.array([1]), purpose=1) != values[31]


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
