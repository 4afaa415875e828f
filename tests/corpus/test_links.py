"""From dumps and lists to one link per page."""

import json
from collections import Counter

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard

from gpt2lab.corpus import domains, links, report, urls
from gpt2lab.corpus.recipe import Links
from gpt2lab.corpus.submissions import read_submissions
from gpt2lab.errors import UserError


def dump(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(text.encode()))
    return str(path)


def run(tmp_path, file, rules=None, *, partitions=3, scored=True):
    rules = rules or Links()
    first = tmp_path / "read"
    first.mkdir()
    manifest = links.read(first, file=file, rules=rules, partitions=partitions, scored=scored)
    rows, counts = [], Counter()
    for p in range(partitions):
        out = tmp_path / f"merge-{p}"
        out.mkdir()
        merged = links.merge(
            out,
            files=[str(first / links.SHUFFLED)],
            partition=p,
            partitions=partitions,
            rules=rules,
            scored=scored,
        )
        counts.update(merged["counts"])
        rows += pq.read_table(out / links.OUTPUT).to_pylist()
    return manifest, counts, rows


def post(url, score=5, created=1_300_000_000, **more):
    return {"url": url, "score": score, "created_utc": created, "subreddit": "books", **more}


def test_rules_in_turn(tmp_path):
    rows = [
        post("http://a.com/1"),
        post("http://a.com/2", score=2),
        post("http://a.com/3", is_self=True),
        post("http://a.com/4", over_18=True),
        post("http://a.com/5", created=1_514_764_800),  # 2018-01-01
        post("http://a.com/6", created=1_514_764_799),
        post("http://a.com/7", subreddit="NSFW"),
        post("ftp://a.com/8"),
        post("https://en.wikipedia.org/wiki/A"),
        post("http://a.com/x.JPG?width=3"),
        post("http://i.imgur.com/abc"),
        post(""),
        post(None),
        post("/r/books/comments/1"),
    ]
    manifest, counts, got = run(tmp_path, dump(tmp_path / "RS.zst", rows))
    assert manifest["counts"] == {
        "submissions": 14,
        "links": 2,
        "below the score": 1,
        "text post": 1,
        "over 18": 1,
        "too late": 1,
        "subreddit": 1,
        "no http address": 4,
        "blocked domain": 2,
        "blocked file type": 1,
    }
    assert sum(manifest["counts"].values()) - 14 == 14
    assert sorted(row["url"] for row in got) == ["http://a.com/1", "http://a.com/6"]
    assert counts["pages"] == 2
    five = [0, 0, 0, 1, 0, 0, 0]
    assert manifest["months"] == {
        "2011-03": [0, 0, 1, 10, 0, 0, 0],
        "2017-12": five,
        "2018-01": five,
    }


def test_one_page_many_submissions(tmp_path):
    rows = [
        post("http://www.a.com/x?b=2&a=1#top", score=4, created=200, id="b"),
        post("https://www.A.com:443/x?a=1&amp;b=2&utm_source=reddit", score=9, created=100, id="a"),
        post("http://www.a.com/x?a=1&b=3", score=3, created=300, id="c"),
    ]
    _, counts, got = run(tmp_path, dump(tmp_path / "RS.zst", rows))
    assert counts["duplicate links"] == 1
    by_id = {row["id"]: row for row in got}
    assert set(by_id) == {"a", "c"}  # the earliest speaks for the page; ?b=3 is another page
    assert by_id["a"]["score"] == 9
    # What is fetched is what was posted, but for HTML's escapes.
    assert by_id["a"]["url"] == "https://www.A.com:443/x?a=1&b=2&utm_source=reddit"


@pytest.mark.parametrize(("karma", "kept"), [("any", {"y"}), ("sum", {"x", "y"})])
def test_karma_of_one_submission_or_of_all(tmp_path, karma, kept):
    rows = [post("http://a.com/x", score=1, id=str(i)) for i in range(3)]
    rows += [post("http://a.com/y", score=3), post("http://a.com/z", score=2)]
    _, _, got = run(tmp_path, dump(tmp_path / "RS.zst", rows), Links(karma=karma))
    assert {row["url"][-1] for row in got} == kept


