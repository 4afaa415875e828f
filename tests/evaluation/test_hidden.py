"""Hidden states and likeliest tokens beside the model itself, a text at a time."""

import numpy as np
import pytest
import torch

from gpt2lab.errors import UserError
from gpt2lab.evaluation import hidden
from gpt2lab.evaluation.likelihood import Window, score

TEXTS = [
    np.random.default_rng(n).integers(300, size=n).astype(np.int32) for n in (3, 40, 1, 17, 40)
]


def test_features_are_the_last_hidden_state(tiny, monkeypatch):
    monkeypatch.setattr(hidden, "TOKENS", 60)  # several passes
    shares = []
    found = dict(hidden.features(tiny, TEXTS, on_progress=shares.append))
    assert shares == sorted(shares) and shares[-1] == 1
    for number, ids in enumerate(TEXTS):
        with torch.inference_mode():
            state = tiny.hidden(torch.tensor(ids[None].astype(np.int64)))[0, -1]
        np.testing.assert_allclose(found[number], state.numpy(), atol=1e-5)


def test_likeliest_tokens_are_the_models(tiny, monkeypatch):
    monkeypatch.setattr(hidden, "_OUTPUTS", 4)
    windows = [Window(ids, min(9, len(ids) - 1)) for ids in TEXTS if len(ids) > 1]
    found = dict(hidden.likeliest(tiny, windows, 5))
    scores = dict(score(tiny, windows))
    for number, window in enumerate(windows):
        with torch.inference_mode():
            logits = tiny(torch.tensor(window.ids[None, :-1].astype(np.int64)))[0, -window.scored :]
        log_p, ids = logits.log_softmax(-1).topk(5)
        assert found[number].ids.tolist() == ids.tolist()
        np.testing.assert_allclose(found[number].log_p, log_p.numpy(), atol=1e-5)
        # A token among them has the rank and the nats that scoring finds.
        targets = window.ids[-window.scored :]
        for place, rank in enumerate(scores[number].rank):
            if rank < 5:
                assert found[number].ids[place, rank] == targets[place]
                assert -found[number].log_p[place, rank] == pytest.approx(
                    scores[number].nats[place], abs=1e-4
                )


def test_no_more_tokens_than_there_are(tiny):
    ((_, found),) = hidden.likeliest(tiny, [Window(TEXTS[1], 2)], 10_000)
    assert found.ids.shape == (2, tiny.config.vocab_size)
    assert np.exp(found.log_p).sum(1) == pytest.approx([1, 1], abs=1e-5)


def test_a_damaged_model_is_told(tiny):
    tiny.h[0].mlp.c_fc.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        dict(hidden.features(tiny, TEXTS))
