"""From a recipe to a corpus."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.corpus import crawl, documents, domains, finish, report, steps
from gpt2lab.corpus import overlap as overlaps
from gpt2lab.corpus.inputs import find_inputs, find_paths
from gpt2lab.corpus.recipe import Recipe
from gpt2lab.corpus.stage import Build, Stage
from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.progress import step
from gpt2lab.settings import to_toml
from gpt2lab.storage import (
    atomic_folder,
    locked,
    refuse_existing,
    require_writable_folder,
    write_json,
)
from gpt2lab.tokenizer.bpe import Tokenizer


def build(
    recipe: Recipe,
    out: Path,
    *,
    work: Path | None = None,
    until: str = "shard",
    overwrite: bool = False,
) -> Build:
    """Build the corpus of a recipe in `out`, or do its stages up to `until`.

    work: folder for intermediate results, `<out>.work` if not given; it may be deleted when the
    corpus is finished, and is needed to resume.
    Raises UserError for a recipe that cannot be followed, DamagedInput (exit status 3) if input
    was lost and `run.allow_damaged` is false.
    """
    recipe.check()
    if until in ("links", "crawl") and not recipe.fetches:
        raise UserError(f"source.kind {recipe.source.kind!r} has no links; start with extract")
    if recipe.fetches and recipe.crawl.via == "web" and until != "links":
        crawl.require_contact(recipe.crawl.contact)
    if until == "shard":
        refuse_existing(out, overwrite=overwrite)
    work = work or out.with_name(out.name + ".work")
    _require_apart(recipe, out, work)
    require_writable_folder(work, "--work")
    require_writable_folder(out.absolute().parent)
    # What is only needed late is looked at early: hours may lie between.
    find_paths(recipe.overlap.benchmarks)
    tokenizer = Tokenizer.load(recipe.shard.tokenizer) if until in ("clean", "shard") else None
    if tokenizer is not None and tokenizer.size > 2**16:
        raise UserError(f"a vocabulary of {tokenizer.size} does not fit shards of 16-bit ids")
    beside = out.absolute().with_name(f".{out.name}.lock")
    with locked(work / "lock", work), locked(beside, out):
        _remove_leftovers(out)
        state = Build(recipe, out, work, inputs=find_inputs(recipe.source, work))
        bad = [i for i in state.inputs if i.damage]
        if bad and not recipe.run.allow_damaged:
            raise DamagedInput(f"{bad[0].damage}; fetch it again, or pass --run.allow-damaged")
        raw = steps.raw_documents(state, until)
        if raw is not None and tokenizer is not None:
            _finish(state, raw, tokenizer, until, overwrite=overwrite)
    return state


def _require_apart(recipe: Recipe, out: Path, work: Path) -> None:
    """Raise UserError if input lies where output goes: the one would replace the other."""
    for path in map(Path, (*recipe.source.paths, *recipe.overlap.benchmarks)):
        for name, folder in (("--out", out), ("--work", work)):
            if folder.resolve() in (path.resolve(), *path.resolve().parents):
                raise UserError(f"{path} lies in {folder}; choose another {name}")


def _remove_leftovers(out: Path) -> None:
    """Temporary folders of runs that were killed while they wrote the corpus."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}\.tmp")  # as mkdtemp names them
    if out.absolute().parent.is_dir():
        for folder in out.absolute().parent.iterdir():
            if ours.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)


def _finish(state: Build, raw: Stage, tokenizer: Tokenizer, until: str, *, overwrite: bool) -> None:
    """From files of documents to the corpus."""
    recipe = state.recipe
    vocabulary = state.work / f"tokenizer-{tokenizer.digest[:16]}"
    if not vocabulary.exists():
        with atomic_folder(vocabulary) as folder:
            tokenizer.save(folder)
    parts = steps.distinct(state, raw, str(vocabulary), tokenizer.digest)
    starts = np.r_[0, np.cumsum([m["rows"] for m in parts.manifests])].tolist()
    if starts[-1] == 0:
        counts = state.stages["clean"].counts
        reasons = {k: n for k, n in counts.items() if n and k not in ("documents", "kept")}
        raise UserError(
            f"none of {counts.get('documents', 0)} documents is left, for these reasons: "
            + ", ".join(f"{name} {n}" for name, n in reasons.items())
            + "; loosen the rules of [clean]"
        )
    clusters = steps.near_duplicates(state, parts.files(documents.OUTPUT), starts, parts.digest)
    if until == "clean":
        return
    finish.require_splits(parts.files(documents.OUTPUT), clusters.folders[0], recipe)
    cut = steps.overlap(state, parts, starts, clusters)
    tokens = steps.tokens(state, parts, starts, clusters, cut, str(vocabulary), tokenizer.digest)
    with atomic_folder(state.out, overwrite=overwrite) as folder, step("writing the corpus"):
        splits = finish.assemble(folder, tokens.folders, tokenizer, recipe.shard)
        if "bloom" in state.stages:
            source = state.stages["bloom"].folders[0] / overlaps.BLOOM
            shutil.copyfile(source, folder / "bloom.npy")
        # `run` changes nothing, so it is no part of what the corpus is.
        (folder / report.RECIPE).write_text(
            to_toml(replace(recipe, run=type(recipe.run)())), "utf-8"
        )
        write_json(folder / "inputs.json", [i.public() for i in state.inputs])
        report.write_reports(folder, state, splits)


_LAST = {
    "links": ("links", "pages"),
    "crawl": ("crawl",),
    "extract": ("extract", "read"),
    "clean": ("clean", "distinct", "clusters"),
}


def summary(state: Build, until: str, published: dict[str, int] | None = None) -> dict[str, Any]:
    """What to tell of a build: where it is, the counts of its last stages, and its damage."""
    result: dict[str, Any] = {"corpus": str(state.out)} if until == "shard" else {}
    result["work"] = str(state.work)
    if until == "shard":
        result |= report.steps({name: stage.counts for name, stage in state.stages.items()})
        result |= state.stages["tokens"].counts
    else:
        for name in _LAST[until]:
            if name in state.stages:
                result |= state.stages[name].counts
    if until == "links":
        strange = report.strange_months(report.months(state))
        result["strange_months"] = ", ".join(strange) or None
        if published is not None:
            compared = domains.compare(report.link_domains(state), published)
            result |= domains.shown(compared, whole=False)
    if state.damage:
        result["damage"] = "; ".join(state.damage)
    return result
