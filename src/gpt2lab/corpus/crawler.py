"""The crawling process: `python -m gpt2lab.corpus.crawler FOLDER`, started by crawl.py.

Scrapy downloads (connections, TLS, timeouts, size limits, delays per host); which page comes next,
what robots.txt and redirects mean, and what is kept is decided here. Twisted's reactor runs once in
a process and takes over its signals, which is why the crawl has a process of its own.
"""

import asyncio
import email.utils
import fcntl
import itertools
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import scrapy
from scrapy import signals
from scrapy.crawler import CrawlerProcess
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadTimeoutError,
    StopDownload,
)

from gpt2lab.corpus import urls
from gpt2lab.corpus.address import PublicResolver, is_public
from gpt2lab.corpus.archive import Archive, recover
from gpt2lab.corpus.frontier import Frontier, Page
from gpt2lab.corpus.links import blocked
from gpt2lab.corpus.recipe import Crawl
from gpt2lab.corpus.robots import MAX_BYTES, Robots
from gpt2lab.corpus.warc import Message, unpacked

AGENT = "gpt2lab"
REDIRECTS = (301, 302, 303, 307, 308)
TRANSIENT = (429, 500, 502, 503, 504)
MAX_BACKOFF = 3600.0
_HTML = (b"text/html", b"application/xhtml+xml")


class Refused(Exception):
    """A page that is not fetched; its text is the reason counted."""


class Later(Exception):
    """A page that failed for now, by which host, and how many seconds that asked to be left."""

    def __init__(self, reason: str, host: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.host, self.seconds = host, seconds


class Pages(scrapy.Spider):
    """Fetches every page of the frontier, one at a time from each host."""

    name = "gpt2lab"
    finished = False

    def __init__(self, folder: Path, rules: Crawl, block: str, files: list[str]) -> None:
        super().__init__()
        self._rules, self._block = rules, block
        self._frontier = Frontier(folder)
        self._frontier.load(files)
        recover(folder, self._frontier)
        self._frontier.open()
        self._archive = Archive(folder)
        self._robots = Robots(AGENT, self._get_robots, retry=rules.backoff)
        self._failures: Counter[str] = Counter()
        self._fetched = self._bytes = 0

    async def start(self) -> AsyncIterator[Any]:
        """Work until the frontier is finished."""
        signal = self.crawler.signals.connect
        signal(self._headers_received, signals.headers_received)
        report = asyncio.ensure_future(self._report())
        try:
            workers = [self._work() for _ in range(self._rules.concurrency)]
            await asyncio.gather(*workers)
            Pages.finished = True
        except (OSError, sqlite3.Error) as error:
            print(json.dumps({"failed": str(error)}), flush=True)
        finally:
            report.cancel()
            self._tell()
            self._archive.close()
            self._frontier.close()
        page: Any
        for page in ():  # Scrapy wants a generator of requests; ours are made in _download
            yield page

    async def _report(self) -> None:
        parent = os.getppid()
        for tick in itertools.count():
            if os.getppid() != parent:  # whoever started the crawl was killed
                os._exit(1)
            if tick % 5 == 0:
                self._tell()
            await asyncio.sleep(0.2)

    def _tell(self) -> None:
        state = {
            "counts": self._frontier.counts(),
            "hosts": self._frontier.busy,
            "bytes": self._bytes,
        }
        print(json.dumps(state), flush=True)

    async def _work(self) -> None:
        while not self._frontier.finished:
            page = self._frontier.take()
            if page is None:
                await asyncio.sleep(0.05)
                continue
            try:
                await self._fetch(page)
            except Refused as refused:
                self._frontier.fail(page, str(refused))
            except Later as later:
                self._postpone(page, later)
            except (OSError, sqlite3.Error):  # of our own files: a full disk
                raise
            except Exception as error:  # one page's trouble, whatever it is, is its own
                self._frontier.fail(page, f"error: {type(error).__name__}")

    def _postpone(self, page: Page, later: Later) -> None:
        """Another try, until the page or the host that fails has had enough."""
        self._failures[later.host] += 1
        given_up = self._failures[later.host] >= self._rules.give_up_after
        wait = min(max(later.seconds, self._rules.backoff * 2**page.attempts), MAX_BACKOFF)
        if given_up or page.attempts >= self._rules.retries:
            self._frontier.fail(page, str(later))
        else:
            self._frontier.again(page, str(later), wait)
        if given_up:
            self._frontier.give_up(later.host)
        elif later.seconds:
            self._frontier.hold(later.host, wait)

    async def _fetch(self, page: Page) -> None:
        """Follow a page to where it is and archive it."""
        url = page.url
        for hop in range(self._rules.redirects + 1):
            self._judge(url, redirected=hop > 0)
            reason, delay = await self._robots.allows(url)
            if _host(url) in PublicResolver.refused:
                raise Refused("private address")
            if reason:
                raise Refused(reason) if reason == "robots.txt" else Later(reason, _host(url))
            response = await self._download(url, delay)
            location = _text(response.headers.get("Location"))
            if response.status in REDIRECTS and location:
                url = urljoin(url, location)
                continue
            return self._keep(page, response)
        raise Refused("too many redirects")

    def _judge(self, url: str, *, redirected: bool) -> None:
        """Refuse addresses that are not to be fetched, before anything is sent."""
        normal = urls.normalise(url)
        if normal is None:
            raise Refused("redirect to no http address" if redirected else "no http address")
        if reason := blocked(normal, self._block):
            raise Refused(f"redirect to {reason}" if redirected else reason)
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
        if port not in self._rules.ports:
            raise Refused("port not allowed")

    async def _download(self, url: str, delay: float, **meta: Any) -> scrapy.http.Response:
        """One request, no redirects followed; errors become Refused or Later."""
        request = scrapy.Request(url, dont_filter=True, meta=meta)
        host = _host(request.url)
        downloader = self.crawler.engine.downloader
        if delay > self._rules.delay:
            downloader.per_slot_settings.setdefault(host, {"delay": delay, "jitter": 0})
            if host in downloader.slots:
                downloader.slots[host].delay = delay
        try:
            response = await self.crawler.engine.download_async(request)
        except DownloadTimeoutError:
            raise Later("timeout", host) from None
        except DownloadCancelledError:
            raise Refused("too large") from None
        except CannotResolveHostError:
            if host in PublicResolver.refused:
                raise Refused("private address") from None
            raise Later("host not found", host) from None
        except Exception as error:
            raise Later(f"connection failed: {type(error).__name__}", host) from None
        if response.status not in TRANSIENT:
            self._failures.pop(host, None)  # it answers
        self._bytes += len(response.body)
        return response

    async def _get_robots(self, url: str) -> tuple[int, str, bytes]:
        self._judge_robots(url)
        response = await self._download(url, 0.0, robots=True, download_maxsize=4 * MAX_BYTES)
        headers = {"content-encoding": _text(response.headers.get("Content-Encoding"))}
        message = Message(response.status, headers, response.body)
        body = unpacked(message, most=4 * MAX_BYTES, ratio=1000)
        return response.status, _text(response.headers.get("Location")), body

    def _judge_robots(self, url: str) -> None:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme not in ("http", "https") or port not in self._rules.ports:
            raise Refused("port not allowed")

    def _keep(self, page: Page, response: scrapy.http.Response) -> None:
        """Archive a page, or say why not."""
        status = response.status
        if status in TRANSIENT:
            wait = _retry_after(response.headers.get("Retry-After"))
            raise Later(f"status {status}", _host(response.url), wait)
        if status != 200:
            raise Refused(f"status {status}")
        if not _is_html(response.headers):
            raise Refused("not html")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in response.headers.items()
            for value in values
        ]
        address = str(response.ip_address or "")
        if address and not is_public(address, PublicResolver.networks):
            raise AssertionError(f"connected to {address}")
        file, end = self._archive.add(page, response.url, status, headers, response.body, address)
        self._frontier.done(page, file, end)
        self._fetched += 1

    def _headers_received(self, headers: Any, request: scrapy.Request, **_: Any) -> None:
        """Stop downloads of what is no page as soon as their headers say so."""
        if not request.meta.get("robots") and not _is_html(headers):
            raise StopDownload(fail=False)


