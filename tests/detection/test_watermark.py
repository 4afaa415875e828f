"""A watermark is found with its key, with no other, and in people's texts as rarely as said."""

import json

import numpy as np
import pytest
import zstandard
from scipy.stats import binom

from gpt2lab.detection.watermark import look
from gpt2lab.errors import UserError
from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.generation.watermark import green


def written(subject, key, count=6, **rules):
    prompt = tuple(subject.tokenizer.encode("The old man"))
    requests = [
        Request(prompt, max_tokens=150, sampling=Sampling(watermark=key, **rules), seed=seed)
        for seed in range(count)
    ]
    return [g.ids for g in generate(subject.model, subject.tokenizer, requests)]


def test_it_is_found_with_its_key_alone(subject):
    for ids in written(subject, 77):
        assert look(np.array(ids), 77).p < 1e-6
        assert look(np.array(ids), 78).p > 1e-3
    assert min(look(np.array(ids), 77).p for ids in written(subject, None)) > 1e-3


def test_a_stronger_one_is_plainer_and_one_of_no_strength_changes_nothing(subject):
    z = [
        np.mean([look(np.array(i), 5).z for i in written(subject, 5, watermark_strength=s)])
        for s in (0.5, 2.0, 6.0)
    ]
    assert z == sorted(z)
    assert written(subject, 5, 2, watermark_strength=0.0) == written(subject, None, 2)


def test_marked_and_unmarked_texts_do_not_touch_each_other(subject):
    prompt = tuple(subject.tokenizer.encode("The house"))
    rules = [Sampling(watermark=3), Sampling(), Sampling(watermark=4, top_k=40), Sampling()]
    requests = [Request(prompt, max_tokens=40, sampling=r, seed=9) for r in rules]
    together = generate(subject.model, subject.tokenizer, requests)
    alone = [generate(subject.model, subject.tokenizer, [r])[0] for r in requests]
    assert [g.ids for g in together] == [g.ids for g in alone]
    assert together[1].ids == together[3].ids != together[0].ids


def test_half_of_all_tokens_are_green_and_each_key_has_its_own():
    before, ids = np.array([11, 12]), np.arange(50_257)
    one, other = (green(key, before, ids) for key in (1, 2))
    assert abs(one.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(ids))
    assert abs((one == other).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(ids))
    assert abs((one == green(1, np.array([12, 11]), ids)).mean() - 0.5) < 0.01
    # One at a time as all together.
    some = np.concatenate([green(1, before, np.array([i])) for i in range(100)])
    assert (some == one[:100]).all()


def test_repeated_text_counts_once(subject):
    line = "one two three four five six seven eight nine ten, and then again from one to ten. "
    ids = np.array(subject.tokenizer.encode(line))
    assert look(np.tile(ids, 50), 5).places == len(ids)


def test_false_positives_on_ten_thousand_human_windows(data, subject):
    """With every key the rate is what the binomial says, up to what texts have in common."""
    windows = []
    path = data / "corpus" / "english-novels.jsonl.zst"
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        text = stream.read(9_000_000).decode("utf-8", "ignore").split("\n")
    for line in text[:-1]:
        ids = np.array(subject.tokenizer.encode(json.loads(line)["text"]))
        windows += list(ids[: len(ids) // 200 * 200].reshape(-1, 200))
    windows = windows[:10_000]
    assert len(windows) == 10_000
    for key in (1, 20_261_122):
        marks = [look(ids, key) for ids in windows]
        z = np.array([m.z for m in marks])
        n = np.array([m.places for m in marks])
        assert abs(z.std() - 1) < 0.03
        for level, nominal in ((1.645, 0.05), (2.326, 0.01)):
            # What a coin gives at these numbers of places, on the safe side of the normal's.
            least = np.floor(0.5 * n + level * 0.5 * np.sqrt(n)).astype(int)
            expected = binom.sf(least, n, 0.5).mean()
            deviation = np.sqrt(expected * (1 - expected) / len(z))
            assert (z > level).mean() == pytest.approx(expected, abs=3 * deviation + 0.3 * nominal)
        p = np.array([m.p for m in marks])
        for nominal in (0.05, 0.01, 0.001):
            assert (p <= nominal).mean() <= nominal + 3 * np.sqrt(nominal / len(p))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="the text has 3 places that could carry a watermark, and"):
        look(np.arange(5), 1)
    with pytest.raises(UserError, match=r"the key is -1; it must be from 0 to 2\^63 - 1"):
        look(np.arange(500), -1)
    with pytest.raises(UserError, match="watermark is -1; it must be 0 to"):
        Sampling(watermark=-1)
    with pytest.raises(UserError, match="watermark_strength is -1"):
        Sampling(watermark_strength=-1)
