"""`gpt2lab quickstart`: text, vocabulary, model, measurement, samples and report in one go."""

import time
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from gpt2lab.corpus import build, plaintext
from gpt2lab.corpus.document import Document
from gpt2lab.errors import UserError
from gpt2lab.evaluation.documents import bits_per_byte, digest
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.generation import Generation, Request, Sampling, generate
from gpt2lab.model import checkpoint
from gpt2lab.progress import console, step
from gpt2lab.quickstart import baselines, overlap
from gpt2lab.quickstart.report import write_report
from gpt2lab.quickstart.text import installed_documentation
from gpt2lab.settings import read_recipe
from gpt2lab.storage import require_writable_folder, write_json
from gpt2lab.tokenizer import Tokenizer, train
from gpt2lab.training import run as runs
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.recipe import Recipe
from gpt2lab.training.samples import Samples

# Held-out documents more than a quarter of whose word 8-grams stand in the training text measure
# memory, not language: documentation repeats itself. They are left out of the measurement.
MOST_OVERLAP = 0.25
SECONDS_BETWEEN_SAMPLES = 45.0
SAMPLES = 3
SAMPLE_TOKENS = 160


@dataclass(frozen=True)
class Text:
    """The text of a run, parted by document."""

    name: str
    train: list[str]
    held_out: list[str]
    """All held-out documents."""
    measured: list[str]
    """Those without much overlap with the training text."""
    digest: str


@dataclass
class Result:
    """What quickstart found; `as_table` is what `--json` prints."""

    text: Text
    recipe: Recipe
    model_bits: Measurement
    baselines: dict[str, float]
    samples: list[Generation]
    metrics: list[dict[str, Any]]
    metadata: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def as_table(self, out: Path) -> dict[str, Any]:
        """Flat results."""
        return {
            "model": str(out / "model"),
            "report": str(out / "report.html"),
            "parameters": self.recipe.model.n_params,
            "steps": self.metrics[-1]["step"],
            "tokens_seen": self.metadata["tokens"],
            "bits_per_byte": asdict(self.model_bits),
            "baselines_bits_per_byte": self.baselines,
            "text_digest": self.text.digest,
            "seconds": self.seconds,
            "samples": [sample.text for sample in self.samples],
        }


def default_recipe() -> Recipe:
    """The recipe that ships with gpt2lab: recipes/quickstart.toml."""
    packaged = resources.files("gpt2lab") / "recipes" / "quickstart.toml"
    source = Path(__file__).parents[3] / "recipes" / "quickstart.toml"
    return read_recipe(source if source.exists() else Path(str(packaged)), Recipe)


def quickstart(
    out: Path, *, recipe: Recipe, text: Path | None = None, overwrite: bool = False
) -> Result:
    """Train and measure a small GPT-2; leave model, metrics and report.html in `out`.

    text: the user's own file or folder; the installed packages' documentation if not given.
    Raises UserError if the text is too short to train on or `out` exists.
    """
    for name in ("model", "data", "checkpoints", "recipe.toml"):
        if (out / name).exists() and not overwrite:
            raise UserError(
                f"{out} holds {name} already; pass --overwrite to replace it or choose another"
            )
    require_writable_folder(out)
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name] = round(time.monotonic() - clock, 1)
        clock = time.monotonic()

    shown = console()
    parts = _read(text, recipe)
    megabytes = sum(len(t.encode()) for t in parts.train) / 1e6
    shown.print(
        f"{len(parts.train):,} documents ({megabytes:.1f} MB) to train on, {len(parts.held_out):,} "
        f"held out, {len(parts.measured):,} of them with little overlap"
    )
    lap("text")
    with step(f"learning a vocabulary of {recipe.model.vocab_size:,}"):
        tokenizer = train(parts.train, recipe.model.vocab_size, exact=False)
    lap("vocabulary")
    documents = [Document(t) for t in [*parts.train, *parts.held_out]]
    with step("tokenising") as bar:
        build.shard(
            documents,
            tokenizer,
            out / "data",
            held_out=recipe.data.held_out,
            overwrite=True,
            on_progress=bar.update,
        )
    lap("tokenising")
    recipe = replace(
        recipe,
        data=replace(recipe.data, path=str(out / "data")),
        model=replace(recipe.model, vocab_size=tokenizer.size),
    )
    sample = Samples(
        lambda line: shown.print(line, markup=False),
        seconds=SECONDS_BETWEEN_SAMPLES,
    )
    model_folder = runs.start(recipe, out, overwrite=True, callbacks=[sample])
    if model_folder is None:
        raise KeyboardInterrupt
    lap("training")
    made = checkpoint.load(model_folder)
    with step("measuring on held-out text") as bar:
        bits = bits_per_byte(made.model, tokenizer, parts.measured, on_progress=bar.update)
    lap("measuring")
    with step("counting 5-grams and compressing, to compare"):
        compared = _baselines(parts, tokenizer)
    lap("baselines")
    with step("writing samples"):
        sampling = Sampling(temperature=0.8, top_k=40)
        requests = [
            Request((), max_tokens=SAMPLE_TOKENS, sampling=sampling, seed=seed)
            for seed in range(SAMPLES)
        ]
        samples = generate(made.model, tokenizer, requests)
    lap("samples")
    result = Result(
        parts, recipe, bits, compared, samples, read_metrics(out), made.metadata, seconds
    )
    write_json(out / "result.json", result.as_table(out))
    write_report(result, out / "report.html")
    return result


def _read(text: Path | None, recipe: Recipe) -> Text:
    if text is None:
        with step("reading the documentation of installed packages") as bar:
            documents = installed_documentation(bar.update)
        name = "documentation of the installed packages"
    else:
        documents, name = plaintext.read_documents(text), text.name
    train_texts: list[str] = []
    held_out: list[str] = []
    for document in {d.text: d for d in documents}.values():
        part = held_out if document.held_out(recipe.data.held_out) else train_texts
        part.append(document.text)
    if not train_texts or not held_out:
        raise UserError(
            f"{text} is too short: {len(documents)} passages leave nothing to hold out; give at "
            "least some 100 KB of text"
        )
    measured = overlap.without_overlap(held_out, train_texts, MOST_OVERLAP) or held_out
    return Text(name, train_texts, held_out, measured, digest(measured))


def _baselines(text: Text, tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of xz and of two 5-gram models, on the documents the model is measured on."""
    size = sum(len(t.encode()) for t in text.measured)
    end = tokenizer.end_of_text

    def as_bytes(part: list[str]) -> list[list[int]]:
        return [[256, *t.encode()] for t in part]

    def as_tokens(part: list[str]) -> list[list[int]]:
        return [[end, *ids] for ids in tokenizer.encode_batch(part)]

    bits = {
        f"5-gram of {name}": baselines.ngram_bits(form(text.train), form(text.measured), vocab)
        for name, form, vocab in (("bytes", as_bytes, 257), ("tokens", as_tokens, tokenizer.size))
    }
    return {"xz -9": baselines.xz_bits_per_byte(text.measured)} | {
        name: value / size for name, value in bits.items()
    }