def _is_html(headers: Any) -> bool:
    kind = headers.get("Content-Type") or b"text/html"
    return bool(kind.lower().startswith(_HTML))


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _text(header: bytes | None) -> str:
    return (header or b"").decode("utf-8", "replace").strip()


def _retry_after(value: bytes | None) -> float:
    """Seconds that a server asks us to wait: a number or a date (RFC 9110, section 10.2.3)."""
    text = _text(value)
    try:
        if text.isdecimal():
            return min(float(text), MAX_BACKOFF)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def settings(rules: Crawl, log: Path) -> dict[str, Any]:
    """Scrapy's settings: one polite connection per host, nothing followed or kept by itself."""
    off = dict.fromkeys(
        (
            "offsite.OffsiteMiddleware",
            "robotstxt.RobotsTxtMiddleware",
            "httpauth.HttpAuthMiddleware",
            "retry.RetryMiddleware",
            "redirect.MetaRefreshMiddleware",
            "httpcompression.HttpCompressionMiddleware",
            "redirect.RedirectMiddleware",
            "cookies.CookiesMiddleware",
            "httpproxy.HttpProxyMiddleware",
            "httpcache.HttpCacheMiddleware",
        )
    )
    return {
        "USER_AGENT": f"{AGENT}/{version('gpt2lab')} (+{rules.contact})",
        "DEFAULT_REQUEST_HEADERS": {
            "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.5",
            "Accept-Language": "en",
            "Accept-Encoding": "gzip",  # kept as it comes; unpacked, with limits, at extraction
        },
        "DOWNLOADER_MIDDLEWARES": {f"scrapy.downloadermiddlewares.{n}": v for n, v in off.items()},
        "DOWNLOAD_DELAY": rules.delay,
        "DOWNLOAD_DELAY_JITTER": 0,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 1,
        "DOWNLOAD_TIMEOUT": rules.timeout,
        "DOWNLOAD_MAXSIZE": rules.max_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_FAIL_ON_DATALOSS": True,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "TWISTED_DNS_RESOLVER": PublicResolver,
        "DNSCACHE_ENABLED": False,
        "GPT2LAB_NETWORKS": list(rules.networks),
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "WARNING",
        "LOG_FILE": str(log),
        "RETRY_ENABLED": False,
        "COOKIES_ENABLED": False,
        "REACTOR_THREADPOOL_MAXSIZE": 20,
    }


def main(folder: Path) -> None:
    """Crawl what `folder/crawl.json` says."""
    from gpt2lab.settings import from_table

    config = json.loads((folder / "crawl.json").read_text("utf-8"))
    rules = from_table(Crawl, config["rules"], where="crawl.json")
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # the crawler of a killed run may need a moment to notice
    process = CrawlerProcess(settings(rules, folder / "crawl.log"))
    process.crawl(Pages, folder=folder, rules=rules, block=config["block"], files=config["files"])
    process.start()
    if not Pages.finished:
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