def test_rows_of_all_ages_and_none(tmp_path):
    """Early dumps have strings for numbers, later ones nulls; some rows are no JSON at all."""
    lines = [
        b'{"url": "http://a.com/1", "score": "7", "created_utc": "1300000000"}',
        b'{"url": "http://a.com/2", "score": 7.0, "created_utc": 1300000000.0, "over_18": null}',
        b'{"url": "http://a.com/3", "score": 99999999999999999999, "created_utc": -5}',
        b'{"url": "http://a.com/4", "score": null}',
        b'{"url": ["http://a.com/5"], "score": 7}',
        b'{"url": "http://a.com/6", "score": 7, "over_18": "true"}',
        b'{"url": "http://a.com/8", "score": 1e30, "created_utc": 1e300}',
        b"{broken",
        b"[]",
        b"\xff\xfe",
        b'{"url": "http://a.com/7", "score": {"x": [1, 2]}, "is_self": {}}',
        b'{"url": "http://a.com/\xff", "score": 7}',
        b"",
    ]
    path = tmp_path / "RS.ndjson"
    path.write_bytes(b"\n".join(lines) + b"\n")
    manifest, _, got = run(tmp_path, str(path))
    assert sorted(row["url"][-1] for row in got) == ["1", "2"]
    counts = manifest["counts"]
    assert counts["bad rows"] == 4
    assert counts["submissions"] + counts["bad rows"] == len(lines) - 1  # the last is empty


def test_lists_of_urls(tmp_path):
    (tmp_path / "urls.txt").write_text("http://a.com/1\n\n  http://a.com/2  \nhttp://a.com/1")
    manifest, counts, got = run(tmp_path, str(tmp_path / "urls.txt"), scored=False)
    assert sorted(row["url"] for row in got) == ["http://a.com/1", "http://a.com/2"]
    assert manifest["damage"] == []
    assert counts["duplicate links"] == 1


def test_real_dump_of_june_2005(tmp_path, data):
    file = str(data / "webtext" / "reddit" / "RS_v2_2005-06.xz")
    manifest, counts, got = run(tmp_path, file)
    assert manifest["counts"] == {"submissions": 103, "below the score": 20, "links": 83}
    assert sum(manifest["months"]["2005-06"]) == 103
    assert sum(manifest["months"]["2005-06"][3:]) == 83
    assert counts["pages"] == len(got) == 83
    assert not any("&amp;" in row["url"] for row in got)


def test_real_lists_of_seven_subreddits(tmp_path, data):
    total = Counter()
    for file in sorted((data / "webtext" / "reddit").glob("*.csv.zst")):
        found, damage, counts = [], [], Counter()
        found = list(read_submissions(file, damage, counts))
        assert damage == []
        assert counts["bad rows"] == 0
        total[file.name] = len(found)
    assert sum(total.values()) == 6999
    assert len(total) == 7


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("http://Example.COM", "https://example.com/"),
        ("http://example.com:80/a", "http://example.com/a"),
        ("http://user:pw@example.com/a", "http://example.com/a"),
        ("http://example.com/a/../b/./c", "http://example.com/b/c"),
        ("http://example.com/%7euser/%e2%82%ac", "http://example.com/~user/€"),
        ("http://example.com/?b=1&a=2&fbclid=xyz", "http://example.com/?a=2&b=1"),
        ("http://example.com./x#y", "http://example.com/x"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[2001:DB8::1]/", "http://[2001:db8:0:0::1]/"),
        ("  http://example.com/ ", "http://example.com"),
    ],
)
def test_spellings_of_one_address(a, b):
    assert urls.normalise(a) == urls.normalise(b) is not None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("http://example.com/?id=1", "http://example.com/?id=2"),
        ("http://example.com/a", "http://example.com/A"),
        ("http://example.com/a", "http://example.com/a/"),
        ("http://example.com:8080/", "http://example.com/"),
        ("http://example.com/%2F", "http://example.com//"),
        ("http://www.example.com/", "http://example.com/"),
    ],
)
def test_addresses_that_differ(a, b):
    assert urls.normalise(a) != urls.normalise(b)


