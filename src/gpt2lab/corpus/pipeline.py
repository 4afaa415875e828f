"""From a recipe to a corpus: stages of tasks, each in a folder named by all that decides its bytes.

A stage's folder is `name-<digest>`, the digest of its code version, its settings and the digests of
what it reads. Changing a late setting leaves the early folders valid; a run that was killed goes
on with the tasks that have no folder yet; the numbers of workers and partitions change no byte of
the result, because documents are ordered by their keys.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.corpus import (
    clean,
    commoncrawl,
    crawl,
    dedup,
    documents,
    domains,
    extract,
    finish,
    links,
    report,
)
from gpt2lab.corpus import overlap as overlaps
from gpt2lab.corpus.execute import Task, run_tasks
from gpt2lab.corpus.inputs import Input, find_inputs
from gpt2lab.corpus.recipe import Recipe
from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.progress import step
from gpt2lab.settings import to_toml
from gpt2lab.storage import atomic_folder, refuse_existing, require_writable_folder, write_json
from gpt2lab.tokenizer.bpe import Tokenizer

# Raised with every change of a stage's code that may change its output.
VERSIONS = {
    "links": 1, "pages": 1, "crawl": 1, "extract": 1, "read": 1, "clean": 1, "distinct": 1,
    "sign": 1, "pairs": 1, "union": 1, "sets": 1, "verify": 1, "clusters": 1, "keys": 1,
    "benchmarks": 1, "overlap": 1, "table": 1, "bloom": 1, "cut": 1, "tokens": 1,
}  # fmt: skip
STOPS = ("links", "crawl", "extract", "clean", "shard")
PARTITION_BYTES = 96 << 20
KEYS_PER_TASK = 64_000_000
# Bytes of text that a page is expected to hold, and how far compressed text unpacks.
PAGE_BYTES, UNPACKS = 6_000, 4


@dataclass
class Stage:
    """A finished stage: its digest, its task folders and what their manifests say."""

    name: str
    digest: str
    folders: list[Path]
    manifests: list[dict[str, Any]]

    @property
    def counts(self) -> dict[str, int]:
        """Counts of all tasks together, in the order in which they first appear."""
        total: dict[str, int] = {}
        for manifest in self.manifests:
            for name, value in manifest["counts"].items():
                total[name] = total.get(name, 0) + value
        return total

    def files(self, name: str) -> list[str]:
        """The file of this name in each task's folder."""
        return [str(folder / name) for folder in self.folders]


