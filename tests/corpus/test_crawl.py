"""The crawler against a small web that behaves in every way it should not."""

import gzip
import itertools
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2lab.corpus import crawl, urls
from gpt2lab.corpus.links import SCHEMA
from gpt2lab.corpus.recipe import Crawl
from gpt2lab.corpus.warc import http_message, read_records
from gpt2lab.errors import UserError
from web import ADDRESS, NETWORKS, TRAP, article


def links(folder, *addresses):
    rows = {urls.key(urls.normalise(u)): u for u in addresses}
    table = pa.Table.from_pylist(
        [
            {"key": k, "url": u, "score": 7, "created": 1119552233, "id": "", "subreddit": ""}
            for k, u in sorted(rows.items())
        ],
        SCHEMA,
    )
    pq.write_table(table, folder / "links.parquet")
    return [str(folder / "links.parquet")]


def rules(web, **changes):
    defaults = {
        "contact": "crawler@example.org", "delay": 0.01, "timeout": 2.0, "backoff": 0.05,
        "ports": (web.port,), "networks": NETWORKS, "concurrency": 16,
    }  # fmt: skip
    return Crawl(**(defaults | changes))


def fetch(web, folder, *addresses, **changes):
    """Crawl the addresses and one good page, which is left out of what is returned."""
    out = folder / "crawl"
    good = web.page("good.test", "/", article("goodness"))
    files = links(folder, good, *addresses)
    counts = crawl.crawl(out, files, rules(web, **changes), block="webtext")
    counts["counts"]["fetched"] -= 1
    if not counts["counts"]["fetched"]:
        del counts["counts"]["fetched"]
    records = {}
    for path in sorted(out.glob("*.warc.gz")):
        damage = []
        for record in read_records(path, damage):
            records[record.headers["gpt2lab-asked"]] = record
        assert damage == []
    web.asked[:] = [entry for entry in web.asked if entry[1] != "good.test"]
    del records[good]
    return counts["counts"], records


def test_pages_are_archived_as_they_came(web, tmp_path):
    plain = web.page("a.test", "/1", article("bridges"))
    packed = web.page("a.test", "/2", gzip.compress(b"<p>x" * 50), Content_Encoding="gzip")
    counts, records = fetch(web, tmp_path, plain, packed)
    assert counts == {"fetched": 2}
    message = http_message(records[plain].block)
    assert message.status == 200
    assert message.body == article("bridges").encode()
    assert records[plain].headers["gpt2lab-score"] == "7"
    assert records[plain].headers["gpt2lab-created"] == "1119552233"
    assert records[plain].headers["warc-ip-address"] == ADDRESS
    assert gzip.decompress(http_message(records[packed].block).body) == b"<p>x" * 50
    assert {agent for *_, agent in web.asked} == {"gpt2lab/0.1.0 (+crawler@example.org)"}


def test_what_is_not_kept_is_counted_by_reason(web, tmp_path):
    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "50000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * 10)
            time.sleep(0.1)

    def breaks_off(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"<p>only this")
        handler.close_connection = True

    web.pages["slow.test", "/"] = slow
    web.pages["cut.test", "/"] = breaks_off
    web.name("slow.test")
    web.name("cut.test")
    addresses = [
        web.url("slow.test", "/"),
        web.url("cut.test", "/"),
        web.page("b.test", "/gone", "", status=410),
        web.url("b.test", "/missing"),
        web.page("b.test", "/big", "x" * 200_000),
        web.page("b.test", "/image", "GIF89a", Content_Type="image/gif"),
        web.page("b.test", "/loop", "", status=302, Location="/loop"),
        web.page("b.test", "/wiki", "", status=301, Location="http://en.wikipedia.org/wiki/A"),
        web.page("b.test", "/mail", "", status=301, Location="mailto:a@b.test"),
        web.page("b.test", "/port", "", status=302, Location="http://b.test:22/"),
        f"http://nowhere.test:{web.port}/",
    ]
    counts, records = fetch(web, tmp_path, *addresses, max_bytes=100_000, retries=1)
    assert records == {}
    assert counts == {
        "timeout": 1,
        "connection failed: ResponseDataLossError": 1,
        "status 410": 1,
        "status 404": 1,
        "too large": 1,
        "not html": 1,
        "too many redirects": 1,
        "redirect to blocked domain": 1,
        "redirect to no http address": 1,
        "port not allowed": 1,
        "robots.txt unreachable": 1,
    }


