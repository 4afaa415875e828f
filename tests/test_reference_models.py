"""The trained models that tests and demonstrations run on."""

import importlib
import json
from pathlib import Path

import pytest
import torch
import zstandard
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt2lab.evaluation.documents import bits_per_byte
from gpt2lab.model import checkpoint

MODELS = Path(__file__).parent / "models"
SIZES = ("1M", "3M", "10M")

# Written for this test, so in nobody's training set.
TEXT = """\
The committee met on Tuesday to discuss the new library. Several members said that the old building
had served the town well, but that the roof could not be mended again. "We have been patient," the
chairman told them, "and we have very little money. If we wait until the spring, the cost will be
twice what it is today." After a long silence his sister stood up and asked to be heard. She had
worked there as a girl, she said, and nobody in the room knew the shelves as she did.
"""


@pytest.mark.parametrize("size", SIZES)
def test_opens_in_transformers_with_the_same_logits(size: str) -> None:
    folder = MODELS / f"reference-{size}"
    ours = checkpoint.load(folder)
    assert ours.tokenizer is not None
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([ours.tokenizer.encode(TEXT)])
    assert AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] == ids[0].tolist()
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_larger_models_are_better_and_all_have_learned() -> None:
    found = []
    for size in SIZES:
        made = checkpoint.load(MODELS / f"reference-{size}")
        assert made.tokenizer is not None
        found.append(bits_per_byte(made.model, made.tokenizer, [TEXT]).value)
    assert found == sorted(found, reverse=True)
    assert found[0] < 2.3, "xz needs more than 4 bits for a text this short, an untrained model 4.4"


def test_they_share_a_vocabulary_and_have_cards_and_fit_the_repository() -> None:
    folders = [MODELS / f"reference-{size}" for size in SIZES]
    digests = {checkpoint.load(f).tokenizer.digest for f in folders}  # type: ignore[union-attr]
    assert len(digests) == 1
    assert sum((f / checkpoint.WEIGHTS).stat().st_size for f in folders) < 30e6
    for folder in folders:
        card = (folder / "README.md").read_text("utf-8")
        assert "bits per byte" in card and "held out" in card
        assert "/" not in checkpoint.load(folder).metadata["recipe"]["data"]["path"]


@pytest.mark.parametrize(("form", "share"), [("bfloat16", 0.001), ("int8", 0.005), ("int4", 0.03)])
def test_what_a_number_format_costs(form: str, share: float) -> None:
    """Of the bits of a text of 500 characters, so roughly; LOG.md has the figures."""
    folder = MODELS / "reference-10M"
    wide, made = checkpoint.load(folder), checkpoint.load(folder, form)
    assert wide.tokenizer is not None
    bits = [bits_per_byte(m, wide.tokenizer, [TEXT]).value for m in (wide.model, made.model)]
    assert bits[1] == pytest.approx(bits[0], rel=share)
    # The weights are kept in bfloat16, so that format need not change anything.
    assert form == "bfloat16" or bits[1] != bits[0]


def test_its_card_is_written_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "recipes" / "reference")
    card = importlib.import_module("card")
    (tmp_path / "documents").mkdir()
    line = json.dumps({"text": TEXT}) + "\n"
    (tmp_path / "documents" / "val.jsonl.zst").write_bytes(zstandard.compress(line.encode()))
    (tmp_path / "corpus.json").write_text('{"splits": {"val": {"documents": 1}}}')
    monkeypatch.setattr(card, "SAMPLE_TOKENS", 8)
    bits = card.write_card("1M", MODELS / "reference-1M", tmp_path, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"| {bits} |" in text and "1 documents held out" in text
    written = checkpoint.load(tmp_path / "out").model
    for name, weight in checkpoint.load(MODELS / "reference-1M").model.state_dict().items():
        assert torch.equal(written.state_dict()[name], weight)
