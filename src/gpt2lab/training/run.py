"""A run from recipe to finished model: prepare the data, start or resume, train."""

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gpt2lab import __version__
from gpt2lab.corpus import build, plaintext
from gpt2lab.corpus.shards import has_split, largest, open_split, tokenizer_digest
from gpt2lab.doctor import DTYPES, Peak, peak
from gpt2lab.errors import UserError
from gpt2lab.model import checkpoint
from gpt2lab.progress import Bar, step
from gpt2lab.settings import read_recipe, to_toml
from gpt2lab.storage import atomic_file, read_json, require_writable_folder
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training import state
from gpt2lab.training.callbacks import Evaluate, Metrics, Sample, Save, Screen
from gpt2lab.training.loop import Callback, Trainer, settle
from gpt2lab.training.recipe import Recipe
from gpt2lab.training.samples import write_sample

RECIPE = "recipe.toml"


def start(
    recipe: Recipe, run: Path, *, overwrite: bool = False, callbacks: Sequence[Callback] = ()
) -> Path:
    """Train a new run in the folder `run`; return the folder of the finished model."""
    if recipe.train.steps is None and recipe.train.minutes is None:
        raise UserError("the recipe says neither train.steps nor train.minutes; give one")
    if not overwrite and (run / RECIPE).exists():
        raise UserError(
            f"{run} holds a run already; continue it with --resume {run}, or pass --overwrite"
        )
    require_writable_folder(run)
    recipe = settle(recipe)
    shards = _shards(recipe, run, anew=True)
    with Bar("training") as bar:
        trainer = _trainer(recipe, run, shards, bar, callbacks)
        # Nothing of an older run is touched before the new one has proved able to start.
        for old in state.list_checkpoints(run):
            shutil.rmtree(old, ignore_errors=True)
        (run / "metrics.jsonl").unlink(missing_ok=True)
        with atomic_file(run / RECIPE) as temporary:
            temporary.write_text(to_toml(recipe), "utf-8")
        return trainer.fit()


def resume(run: Path, *, callbacks: Sequence[Callback] = ()) -> Path:
    """Continue a run from its last checkpoint, or from the start if it has none."""
    if not (run / RECIPE).exists():
        raise UserError(f"{run} holds no run ({RECIPE} is missing); check the path")
    recipe = settle(read_recipe(run / RECIPE, Recipe))
    shards = _shards(recipe, run, anew=False)
    with Bar("training") as bar:
        trainer = _trainer(recipe, run, shards, bar, callbacks)
        saved = state.list_checkpoints(run)
        if saved:
            before = read_json(saved[-1] / checkpoint.METADATA)
            for what in ("corpus_digest", "tokenizer_digest"):
                if before.get(what) != trainer.metadata[what]:
                    raise UserError(
                        f"{shards} has changed since {saved[-1]} was written ({what} differs); "
                        "put the old shards back, or start a new run"
                    )
            trainer.restore(saved[-1])
        bar.print(f"resuming {run} after step {trainer.progress.step}")
        return trainer.fit()


def _trainer(
    recipe: Recipe, run: Path, folder: Path, bar: Bar, callbacks: Sequence[Callback]
) -> Trainer:
    tokenizer = _tokenizer(recipe, folder)
    train = open_split(folder, "train")
    val = open_split(folder, "val") if has_split(folder, "val") else None
    if tokenizer.size > recipe.model.vocab_size:
        raise UserError(
            f"model.vocab_size is {recipe.model.vocab_size}, but the tokenizer has "
            f"{tokenizer.size} ids; set it to at least that"
        )
    top = largest(part for tokens in (train, val) if tokens for part in tokens.parts)
    if top >= recipe.model.vocab_size:
        raise UserError(
            f"{folder} holds token id {top}, above model.vocab_size {recipe.model.vocab_size}; "
            "the shards were made with another tokenizer"
        )
    device = torch.device(recipe.train.device or "cpu")
    tflops = recipe.train.peak_tflops
    best = Peak(tflops, "recipe") if tflops else peak(device, DTYPES[recipe.train.dtype])
    metadata = {
        "gpt2lab": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git": git_revision(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "peak_tflops": round(best.tflops, 3),
        "peak_source": best.source,
        "corpus_digest": train.digest,
        "train_tokens": len(train),
        "tokenizer_digest": tokenizer.digest,
        "recipe": _without_none(asdict(recipe)),
    }
    # Validation first, so that its loss is in the line of metrics and in the checkpoint.
    standard: list[Callback] = [Evaluate(), Metrics(best), Save(), Screen(bar)]
    if recipe.every.sample:
        standard.append(Sample(write_sample, bar.print, steps=recipe.every.sample))
    return Trainer(recipe, run, tokenizer, train, val, metadata, [*standard, *callbacks])


