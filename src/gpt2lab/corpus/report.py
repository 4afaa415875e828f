"""What a corpus says of itself: `corpus.json`, a data card in Markdown, a page to look at.

Nothing here depends on when, where or by how many workers the corpus was built.
"""

import html
import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from gpt2lab.charts import STYLE, bars
from gpt2lab.corpus import domains, links
from gpt2lab.corpus.clean import DROPPED, Drops
from gpt2lab.corpus.inputs import json_lines
from gpt2lab.storage import write_json

if TYPE_CHECKING:
    from gpt2lab.corpus.stage import Build

CARD, PAGE, FACTS, RECIPE = "README.md", "report.html", "corpus.json", "recipe.toml"
# Stages a reader wants to see, what they turn into what.
_FUNNEL = {
    "links": "submissions to links",
    "pages": "links to pages",
    "crawl": "pages to archive",
    "extract": "archive to documents",
    "read": "files to documents",
    "clean": "documents kept",
    "distinct": "exact duplicates removed",
    "clusters": "near-duplicates",
    "tokens": "documents to tokens",
}
_LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
# The steps of the funnel: stage, one of its counts, and what that is called.
_STEPS = (
    ("links", "submissions", "submissions"),
    ("pages", "pages", "pages linked"),
    ("crawl", "fetched", "pages fetched"),
    ("extract", "documents", "texts extracted"),
    ("read", "documents", "documents read"),
    ("clean", "kept", "after rules"),
    ("distinct", "kept", "no exact copies"),
    ("clusters", "kept", "no near-duplicates"),
)
# A month is strange if a link in it is this much rarer to have the score than in the median month.
_STRANGE = 0.25


def write_reports(folder: Path, state: "Build", splits: dict[str, Any]) -> None:
    """Write the facts, the card, the charts and the page of a finished corpus."""
    facts = _facts(state, splits)
    write_json(folder / FACTS, facts)
    (folder / "charts").mkdir()
    for name, values in _charts(facts).items():
        (folder / "charts" / f"{name}.svg").write_text(bars(values, alone=True), "utf-8")
    (folder / CARD).write_text(_card(facts), "utf-8")
    recipe = (folder / RECIPE).read_text("utf-8")
    (folder / PAGE).write_text(_page(facts, _samples(state), recipe), "utf-8")


def _facts(state: "Build", splits: dict[str, Any]) -> dict[str, Any]:
    sites: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    years: Counter[str] = Counter()
    for folder in state.stages["tokens"].folders:
        for split in splits:
            with pq.ParquetFile(folder / f"{split}.parquet") as table:
                for batch in table.iter_batches(8192, columns=["url", "date", "tokens"]):
                    rows = batch.to_pydict()
                    sites += domains.count(rows["url"])
                    lengths.update(map(_length, rows["tokens"]))
                    years.update((date or "unknown")[:4] for date in rows["date"])
    years["unknown"] += years.pop("unkn", 0)
    facts: dict[str, Any] = {
        "source": state.recipe.source.kind,
        "splits": {
            s: {"documents": entry["documents"], "tokens": entry["tokens"]}
            for s, entry in splits.items()
        },
        "funnel": {n: state.stages[n].counts for n in _FUNNEL if n in state.stages},
        "domains": dict(sorted(sites.items(), key=lambda item: (-item[1], item[0]))[:1000]),
        "lengths": {label: lengths[label] for label in map(_length, (*_LENGTHS, 10**9))},
        "years": {year: n for year, n in sorted(years.items()) if n},
        "damage": state.damage,
    }
    if "links" in state.stages:
        facts["months"] = months(state)
        facts["strange_months"] = strange_months(facts["months"])
    if "clusters" in state.stages:
        facts["cluster_sizes"] = state.stages["clusters"].manifests[0]["cluster_sizes"]
    if "table" in state.stages:
        facts["overlap"] = overlap_table(state)
    return facts


def _length(tokens: int) -> str:
    for bound in _LENGTHS:
        if tokens <= bound:
            return f"up to {bound:,}"
    return f"over {_LENGTHS[-1]:,}"


def months(state: "Build") -> dict[str, list[int]]:
    """For each month how many outbound submissions have which score, by `links.SCORE_BOUNDS`."""
    total: dict[str, list[int]] = {}
    for manifest in state.stages["links"].manifests:
        for month, counts in manifest["months"].items():
            before = total.get(month, [0] * len(counts))
            total[month] = [a + b for a, b in zip(before, counts, strict=True)]
    return dict(sorted(total.items()))


