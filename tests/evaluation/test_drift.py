"""Recognition of a prompt in what follows, and the place where it ends."""

import numpy as np
import pytest

from gpt2lab.errors import UserError
from gpt2lab.evaluation.drift import Style, Topic, lost_after, recognised, until_lost

SUBJECTS = [
    "the harbour where ships unload grain and sailors mend nets",
    "the orchestra rehearses a symphony with violins and brass",
    "the surgeon closes the wound while nurses count instruments",
    "the glacier grinds granite and feeds meltwater into lakes",
]


def test_recognised_counts_the_prompts_that_are_less_alike():
    rng = np.random.default_rng(0)
    pieces, prompts = rng.normal(size=(2, 9, 5))
    prompts[3] = prompts[4]  # a tie for both
    naive = []
    for i in range(9):
        own = pieces[i] @ prompts[i]
        others = [pieces[i] @ prompts[j] for j in range(9) if j != i]
        naive.append(np.mean([1.0 if own > o else 0.5 if own == o else 0.0 for o in others]))
    assert recognised(pieces, prompts) == pytest.approx(naive)


def test_a_topic_is_recognised_by_its_words():
    said = [f"{s}, said the report, and nothing else was new" for s in SUBJECTS]
    view = Topic(SUBJECTS)
    assert recognised(view.vectors(said), view.vectors(SUBJECTS)).tolist() == [1, 1, 1, 1]
    # Words that nobody used are no topic: chance.
    lost = ["zebra umbrella"] * 4
    assert recognised(view.vectors(lost), view.vectors(SUBJECTS)).tolist() == [0.5] * 4


def test_it_favours_nobody():
    """One text goes on with some rare words of its prompt, the other with others."""
    prompts = [f"alpha{i} beta{i} went on and on" for i in range(12)]
    view = Topic(prompts)
    for word in ("alpha", "beta"):
        texts = [f"{word}{i} came {word}{i}" for i in range(12)]
        assert recognised(view.vectors(texts), view.vectors(prompts)).tolist() == [1.0] * 12


def test_nothing_to_tell_topics_by():
    with pytest.raises(UserError, match="no words that tell topics apart"):
        Topic(["and then it was", "so it is with them"])


def test_a_style_is_recognised_whatever_it_is_about():
    manners = [
        "Well! Who would have thought it? Not I! Is {} not splendid? Oh, it is!",
        "i like {} . it is ok . we go there . it is ok . we like it",
        "THE {} NOTICE: 12 ITEMS, 14 ITEMS, 19 ITEMS; SEE SECTION 4.",
        "Notwithstanding extraordinary circumstances, considerable deliberation about {} "
        "accompanied institutional reconsideration.",
    ]
    prompts = [m.format("harbour") for m in manners]
    texts = [m.format("violins") + " " + m.format("glaciers") for m in manners]
    view = Style(prompts)
    assert recognised(view.vectors(texts), view.vectors(prompts)).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("model", "human", "tokens"),
    [
        ([0.9, 0.8, 0.6, 0.55], [0.9, 0.9, 0.9, 0.9], 32),  # 0.075 of 0.4 from the third on
        ([0.9, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9], 64),  # never
        ([0.5, 0.5, 0.5, 0.5], [0.9, 0.8, 0.7, 0.6], 0),  # at once
        ([0.9, 0.55, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9], 64),  # it comes back
    ],
)
def test_lost_where_less_than_half_is_left_to_the_end(model, human, tokens):
    rows = [np.tile(np.array(values), (10, 1)) for values in (model, human)]
    assert float(lost_after(until_lost(*rows, 16).sum(0))) == tokens
    assert lost_after(np.stack([until_lost(*rows, 16).sum(0)] * 3)).tolist() == [tokens] * 3
