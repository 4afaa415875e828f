"""Fine-tuning in one call: read texts, choose what fits, train, keep the best.

A run is made of a recipe like any other; whatever is chosen here is written down in it.
"""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch

from gpt2lab.corpus.shards import open_split
from gpt2lab.doctor import fastest_dtype, named_or_best_device
from gpt2lab.errors import UserError
from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.model import checkpoint
from gpt2lab.model.config import SIZES, GPT2Config
from gpt2lab.progress import console, step
from gpt2lab.settings import from_table
from gpt2lab.storage import no_empty_folders, read_json
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.hub import PUBLISHED
from gpt2lab.training import folder, saved
from gpt2lab.training import run as runs
from gpt2lab.training.examples import Documents, Reading, read_examples
from gpt2lab.training.fit import Choice, Name, applied, choices, choose, room
from gpt2lab.training.lora import Shape
from gpt2lab.training.prepared import REPORT, Read, learned, prepare
from gpt2lab.training.recipe import Data, Dtype, Every, Finetune, Method, Optimizer, Recipe, Train
from gpt2lab.training.records import PLAIN, TOKENS, Example
from gpt2lab.training.result import ADAPTER, MODEL
from gpt2lab.training.settings import Settings, Texts
from gpt2lab.training.start import starting_shape

# Peak rates: of Adam's kind, and adafactor's, which is relative to the size of a weight.
_RATES = {"full": 5e-5, "lora": 2e-4, "top": 1e-4, "bias": 1e-3}
_RELATIVE = 10.0
# Validations in a run.
_VALIDATIONS = 20
# Training text is at least so many sequences, lest it be seen in one place only.
_LEAST_SEQUENCES = 16
_PROMPTS, _PROMPT_TOKENS = 3, 16
# Held-out tokens among whose texts their beginnings are found.
_LOOKED_AT = 1 << 20
_MOST_EPOCHS = 1000
# GPT-2's vocabulary has about four characters of English a token, one of Russian, half of Chinese.
_FEW_CHARACTERS = 1.4


@dataclass(frozen=True)
class Finetuned:
    """A run of fine-tuning."""

    run: Path
    steps: int
    model: Path | None
    """Folder of the finished model; None if the run was stopped and can be resumed."""
    adapter: Path | None
    """Folder of LoRA's changes alone."""
    perplexity_before: float | None
    """Of held-out text, per token, under the model as it was."""
    perplexity: float | None
    """The same under the best model of the run."""

    def write(self, prompt: str = "", max_tokens: int = 100, seed: int = 0) -> str:
        """What the finished model writes after a prompt; UserError if there is none yet."""
        if self.model is None:
            raise UserError(f"the run in {self.run} was stopped; resume it before it can write")
        made = checkpoint.load(self.model)
        if made.tokenizer is None:
            raise UserError(f"{self.model} has lost its tokenizer; copy that of the base there")
        request = Request(
            tuple(made.tokenizer.encode(prompt, specials=True)), max_tokens,
            Sampling(0.8, top_k=40), seed,
        )  # fmt: skip
        return generate(made.model, made.tokenizer, [request])[0].text


def finetune(
    model: str | Path,
    texts: str | Path,
    out: str | Path = "runs/finetune",
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    **more: Any,
) -> Finetuned:
    """Fine-tune a model on texts; the run, and the model in it, are left in the folder `out`.

    model: a checkpoint folder, a published size such as gpt2-xl, or hf:owner/name.
    texts: a file or folder of .txt, .csv, .tsv, .jsonl, .json or Parquet, compressed or not.
    more: fields of `Settings` (or of its `Texts`), as in `finetune("gpt2", "mine.txt", steps=200)`.
    Raises UserError naming the file, row or setting that stands in the way.
    """
    settings = _with(settings or Settings(), more)
    model, texts, run = str(model), Path(texts), Path(out)
    if not texts.exists():
        raise UserError(f"{texts} does not exist; check the path")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("finetune works on one device; start it without torchrun")
    with no_empty_folders(run), ExitStack() as stack:
        runs.take(run, stack)
        # Before hours are spent on reading: a folder in use, no room, what cannot be.
        shards = _place(run, overwrite=overwrite)
        base = checkpoint.folder_of(model)
        if overwrite and base.resolve().is_relative_to(run.resolve()):
            raise UserError(f"{model} lies in {run}, which is to be replaced; choose another --out")
        shape = checkpoint.from_hf_config(base / "config.json")
        draft = _draft(model, shape, settings)
        starting_shape(applied(draft, _choose(draft, settings).way, 1))
        try:
            masked, tokenizer = _prepare(base, texts, shards, settings)
            recipe = _recipe(model, shape, tokenizer, shards, settings, masked=masked)
            made = runs.start(recipe, run, overwrite=overwrite, held=True)
        except BaseException:
            if not _is_of(run, shards):
                shutil.rmtree(shards, ignore_errors=True)
            raise
    return outcome(run, made)


