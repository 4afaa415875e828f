"""The numbers of a text beside what they are defined as."""

import numpy as np
import pytest
import torch

from gpt2lab.detection import features as room
from gpt2lab.detection import reading as readings
from gpt2lab.detection.reading import Reader, Reading
from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import Scores
from gpt2lab.evaluation.subject import Subject
from gpt2lab.model.native import FACTS

TEXT = (
    "The committee met on Tuesday to discuss the new library. Several members said that the old "
    "building had served the town well, but that the roof could not be mended again."
)


class Spelling:
    """As much of a tokenizer as features ask for."""

    def __init__(self, size, token):
        self.size, self.token = size, token


@pytest.fixture
def read(subject):
    return Reader({"m": subject}).read([TEXT])[0]


def predictions(subject, ids):
    """Log-probabilities [T, V] of each token, double."""
    given = [subject.tokenizer.end_of_text, *ids[:-1].tolist()]
    with torch.inference_mode():
        return subject.model(torch.tensor([given]))[0].double().log_softmax(-1)


def test_closed_form_curvature_is_the_sampled_one_within_its_error(subject, read):
    """Fast-DetectGPT samples alternatives at each place; in closed form none need be drawn."""
    samples = 20_000
    logp_TV = predictions(subject, read.ids)
    torch.manual_seed(0)
    drawn_TS = torch.multinomial(logp_TV.exp(), samples, replacement=True)
    sums_S = logp_TV.gather(1, drawn_TS).sum(0)
    own = logp_TV.gather(1, torch.tensor(read.ids[:, None].astype(np.int64))).sum()
    sampled = float((own - sums_S.mean()) / sums_S.std())
    error = np.sqrt(1 / samples + sampled**2 / (2 * samples))
    found = room.curvature(read.scores[0])
    assert abs(found - sampled) < 4 * error
    assert abs(found) > 20 * error  # so that the test can fail


def test_text_of_the_model_itself_has_curvature_nought_and_even_places(subject):
    """Drawn from its very predictions, log p is what they expect, and places are even."""
    torch.manual_seed(1)
    ids = [subject.tokenizer.end_of_text]
    with torch.inference_mode():
        for _ in range(300):
            p = subject.model(torch.tensor([ids[-200:]]))[0, -1].softmax(-1)
            ids.append(int(torch.multinomial(p, 1)))
    own = np.array(ids[1:200], np.int32)
    scores = Reader({"m": subject}).read_ids([own])[0].scores[0]
    assert abs(room.curvature(scores)) < 3
    place = np.sort(room.places(scores))
    uneven = np.abs(place - (np.arange(len(place)) + 0.5) / len(place)).max()
    assert uneven < 1.63 / np.sqrt(len(place)) + 0.05  # Kolmogorov's 1 %, and steps of p/2


def test_numbers_by_hand():
    #          nats  rank allowed entropy variance above top_nats
    rows = [
        [np.log(2), 0, 0, 0.5, 1.0, 0.0, np.log(2)],
        [np.log(4), 1, 1, 1.0, 2.0, 0.5, np.log(2)],
        [np.log(100), 200, 200, 2.0, 1.0, 0.9, np.log(3)],
        [np.log(4), 20, 20, 0.5, 0.0, 0.5, np.log(2)],
    ]
    scores = Scores(np.array(rows, np.float32))
    tokens = {5: b" a", 6: b"b", 1001: b" c", 1002: b"\n"}
    spelling = Spelling(1003, lambda i: tokens.get(i, b"x"))
    x = room.features([Reading(np.array([5, 6, 5, 6], np.int32), spelling, (scores,))])[0]
    names = room.names(["m"])
    assert len(names) == len(x) == len(set(names))
    found = dict(zip(names, x, strict=True))
    nats = np.log([2, 4, 100, 4])
    assert found["m: mean log p"] == pytest.approx(-nats.mean())
    assert found["m: curvature"] == pytest.approx((4 - nats.sum()) / 2, rel=1e-5)
    assert found["m: rank below 1"] == 0.25 and found["m: rank below 40"] == 0.75
    assert found["m: rank below 1000"] == 1
    assert found["m: places from 0.2"] == 0.25  # half of p
    assert found["m: places from 0.6"] == 0.5
    assert found["m: places from 0.9"] == 0.25
    assert found["distinct 1-grams"] == 0.5 and found["distinct 2-grams"] == pytest.approx(2 / 3)
    assert found["distinct 3-grams"] == 1
    assert found["m: mean log rank"] == pytest.approx(np.log([1, 2, 201, 21]).mean())


