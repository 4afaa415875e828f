"""Answers are kept and found again, for the very model and tokens they are of."""

import math
import sqlite3

import numpy as np
import pytest
import torch

from gpt2lab.errors import UserError
from gpt2lab.evaluation import subject as subjects
from gpt2lab.evaluation.store import Store, weights_digest
from gpt2lab.evaluation.subject import Subject
from gpt2lab.generation import Request, Sampling
from gpt2lab.model import GPT2, GPT2Config
from gpt2lab.model.quantize import convert

PAIRS = [("the cat", " sat on"), ("a dog", " by the mat"), ("the cat", " lay"), ("", "joined")]


@pytest.fixture
def counted(monkeypatch):
    """How many windows and prompts went through a model."""
    counts = {"windows": 0, "prompts": 0}
    score, generate = subjects.score, subjects.generate_each

    def counting_score(model, asked, **more):
        counts["windows"] += len(asked)
        return score(model, asked, **more)

    def counting_generate(model, tokenizer, requests):
        counts["prompts"] += len(requests)
        return generate(model, tokenizer, requests)

    monkeypatch.setattr(subjects, "score", counting_score)
    monkeypatch.setattr(subjects, "generate_each", counting_generate)
    return counts


def totals(subject):
    return [s.total for s in subject.endings("x", PAIRS, excluded=[3])]


def test_answers_are_computed_once(tmp_path, tiny, small_tokenizer, counted):
    path = tmp_path / "deep" / "answers.sqlite"
    with Store(path) as store:
        first = totals(Subject(tiny, small_tokenizer, store=store))
    assert counted["windows"] == 4
    with Store(path) as store:
        subject = Subject(tiny, small_tokenizer, store=store)
        assert totals(subject) == first
        assert counted["windows"] == 4
        subject.endings("x", PAIRS)  # other ids are excluded: another question
        assert counted["windows"] == 8
        subject.endings("x", [*PAIRS, *PAIRS, ("new", " one")], excluded=[3])
        assert counted["windows"] == 9
        other = GPT2(tiny.config, seed=99).eval()
        assert totals(Subject(other, small_tokenizer, store=store)) != first
        assert counted["windows"] == 13


def test_the_same_question_twice_is_asked_once(tiny, small_tokenizer, counted):
    subject = Subject(tiny, small_tokenizer)
    found = subject.endings("x", [PAIRS[0]] * 5)
    assert counted["windows"] == 1
    assert len({s.total for s in found}) == 1


def test_a_run_that_is_stopped_goes_on(tmp_path, tiny, small_tokenizer, monkeypatch, counted):
    """What was answered before ctrl-C is not asked again."""
    monkeypatch.setattr("gpt2lab.evaluation.likelihood.TOKENS", 8)
    pairs = [(f"the {n}", " cat") for n in range(40)]
    whole = subjects.score
    done = []

    def stopped(model, asked, **more):
        for answer in whole(model, asked, **more):
            if len(done) == 15:
                raise KeyboardInterrupt
            done.append(answer)
            yield answer

    monkeypatch.setattr(subjects, "score", stopped)
    path = tmp_path / "answers.sqlite"
    with pytest.raises(KeyboardInterrupt), Store(path) as store:
        Subject(tiny, small_tokenizer, store=store).endings("x", pairs)
    monkeypatch.setattr(subjects, "score", whole)
    before = counted["windows"]
    with Store(path) as store:
        found = Subject(tiny, small_tokenizer, store=store).endings("x", pairs)
    assert counted["windows"] - before == 40 - 15
    afresh = Subject(tiny, small_tokenizer).endings("x", pairs)
    assert [a.total for a in found] == pytest.approx([a.total for a in afresh], abs=1e-5)


def test_texts_that_were_written_are_kept(tmp_path, tiny, small_tokenizer, counted):
    asked = [
        Request(tuple(small_tokenizer.encode(t)), 6, Sampling(top_k=5), seed=n)
        for n, t in enumerate(["the cat", "a dog", "the cat"])
    ]
    path = tmp_path / "answers.sqlite"
    with Store(path) as store:
        first = Subject(tiny, small_tokenizer, store=store).write("x", asked)
    with Store(path) as store:
        again = Subject(tiny, small_tokenizer, store=store).write("x", asked)
    assert again == first
    assert counted["prompts"] == 3