def outcome(run: Path, made: Path | None) -> Finetuned:
    """What a run of fine-tuning has come to; made: as `start` and `resume` return it."""
    last = saved.list_checkpoints(run)[-1]
    facts = read_json(last / checkpoint.METADATA)
    adapter = run / ADAPTER
    return Finetuned(
        run,
        int(facts["step"]),
        made and run / MODEL,
        adapter if made and adapter.exists() else None,
        _perplexity(facts.get("validation_loss_before")),
        _perplexity(facts.get("best_validation_loss")),
    )


def plan(model: str, settings: Settings) -> tuple[list[Choice], Choice | None, int]:
    """Every way to fine-tune a model, the one that would be taken, and the bytes there are.

    Published sizes are not fetched for it.
    """
    shape = _shape(model)
    draft = _draft(model, shape, settings)
    limit = room(torch.device(draft.train.device or "cpu"))
    found = choices(draft, limit)
    try:
        taken = choose(found, **_asked(settings))
    except UserError:
        taken = None
    return found, taken, limit


def _with(settings: Settings, more: dict[str, Any]) -> Settings:
    """Settings with those that were given by name, of the right types."""
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in more.items()}
    texts = {name: plain.pop(name) for name in list(plain) if name in Texts.__annotations__}
    given = from_table(Settings, plain | {"texts": texts}, where="finetune")
    changed = {name: getattr(given.texts, name) for name in texts}
    return replace(
        settings,
        texts=replace(settings.texts, **changed),
        **{name: getattr(given, name) for name in plain},
    )


def _place(run: Path, *, overwrite: bool) -> Path:
    """Where the shards go: beside those of an older run, which may have to be brought back."""
    shards = run / "data"
    folder.bring_back(run, (str(shards),))
    folder.require_room(run, (str(shards),), overwrite=overwrite)
    if folder.recipe_file(run).exists():
        return next(p for n in range(2, 1000) if not (p := run / f"data-{n}").exists())
    if shards.exists() and not (shards / REPORT).exists():  # not left by a call that was killed
        raise UserError(f"{shards} is there, and of no run; move it away or choose another --out")
    return shards


def _is_of(run: Path, shards: Path) -> bool:
    """Whether the folder's run is one on these shards."""
    return (run / folder.RECIPE).exists() and runs.saved_recipe(run).data.path == str(shards)


def _shape(model: str) -> GPT2Config:
    repository = None if Path(model).exists() else PUBLISHED.get(model)
    for size in SIZES:
        if repository is not None and PUBLISHED[size] == repository:
            return GPT2Config.named(size)
    return checkpoint.from_hf_config(checkpoint.folder_of(model) / "config.json")


