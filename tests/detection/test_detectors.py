"""Detectors tell texts apart, and give the same scores after they were written and read."""

import numpy as np
import pytest

from gpt2lab.detection import metrics
from gpt2lab.detection.detectors import KINDS, Ensemble, Lesson
from gpt2lab.detection.detectors import finetuned as tuned
from gpt2lab.detection.detectors.logistic import HUMAN, Logistic
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.reading import Reader
from gpt2lab.detection.train import read, train
from gpt2lab.errors import UserError
from gpt2lab.model import GPT2


@pytest.fixture(scope="module")
def found(texts, subject):
    other = type(subject)(GPT2(subject.model.config, seed=4).eval(), subject.tokenizer)
    reader = Reader({"reference-1M": subject, "other": other})
    return read(reader, texts.samples, cross=True)


def area(detector, found):
    test = found.split("test")
    machine = np.array([s.machine for s in test.samples])
    return metrics.auroc(detector.score(test.readings), machine)


@pytest.mark.parametrize(
    ("name", "least"),
    [("stats", 0.9), ("trees", 0.9), ("curvature", 0.6), ("binoculars", 0.65), ("tfidf", 0.8),
     ("style", 0.8)],
)  # fmt: skip
def test_each_learns_and_is_kept(found, name, least, tmp_path):
    detector = KINDS[name].fit(found.split("train").lesson(["reference-1M", "other"]))
    assert area(detector, found) > least
    detector.save(tmp_path)
    again = KINDS[name].load(tmp_path, ["reference-1M", "other"])
    test = found.split("test").readings
    assert (again.score(test) == detector.score(test)).all()
    assert len(detector.score([])) == 0
    # A text's score does not depend on its company.
    assert detector.score(test[:1])[0] == pytest.approx(detector.score(test)[0], abs=1e-9)


def test_a_model_is_taught_to_tell(found, subject, tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "EPOCHS", 2)
    before = {n: t.clone() for n, t in subject.model.state_dict().items()}
    lesson = found.split("train").lesson(["reference-1M"], backbone=subject.model)
    detector = tuned.Finetuned.fit(lesson)
    assert area(detector, found) > 0.85
    assert all((t == before[n]).all() for n, t in subject.model.state_dict().items())
    detector.save(tmp_path)
    test = found.split("test").readings
    scores = detector.score(test)
    again = tuned.Finetuned.load(tmp_path, ["reference-1M"])
    np.testing.assert_allclose(again.score(test), scores, atol=1e-4)
    # What fills up a shorter text of a batch is not seen.
    np.testing.assert_allclose(detector.score(test[3:4])[0], scores[3], atol=1e-4)
    (tmp_path / "head.safetensors").write_bytes(b"no such thing")
    with pytest.raises(UserError, match=r"cannot read .*head.safetensors"):
        tuned.Finetuned.load(tmp_path, ["reference-1M"])
    with pytest.raises(UserError, match="name one with --backbone"):
        tuned.Finetuned.fit(found.split("train").lesson(["reference-1M"]))


