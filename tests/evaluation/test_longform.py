"""Long texts: what is measured of a model, of a copy of people's texts, and of the wrong texts."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gpt2lab
from gpt2lab.cli.main import main
from gpt2lab.corpus import build
from gpt2lab.corpus.document import Document
from gpt2lab.errors import UserError
from gpt2lab.evaluation import longform as longform_module
from gpt2lab.evaluation import suite
from gpt2lab.evaluation.longform import HUMAN, MODEL, Setup, Study, beginnings, longform
from gpt2lab.evaluation.store import Store
from gpt2lab.evaluation.subject import Subject

ONE = Path(__file__).parents[1] / "models" / "reference-1M"
SMALL = Setup(prompt=32, tokens=64, window=16, samples=20)
WORDS = (
    "harbour ship sailor net anchor tide gull rope", "violin concert brass melody stage choir song",
    "surgeon nurse wound clinic patient bandage ward", "glacier granite lake summit snow valley",
    "engine piston wheel brake garage fuel road", "judge court lawyer trial verdict jury law",
    "bread oven flour butter kitchen recipe salt", "planet star orbit comet telescope moon sky",
)  # fmt: skip


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Each of one of eight topics, with words of its own kind throughout."""
    rng = random.Random(0)
    lines = []
    for n in range(24):
        words = WORDS[n % 8].split()
        said = [
            f"The {rng.choice(words)} was near the {rng.choice(words)}, and {rng.choice(words)} "
            f"the {rng.choice(words)} came to it."
            for _ in range(30)
        ]
        lines.append(json.dumps({"text": " ".join(said)}) + "\n")
    path = tmp_path_factory.mktemp("longform") / "documents.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def one():
    made = gpt2lab.load(str(ONE))
    return Subject(made.model, made.tokenizer)


@pytest.fixture(scope="module")
def outcome(one, documents):
    return longform(one, documents, SMALL)


def named(outcome):
    return {s.name: s for s in outcome.scores}


def test_every_number_of_the_model_has_one_of_people_beside_it(outcome):
    found = named(outcome)
    for name in found:
        if "lost after" not in name:
            assert f", {HUMAN}" in name or any(
                other in found for other in (f"{name}, human", name.replace(" [", ", human ["))
            ), name
    others = {m.name: m for m in outcome.others}
    assert {"Zipf's s", "Zipf's s, human", "distinct-2"} <= set(others)
    assert "MAUVE" not in others, "20 texts are too few"
    for m in (*others.values(), *(s.measurement("") for s in outcome.scores)):
        told = {k: m.settings[k] for k in ("prompt", "tokens", "window", "samples", "seed")}
        assert told == {"prompt": 32, "tokens": 64, "window": 16, "samples": 20, "seed": 0}
        assert m.settings["sampling"]["top_k"] == 40 and m.settings["of"] in (MODEL, HUMAN)
    assert len(outcome.items) == 20 and set(outcome.items[0]) == {"prompt", "human", "model"}
    assert found["topic kept, human"].value > 90 > found["topic kept"].value
    assert 0 <= found["topic lost after"].value < 64
    assert found["surprisal"].value < 10 and found["rep-1"].value > 0


def test_likelihood_is_the_models(one, outcome):
    item = outcome.items[3]
    prompt, human = (one.ids(item[k]) for k in ("prompt", "human"))
    ids = torch.tensor(np.concatenate([prompt, human])[None].astype(np.int64))
    with torch.inference_mode():
        log_p = one.model(ids[:, :-1])[0, -64:].double().log_softmax(-1)
    nats = -log_p[torch.arange(64), ids[0, -64:]]
    found = named(outcome)
    assert found["surprisal, human"].sums[3, 0] == pytest.approx(float(nats.mean()), abs=1e-4)
    last = found["surprisal, human [49-64]"].sums[3, 0]
    assert last == pytest.approx(float(nats[48:].mean()), abs=1e-4)


def test_people_beside_themselves_differ_in_nothing(one, documents, monkeypatch):
    prompts, human = beginnings(one, texts(documents), SMALL)
    monkeypatch.setattr(Study, "_written", lambda self: human)
    monkeypatch.setattr(longform_module, "FEWEST_FOR_MAUVE", 20)
    outcome = Study(one, one, SMALL, prompts, human).outcome("copy")
    others = {m.name: m for m in outcome.others}
    assert others["MAUVE"].value == pytest.approx(1) and others["MAUVE, human halves"].n == 10
    assert others["distinct-2"].value == others["distinct-2, human"].value
    found = named(outcome)
    for name, score in found.items():
        other = found.get(f"{name}, human")
        if other:
            assert score.value == pytest.approx(other.value), name
    assert found["topic lost after"].value == found["style lost after"].value == 64