def _draft(model: str, shape: GPT2Config, settings: Settings, longest: int | None = None) -> Recipe:
    """A recipe that says all but how the memory is spent.

    longest: tokens a sequence may have where the texts are short and nothing else is asked for.
    """
    context = settings.context
    if context is None:
        context = min(shape.n_positions, longest or shape.n_positions)
    device = named_or_best_device(settings.device)
    lora = Shape(settings.rank, settings.alpha, settings.lora_dropout)
    dtype = cast(Dtype, fastest_dtype(torch.device(device)))
    if settings.batch < 1:
        raise UserError(f"batch is {settings.batch}; it must be at least 1")
    for prompt in settings.prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UserError(f"the prompt {prompt!a} is not text; write it in UTF-8") from None
    if not 0 < settings.epochs <= _MOST_EPOCHS:
        raise UserError(f"epochs is {settings.epochs}; it must be above 0, at most {_MOST_EPOCHS}")
    if not 0 < context <= shape.n_positions:
        raise UserError(f"context is {context}; the model takes 1 to {shape.n_positions} tokens")
    given = settings.steps is not None or settings.minutes is not None
    every = settings.evaluate or 1
    return Recipe(
        model=replace(shape, dropout=settings.dropout),
        finetune=Finetune(model, "full", settings.layers, lora),
        optimizer=Optimizer(
            learning_rate=_rate(settings, "full"),
            weight_decay=0.01, beta2=0.999, warmup=0.03, final=0.0,
        ),
        train=Train(
            steps=settings.steps if given else 1, minutes=settings.minutes,
            batch_tokens=settings.batch * context, context=context, micro_batch=1, dtype=dtype,
            device=device, seed=settings.seed, patience=settings.patience, result="best",
        ),
        every=Every(
            evaluate=every, save=every, sample=settings.sample or 0, prompts=settings.prompts
        ),
    )  # fmt: skip


def _rate(settings: Settings, method: Method, optimizer: Name = "adamw") -> float:
    if settings.learning_rate is not None:
        return settings.learning_rate
    return _RATES[method] * (_RELATIVE if optimizer == "adafactor" else 1.0)


def _asked(settings: Settings) -> dict[str, Any]:
    names = ("method", "optimizer", "weights", "checkpoint_blocks")
    asked = {name: getattr(settings, name) for name in names}
    if settings.texts.chat == "tokens":
        if asked["method"] not in (None, "full"):
            raise UserError(
                f"--chat tokens adds to the vocabulary, which --method {asked['method']} leaves "
                "as it is; take --method full, or --chat text"
            )
        asked["method"] = "full"
    return asked


def _choose(draft: Recipe, settings: Settings) -> Choice:
    limit = room(torch.device(draft.train.device or "cpu"))
    return choose(choices(draft, limit), **_asked(settings))


def _prepare(base: Path, texts: Path, shards: Path, settings: Settings) -> tuple[bool, Tokenizer]:
    """Write shards; return whether some tokens are only read, and the tokenizer."""
    how = settings.texts
    form = TOKENS if how.chat == "tokens" else PLAIN

    def reading(path: Path) -> Read:
        documents: Documents = "blank-lines" if how.blank_lines else "auto"

        def read(found: Reading) -> Iterator[Example]:
            return read_examples(
                path, found, documents=documents, column=how.column, encoding=how.encoding,
                form=form,
            )  # fmt: skip

        return read

    for path in how.check:
        if not path.exists():
            raise UserError(f"check: {path} does not exist; check the path")
    report = prepare(
        reading(texts), Tokenizer.load(base), shards,
        form=form, held_out=how.held_out, step=step, overwrite=True,
        others={str(path): reading(path) for path in how.check},
    )  # fmt: skip
    _tell(report, shards)
    return report["prompts"], Tokenizer.load(shards / "tokenizer")


