import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_ngrams as reference
from gpt2lab.corpus import kernels

TEXTS = [
    "",
    "...",
    "one",
    "The Cat sat; the cat SAT. On the mat?",
    "naïve café – “quotes” İstanbul straße ΣΊΣΥΦΟΣ ½ x² 東京タワー नमस्ते 🤦🏽‍♀️ a\u0301b",
    "a" * 5000 + " " + "b " * 3000,
]


def packed(texts):
    data = [t.encode("utf-8", "replace") for t in texts]
    bounds = np.cumsum([0, *map(len, data)]).astype(np.int64)
    return np.frombuffer(b"".join(data), np.uint8), bounds


@pytest.mark.parametrize("n", [1, 5, 8, 13])
@pytest.mark.parametrize("text", TEXTS)
def test_ngrams_are_the_references(text, n):
    assert kernels.ngrams(text, n).tolist() == reference.ngrams(text, n)


@given(st.text(max_size=300), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_ngrams_of_any_text(text, n):
    text = text.encode("utf-8", "replace").decode()
    assert kernels.ngrams(text, n).tolist() == reference.ngrams(text, n)


def test_signatures_are_the_references():
    data, bounds = packed(TEXTS)
    ours = kernels.signatures(data, bounds, 5, 105)
    assert ours.tolist() == [reference.signature(text, 5, 105) for text in TEXTS]


def test_permutations_never_change():
    # Band keys are kept on disk between runs: another generator would find no old duplicate.
    multipliers, addends = kernels.permutations(3)
    assert multipliers.tolist() == [2921885951, 2764364227, 2722754389]
    assert addends.tolist() == [3889418606, 2177746088, 928266861]


def test_min_hashes_estimate_jaccard():
    """Root mean square error against theory, sqrt(J (1 - J) / k), over pairs of known overlap."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(20_000)]
    texts = []
    for i in range(400):
        base = [words[j] for j in rng.integers(0, len(words), 300)]
        cut = int(rng.integers(0, 300))
        other = base[:cut] + [words[j] for j in rng.integers(0, len(words), 300 - cut)]
        texts += [" ".join(base), " ".join(other)]
        assert len(texts) == 2 * i + 2
    data, bounds = packed(texts)
    k = 128
    signature = kernels.signatures(data, bounds, 5, k)
    estimate = (signature[::2] == signature[1::2]).mean(axis=1)
    sets, ends = kernels.gram_sets(data, bounds, np.arange(len(texts)), 5)
    left = np.arange(0, len(texts), 2)
    exact = kernels.jaccard(sets, ends, left, sets, ends, left + 1)
    error = np.sqrt(((estimate - exact) ** 2).mean())
    theory = np.sqrt((exact * (1 - exact) / k).mean())
    assert 0.85 * theory < error < 1.15 * theory
    assert abs((estimate - exact).mean()) < 0.006
    for i in range(0, 40, 2):
        assert exact[i // 2] == reference.jaccard(texts[i], texts[i + 1], 5)


def test_ends_of_words_are_where_they_end():
    text = "Hello, wörld!  last".encode()
    _, ends = kernels.ngrams_and_ends(text, 1)
    assert [text[:e].decode()[-1] for e in ends] == ["o", "d", "t"]


def test_bands_are_equal_when_their_rows_are():
    rng = np.random.default_rng(1)
    signature = rng.integers(0, 3, (200, 12), dtype=np.uint32)
    keys = kernels.band_keys(signature, 4, 3)
    rows = signature.reshape(200, 4, 3)
    same = (rows[:, None] == rows[None]).all(axis=3)
    assert ((keys[:, None] == keys[None]) == same).all()
    assert len(set(keys[:, 0]) & set(keys[:, 1])) == 0  # bands never meet each other
