"""What is done in which order: from files of any kind to documents, clusters and tokens.

Documents are ordered by their keys as soon as they are clean, so the numbers of workers and
partitions change no byte of the result.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from gpt2lab.corpus import (
    clean,
    commoncrawl,
    crawl,
    dedup,
    documents,
    extract,
    finish,
    links,
)
from gpt2lab.corpus import overlap as overlaps
from gpt2lab.corpus.inputs import find_inputs
from gpt2lab.corpus.recipe import Recipe
from gpt2lab.corpus.stage import VERSIONS, Build, Stage
from gpt2lab.errors import UserError

PARTITION_BYTES = 96 << 20
KEYS_PER_TASK = 64_000_000
# How far compressed dumps unpack, and the share of them that links are.
UNPACKS, LINKS = 4, 8


def raw_documents(state: Build, until: str) -> Stage | None:
    """The first stages: whatever the source is, to files of documents. None if stopped before.

    Raises UserError if not one document, or link, comes out.
    """
    raw = _first_stages(state, until)
    if raw is not None and not raw.counts.get("documents"):
        raise UserError(_nothing("document", raw.counts, "source.paths"))
    return raw


def _nothing(what: str, counts: dict[str, int], field: str) -> str:
    reasons = ", ".join(f"{name} {n:,}" for name, n in counts.items() if n)
    return f"no {what} came out of the input ({reasons or 'it is empty'}); check {field}"


def _first_stages(state: Build, until: str) -> Stage | None:
    recipe = state.recipe
    sources = [i.identity for i in state.inputs]
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
        if not pages.counts["pages"]:
            raise UserError(_nothing("link", state.stages["links"].counts, "source.paths"))
        if until == "links":
            return None
        archives, source = _fetch(state, pages, sources)
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
        sum(i.size for i in state.inputs) * UNPACKS // LINKS
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


def _fetch(state: Build, pages: Stage, sources: list[str]) -> tuple[list[str], list[str]]:
    """The archives of all pages, and digests of their contents."""
    rules = state.recipe.crawl
    # Not the pace: a crawl that is slowed down, or given more time, goes on where it was.
    what = [rules.via, rules.crawls, rules.max_bytes, rules.redirects, rules.ports, rules.networks]
    links_and_rules = [asdict(state.recipe.links), state.recipe.source.kind, sources]
    text = json.dumps([VERSIONS["crawl"], what, links_and_rules])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = state.work / f"crawl-{digest}"
    fetch = crawl.crawl if rules.via == "web" else commoncrawl.fetch
    manifest = fetch(folder, pages.files(links.OUTPUT), rules, block=state.recipe.links.block)
    state.stages["crawl"] = Stage("crawl", digest, [folder], [manifest])
    archives = sorted(str(p) for p in folder.glob("*.warc.gz"))
    return archives, [i.identity for i in find_inputs(archives, state.work)]


def _pieces(size: int) -> int:
    return min(1024, max(1, -(-size // PARTITION_BYTES)))


def distinct(state: Build, raw: Stage, vocabulary: str, digest: str) -> Stage:
    """Documents that pass the rules, ordered by key, none twice.

    vocabulary, digest: folder and digest of the tokenizer.
    """
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


def overlap(state: Build, parts: Stage, starts: list[int], clusters: Stage) -> Stage | None:
    """The overlap report, the filter, and the benchmarks to cut out, as far as asked for."""
    rules = state.recipe.overlap
    places = list(zip(parts.files(documents.OUTPUT), starts[:-1], strict=True))
    everything = state.recipe.dedup.near == "mark"
    where = {
        "clusters": str(clusters.folders[0]),
        "ngram": rules.ngram,
        "everything": everything,
    }
    names = list(rules.benchmarks)
    digests = [i.identity for i in find_inputs(names, state.work)]
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
            everything,
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


def tokens(
    state: Build,
    parts: Stage,
    starts: list[int],
    clusters: Stage,
    cut: Stage | None,
    vocabulary: str,
    digest: str,
) -> Stage:
    """The documents that stay as tokens and as public rows, by split."""
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
