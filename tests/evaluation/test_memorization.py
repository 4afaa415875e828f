"""A model made to know some passages by heart gives those back, and no others."""

import hashlib

import numpy as np
import pytest
import torch

from evaluation.conftest import TINY
from gpt2lab.cli.main import main
from gpt2lab.corpus import build
from gpt2lab.corpus.document import Document
from gpt2lab.corpus.shards import Tokens, open_split
from gpt2lab.errors import UserError
from gpt2lab.evaluation import suite
from gpt2lab.evaluation.memorization import Setup, copies, of_shards, passages, sample
from gpt2lab.evaluation.subject import Subject
from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.model import GPT2, checkpoint

PREFIXES, SUFFIX = (8, 16), 10


@pytest.fixture(scope="module")
def shards(tmp_path_factory, small_tokenizer):
    """Documents whose every word tells the next; some are there six times, some held out."""
    rng = np.random.default_rng(0)
    letters = rng.permutation(8**4)[:400]
    words = ["".join("abcdefgh"[n >> shift & 7] for shift in (9, 6, 3, 0)) for n in letters]
    each = [" ".join(words[20 * n : 20 * n + 20]) for n in range(20)]
    texts = [t for n, t in enumerate(each) for _ in range(1 + 5 * (n % 3 == 0))]
    folder = tmp_path_factory.mktemp("memory") / "shards"
    build.shard([Document(t) for t in texts], small_tokenizer, folder, held_out=0.2)
    return folder


@pytest.fixture(scope="module")
def trained(shards, small_tokenizer, tmp_path_factory):
    """A tiny model after some hundred steps on nothing but those."""
    torch.manual_seed(0)
    model = GPT2(TINY, seed=1)
    tokens = open_split(shards, "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rng = np.random.default_rng(1)
    for _ in range(600):
        starts = rng.integers(len(tokens) - 41, size=64)
        ids = torch.tensor(np.stack([tokens.slice(s, 41) for s in starts]))
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    folder = tmp_path_factory.mktemp("memory") / "model"
    checkpoint.save(folder, model.eval(), small_tokenizer, {})
    return folder


def subject_of(folder):
    made = checkpoint.load(folder)
    return Subject(made.model, made.tokenizer)


def test_what_is_known_by_heart_is_given_back(trained, shards):
    subject = subject_of(trained)
    outcome = of_shards(subject, shards, Setup(PREFIXES, SUFFIX, 120))
    found = {s.name: s for s in outcome.scores}
    assert found["extracted[16]"].value > 50
    assert found["extracted[16]"].value > 5 * found["control[16]"].value
    assert found["extracted[16]"].value > found["extracted[8]"].value
    chance = [found[f"extracted[16, {n} draws]"].value for n in (1, 100, 10_000)]
    assert chance == sorted(chance) and chance[0] < chance[2]
    by_copies = {n: s for n, s in found.items() if "copies" in n}
    assert sum(len(s.sums) for s in by_copies.values()) == 120
    assert len(by_copies) > 1
    assert found["extracted[16]"].settings == {
        "suffix": SUFFIX, "training_passages": 120, "curve": "extracted", "of": "greedy",
        "along": "tokens given", "at": 16,
        "items": hashlib.sha256(passages_of(subject, shards).tobytes()).hexdigest(),
    }  # fmt: skip


def passages_of(subject, shards):
    tokens, end = open_split(shards, "train"), subject.tokenizer.end_of_text
    return passages(tokens, tokens, end, Setup(PREFIXES, SUFFIX, 120)).ids


def test_one_pass_tells_what_decoding_would_write(trained, shards):
    """Greedy decoding itself, and the probability of a sample by its tokens."""
    subject = subject_of(trained)
    tokens = open_split(shards, "train")
    setup = Setup((16,), SUFFIX, 40)
    asked = passages(tokens, tokens, subject.tokenizer.end_of_text, setup)
    outcome = of_shards(subject, shards, setup)
    found = {s.name: s for s in outcome.scores}
    requests = [
        Request(tuple(ids[:16].tolist()), SUFFIX, Sampling(temperature=0), ignore_end=True)
        for ids in asked.ids
    ]
    written = generate(subject.model, subject.tokenizer, requests)
    right = [w.ids == ids[16:].tolist() for w, ids in zip(written, asked.ids, strict=True)]
    assert found["extracted[16]"].sums[:, 0].astype(bool).tolist() == right
    chances = []
    for ids in asked.ids:
        logits = subject.model(torch.tensor(ids[None, :-1].astype(np.int64)))[0, -SUFFIX:].detach()
        logp = torch.log_softmax(logits.double(), -1)
        p = float(logp[torch.arange(SUFFIX), ids[-SUFFIX:].astype(np.int64)].sum().exp())
        chances.append(1 - (1 - p) ** 100)
    assert found["extracted[16, 100 draws]"].sums[:, 0] == pytest.approx(chances, abs=1e-4)


def test_copies_are_counted(monkeypatch):
    monkeypatch.setattr("gpt2lab.evaluation.memorization._BLOCK", 64)
    rng = np.random.default_rng(0)
    text = rng.integers(5, size=700)
    tokens = Tokens((text[:300].astype(np.uint16), text[300:].astype(np.uint16)), "")
    starts = [0, 5, 63, 64, 290, 300, 691]
    for length in (1, 3, 9):
        asked = np.stack([text[s : s + length] for s in starts]).astype(np.int32)
        asked[-1] = 7
        naive = [
            sum((text[i : i + length] == a).all() for i in range(700 - length + 1)) for a in asked
        ]
        assert copies(tokens, asked).tolist() == naive


def test_passages_do_not_cross_documents():
    text = np.tile(np.r_[[99], np.arange(30)], 40)
    found = sample(Tokens((text.astype(np.uint16),), ""), 12, 50, 0, 99)
    assert found.shape == (50, 12)
    assert not (found[:, 1:] == 99).any()
    with pytest.raises(UserError, match="has only 0 passages of 40 tokens within one document"):
        sample(Tokens((text.astype(np.uint16),), ""), 40, 5, 0, 99)


def test_from_the_command_line(trained, shards, tmp_path, capsys):
    arguments = [
        "evaluate", "memorization", str(trained), str(shards), "--prefixes", "8", "16", "--suffix",
        "10", "--samples", "30", "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "extracted, greedy, %" in capsys.readouterr().out
    assert suite.load(tmp_path / "out").find("control[8]").n == 30
    for more, words in (
        (["--prefixes", "45"], "do not fit the context of 48"),
        (["--samples", "0"], "must be at least 1"),
        (["--samples", "100000"], "ask for fewer --samples"),
    ):
        assert main([*arguments, *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["evaluate", "memorization", str(trained), str(tmp_path / "none")]) == 2
    assert main(["evaluate", "memorization", "tests/models/reference-1M", str(shards)]) == 2
    assert "another tokenizer" in capsys.readouterr().err