def test_texts_of_other_documents_are_lost_at_once(one, documents, monkeypatch):
    prompts, human = beginnings(one, texts(documents), SMALL)
    # Of 8 topics in turn; one further on is always another.
    order = np.argsort([np.argmax([p.count(w.split()[0]) for w in WORDS]) for p in
                        (one.tokenizer.decode(ids.tolist()) for ids in prompts)])  # fmt: skip
    wrong = {int(a): human[b] for a, b in zip(order, np.roll(order, 10), strict=True)}
    monkeypatch.setattr(Study, "_written", lambda self: [wrong[i] for i in range(len(human))])
    found = named(Study(one, one, SMALL, prompts, human).outcome("wrong"))
    assert found["topic kept"].value < 60
    assert found["topic lost after"].value == 0


def texts(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_what_was_written_is_kept_and_found_again(one, documents, tmp_path, monkeypatch):
    with Store(tmp_path / "answers") as store:
        kept = Subject(one.model, one.tokenizer, store=store)
        first = longform(kept, documents, SMALL)
        monkeypatch.setattr("gpt2lab.evaluation.subject.generate_each", refuse)
        monkeypatch.setattr("gpt2lab.evaluation.subject.score", refuse)
        monkeypatch.setattr("gpt2lab.evaluation.subject.features", refuse)
        second = longform(kept, documents, SMALL)
    assert [i[MODEL] for i in first.items] == [i[MODEL] for i in second.items]
    assert [s.value for s in first.scores] == [s.value for s in second.scores]


def refuse(model, *wanted, **more):
    assert not any(wanted[-1]), "asked again"
    return iter(())


def test_the_texts_depend_on_the_seed_alone(one, documents, outcome):
    again = longform(one, documents, SMALL)
    assert again.items == outcome.items
    other = longform(one, documents, Setup(prompt=32, tokens=64, window=16, samples=20, seed=1))
    assert other.items != outcome.items


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"samples": 25}, "24 documents have the 96 tokens of prompt and text, 25 are wanted"),
        ({"samples": 5}, "samples is 5; it must be at least 20"),
        ({"tokens": 70}, "it must be a multiple of the window of 16"),
        ({"tokens": 640}, "do not fit the model's context of 512"),
        ({"prompt": 0}, "prompt is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said(one, documents, changed, words):
    given = {"prompt": 32, "tokens": 64, "window": 16, "samples": 20, **changed}
    with pytest.raises(UserError, match=words):
        longform(one, documents, Setup(**given))


def test_from_the_command_line(documents, tmp_path, capsys):
    shards = tmp_path / "shards"
    tokenizer = gpt2lab.load(str(ONE)).tokenizer
    held_out = [Document(t) for t in texts(documents)]
    build.shard(held_out * 2, tokenizer, shards, held_out=0.5)
    tokenizer.save(shards / "tokenizer")
    arguments = [
        "evaluate", "longform", str(ONE), "--prompt", "32", "--tokens", "64", "--window", "16",
        "--samples", "20", "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    out = tmp_path / "out"
    assert main([*arguments, str(documents), "--out", str(out), "--judge", str(ONE)]) == 0
    said = capsys.readouterr().out
    assert "tokens after the prompt" in said and "topic lost after" in said
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "| topic kept, human, % |" in (out / "results.md").read_text()
    assert suite.load(out).scores["topic lost after"].form.__name__ == "lost_after"
    assert main(["evaluate", "compare", str(out), str(out)]) == 0
    said = capsys.readouterr().out
    assert "rep-1" in said and "human" not in said
    # Another setup takes the place of the first, and is not compared with it.
    again = tmp_path / "again"
    shutil.copytree(out, again)
    assert main([*arguments, str(documents), "--out", str(again), "--window", "32"]) == 0
    names = {m.name for m in suite.load(again).measurements}
    assert "topic kept [1-32]" in names and "topic kept [1-16]" not in names
    assert main([*arguments, str(documents), "--out", str(again), "--tokens", "32", "--prompt",
                 "64"]) == 0  # fmt: skip
    assert main(["evaluate", "compare", str(out), str(again)]) == 2
    assert "no measurement of the same items" in capsys.readouterr().err
    assert main(["evaluate", "plot", str(tmp_path / "p.png"), str(out), "--curves"]) == 0
    assert main(["evaluate", "plot", str(tmp_path / "p.png"), str(out)]) == 2
    assert "none of the paper's tasks was measured" in capsys.readouterr().err
    assert main([*arguments, str(shards), "--samples", "1000"]) == 2
    assert "documents have the 96 tokens" in capsys.readouterr().err
    assert main([*arguments, str(shards), "--seed", "-1"]) == 2
    assert "seed is -1; it must be at least 0" in capsys.readouterr().err
    for val in shards.glob("val*"):
        val.unlink()
    index = json.loads((shards / "index.json").read_text())
    (shards / "index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "val"}))
    assert main([*arguments, str(shards)]) == 2
    assert "have no split 'val'" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "nothing")]) == 2
