"""Everything that decides what a corpus holds: read from TOML, saved beside what it made."""

import datetime
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Literal

from gpt2lab.corpus.execute import Executor
from gpt2lab.errors import UserError


@dataclass(frozen=True)
class Source:
    """Where the corpus starts."""

    kind: Literal["reddit", "urls", "warc", "documents"] = "documents"
    """reddit: submission dumps. urls: .txt or .csv. warc: archived pages. documents: text."""
    paths: tuple[str, ...] = ()
    """Files, or folders of files."""


@dataclass(frozen=True)
class Links:
    """Which submissions count (paper section 2.1)."""

    karma: Literal["any", "sum"] = "any"
    """any: some submission of the page has min_score, the paper's wording. sum: all together."""
    min_score: int = 3
    after: str = ""
    """First day taken, as 2005-06-01; empty for no limit."""
    before: str = "2018-01-01"
    """First day not taken. The paper has no links after December 2017."""
    over_18: bool = False
    """Take submissions marked as over 18."""
    block: Literal["webtext", "openwebtext", "none"] = "webtext"
    """List of domains and file types left out."""
    block_subreddits: bool = True
    """Leave out our list of offensive subreddits; OpenAI's was not published."""
    subreddits: tuple[str, ...] = ()
    """More subreddits to leave out."""
    fold_mobile: bool = False
    """Take m., mobile. and amp. hosts for the site itself."""


@dataclass(frozen=True)
class Crawl:
    """How pages are fetched."""

    via: Literal["web", "commoncrawl"] = "web"
    contact: str = ""
    """An address or page where site owners reach you; it goes into the user agent."""
    delay: float = 1.0
    """Seconds between two requests to one host; a longer Crawl-delay of the site is obeyed."""
    concurrency: int = 64
    """Hosts asked at the same time."""
    timeout: float = 60.0
    """Seconds for one page, from the first byte sent to the last received."""
    max_bytes: int = 5_000_000
    """Largest page as it comes over the wire."""
    redirects: int = 5
    give_up_after: int = 5
    """Failures in a row after which the rest of a host's pages are left."""
    retries: int = 2
    """Further attempts at a page that timed out, broke off or answered 429 or 5xx."""
    backoff: float = 10.0
    """Seconds before the first further attempt; doubled each time, Retry-After obeyed."""
    ports: tuple[int, ...] = (80, 443)
    networks: tuple[str, ...] = ()
    """Networks to allow although they are not public, as 10.1.0.0/16; for your own sites."""
    index: str = "https://index.commoncrawl.org"
    """Common Crawl's index server."""
    data: str = "https://data.commoncrawl.org"
    """Where Common Crawl's archives lie."""
    crawls: tuple[str, ...] = ()
    """Common Crawl collections to look in, in this order, as CC-MAIN-2017-51."""


@dataclass(frozen=True)
class Extract:
    """How text is taken out of pages."""

    profile: Literal["quality", "default", "fast"] = "default"
    """trafilatura for precision, trafilatura for speed, or resiliparse."""
    language: str = "en"
    """Pages in other languages are not extracted; empty for all."""
    seconds: float = 10.0
    """After which an extractor that still works on a page is killed."""
    memory_mb: int = 2048
    """Address space of the extractor's process beyond what it starts with."""
    max_inflated: int = 20_000_000
    """Largest page once decompressed, bytes."""
    max_ratio: int = 100
    """Largest ratio of decompressed to stored size above the first megabyte."""
    max_chars: int = 2_000_000
    """Longest text taken from one page."""


@dataclass(frozen=True)
class Clean:
    """Which documents stay."""

    language: str = ""
    """Language of the text, as en; empty for all."""
    min_tokens: int = 0
    """Fewest tokens; OpenWebText had 128."""
    rules: tuple[Literal["gopher", "c4", "fineweb"], ...] = ()
    """Published quality rules, in this order. The paper only says "heuristic based cleaning"."""
    wikipedia: bool = False
    """Keep pages of Wikipedia and its copies, which the paper removed."""
    pii: bool = False
    """Replace e-mail addresses and public IP addresses by placeholders."""
    samples: int = 20
    """Dropped documents kept to read, for each reason."""


@dataclass(frozen=True)
class Dedup:
    """Which documents are the same."""

    near: Literal["remove", "mark", "off"] = "remove"
    """mark: keep near-duplicates, but on one side of the split."""
    threshold: float = 0.5
    """Jaccard similarity of word n-grams from which two documents are one."""
    ngram: int = 5
    bands: int = 35
    rows: int = 3
    """A pair of similarity s is looked at with probability 1 - (1 - s^rows)^bands."""
    verify: bool = True
    """Decide by exact similarity. Without it, sharing one band is enough, as in FineWeb."""
    max_bucket: int = 64
    """Documents before it, sharing a band, that a document is compared with; and the first."""


@dataclass(frozen=True)
class Overlap:
    """How much of evaluation texts is in the corpus (paper section 4)."""

    benchmarks: tuple[str, ...] = ()
    """Files or folders of evaluation text, each reported by its name."""
    ngram: int = 8
    remove: bool = False
    """Cut what overlaps out of the documents, by 13-grams."""
    bloom: bool = False
    """Also write the paper's Bloom filter of the corpus."""
    bloom_error: float = 1e-8