@pytest.mark.parametrize(
    "url",
    [
        "", "javascript:alert(1)", "mailto:a@b.c", "http://", "http:///path", "//example.com/",
        "http://exa mple.com/", "http://[::1", "http://example.com:99999/", "http://a\u0000b.com/",
        "ftp://example.com/", "http://" + "a" * 300 + ".com/", "http://example.com/" + "x" * 5000,
        "http://-.\u2044.com/",
    ],
)  # fmt: skip
def test_what_is_no_address(url):
    assert urls.normalise(url) is None


def test_normal_forms_are_stable(data):
    """Normalising twice changes nothing, on every address of the real lists."""
    seen = 0
    for file in sorted((data / "webtext" / "reddit").iterdir()):
        for submission in read_submissions(file, [], Counter()):
            normal = urls.normalise(submission.url)
            if normal is not None:
                seen += 1
                assert urls.normalise(normal) == normal
    assert seen > 6000


def test_domains_against_the_published_list(data):
    published = domains.read_published(data / "webtext" / "domains.txt")
    assert published["google"] == 1542261
    assert len(published) == 999  # one of its thousand lines has no label
    same = domains.compare(published, published)
    assert same["rank_correlation"] == 1.0
    assert same["missing"] == same["excess"] == []
    ours = {label: n for label, n in published.items() if label != "google"} | {"mine": 10**9}
    compared = domains.compare(ours, published)
    assert compared["missing"] == ["google"]
    assert compared["excess"] == ["mine"]
    assert domains.count(
        ["http://news.bbc.co.uk/1", "https://bbc.co.uk/2", "http://x.blogspot.com"]
    ) == {
        "bbc": 2,
        "blogspot": 1,
    }


def test_rank_correlation_by_hand():
    a = {"p": 10, "q": 20, "r": 30, "s": 30}
    b = {"p": 1, "q": 3, "r": 2, "s": 4}
    # Ranks 1 2 3.5 3.5 and 1 3 2 4: covariance over the product of deviations.
    x, y = np.array([1, 2, 3.5, 3.5]), np.array([1, 3, 2, 4])
    expected = np.corrcoef(x, y)[0, 1]
    assert domains.compare(a, b)["rank_correlation"] == round(float(expected), 4)


def test_months_with_hardly_any_votes_are_named():
    usual, early = [300, 200, 200, 200, 80, 15, 5], [300, 400, 295, 5, 0, 0, 0]
    counts = {f"2018-{m:02d}": usual for m in range(1, 10)} | {"2018-10": early}
    assert report.strange_months(counts | {"2018-11": [10, 0, 0, 0, 0, 0, 0]}) == ["2018-10"]


def test_our_lists_hold_names_only():
    for which in ("webtext", "openwebtext", "subreddits"):
        names = links.names(which)
        assert len(set(names)) == len(names) > 20
        assert all(name == name.strip().lower() and " " not in name for name in names)
    assert "github.com" in links.names("openwebtext")
    assert "github.com" not in links.names("webtext")


def test_deeply_nested_rows_do_not_end_the_run(tmp_path):
    path = tmp_path / "RS.ndjson"
    path.write_bytes(
        b'{"url": ' + b"[" * 100_000 + b"\n" + msgspec.json.encode(post("http://a.b/c")) + b"\n"
    )
    counts = Counter()
    assert len(list(read_submissions(path, [], counts))) == 1
    assert counts["bad rows"] == 1


def test_a_quote_that_is_never_closed_is_told(tmp_path):
    rows = [f"http://a.com/{i},5" for i in range(200)]
    rows[1] = '"http://a.com/1,5'
    path = tmp_path / "list.csv"
    path.write_text("\n".join(["url,score", *rows]) + "\n")
    manifest, _, _ = run(tmp_path, str(path))
    assert "list.csv: corrupt" in manifest["damage"][0]
    assert "from line 3 on" in manifest["damage"][0]


def test_scores_that_are_no_numbers_are_counted(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("url,score\nhttp://a.com/1,abc\nhttp://a.com/2,1e400\nhttp://a.com/3,7\n")
    manifest, _, got = run(tmp_path, str(path))
    assert manifest["counts"]["score not readable"] == 2
    assert [row["url"] for row in got] == ["http://a.com/3"]
    path.write_text("url\nhttp://a.com/1\n")
    with pytest.raises(UserError, match=r"list\.csv has no column 'score'"):
        list(read_submissions(path, [], Counter(), scored=True))