def test_a_redirect_is_followed_and_the_page_filed_under_both_addresses(web, tmp_path):
    web.page("c.test", "/new", article("harbours"))
    old = web.page("old.test", "/x", "", status=301, Location="http://c.test:PORT/new")
    counts, records = fetch(web, tmp_path, old)
    assert counts == {"fetched": 1}
    assert records[old].url == web.url("c.test", "/new")
    assert "/robots.txt" in web.requests("c.test")


@pytest.mark.parametrize(
    "target",
    [
        f"http://{TRAP}:PORT/secret",
        "http://trap.test:PORT/secret",
        "http://2130706441:PORT/secret",  # 127.0.0.9 as one number
        "http://0x7f.0.0.9:PORT/secret",
        f"http://[::ffff:{TRAP}]:PORT/secret",
        "http://169.254.169.254:PORT/latest/meta-data/",
        "http://[::1]:PORT/",
    ],
)
def test_redirects_to_private_addresses_are_refused(web, tmp_path, target):
    web.name("trap.test", TRAP)
    start = web.page("d.test", "/", "", status=302, Location=target)
    counts, records = fetch(web, tmp_path, start, retries=0)
    assert web.trapped == []
    assert records == {}
    assert sum(counts.values()) == 1
    assert set(counts) <= {
        "private address",
        "redirect to no http address",
        "robots.txt unreachable",
    }


def test_a_name_that_turns_private_between_two_looks_is_refused(web, tmp_path):
    """DNS rebinding: robots.txt comes from the public address, the page would from the trap."""
    address = web.page("rebind.test", "/", article("rivers"))
    robots(web, "rebind.test", "User-agent: *\nAllow: /", Connection="close")
    web.name("rebind.test", ADDRESS, TRAP)
    counts, records = fetch(web, tmp_path, address, retries=0)
    assert web.trapped == []
    assert records == {}
    assert counts == {"private address": 1}
    assert web.requests("rebind.test") == ["/robots.txt"]


def test_links_to_private_addresses_are_refused(web, tmp_path):
    web.name("trap.test", TRAP)
    addresses = [f"http://{TRAP}:{web.port}/", web.url("trap.test", "/")]
    counts, _ = fetch(web, tmp_path, *addresses, retries=0)
    assert web.trapped == []
    assert counts == {"private address": 2}


def robots(web, host, text, status=200, **headers):
    web.page(host, "/robots.txt", text, status=status, Content_Type="text/plain", **headers)


def test_robots(web, tmp_path):
    robots(
        web, "some.test", "User-agent: gpt2lab\nDisallow: /private\n\nUser-agent: *\nDisallow: /"
    )
    robots(web, "none.test", "User-agent: *\nDisallow: /")
    robots(web, "error.test", "", status=503)
    robots(web, "busy.test", "", status=429)
    robots(web, "forbidden.test", "", status=403)
    robots(web, "moved.test", "", status=301, Location="http://none.test:PORT/robots.txt")
    robots(web, "round.test", "", status=302, Location="/robots.txt")
    robots(web, "long.test", "#" * 600_000 + "\nUser-agent: *\nDisallow: /")
    hosts = ("some", "none", "error", "busy", "forbidden", "moved", "round", "long")
    allowed = [web.page(f"{h}.test", "/page", article(h)) for h in hosts]
    private = web.page("some.test", "/private/x", article("private"))
    counts, records = fetch(web, tmp_path, *allowed, private, retries=1)
    got = {record.url.split("/")[2].split(":")[0] for record in records.values()}
    assert got == {"some.test", "forbidden.test", "round.test", "long.test"}
    assert counts == {"fetched": 4, "robots.txt": 3, "robots.txt unreachable": 2}
    # Not one request for a page that is not allowed.
    for host in ("none", "error", "busy", "moved"):
        assert set(web.requests(f"{host}.test")) == {"/robots.txt"}
    assert "/private/x" not in web.requests("some.test")
    assert web.requests("some.test").count("/robots.txt") == 1


def test_robots_that_come_packed_or_with_a_byte_order_mark(web, tmp_path):
    rule = b"User-agent: *\nDisallow: /"
    packed = gzip.compress(rule)
    robots(web, "packed.test", packed, Content_Encoding="gzip")
    robots(web, "mark.test", b"\xef\xbb\xbf" + rule)
    robots(web, "torn.test", packed[:-9], Content_Encoding="gzip")
    pages = [web.page(f"{h}.test", "/x", article(h)) for h in ("packed", "mark", "torn")]
    counts, records = fetch(web, tmp_path, *pages, retries=0)
    assert records == {}
    assert counts == {"robots.txt": 2, "robots.txt unreachable": 1}
    assert set(web.requests()) == {"/robots.txt"}