def test_numbers_of_tokens_by_hand():
    """Rare ones are those from 1000 on; words begin with a blank or a line."""
    spelling = Spelling(3000, lambda i: b" w" if i % 2 else b"x")
    ids = np.array([1001, 8, 1001, 10, 12, 1003, 2000, 1001], np.int32)
    rows = np.zeros((8, 7), np.float32)
    rows[:, 0] = [1, 2, 3, 4, 5, 6, 7, 8]
    x = room.features([Reading(ids, spelling, (Scores(rows),))])[0]
    found = dict(zip(room.names(["m"]), x, strict=True))
    assert found["rare tokens"] == 5 / 8 and found["rare tokens repeated"] == 2 / 5
    assert found["rare tokens repeated, second half"] == 1 / 3
    assert found["tokens a word"] == 2 and found["words of three tokens"] == 1 / 4
    assert found["words of four tokens"] == 0 and found["tokens inside words"] == 1 / 2
    assert found["m: log p of new rare tokens"] == pytest.approx(-(1 + 6 + 7) / 3)
    assert found["m: log p of repeated rare tokens"] == pytest.approx(-(3 + 8) / 2)
    assert found["m: log p of common tokens"] == pytest.approx(-(2 + 4 + 5) / 3)
    assert found["m: log p inside words"] == pytest.approx(-(2 + 4 + 5 + 7) / 4)
    assert found["m: log p at words' beginnings"] == pytest.approx(-(1 + 3 + 6 + 8) / 4)
    assert found["m: log p of halves apart"] == pytest.approx(-4)


def test_two_models_are_told_beside_each_other(subject):
    reader = Reader({"a": subject, "b": subject})
    x = room.features(reader.read([TEXT]))[0]
    found = dict(zip(room.names(reader.names), x, strict=True))
    assert found["b beyond a: mean log p"] == found["b beyond a: curvature"] == 0
    assert found["a: mean log p"] == found["b: mean log p"]


def test_constant_texts_have_numbers_too(subject):
    x = room.features(Reader({"m": subject}).read(["a a", " the" * 400]))
    assert np.isfinite(x).all()
    with pytest.raises(ValueError, match="fewer than two tokens"):
        room.features(Reader({"m": subject}).read(["a"]))


def test_a_part_is_read_as_in_the_whole(read):
    part = read.part(3, 9)
    assert part.ids.tolist() == read.ids[3:9].tolist()
    assert (part.scores[0].nats == read.scores[0].nats[3:9]).all()
    assert part.text == read.tokenizer.decode(read.ids[3:9].tolist())


def test_what_two_models_expect_of_each_other(subject, tiny, monkeypatch):
    """Cross-entropy, by the definition, over windows and parts of windows."""
    from gpt2lab.model import GPT2

    monkeypatch.setattr(readings, "_OUTPUTS", 7)
    other = Subject(GPT2(subject.model.config, seed=4).eval(), subject.tokenizer)
    reader = Reader({"performer": subject, "observer": other})
    ids = subject.ids(TEXT * 30)  # longer than the context
    found = reader.read_ids([ids[:40], ids, ids[:0]], cross=True)
    performer, observer = (predictions(s, ids[:40]) for s in (subject, other))
    expected = -(observer.exp() * performer).sum(-1)
    np.testing.assert_allclose(found[0].cross, expected.numpy(), atol=1e-4)
    assert len(found[1].cross) == len(ids) and len(found[2].cross) == 0
    np.testing.assert_allclose(found[1].cross[:40], expected.numpy(), atol=1e-4)
    with pytest.raises(UserError, match="name a second one"):
        Reader({"m": subject}).read([TEXT], cross=True)
    assert found[0].scores[0].table_TX.shape == (40, FACTS)


def test_models_of_other_tokens_do_not_read_together(subject, tiny, small_tokenizer):
    with pytest.raises(UserError, match="tiny has other tokens than big"):
        Reader({"big": subject, "tiny": Subject(tiny, small_tokenizer)})