def _tell(report: dict[str, Any], shards: Path) -> None:
    """A few lines about what was read; all of it is in report.json."""
    lines = [
        f"{report['examples']['train']:,} texts to learn from, {report['examples']['val']:,} held "
        f"out; {report['learned_tokens']['train']:,} tokens to learn"
    ]
    if report["rejected"]:
        lines.append(f"{report['rejected']:,} rows left out, of them:")
        lines += [f"  {row}" for row in report["rejected_rows"][:3]]
    lines += [f"{file} is taken to be {name}" for file, name in report["guessed_encodings"].items()]
    if report["characters_per_token"] < _FEW_CHARACTERS:
        lines.append(
            f"the vocabulary takes a token for every {report['characters_per_token']:.1f} "
            "characters: it was made for another language or script, so expect slow learning"
        )
    near = report["near_duplicates"]
    if near and near["found"]:
        lines.append(f"{near['found']:,} texts are nearly the same as one before them")
    for name, count in report["rejected_of_others"].items():
        lines.append(f"{count:,} rows of {name} cannot be used, and are not looked for")
    if report["skipped_files"]:
        shown = ", ".join(report["skipped_files"][:3])
        lines.append(f"{len(report['skipped_files']):,} files of other kinds are left out: {shown}")
    for name, found in report["overlap"].items():
        lines.append(
            f"{name}: {100 * found['share']:.1f} % of its word 8-grams, and {found['known']:,} of "
            f"its {found['texts']:,} texts, are among those to learn from"
        )
    for line in [*lines, f"see {shards / 'report.json'}"]:
        console().print(line, markup=False)


def _recipe(
    model: str,
    shape: GPT2Config,
    tokenizer: Tokenizer,
    shards: Path,
    settings: Settings,
    *,
    masked: bool,
) -> Recipe:
    """Everything that was left open, decided."""
    tokens, held_out = len(open_split(shards, "train")), len(open_split(shards, "val"))
    longest = max(8, min(tokens // _LEAST_SEQUENCES, held_out - 1))
    draft = _draft(model, shape, settings, longest)
    choice = _choose(draft, settings)
    way = choice.way
    recipe = applied(draft, way, choice.micro_batch)
    per_epoch = max(1, (tokens - 1) // recipe.context - 1)
    steps = settings.steps
    if steps is None and settings.minutes is None:
        steps = max(1, math.ceil(settings.epochs * per_epoch / settings.batch))
    every = settings.evaluate or max(1, (steps or 20 * _VALIDATIONS) // _VALIDATIONS)
    more = tokenizer.size > shape.vocab_size
    return replace(
        recipe,
        model=replace(recipe.model, vocab_size=max(shape.vocab_size, tokenizer.size)),
        finetune=replace(recipe.finetune, vocab_size=tokenizer.size if more else None),
        data=Data(
            path=str(shards),
            separate_documents=masked if settings.separate_documents is None
            else settings.separate_documents,
        ),
        optimizer=replace(
            recipe.optimizer, learning_rate=_rate(settings, way.method, way.optimizer)
        ),
        train=replace(recipe.train, steps=steps),
        every=replace(
            recipe.every, evaluate=every, save=every, windows=_windows(steps, settings.batch),
            sample=_sample_each(steps) if settings.sample is None else settings.sample,
            prompts=settings.prompts or _beginnings(shards, tokenizer),
        ),
    )  # fmt: skip


def _sample_each(steps: int | None) -> int:
    return min(100, max(1, (steps or 1000) // 10))


def _windows(steps: int | None, batch: int) -> int:
    """Validation windows, so few that all validations take about a tenth of the run's time."""
    sequences = (steps or 1000) * batch
    return min(128, max(8, 3 * sequences // (10 * _VALIDATIONS)))


def _beginnings(shards: Path, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Prompts of held-out texts, or their first words."""
    tokens = open_split(shards, "val")
    ids = tokens.slice(0, min(len(tokens), _LOOKED_AT))
    flags = open_split(shards, learned("val")).slice(0, len(ids))
    starts = (ids == tokenizer.end_of_text).nonzero()[0] + 1
    found: list[str] = []
    for start, end in pairwise((*starts.tolist(), len(ids) + 1)):
        text, own = ids[start : end - 1], flags[start : end - 1]
        given = int(own.argmax()) if own.any() else 0
        shown = tokenizer.decode(text[: given or _PROMPT_TOKENS])
        if not given and len(shown.split()) > 1:  # of plain text, whole words
            shown = shown[: len(shown.rstrip()) - len(shown.split()[-1])].rstrip()
        if shown.strip():
            found.append(shown)
        if len(found) == _PROMPTS:
            break
    return tuple(found)


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None else math.exp(min(loss, 700.0))