def _shards(recipe: Recipe, run: Path, *, anew: bool) -> Path:
    """The folder of shards: the recipe's own, or made from its text under the run.

    anew: make them even if an older run left some, which may be of other text.
    """
    if not recipe.data.path:
        raise UserError("data.path is not set; give shards, a text file or a folder of texts")
    path = Path(recipe.data.path)
    if path.is_dir() and has_split(path, "train"):
        return path
    made = run / "data"
    if anew or not has_split(made, "train"):
        documents = plaintext.read_documents(path)
        tokenizer = Tokenizer.load(recipe.data.tokenizer)
        with step("tokenising") as bar:
            build.shard(
                documents,
                tokenizer,
                made,
                held_out=recipe.data.held_out,
                overwrite=True,
                on_progress=bar.update,
            )
    return made


def _tokenizer(recipe: Recipe, shards: Path) -> Tokenizer:
    """The tokenizer the shards were written with; UserError if the one at hand is another."""
    beside = shards / "tokenizer"
    tokenizer = Tokenizer.load(beside if beside.exists() else recipe.data.tokenizer)
    recorded = tokenizer_digest(shards)
    if recorded not in (None, tokenizer.digest):
        raise UserError(
            f"{shards} was written with another tokenizer than {tokenizer.vocabulary.where}; "
            "set data.tokenizer to that one"
        )
    return tokenizer


def plan(recipe: Recipe) -> dict[str, Any]:
    """What `--dry-run` prints: parameters, FLOPs, memory and expected time on this machine."""
    recipe = settle(recipe)
    model, train = recipe.model, recipe.train
    flops = model.flops_per_token(recipe.context)
    device = torch.device(train.device or "cpu")
    best = (
        Peak(train.peak_tflops, "recipe")
        if train.peak_tflops
        else peak(device, DTYPES[train.dtype])
    )
    states = 16 if recipe.optimizer.name == "adamw" else 12
    tokens = train.micro_batch * recipe.context
    width = 4 if train.dtype == "float32" else 2
    activations = tokens * model.n_embd * width * (2 if train.checkpoint_blocks else 17)
    seconds = 60 * train.minutes if train.minutes else None
    rate = 0.5 * best.tflops * 1e12 / flops
    if train.steps:
        seconds = train.steps * train.batch_tokens / rate
    return {
        "parameters": model.n_params,
        "parameters_without_embeddings": model.n_params_blocks,
        "flops_per_token": flops,
        "tokens_per_step": train.batch_tokens,
        "total_tokens": train.steps * train.batch_tokens if train.steps else None,
        "memory_gib_estimate": round(
            (model.n_params * states + model.n_layer * activations) / 2**30, 2
        ),
        "dtype": train.dtype,
        "device": train.device,
        "peak_tflops": round(best.tflops, 3),
        "tokens_per_s_at_half_of_peak": round(rate),
        "seconds_estimate": round(seconds) if seconds else None,
    }


def git_revision() -> str | None:
    """The revision of the checkout gpt2lab runs from, with + if it has changes; None elsewhere."""
    here = Path(__file__).parents[3]
    if not (here / ".git").exists():  # installed, perhaps inside another project's checkout
        return None
    try:
        revision = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changed else "")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value