@dataclass(frozen=True)
class Shard:
    """How the result is stored."""

    tokenizer: str = "gpt2"
    held_out: float = 0.005
    """Share of documents for validation, chosen by the hash of their cluster."""
    tokens_per_shard: int = 100_000_000
    formats: tuple[Literal["nanogpt", "parquet", "jsonl"], ...] = ("parquet",)
    """Besides the .bin shards that `train` reads: headerless .bin, or the documents themselves."""


@dataclass(frozen=True)
class Run:
    """How the work is done; none of this changes a byte of the result."""

    executor: Executor = "local"
    """ray: the cluster at RAY_ADDRESS; the output folder must be on storage all nodes see."""
    workers: int = 0
    """Processes; 0 for one per core."""
    partitions: int = 0
    """Pieces that documents are grouped into; 0 to choose by the size of the input."""
    allow_damaged: bool = False
    """Go on when input files are truncated or corrupt; what was lost is reported either way."""


@dataclass(frozen=True)
class Recipe:
    """A corpus."""

    source: Source = field(default_factory=Source)
    links: Links = field(default_factory=Links)
    crawl: Crawl = field(default_factory=Crawl)
    extract: Extract = field(default_factory=Extract)
    clean: Clean = field(default_factory=Clean)
    dedup: Dedup = field(default_factory=Dedup)
    overlap: Overlap = field(default_factory=Overlap)
    shard: Shard = field(default_factory=Shard)
    run: Run = field(default_factory=Run)

    @property
    def fetches(self) -> bool:
        """Whether pages have to be fetched."""
        return self.source.kind in ("reddit", "urls")

    def check(self) -> None:
        """Raise UserError for values that cannot be used; called before any work."""
        if not any(path.strip() for path in self.source.paths):
            raise UserError("source.paths is empty; name the files to start from")
        if not all(path.strip() for path in (*self.source.paths, *self.overlap.benchmarks)):
            raise UserError("source.paths or overlap.benchmarks holds an empty path; remove it")
        for name in ("after", "before"):
            _require_date(f"links.{name}", getattr(self.links, name))
        for name, (low, high) in _RANGES.items():
            table, field_name = name.split(".")
            value = getattr(getattr(self, table), field_name)
            if not low <= value <= high:  # also refuses what is no number
                raise UserError(f"{name} must lie between {low:g} and {high:g}, not {value}")
        if not 0 < self.dedup.threshold <= 1:
            raise UserError(f"dedup.threshold must be in (0, 1], not {self.dedup.threshold}")
        if not 0 <= self.shard.held_out < 1:
            raise UserError(f"shard.held_out must be in [0, 1), not {self.shard.held_out}")
        if self.dedup.bands * self.dedup.rows > MOST_HASHES:
            raise UserError(f"dedup.bands times dedup.rows must be at most {MOST_HASHES}")
        self._check_crawl()
        for name, language in (("extract", self.extract.language), ("clean", self.clean.language)):
            if language and not re.fullmatch(r"[a-z]{2,3}", language):
                raise UserError(f"{name}.language must be a code like en, not {language!r}")

    def _check_crawl(self) -> None:
        if not self.crawl.ports or not all(0 < port < 65536 for port in self.crawl.ports):
            raise UserError(f"crawl.ports must lie between 1 and 65535, not {self.crawl.ports}")
        for name in ("index", "data"):
            if not getattr(self.crawl, name).startswith(("http://", "https://")):
                raise UserError(f"crawl.{name} must be an http address")
        for network in self.crawl.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise UserError(
                    f"crawl.networks: {network!r} is no network; write it as 10.1.0.0/16"
                ) from None
        if self.crawl.via == "commoncrawl" and self.fetches and not self.crawl.crawls:
            raise UserError("crawl.crawls is empty; name collections, as CC-MAIN-2017-51")


def _require_date(name: str, value: str) -> None:
    try:
        if value:
            datetime.date.fromisoformat(value)
    except ValueError:
        raise UserError(f"{name} must be a date like 2017-12-31, not {value!r}") from None


MOST_HASHES = 4096
_RANGES = {
    "run.workers": (0, 4096),
    "run.partitions": (0, 65536),
    "crawl.delay": (0, 3600),
    "crawl.concurrency": (1, 10_000),
    "crawl.timeout": (0.1, 3600),
    "crawl.max_bytes": (1, 2**30),
    "crawl.redirects": (0, 50),
    "crawl.give_up_after": (1, 10**6),
    "crawl.retries": (0, 1000),
    "crawl.backoff": (0, 3600),
    "extract.seconds": (0.1, 3600),
    "extract.memory_mb": (64, 10**7),
    "extract.max_inflated": (1, 2**31),
    "extract.max_ratio": (1, 10**6),
    "extract.max_chars": (1, 10**9),
    "clean.min_tokens": (0, 10**9),
    "clean.samples": (0, 10_000),
    "dedup.ngram": (1, 1000),
    "dedup.bands": (1, MOST_HASHES),
    "dedup.rows": (1, MOST_HASHES),
    "dedup.max_bucket": (1, 10**6),
    "overlap.ngram": (1, 1000),
    "overlap.bloom_error": (1e-18, 0.5),
    "shard.tokens_per_shard": (1000, 2**31 - 1),  # the count is an int32 in the header
}
