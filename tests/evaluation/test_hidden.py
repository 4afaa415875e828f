"""Hidden states beside the model itself, a text at a time."""

import numpy as np
import pytest
import torch

from gpt2lab.errors import UserError
from gpt2lab.evaluation import hidden

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


def test_a_damaged_model_is_told(tiny):
    tiny.h[0].mlp.c_fc.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        dict(hidden.features(tiny, TEXTS))