@dataclass
class Build:
    """A corpus in the making."""

    recipe: Recipe
    out: Path
    work: Path
    stages: dict[str, Stage] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)

    def stage(
        self,
        name: str,
        settings: Any,
        sources: Sequence[str],
        tasks: Sequence[tuple[str, Callable[..., dict[str, Any]], dict[str, Any]]],
        *,
        label: str = "",
    ) -> Stage:
        """Run a stage's tasks, given as (name, function, arguments), or find them done."""
        text = json.dumps([name, VERSIONS[name], settings, list(sources)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder = self.work / f"{name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        todo = [Task(folder / task, function, arguments) for task, function, arguments in tasks]
        with _announce(label, all(task.done for task in todo)) as update:
            run_tasks(
                todo,
                executor=self.recipe.run.executor,
                workers=self.recipe.run.workers or os.cpu_count() or 1,
                on_done=lambda done: update(done / max(1, len(todo)), f"{done} of {len(todo)}"),
            )
        stage = Stage(name, digest, [t.folder for t in todo], [t.manifest() for t in todo])
        self.stages[name] = stage
        self._refuse_damage(stage)
        return stage

    def _refuse_damage(self, stage: Stage) -> None:
        damage = [line for manifest in stage.manifests for line in manifest.get("damage", [])]
        if damage and not self.recipe.run.allow_damaged:
            raise DamagedInput(
                f"{damage[0]}"
                + (f" and {len(damage) - 1} more places" if len(damage) > 1 else "")
                + "; what could be read is kept: fetch the file again, or go on without the rest "
                "with --run.allow-damaged"
            )

    @property
    def damage(self) -> list[str]:
        """Every loss any stage met."""
        return [
            line
            for stage in self.stages.values()
            for manifest in stage.manifests
            for line in manifest.get("damage", [])
        ]


@contextmanager
def _announce(label: str, done: bool) -> Iterator[Callable[[float, str], None]]:
    """A progress bar for stages worth a name; silence for the small ones and for done ones."""
    if done or not label:
        yield lambda fraction, note: None
        return
    with step(label) as bar:
        yield bar.update


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
    if recipe.fetches and recipe.crawl.via == "web" and until != "links":
        crawl.require_contact(recipe.crawl.contact)
    if until == "shard":
        refuse_existing(out, overwrite=overwrite)
    work = work or out.with_name(out.name + ".work")
    require_writable_folder(work)
    with _lock(work):
        _remove_leftovers(out)
        state = Build(recipe, out, work, inputs=find_inputs(recipe.source, work))
        bad = [i for i in state.inputs if i.damage]
        if bad and not recipe.run.allow_damaged:
            raise DamagedInput(f"{bad[0].damage}; fetch it again, or pass --run.allow-damaged")
        raw = _documents(state, until)
        if raw is not None:
            _finish(state, raw, until, overwrite=overwrite)
    return state


@contextmanager
def _lock(work: Path) -> Iterator[None]:
    """Two runs in one folder would take each other's temporary files for their own."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is at work in {work}; wait for it or stop it") from None
        yield


def _remove_leftovers(out: Path) -> None:
    """Temporary folders of runs that were killed while they wrote the corpus."""
    for folder in out.absolute().parent.glob(f".{out.name}.*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def _documents(state: Build, until: str) -> Stage | None:
    """The first stages: whatever the source is, to files of documents. None if stopped before."""
    recipe = state.recipe
    sources = [i.sha256 for i in state.inputs]
    if recipe.source.kind == "documents":
        return state.stage(
            "read",
            None,
            sources,
            [(f"{n:05d}", documents.read, {"file": i.path}) for n, i in enumerate(state.inputs)],
            label="reading documents",
        )
    if recipe.source.kind == "warc":
        archives, source = [i.path for i in state.inputs], sources
    else:
        pages = _links(state, sources)
        if until == "links":
            return None
        archives, source = _fetch(state, pages)
        if until == "crawl":
            return None
    settings = {"file": "", "rules": recipe.extract, "block": _block(recipe)}
    return state.stage(
        "extract",
        [asdict(recipe.extract), settings["block"]],
        source,
        [(f"{n:05d}", extract.read, settings | {"file": a}) for n, a in enumerate(archives)],
        label="extracting text",
    )


def _block(recipe: Recipe) -> str:
    """The block list for pages: of a user's own archives only what `clean` drops is left out."""
    return recipe.links.block if recipe.fetches else "none"


def _links(state: Build, sources: list[str]) -> Stage:
    rules = state.recipe.links
    scored = state.recipe.source.kind == "reddit"
    partitions = state.recipe.run.partitions or _pieces(
        sum(i.size for i in state.inputs) * UNPACKS // 8
    )
    common = {"rules": rules, "partitions": partitions, "scored": scored}
    read = state.stage(
        "links",
        [asdict(rules), partitions, scored],
        sources,
        [(f"{n:05d}", links.read, {"file": i.path} | common) for n, i in enumerate(state.inputs)],
        label="reading links",
    )
    files = read.files(links.SHUFFLED)
    return state.stage(
        "pages",
        None,
        [read.digest],
        [
            (f"{p:05d}", links.merge, {"files": files, "partition": p} | common)
            for p in range(partitions)
        ],
        label="one link per page",
    )


def _fetch(state: Build, pages: Stage) -> tuple[list[str], list[str]]:
    """The archives of all pages, and digests of their contents."""
    rules = state.recipe.crawl
    text = json.dumps([VERSIONS["crawl"], rules.via, rules.crawls, rules.max_bytes, pages.digest])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = state.work / f"crawl-{digest}"
    fetch = crawl.crawl if rules.via == "web" else commoncrawl.fetch
    manifest = fetch(folder, pages.files(links.OUTPUT), rules, block=state.recipe.links.block)
    state.stages["crawl"] = Stage("crawl", digest, [folder], [manifest])
    archives = sorted(str(p) for p in folder.glob("*.warc.gz"))
    if not archives:
        raise UserError("no page could be fetched; see the counts of errors above")
    return archives, [i.sha256 for i in find_inputs(archives, state.work)]


def _pieces(size: int) -> int:
    return min(1024, max(1, -(-size // PARTITION_BYTES)))


def _finish(state: Build, raw: Stage, until: str, *, overwrite: bool) -> None:
    """From files of documents to the corpus."""
    recipe = state.recipe
    if until == "extract":
        return
    tokenizer = Tokenizer.load(recipe.shard.tokenizer)
    if tokenizer.size > 2**16:
        raise UserError(f"a vocabulary of {tokenizer.size} does not fit shards of 16-bit ids")
    vocabulary = state.work / f"tokenizer-{tokenizer.digest[:16]}"
    if not vocabulary.exists():
        with atomic_folder(vocabulary) as folder:
            tokenizer.save(folder)
    parts = _distinct(state, raw, str(vocabulary), tokenizer.digest)
    starts = np.r_[0, np.cumsum([m["rows"] for m in parts.manifests])].tolist()
    if starts[-1] == 0:
        raise UserError(
            f"no document is left of {raw.counts.get('documents', 0)}; the reasons: "
            + ", ".join(f"{name} {n}" for name, n in state.stages["clean"].counts.items() if n)
        )
    clusters = near_duplicates(state, parts.files(documents.OUTPUT), starts, parts.digest)
    if until == "clean":
        return
    cut = _overlap(state, parts, starts, clusters)
    tokens = _tokens(state, parts, starts, clusters, cut, str(vocabulary), tokenizer.digest)
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


def _distinct(state: Build, raw: Stage, vocabulary: str, digest: str) -> Stage:
    recipe = state.recipe
    rules = recipe.clean
    files = sorted(str(f) for folder in raw.folders for f in folder.glob("documents*.arrow"))
    size = sum(m.get("bytes", 0) for m in raw.manifests)
    partitions = recipe.run.partitions or _pieces(size)
    common = {"rules": rules, "tokenizer": vocabulary, "partitions": partitions}
    cleaned = state.stage(
        "clean",
        [asdict(rules), partitions, digest if rules.min_tokens else ""],
        [raw.digest],
        [(f"{n:05d}", clean.clean, {"file": f} | common) for n, f in enumerate(files)],
        label="cleaning",
    )
    shuffled = cleaned.files(documents.SHUFFLED)
    arguments = {"files": shuffled, "partitions": partitions, "samples": rules.samples}
    return state.stage(
        "distinct",
        None,
        [cleaned.digest],
        [
            (f"{p:05d}", clean.distinct, {"partition": p} | arguments)
            for p in range(partitions if shuffled else 0)
        ],
        label="exact duplicates",
    )


def near_duplicates(state: Build, files: list[str], starts: list[int], digest: str) -> Stage:
    """Clusters of documents; with `near = "off"` every document is one of its own.

    files: documents, the first of file i being number `starts[i]`. digest: of their contents.
    """
    rules = state.recipe.dedup
    edges: list[str] = []
    sources = [digest]
    if rules.near != "off":
        settings = [rules.ngram, rules.bands, rules.rows]
        signed = state.stage(
            "sign",
            settings,
            sources,
            [(f"{n:05d}", dedup.sign, {"file": f, "rules": rules}) for n, f in enumerate(files)],
            label="min-hashes",
        )
        folders = [str(f) for f in signed.folders]
        per_task = max(1, KEYS_PER_TASK // max(1, starts[-1]))
        groups = [
            list(range(b, min(rules.bands, b + per_task))) for b in range(0, rules.bands, per_task)
        ]
        proposed = state.stage(
            "pairs",
            rules.max_bucket,
            [signed.digest],
            [
                (f"{g[0]:03d}", dedup.propose, {"folders": folders, "bands": g, "rules": rules})
                for g in groups
            ],
            label="candidate pairs",
        )
        pairs = state.stage(
            "union",
            None,
            [proposed.digest],
            [("all", dedup.union, {"folders": [str(f) for f in proposed.folders]})],
        )
        where = {"pairs": str(pairs.folders[0])}
        gathered = state.stage(
            "sets",
            None,
            [pairs.digest],
            [
                (
                    f"{n:05d}",
                    dedup.gather,
                    {"file": f, "start": starts[n], "count": starts[n + 1] - starts[n]}
                    | {"ngram": rules.ngram}
                    | where,
                )
                for n, f in enumerate(files)
            ],
            label="n-grams of candidates",
        )
        threshold = rules.threshold if rules.verify else 0.0
        sets = [str(f) for f in gathered.folders]
        verified = state.stage(
            "verify",
            threshold,
            [gathered.digest],
            [
                (
                    f"{n:05d}",
                    dedup.verify,
                    {"folders": sets, "part": n, "threshold": threshold} | where,
                )
                for n in range(len(files))
            ],
            label="comparing pairs",
        )
        edges, sources = verified.files(dedup.EDGES), [digest, verified.digest]
    return state.stage(
        "clusters",
        rules.near == "off",
        sources,
        [("all", dedup.cluster, {"edges": edges, "files": files})],
    )


def _overlap(state: Build, parts: Stage, starts: list[int], clusters: Stage) -> Stage | None:
    """The overlap report, the filter, and the benchmarks to cut out, as far as asked for."""
    rules = state.recipe.overlap
    places = list(zip(parts.files(documents.OUTPUT), starts[:-1], strict=True))
    where = {"clusters": str(clusters.folders[0]), "ngram": rules.ngram}
    names = list(rules.benchmarks)
    digests = [i.sha256 for i in find_inputs(names, state.work)]
    cut = None
    if names or rules.bloom:
        prepared = state.stage(
            "benchmarks",
            [rules.ngram, [Path(n).name for n in names]],
            digests,
            [("all", overlaps.prepare, {"benchmarks": names, "ngram": rules.ngram})],
        )
        folder = {"prepared": str(prepared.folders[0])}
        marks = state.stage(
            "overlap",
            None,
            [prepared.digest, clusters.digest],
            [
                (f"{n:05d}", overlaps.mark, {"file": f, "start": s} | where | folder)
                for n, (f, s) in enumerate(places)
            ],
            label="overlap with benchmarks",
        )
        marked = [str(f) for f in marks.folders]
        state.stage(
            "table",
            None,
            [marks.digest],
            [("all", overlaps.tabulate, {"marks": marked} | folder)],
        )
        if rules.bloom:
            bloom = {"items": marks.counts["ngrams"], "error": rules.bloom_error}
            arguments = {"parts": places} | bloom | where
            tasks = [("all", overlaps.build_bloom, arguments)]
            state.stage("bloom", rules.bloom_error, [marks.digest], tasks, label="Bloom filter")
    if names and rules.remove:
        arguments = {"benchmarks": names, "ngram": overlaps.CUT_NGRAM}
        cut = state.stage(
            "cut", overlaps.CUT_NGRAM, digests, [("all", overlaps.prepare, arguments)]
        )
    return cut


def _tokens(
    state: Build,
    parts: Stage,
    starts: list[int],
    clusters: Stage,
    cut: Stage | None,
    vocabulary: str,
    digest: str,
) -> Stage:
    recipe = state.recipe
    files = parts.files(documents.OUTPUT)
    keys = state.stage(
        "keys", None, [parts.digest], [("all", finish.cluster_keys, {"files": files})]
    )
    mark = recipe.dedup.near == "mark"
    common = {
        "clusters": str(clusters.folders[0]),
        "keys": str(keys.folders[0] / "keys.npy"),
        "mark": mark,
        "prepared": str(cut.folders[0]) if cut else None,
        "tokenizer": vocabulary,
        "rules": recipe.shard,
        "samples": recipe.clean.samples,
    }
    return state.stage(
        "tokens",
        [recipe.shard.held_out, mark, digest],
        [clusters.digest, cut.digest if cut else ""],
        [
            (f"{n:05d}", finish.tokenise, {"file": f, "start": starts[n]} | common)
            for n, f in enumerate(files)
        ],
        label="tokenising",
    )


_LAST = {
    "links": ("links", "pages"),
    "crawl": ("crawl",),
    "extract": ("extract", "read"),
    "clean": ("clean", "distinct", "clusters"),
}


def summary(state: Build, until: str, published: Path | None = None) -> dict[str, Any]:
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
            compared = domains.compare(
                report.link_domains(state), domains.read_published(published)
            )
            result |= domains.shown(compared, whole=False)
    if state.damage:
        result["damage"] = "; ".join(state.damage)
    return result
