"""Links: outbound Reddit submissions with at least 3 karma, one per page (paper section 2.1)."""

import bisect
import datetime
import functools
import html
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt2lab.corpus import urls
from gpt2lab.corpus.compressed import Damage
from gpt2lab.corpus.recipe import Links
from gpt2lab.corpus.shuffle import PartitionWriter, read_partition, runs
from gpt2lab.corpus.submissions import Submission, read_submissions

SCHEMA = pa.schema(
    [
        ("key", pa.binary(16)),  # of the normalised URL
        ("created", pa.int64()),
        ("id", pa.string()),
        ("url", pa.string()),  # as posted: what is fetched
        ("score", pa.int64()),
        ("subreddit", pa.string()),
    ]
)
OUTPUT = "links.parquet"
SHUFFLED = "links.arrow"
# Scores per month are counted up to 0, 1, 2, then 3 to 9, 10 to 99, 100 to 999, and above.
SCORE_BOUNDS = (0, 1, 2, 9, 99, 999)


def read(out: Path, *, file: str, rules: Links, partitions: int, scored: bool) -> dict[str, Any]:
    """One dump or list to partitioned links in `out`; return counts, months and damage.

    scored: whether the rows carry scores; a bare list of URLs does not, and all of it is taken.
    """
    damage: list[Damage] = []
    counts: Counter[str] = Counter()
    months: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(SCORE_BOUNDS) + 1))
    refuse = _rules(rules, scored=scored)
    with PartitionWriter(out / SHUFFLED, SCHEMA, partitions) as writer:
        for post in read_submissions(Path(file), damage, counts, scored=scored):
            counts["submissions"] += 1
            if scored and not post.is_self:
                months[_month(post.created)][bisect.bisect_left(SCORE_BOUNDS, post.score)] += 1
            url = urls.clean(html.unescape(post.url) if "&" in post.url else post.url)
            if reason := refuse(post, url):
                counts[reason] += 1
                continue
            normal = urls.normalise(url, fold_mobile=rules.fold_mobile)
            if normal is None:
                counts["no http address"] += 1
                continue
            if reason := blocked(normal, rules.block):
                counts[reason] += 1
                continue
            counts["links"] += 1
            key = urls.key(normal)
            writer.add((key, post.created, post.id, url, post.score, post.subreddit))
    return {
        "counts": dict(counts),
        "months": dict(sorted(months.items())),
        "damage": [str(d) for d in damage],
    }


def _rules(rules: Links, *, scored: bool) -> Callable[[Submission, str], str | None]:
    """The cheap rules, most frequent reason first."""
    after, before = _timestamp(rules.after), _timestamp(rules.before)
    subreddits = {s.lower() for s in rules.subreddits}
    if rules.block_subreddits:
        subreddits |= set(names("subreddits"))
    least = rules.min_score if scored and rules.karma == "any" else None

    def refuse(post: Submission, url: str) -> str | None:
        if least is not None and post.score < least:
            return "below the score"
        if post.is_self:
            return "text post"
        if post.over_18 and not rules.over_18:
            return "over 18"
        if after is not None and post.created < after:
            return "too early"
        if before is not None and post.created >= before:
            return "too late"
        if post.subreddit.lower() in subreddits:
            return "subreddit"
        return None if url else "no http address"

    return refuse


def _timestamp(date: str) -> int | None:
    if not date:
        return None
    day = datetime.datetime.fromisoformat(date).replace(tzinfo=datetime.UTC)
    return int(day.timestamp())


def _month(created: int) -> str:
    return _month_of_day(created // 86400)


@functools.lru_cache(maxsize=65536)
def _month_of_day(day: int) -> str:
    try:
        date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
    except OverflowError:
        return "unknown"
    return f"{date:%Y-%m}" if day > 0 else "unknown"


@functools.cache
def names(which: str) -> tuple[str, ...]:
    """The names in one of the lists that come with gpt2lab: webtext, openwebtext, subreddits."""
    text = (files("gpt2lab.corpus") / "lists" / f"{which}.txt").read_text("utf-8")
    return tuple(line for line in text.split("\n") if line and not line.startswith("#"))


@functools.cache
def _blocklist(which: str) -> tuple[frozenset[str], tuple[str, ...]]:
    domains = frozenset(n for n in names(which) if not n.startswith("."))
    return domains, tuple(n for n in names(which) if n.startswith("."))


def blocked(url: str, which: str) -> str | None:
    """Why a normalised URL is on the named block list, or None; "none" names the empty list."""
    if which == "none":
        return None
    if _blocked_host(urls.host(url), which):
        return "blocked domain"
    path = url.partition("?")[0].lower()
    return "blocked file type" if path.endswith(_blocklist(which)[1]) else None


@functools.lru_cache(maxsize=65536)
def _blocked_host(host: str, which: str) -> bool:
    labels = host.split(".")
    domains = _blocklist(which)[0]
    return any(".".join(labels[i:]) in domains for i in range(len(labels)))


def merge(
    out: Path, *, files: list[str], partition: int, partitions: int, rules: Links, scored: bool
) -> dict[str, Any]:
    """One partition of links to one row per page in `out`: the earliest submission speaks for it.

    Its score is the best of its submissions (`karma = "any"`), or their sum.
    """
    table = read_partition([Path(f) for f in files], partition, partitions)
    counts = {"links": len(table), "duplicate links": 0, "below the summed score": 0, "pages": 0}
    if len(table):
        # Of one page's submissions the earliest comes first.
        table = table.sort_by([(n, "ascending") for n in ("key", "created", "id", "url")])
        first = runs(table["key"])[:-1]
        combine = np.add if rules.karma == "sum" else np.maximum
        total = combine.reduceat(table["score"].to_numpy(), first)
        table = table.take(pa.array(first)).set_column(4, "score", pa.array(total, pa.int64()))
        counts["duplicate links"] = counts["links"] - len(table)
        if scored and rules.karma == "sum":
            enough = total >= rules.min_score
            counts["below the summed score"] = int((~enough).sum())
            table = table.filter(pa.array(enough))
        counts["pages"] = len(table)
    pq.write_table(table, out / OUTPUT, compression="zstd")
    return {"counts": counts}
