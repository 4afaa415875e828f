"""Which ways to fine-tune fit, and which one is taken."""

from dataclasses import replace

import pytest

from gpt2lab import UserError
from gpt2lab.model import GPT2Config
from gpt2lab.training.fit import WAYS, applied, choices, choose
from gpt2lab.training.recipe import Finetune, Recipe, Train

GIB = 2**30


def draft(size, **train):
    settings = {"steps": 1, "batch_tokens": 8192, "micro_batch": 1, "dtype": "float32",
                "device": "cpu"}  # fmt: skip
    return Recipe(
        model=GPT2Config.named(size), finetune=Finetune("base"), train=Train(**settings | train)
    )


@pytest.mark.parametrize(
    ("size", "dtype"), [("124M", "float32"), ("1.5B", "bfloat16"), ("1.5B", "float16")]
)
def test_every_way_is_a_recipe_and_smaller_memory_takes_fewer_sequences(size, dtype):
    large, small = (choices(draft(size, dtype=dtype), limit * GIB) for limit in (400, 20))
    assert [c.way for c in large] == list(WAYS) and all(c.fits for c in large)
    for a, b in zip(large, small, strict=True):
        assert a.micro_batch == 8 and b.micro_batch <= a.micro_batch
        assert b.memory <= 20 * GIB or not b.fits
        applied(
            draft(size, dtype=dtype), b.way, b.micro_batch
        )  # or a rule of the recipe would refuse it


def test_what_saves_memory_does():
    by_way = {c.way: c.memory for c in choices(draft("1.5B"), 400 * GIB)}
    for way, memory in by_way.items():
        if not way.checkpoint_blocks and replace(way, checkpoint_blocks=True) in by_way:
            assert by_way[replace(way, checkpoint_blocks=True)] < memory
    full, lora = (
        next(m for w, m in by_way.items() if w.method == name) for name in ("full", "lora")
    )
    assert lora < full


def test_the_first_that_fits_is_taken():
    found = choices(draft("1.5B"), 400 * GIB)
    assert choose(found).way == WAYS[0]
    assert choose(found, method="lora").way.method == "lora"
    assert choose(found, optimizer="adafactor").way.optimizer == "adafactor"
    # 1.5B on a card of 6 GiB: changes to weights in bfloat16, activations computed twice.
    taken = choose(choices(draft("1.5B"), 6 * GIB)).way
    assert (taken.method, taken.weights, taken.checkpoint_blocks) == ("lora", "bfloat16", True)


def test_nothing_fits_or_nothing_is_so():
    with pytest.raises(UserError, match="takes at least .* GiB of memory in this way"):
        choose(choices(draft("1.5B"), GIB))
    with pytest.raises(UserError, match="no way to fine-tune has method top, weights bfloat16"):
        choose(choices(draft("124M"), 400 * GIB), method="top", weights="bfloat16")