def test_prompts_are_cut_on_the_left_to_fit(tiny_subject):
    long = tuple(range(10, 80))
    (cut,) = tiny_subject.write("x", [Request(long, 8, Sampling(temperature=0), seed=0)])
    fits = Request(long[-40:], 8, Sampling(temperature=0), seed=0)
    assert cut.ids == tiny_subject.write("x", [fits])[0].ids
    with pytest.raises(UserError, match="48 tokens to write leave no room"):
        tiny_subject.write("x", [Request((1,), 48)])


def test_a_file_that_is_no_store(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(UserError, match=r"answers.sqlite.*delete that file"):
        Store(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot use the answers"):
        Store(tmp_path / "file" / "answers.sqlite")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as table:
        table.execute("CREATE TABLE answers (x)")
    with pytest.raises(UserError, match="delete that file"), Store(other) as store:
        store.find([b"x"])


def test_digests_tell_models_apart(tiny):
    digest = weights_digest(tiny)
    assert digest == weights_digest(tiny)
    seen = {digest}
    for form in ("int8", "int4", "bfloat16"):
        seen.add(weights_digest(convert(GPT2(tiny.config, seed=1).eval(), form)))
    with torch.no_grad():
        tiny.h[1].mlp.c_fc.bias[3] = 1e-6
    seen.add(weights_digest(tiny))
    erf = GPT2Config(
        n_layer=2, n_head=4, n_embd=32, n_positions=48, vocab_size=300, activation="gelu_erf"
    )
    seen.add(weights_digest(GPT2(erf, seed=1)))
    assert len(seen) == 6


def test_tokens_of_a_long_text_are_those_of_the_whole(monkeypatch, tiny, small_tokenizer):
    text = "the cat  sat\n\n on a mat;   it's 12 34 é naïve  \n end " * 9
    whole = small_tokenizer.encode(text)
    for piece in (1, 2, 7, 30, 10_000):
        monkeypatch.setattr(subjects, "_PIECE", piece)
        assert Subject(tiny, small_tokenizer).ids(text).tolist() == whole
    assert Subject(tiny, small_tokenizer).ids("").tolist() == []


def test_what_cannot_be_scored_is_named(tiny_subject):
    with pytest.raises(UserError, match=r"x, text 2: the text to score is .* tokens long"):
        tiny_subject.endings("x", [("a", " b"), ("a", " zzzz qqqq" * 30)])
    with pytest.raises(UserError, match=r"x, text 1: there is no text to score"):
        tiny_subject.endings("x", [("a", "")])
    big = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=8, vocab_size=299))
    with pytest.raises(UserError, match="do not belong together"):
        Subject(big, tiny_subject.tokenizer)


def test_a_context_longer_than_the_model_reads(tiny_subject):
    """Its oldest tokens are cut; the score is that of what is left."""
    tokenizer, model = tiny_subject.tokenizer, tiny_subject.model
    (found,) = tiny_subject.endings("x", [("the cat sat " * 40, "mat")])
    ids = tokenizer.encode("the cat sat " * 40 + "mat")
    count = len(ids) - len(tokenizer.encode(("the cat sat " * 40).rstrip()))
    logits = model(torch.tensor([ids[-49:-1]]))[0, -count:].detach()
    logp = torch.log_softmax(logits.double(), -1)
    expected = -sum(float(logp[j, i]) for j, i in enumerate(ids[-count:]))
    assert found.total == pytest.approx(expected, abs=1e-4)
    assert len(found.nats) == count


def test_bits_per_byte_of_an_even_model(tiny, small_tokenizer):
    from gpt2lab.evaluation.documents import bits_per_byte

    with torch.no_grad():
        for p in tiny.parameters():
            p.zero_()
    texts = ["the cat sat", "naïve café on a mat " * 20, "dog"]
    tokens = sum(len(small_tokenizer.encode(t)) for t in texts)
    size = sum(len(t.encode()) for t in texts)
    found = bits_per_byte(tiny, small_tokenizer, texts)
    assert found.value == pytest.approx(tokens * math.log2(300) / size, rel=1e-5)
    assert found.n == 3
    assert found.low <= found.value <= found.high
    assert len(found.data) == 64


def test_rolling_keeps_texts_apart(tiny_subject):
    rng = np.random.default_rng(0)
    texts = [rng.integers(300, size=n).astype(np.int32) for n in (5, 130, 0, 48)]
    found = tiny_subject.rolling("x", texts, 24)
    assert [sum(len(w.nats) for w in one) for one in found] == [5, 130, 0, 48]
    alone = tiny_subject.rolling("x", [texts[1]], 24)[0]
    assert sum(w.total for w in found[1]) == pytest.approx(sum(w.total for w in alone), abs=1e-3)
