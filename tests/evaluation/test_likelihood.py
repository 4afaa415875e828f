import math

import numpy as np
import pytest
import torch

from gpt2lab.evaluation import likelihood
from gpt2lab.evaluation.likelihood import bits_per_byte, document_nats


def by_hand(model, ids):
    """One token at a time: each with all the context its window gives it."""
    context = model.config.n_positions
    total = 0.0
    end = 1
    while end < len(ids):
        stop = min(len(ids), end + (context if end == 1 else context // 2))
        for i in range(end, stop):
            before = ids[max(0, stop - context - 1) : i]
            logp = torch.log_softmax(model(torch.tensor([before]))[0, -1], -1)
            total -= float(logp[ids[i]].detach())
        end = stop
    return total


@pytest.mark.parametrize("budget", [10, 200, 8192])
def test_every_token_is_scored_once_with_its_context(tiny, monkeypatch, budget):
    monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", budget)
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 300 * 7)
    generator = torch.Generator().manual_seed(0)
    documents = [
        torch.randint(300, (n,), generator=generator).tolist() for n in (1, 2, 30, 49, 50, 130)
    ]
    found = document_nats(tiny, documents)
    for ids, value in zip(documents, found, strict=True):
        assert value == pytest.approx(by_hand(tiny, ids), rel=1e-5, abs=1e-6)


def test_batches_are_sized_by_their_longest_window(tiny, monkeypatch):
    monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", 200)
    largest = 0
    score = likelihood._score

    def spy(model, batch):
        nonlocal largest
        largest = max(largest, len(batch) * max(len(w.ids) for w in batch))
        return score(model, batch)

    monkeypatch.setattr(likelihood, "_score", spy)
    document_nats(tiny, [[1, 2], *([[3] * 40] * 30)])
    assert largest <= 200


def test_bits_per_byte_of_an_even_model(tiny, small_tokenizer):
    with torch.no_grad():
        for p in tiny.parameters():
            p.zero_()
    texts = ["the cat sat", "naïve café on a mat", "dog"]
    tokens = sum(len(small_tokenizer.encode(t)) for t in texts)
    size = sum(len(t.encode()) for t in texts)
    found = bits_per_byte(tiny, small_tokenizer, texts)
    assert found.value == pytest.approx(tokens * math.log2(300) / size, rel=1e-5)
    assert found.n == 3
    assert found.low <= found.value <= found.high
    assert len(found.data) == 64


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        sizes = rng.integers(50, 500, size=80)
        bits = sizes * rng.normal(2.0, 0.5, size=80)
        m = likelihood.ratio("x", bits, sizes, "bits/byte", "", "")
        covered += m.low <= 2.0 <= m.high
    assert 180 <= covered <= 200