def test_kinds_that_lie_on_both_sides_of_people_are_both_found():
    """One weighing of a number could not: T = 1 is below people, the 40 likeliest above."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(m, 1, (400, 1)) for m in (0, -5, 5)])
    kinds = [HUMAN] * 400 + ["t1"] * 400 + ["k40"] * 400
    made = Logistic.fit(x, kinds, [str(i) for i in range(1200)], ["number"])
    machine = np.array(kinds) != HUMAN
    assert metrics.auroc(made.score(x), machine) > 0.97
    assert made.parts(np.array([-5.0]))[0] == "t1" and made.parts(np.array([5.0]))[0] == "k40"
    together = made.logits(x)
    p = 1 / (1 + np.exp(-made.score(x)))
    softmax = np.exp(together - together.max(1, keepdims=True))
    np.testing.assert_allclose(p, 1 - softmax[:, 0] / softmax.sum(1), atol=1e-9)


def test_parts_are_the_difference_to_people():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(m, 1, (200, 3)) for m in (0, 2)])
    kinds = [HUMAN] * 200 + ["t1"] * 200
    made = Logistic.fit(x, kinds, [str(i) for i in range(400)], ["a", "b", "c"])
    kind, parts = made.parts(x[5])
    logits = made.logits(x[5:6])[0]
    fixed = made.intercept_K[1] - made.intercept_K[0]
    assert kind == "t1" and parts.sum() + fixed == pytest.approx(logits[1] - logits[0])


def test_a_stranger_number_counts_no_more_than_the_strangest_learned():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (200, 1))
    made = Logistic.fit(x, [HUMAN, "t1"] * 100, [str(i) for i in range(200)], ["a"])
    assert made.score(np.array([[1e9]])) == made.score(np.array([[1e12]]))


def test_an_ensemble_weighs_what_others_say(found):
    blend = found.split("blend").lesson(["reference-1M", "other"])
    rng = np.random.default_rng(0)
    good = blend.machine + rng.normal(0, 0.3, len(blend.readings))
    scores = {"good": good, "noise": rng.normal(0, 1, len(good))}
    made = Ensemble.fit(scores, blend.kinds, blend.documents)
    assert made.members == ("good", "noise")
    assert np.corrcoef(made.score(scores), good)[0, 1] > 0.9


def test_a_panel_is_kept_whole(panel, detectors, found):
    again = Panel.load(detectors)
    assert again.names == panel.names == ["ensemble", "stats", "trees", "curvature", "tfidf"]
    assert again.longest == panel.longest and again.scorers == panel.scorers
    assert again.facts == panel.facts
    test = found.split("test").where([True] * 20)
    one = [type(r)(r.ids, r.tokenizer, r.scores[:1]) for r in test.readings]
    for name, scores in panel.scores(one, panel.names).items():
        assert (again.scores(one, [name])[name] == scores).all()
        assert again.calibrations[name].table() == panel.calibrations[name].table()


def test_damage_is_told(detectors, tmp_path, panel):
    import json
    import shutil

    def broken(change):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(detectors, folder)
        change(folder)
        with pytest.raises(UserError) as error:
            Panel.load(folder)
        return str(error.value)

    def manifest(**changed):
        def change(folder):
            table = json.loads((folder / "gpt2lab.json").read_text())
            (folder / "gpt2lab.json").write_text(json.dumps(table | changed))

        return change

    assert "is not a folder of detectors" in broken(lambda f: (f / "gpt2lab.json").unlink())
    assert "is of another version" in broken(manifest(version=99))
    damages = (
        {"scorers": []}, {"detectors": ["magic"]}, {"detectors": []}, {"longest": "x"},
        {"longest": 49}, {"longest": 1e308}, {"files": 3}, {"facts": 3},
        {"facts": {"generators": 3}},
    )  # fmt: skip
    for damage in damages:
        assert "is damaged; train the detectors again" in broken(manifest(**damage))
    assert "does not exist" in broken(lambda f: (f / "stats" / "calibration.json").unlink())
    assert "stats.json is damaged" in broken(
        lambda f: (f / "stats" / "stats.json").write_text("[]")
    )
    assert "tfidf.safetensors" in broken(
        lambda f: (f / "tfidf" / "tfidf.safetensors").write_bytes(b"\0" * 64)
    )
    terms = detectors / "tfidf" / "terms.json"
    for change in ({"intercept": float("nan")}, {"intercept": 10**400}, {"terms": [["a", "a"]]}):
        damaged = json.dumps(json.loads(terms.read_text()) | change)
        assert "terms.json is damaged; train the detector again" in broken(
            lambda f, damaged=damaged: (f / "tfidf" / "terms.json").write_text(damaged)
        )
    other = json.dumps(json.loads(terms.read_text()) | {"intercept": 3.0})
    assert "terms.json is not what" in broken(
        lambda f: (f / "tfidf" / "terms.json").write_text(other)
    )
    assert "ensemble is damaged" in broken(manifest(detectors=["stats", "tfidf"]))


def test_other_weights_are_refused(panel, subject):
    other = type(subject)(GPT2(subject.model.config, seed=4).eval(), subject.tokenizer)
    with pytest.raises(UserError, match="reference-1M is another model than the detectors were"):
        panel.reader({"reference-1M": other})
    with pytest.raises(UserError, match="the detectors read with reference-1M; give that model"):
        panel.reader({"x": subject})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("stat",), "no detector 'stat'; there are stats"),
        (("binoculars",), "binoculars reads with two models; name a second one with --models"),
        (("stats", "stats"), "each once"),
        ((), "name one detector or more"),
        (("finetuned",), "name one with --backbone"),
    ],
)
def test_what_cannot_be_trained_is_refused(texts, subject, names, message):
    with pytest.raises(UserError, match=message):
        train(texts, Reader({"reference-1M": subject}), names)


def test_beginnings_are_learned_from_as_well(found):
    more = found.and_beginnings(0)
    n = len(found.readings)
    of = [s for s in found.samples if s.split in ("train", "blend")]
    assert more.samples[:n] == found.samples and len(more.samples) == n + len(of)
    whole = {id(s): r for s, r in zip(found.samples, found.readings, strict=True)}
    for sample, reading in zip(more.samples[n:], more.readings[n:], strict=True):
        longer = whole[id(sample)]
        assert reading.ids.tolist() == longer.ids[: len(reading)].tolist()
        assert 30 <= len(reading) <= len(longer)
    assert isinstance(more.split("train").lesson(["a", "b"]), Lesson)