def liked(counts: list[int]) -> float:
    """The share of a month's submissions with a score of at least 3."""
    return sum(counts[3:]) / max(1, sum(counts))


def strange_months(table: dict[str, list[int]]) -> list[str]:
    """Months in which far fewer links have 3 points than usual: the dump was taken too early."""
    shares = {m: liked(c) for m, c in table.items() if sum(c) >= 100 and m != "unknown"}
    if len(shares) < 3:
        return []
    median = sorted(shares.values())[len(shares) // 2]
    return [month for month, share in shares.items() if share < _STRANGE * median]


def link_domains(state: "Build") -> Counter[str]:
    """Links by site."""
    sites: Counter[str] = Counter()
    for file in state.stages["pages"].files(links.OUTPUT):
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(8192, columns=["url"]):
                sites += domains.count(batch.column(0).to_pylist())
    return sites


def overlap_table(state: "Build") -> list[dict[str, Any]]:
    """For each benchmark the share of its n-grams that the corpus holds (paper, table 6)."""
    named = state.stages["benchmarks"].manifests[0]["benchmarks"]
    found = state.stages["table"].manifests[0]["overlap"]
    return [
        {
            "benchmark": a["name"],
            "documents": a["documents"],
            "ngrams": a["ngrams"],
            "found": b["found"],
            "percent": round(100 * b["found"] / a["ngrams"], 4) if a["ngrams"] else None,
        }
        for a, b in zip(named, found, strict=True)
    ]


def steps(funnel: dict[str, dict[str, int]]) -> dict[str, int]:
    """How many are left after each step."""
    return {
        name: funnel[stage][count]
        for stage, count, name in _STEPS
        if count in funnel.get(stage, {})
    }


def _samples(state: "Build") -> list[dict[str, str]]:
    """Dropped documents to read, by reason."""
    drops = Drops(state.recipe.clean.samples)
    for name in ("clean", "distinct", "tokens"):
        for folder in state.stages[name].folders:
            for record in json_lines(folder / DROPPED):
                drops.keep(record["reason"], record["text"], record["url"])
    return drops.records()


def _charts(facts: dict[str, Any]) -> dict[str, dict[str, float]]:
    charts = {"lengths": facts["lengths"], "years": facts["years"]}
    if facts["domains"]:
        charts["domains"] = dict(list(facts["domains"].items())[:20])
    return charts


def _card(facts: dict[str, Any]) -> str:
    """The data card."""
    train, val = (facts["splits"].get(s, {"documents": 0, "tokens": 0}) for s in ("train", "val"))
    lines = [
        "# A corpus made with gpt2lab",
        "",
        f"{train['documents']:,} documents and {train['tokens']:,} tokens to train on, "
        f"{val['documents']:,} documents and {val['tokens']:,} tokens to validate with, "
        f"from {_SOURCES[facts['source']]}.",
        "",
        "`gpt2lab train RECIPE --data.path .` reads the shards (`*.bin`, llm.c's layout); "
        "`documents/`, where it was asked for, opens with `datasets.load_dataset`. `recipe.toml` "
        "and `inputs.json` say how to make it again: the same inputs give the same bytes.",
        "",
        "The texts are their authors'. Pages were chosen by readers' votes or by whoever named "
        "them, and checked by no one: expect errors, bias and offence.",
        "",
        "## From source to tokens",
        "",
        "| stage | what | count |",
        "| --- | --- | ---: |",
    ]
    for name, counts in facts["funnel"].items():
        lines += [f"| {_FUNNEL[name]} | {what} | {n:,} |" for what, n in counts.items()]
    lines += ["", "## Lengths, tokens per document", "", "![lengths](charts/lengths.svg)", ""]
    lines += _table("tokens", "documents", facts["lengths"].items())
    lines += ["", "## Years", "", "![years](charts/years.svg)", ""]
    lines += _table("year", "documents", facts["years"].items())
    if facts["domains"]:
        lines += ["", "## Sites", "", "![domains](charts/domains.svg)", ""]
        lines += _table("site", "documents", list(facts["domains"].items())[:50])
    if facts.get("overlap"):
        lines += ["", "## Overlap with evaluation texts", ""]
        lines += _overlap_lines(facts["overlap"])
    if facts.get("months"):
        lines += _month_lines(facts["months"])
    if facts.get("strange_months"):
        lines += [
            "",
            "Months with far fewer votes than usual: " + ", ".join(facts["strange_months"]),
        ]
    if facts["damage"]:
        lines += ["", "## Damaged input", "", *(f"- {line}" for line in facts["damage"])]
    return "\n".join(lines) + "\n"


_SOURCES = {
    "reddit": "pages that Reddit submissions link to",
    "urls": "pages of a list",
    "warc": "archived pages",
    "documents": "files of text",
}


def _table(left: str, right: str, rows: Iterable[tuple[str, int]]) -> list[str]:
    head = [f"| {left} | {right} |", "| --- | ---: |"]
    return head + [f"| {name} | {n:,} |" for name, n in rows]


def _month_lines(table: dict[str, list[int]]) -> list[str]:
    head = ["", "## Scores of submissions by month", ""]
    head += ["| month | 0 and less | 1 | 2 | 3 to 9 | 10 to 99 | 100 to 999 | more |"]
    head += ["| --- |" + " ---: |" * 7]
    return head + [f"| {m} | " + " | ".join(f"{n:,}" for n in c) + " |" for m, c in table.items()]


def _overlap_lines(rows: list[dict[str, Any]]) -> list[str]:
    head = ["| text | n-grams | in the corpus | share |", "| --- | ---: | ---: | ---: |"]
    return head + [
        f"| {r['benchmark']} | {r['ngrams']:,} | {r['found']:,} | "
        + (f"{r['percent']:.2f} % |" if r["percent"] is not None else "- |")
        for r in rows
    ]


_HTML = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gpt2lab corpus</title>
<style>${style}details pre { max-height: 20rem; overflow-y: auto }
</style></head><body>
<h1>Corpus</h1>
<p>$summary</p>
<h2>From source to tokens</h2>
$funnel
$months
<h2>Tokens per document</h2>$lengths
<h2>Years</h2>$years
$sites
$overlap
<h2>What was dropped</h2>
<p class="note">Up to $samples documents for each reason, chosen by hash. Read some: a rule that
drops what you would keep is a rule to turn off.</p>
$dropped
<h2>Recipe</h2><pre>$recipe</pre>
</body></html>
""")


_HEADING = "<h2>Overlap with evaluation texts, percent of n-grams</h2>"


def _page(facts: dict[str, Any], samples: list[dict[str, str]], recipe: str) -> str:
    train = facts["splits"]["train"]
    sites = dict(list(facts["domains"].items())[:20])
    overlap = facts.get("overlap", [])
    shares = {r["benchmark"]: r["percent"] for r in overlap if r["percent"] is not None}
    groups = {k: list(g) for k, g in itertools.groupby(samples, key=lambda r: r["reason"])}
    dropped = "".join(_examples(reason, records) for reason, records in groups.items())
    most = max(map(len, groups.values()), default=0)
    return _HTML.substitute(
        style=STYLE,
        summary=html.escape(
            f"{train['documents']:,} documents, {train['tokens']:,} tokens, from "
            f"{_SOURCES[facts['source']]}."
        ),
        funnel=bars(steps(facts["funnel"]))
        + "<details><summary>All counts</summary>"
        + "".join(f"<h3>{_FUNNEL[n]}</h3>{_rows(c)}" for n, c in facts["funnel"].items())
        + "</details>",
        months=_months(facts),
        lengths=bars(facts["lengths"]),
        years=bars(facts["years"]),
        sites=f"<h2>Sites</h2>{bars(sites)}" if sites else "",
        overlap=_HEADING + bars(shares, form=".2f") if shares else "",
        samples=most,
        dropped=dropped or "<p>Nothing.</p>",
        recipe=html.escape(recipe),
    )


def _examples(reason: str, records: list[dict[str, str]]) -> str:
    shown = "".join(
        f'<p class="note">{html.escape(r["url"])}</p><pre>{html.escape(r["text"])}</pre>'
        for r in records
    )
    return f"<details><summary>{html.escape(reason)}</summary>{shown}</details>"


def _rows(counts: dict[str, int]) -> str:
    rows = (
        f'<tr><td>{html.escape(what)}</td><td class="n">{n:,}</td></tr>'
        for what, n in counts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _months(facts: dict[str, Any]) -> str:
    counts = {m: n for m, n in facts.get("months", {}).items() if m != "unknown"}
    if not counts:
        return ""
    shares = {month: 100 * liked(scores) for month, scores in list(counts.items())[-36:]}
    strange = facts["strange_months"]
    note = (
        f'<p class="note">Far fewer than usual in {", ".join(strange)}: the dump may have been '
        "taken before people had voted.</p>"
        if strange
        else ""
    )
    title = "<h2>Submissions with 3 points or more, percent by month</h2>"
    return title + bars(shares, form=".1f") + note
