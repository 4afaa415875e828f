"""lm-eval's local-completions beside the same model in this process."""

import pytest

from serving.conftest import MODEL

pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install 'gpt2lab[lm-eval]'")

PAIRS = [
    ("The government of this country", " has been asked to consider the matter"),
    ("", "The old man looked at the door"),
    ("a\n\nb", "\n"),
    ("one two three four", " five six seven eight"),
    ("The end.", " \u20ac and \U0001f600"),
    ("word " * 300, " again" * 20),
    ("It is", " the"),
]


def asked(kind, all_args):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i) for i, args in enumerate(all_args)]


@pytest.fixture(scope="module")
def here():
    from gpt2lab.evaluation.lm_eval_adapter import GPT2LabLM

    return GPT2LabLM(str(MODEL))


@pytest.fixture(params=[1, 4])
def there(address, monkeypatch, request):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return LocalCompletionsAPI(
        base_url=f"{address}/v1/completions", model=MODEL.name, tokenizer_backend="remote",
        max_length=512, num_concurrent=request.param, batch_size=2,
    )  # fmt: skip


def test_log_likelihoods_are_those_of_this_process(here, there):
    (context, _), (likeliest,) = (
        PAIRS[0],
        here.generate_until(
            asked("generate_until", [(PAIRS[0][0], {"until": [], "max_gen_toks": 4})])
        ),
    )
    requests = asked("loglikelihood", [*PAIRS, (context, likeliest)])
    pairs = zip(
        here.loglikelihood(requests, disable_tqdm=True),
        there.loglikelihood(requests, disable_tqdm=True),
        strict=True,
    )
    greedy = set()
    for (p, is_greedy), (q, also) in pairs:
        assert p == pytest.approx(q, abs=1e-4) and is_greedy == also
        greedy.add(also)
    assert greedy == {True, False}


def test_texts_are_those_of_this_process(here, there):
    requests = asked(
        "generate_until",
        [(context, {"until": ["\n"], "max_gen_toks": 20}) for context, _ in PAIRS if context],
    )
    found = there.generate_until(requests, disable_tqdm=True)
    assert found == here.generate_until(requests, disable_tqdm=True) and any(found)