def test_answers_that_are_no_html_but_mean_something(web, tmp_path):
    """A redirect, or a request to wait, is one whatever type it says its body has."""
    web.page("c.test", "/new", article("harbours"))
    moved = web.page(
        "t.test", "/m", "", status=301, Location="http://c.test:PORT/new", Content_Type="text/plain"
    )
    busy = web.page("u.test", "/b", "{}", status=503, Content_Type="application/json")
    counts, records = fetch(web, tmp_path, moved, busy, retries=0)
    assert counts == {"fetched": 1, "status 503": 1}
    assert set(records) == {moved}


def test_dead_targets_are_not_the_fault_of_who_points_to_them(web, tmp_path):
    short = []
    for i in range(24):
        target = f"http://dead{i}.test:PORT/" if i % 2 else f"http://live{i}.test:PORT/"
        web.page(f"live{i}.test", "/", article(f"live{i}"))
        short.append(web.page("s.test", f"/{i}", "", status=301, Location=target))
    counts, _ = fetch(web, tmp_path, *short, retries=0, give_up_after=5)
    assert counts == {"fetched": 12, "robots.txt unreachable": 12}


def test_a_line_break_in_a_link_stays_out_of_the_archive(web, tmp_path):
    page = urls.clean(f"http://a.test:{web.port}/x\r\nInjected: yes")
    assert page == f"http://a.test:{web.port}/xInjected:%20yes"
    web.page("a.test", "/xInjected:%20yes", article("breaks"))
    counts, records = fetch(web, tmp_path, page)
    assert counts == {"fetched": 1}
    assert "injected" not in records[page].headers


def test_a_full_disk_ends_the_crawl_and_loses_nothing(web, tmp_path, monkeypatch):
    from gpt2lab.corpus.archive import Archive
    from gpt2lab.corpus.frontier import Page

    page = Page(b"k" * 16, "http://a.test/", "a.test", 1, 0, 0)
    archive = Archive(tmp_path)
    archive.add(page, page.url, 200, [], b"x" * 3000, "")
    before = (tmp_path / "pages-00000.warc.gz").read_bytes()

    class Full:
        name = archive._file.name

        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:10])
            raise OSError(28, "No space left on device")

        def truncate(self, size):
            self.file.truncate(size)

    archive._file = Full(archive._file)
    with pytest.raises(OSError, match="No space left"):
        archive.add(page, page.url, 200, [], b"y" * 3000, "")
    assert (tmp_path / "pages-00000.warc.gz").read_bytes() == before


def test_delay_between_requests_to_a_host(web, tmp_path):
    robots(web, "calm.test", "User-agent: *\nCrawl-delay: 0.4\nAllow: /")
    addresses = [web.page("calm.test", f"/{i}", article(str(i))) for i in range(4)]
    others = [web.page("quick.test", f"/{i}", article(f"q{i}")) for i in range(4)]
    counts, _ = fetch(web, tmp_path, *addresses, *others, delay=0.1)
    assert counts == {"fetched": 8}
    for host, least in (("calm.test", 0.38), ("quick.test", 0.095)):
        times = sorted(t for t, h, path, _ in web.asked if h == host and path != "/robots.txt")
        assert min(b - a for a, b in itertools.pairwise(times)) >= least


def test_busy_servers_are_asked_again_when_they_say(web, tmp_path):
    answers = iter([(429, "1"), (503, "0"), (200, "0")])

    def busy(handler):
        status, after = next(answers)
        body = article("patience").encode()
        handler.send_response(status)
        handler.send_header("Retry-After", after)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    web.pages["busy.test", "/"] = busy
    web.name("busy.test")
    counts, _ = fetch(web, tmp_path, web.url("busy.test", "/"), retries=2)
    assert counts == {"fetched": 1}
    times = [t for t, _, path, _ in web.asked if path == "/"]
    assert times[1] - times[0] >= 1.0


def test_a_host_that_asks_to_wait_is_left_alone_as_a_whole(web, tmp_path):
    answers = iter([(429, "1")])

    def once(handler):
        status, after = next(answers, (200, "0"))
        body = article("patience").encode()
        handler.send_response(status)
        handler.send_header("Retry-After", after)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    for i in range(4):
        web.pages["wait.test", f"/{i}"] = once
    web.name("wait.test")
    counts, _ = fetch(web, tmp_path, *[web.url("wait.test", f"/{i}") for i in range(4)])
    assert counts == {"fetched": 4}
    times = [t for t, _, path, _ in web.asked if path != "/robots.txt"]
    assert times[1] - times[0] >= 1.0


def test_a_host_that_only_fails_is_given_up(web, tmp_path):
    addresses = [web.page("down.test", f"/{i}", "", status=500) for i in range(30)]
    counts, _ = fetch(web, tmp_path, *addresses, give_up_after=5, retries=0)
    assert counts == {"status 500": 5, "host given up": 25}
    assert len([p for p in web.requests("down.test") if p != "/robots.txt"]) == 5


def test_a_slow_host_does_not_hold_up_others(web, tmp_path):
    def slow(handler):
        time.sleep(1.5)
        handler.send_response(404)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    for i in range(3):
        web.pages["slow.test", f"/{i}"] = slow
    web.name("slow.test")
    quick = [web.page(f"q{i}.test", "/", article(f"q{i}")) for i in range(30)]
    fetch(web, tmp_path, *[web.url("slow.test", f"/{i}") for i in range(3)], *quick, timeout=5.0)
    last = max(t for t, host, *_ in web.asked if host.startswith("q"))
    assert last - web.asked[0][0] < 1.4


def test_nobody_to_reach_nobody_to_crawl(web, tmp_path):
    with pytest.raises(UserError, match=r"crawl\.contact must be an e-mail address"):
        fetch(web, tmp_path, web.page("a.test", "/", "x"), contact="")
    assert web.asked == []


def test_a_crawl_that_gets_nothing_says_why_and_can_be_tried_again(web, tmp_path):
    address = web.page("later.test", "/", "", status=404)
    files = links(tmp_path, address)
    with pytest.raises(UserError, match=r"no page could be fetched \(status 404 1\)"):
        crawl.crawl(tmp_path / "crawl", files, rules(web), block="webtext")
    web.page("later.test", "/", article("second thoughts"))
    assert crawl.crawl(tmp_path / "crawl", files, rules(web), block="webtext") == {
        "counts": {"fetched": 1}
    }


def test_recovery_with_a_hole_in_the_middle_and_a_torn_end(tmp_path):
    from gpt2lab.corpus.archive import Archive, recover
    from gpt2lab.corpus.frontier import Frontier

    files = links(tmp_path, *[f"http://h{i}.test/" for i in range(4)])
    frontier = Frontier(tmp_path)
    frontier.load(files)
    frontier.open()
    archive = Archive(tmp_path)
    taken = [frontier.take() for _ in range(4)]
    ends = [archive.add(p, p.url, 200, [], b"<p>" * 500, "")[1] for p in taken]
    archive.close()
    path = tmp_path / "pages-00000.warc.gz"
    data = bytearray(path.read_bytes())
    data[ends[0] + 60] ^= 0xFF  # the second record is corrupt
    path.write_bytes(data[: ends[2] + 50])  # the fourth is torn off
    recover(tmp_path, frontier)
    assert path.stat().st_size == ends[2]
    frontier.close()
    frontier = Frontier(tmp_path)
    frontier.open()
    assert frontier.counts() == {"fetched": 2, "left": 2}
    assert {frontier.take().url, frontier.take().url} == {taken[1].url, taken[3].url}


def test_killed_and_resumed_without_fetching_twice(web, tmp_path):
    import multiprocessing

    web.delay = 0.15
    addresses = [web.page(f"h{i % 5}.test", f"/{i}", article(str(i))) for i in range(60)]
    files = links(tmp_path, *addresses)
    out = tmp_path / "crawl"
    context = multiprocessing.get_context("spawn")
    kills = 0
    for wait in (1.6, 1.8, 2.0, 2.2):
        run = context.Process(
            target=crawl.crawl, args=(out, files, rules(web)), kwargs={"block": "webtext"}
        )
        run.start()
        run.join(wait)
        if run.is_alive():
            os.kill(run.pid, 9)
            kills += 1
        run.join()
    counts = crawl.crawl(out, files, rules(web), block="webtext")["counts"]
    assert kills >= 2
    assert counts == {"fetched": 60}
    asked = [path for path in web.requests() if path != "/robots.txt"]
    # A page in flight at a kill has to be asked for again: at most one for each host and kill.
    assert len(asked) - len(set(asked)) <= 5 * kills
    seen = [r.url for f in sorted(out.glob("*.warc.gz")) for r in read_records(f, [])]
    assert len(seen) == len(set(seen)) == 60
