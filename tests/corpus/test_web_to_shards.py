"""The real pages, served by a local web with all its faults, to shards that training reads."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from extraction import gold_pages
from gpt2lab.corpus import pipeline
from gpt2lab.corpus.recipe import Clean, Crawl, Extract, Links, Recipe, Run, Shard, Source
from gpt2lab.corpus.shards import open_split
from gpt2lab.corpus.warc import read_records
from gpt2lab.errors import UserError
from kills import build_killed, digest
from small_web import dump, serve
from web import NETWORKS, article


def test_real_pages_through_a_web_with_all_its_faults(web, data, tmp_path, gpt2):
    good, bad = serve(web, data)
    recipe = Recipe(
        source=Source("reddit", (dump(tmp_path / "RS_2014-05.zst", good + bad),)),
        links=Links(block="webtext"),
        crawl=Crawl(
            contact="crawler@example.org", delay=0.01, timeout=20.0, backoff=0.05, retries=1,
            ports=(web.port,), networks=NETWORKS,
        ),
        extract=Extract(seconds=20.0),
        clean=Clean(min_tokens=128),
        shard=Shard(tokenizer=str(data / "tokenizer" / "gpt2"), held_out=0.1),
        run=Run(workers=2),
    )  # fmt: skip
    state = pipeline.build(recipe, tmp_path / "out")
    counts = {name: stage.counts for name, stage in state.stages.items()}
    assert counts["links"]["links"] == counts["pages"]["pages"] == len(good) + len(bad)
    assert counts["crawl"] == {
        "fetched": 247,  # all the good ones, and the bomb, which is small on the wire
        "too many redirects": 2,
        "private address": 2,
        "robots.txt": 1,
        "robots.txt unreachable": 1,
        "status 404": 1,
        "too large": 1,
    }
    assert web.trapped == []
    assert set(web.requests("closed.test")) == set(web.requests("broken.test")) == {"/robots.txt"}
    extracted = counts["extract"]
    assert extracted["too large unpacked"] == 1
    assert extracted["documents"] >= 190
    assert extracted["other language"] >= 20  # 20 of the 181 are not English
    # Scores and dates of the links reach the documents.
    rows = [
        row
        for split in ("train", "val")
        for row in pq.read_table(tmp_path / "out" / "documents" / f"{split}.parquet").to_pylist()
    ]
    assert 150 <= len(rows) <= extracted["documents"]
    assert all(3 <= row["score"] < 53 and row["date"] for row in rows)
    assert not any(row["url"].startswith("http://short.test") for row in rows)
    # Training opens the shards and finds the documents' tokens.
    train = open_split(tmp_path / "out", "train")
    assert len(train) == sum(m["counts"]["train tokens"] for m in state.stages["tokens"].manifests)
    first = train.slice(0, 200)
    assert first[0] == gpt2.end_of_text
    assert np.max(first) < 50257
    for name in ("README.md", "report.html", "corpus.json", "recipe.toml"):
        assert (tmp_path / "out" / name).stat().st_size > 300


def test_shards_made_from_pages_train_a_model(web, data, tmp_path, small_tokenizer):
    from gpt2lab.model.config import GPT2Config
    from gpt2lab.training import run as runs
    from gpt2lab.training.recipe import Data, Every, Train
    from gpt2lab.training.recipe import Recipe as Training

    addresses = [
        web.page(f"n{i}.test", "/", html) for i, (html, *_) in enumerate(gold_pages(data)[:30])
    ]
    (tmp_path / "urls.txt").write_text("\n".join(addresses))
    small_tokenizer.save(tmp_path / "tokenizer")
    recipe = Recipe(
        source=Source("urls", (str(tmp_path / "urls.txt"),)),
        crawl=Crawl(
            contact="https://example.org/bot", delay=0.01, ports=(web.port,), networks=NETWORKS
        ),
        shard=Shard(tokenizer=str(tmp_path / "tokenizer"), held_out=0.1, formats=()),
        run=Run(workers=1),
    )
    pipeline.build(recipe, tmp_path / "out")
    training = Training(
        model=GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=300),
        data=Data(path=str(tmp_path / "out")),
        train=Train(steps=3, batch_tokens=256, micro_batch=4, dtype="float32", device="cpu"),
        every=Every(),
    )
    model = runs.start(training, tmp_path / "run", overwrite=False)
    assert (model / "model.safetensors").exists()


def small_corpus(web, tmp_path, small_tokenizer):
    """A recipe over 40 generated pages on 8 hosts."""
    web.delay = 0.05
    addresses = [web.page(f"h{i % 8}.test", f"/{i}", article(f"topic{i}", 300)) for i in range(40)]
    (tmp_path / "urls.txt").write_text("\n".join(addresses))
    small_tokenizer.save(tmp_path / "tokenizer")
    return Recipe(
        source=Source("urls", (str(tmp_path / "urls.txt"),)),
        crawl=Crawl(
            contact="you@example.org", delay=0.01, ports=(web.port,), networks=NETWORKS, backoff=0.1
        ),
        shard=Shard(tokenizer=str(tmp_path / "tokenizer"), held_out=0.2),
        run=Run(workers=2),
    )


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_a_build_killed_while_it_crawls_gives_the_same_corpus(
    web, tmp_path, small_tokenizer, kills
):
    recipe = small_corpus(web, tmp_path, small_tokenizer)
    pipeline.build(recipe, tmp_path / "whole")
    before = len(web.asked)
    seed = hits = 0
    while hits < kills:
        out = tmp_path / f"killed{seed}"
        hits += build_killed(
            recipe, out, kills, seed=seed, longest=4.0, environment=web.environment
        )
        assert digest(out) == digest(tmp_path / "whole")
        seed += 1
    asked = [path for _, host, path, _ in web.asked[before:] if path != "/robots.txt"]
    # Each of these builds asks for each page once; a kill costs at most one page per host.
    assert len(asked) <= 40 * seed + 8 * hits


@pytest.fixture
def common_crawl(web, data):
    """Common Crawl's index and data servers, with one real record: whirlwind's, whose entry in the
    published index has offset 1023.
    """
    archive = (data / "webtext" / "warc" / "whirlwind.warc.gz").read_bytes()
    ends = [r.offset for r in read_records(data / "webtext" / "warc" / "whirlwind.warc.gz", [])]
    offset = 1023
    assert offset in ends
    length = ends[ends.index(offset) + 1] - offset
    name = "crawl-data/CC-MAIN-2024-22/segments/1715971057216.39/warc/whirlwind.warc.gz"
    entry = {
        "urlkey": "org,wikipedia,an)/wiki/escopete",
        "timestamp": "20240518015810",
        "url": "https://an.wikipedia.org/wiki/Escopete",
        "mime": "text/html",
        "status": "200",
        "digest": "RY7PLBUFQNI2FFV5FTUQK72W6SNPXLQU",
        "length": str(length),
        "offset": str(offset),
        "filename": name,
    }
    asked = []

    def index(handler, status=200, body=b""):
        asked.append(handler.path)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def ranged(handler):
        asked.append(handler.headers["Range"])
        first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
        index(handler, 206, archive[int(first) : int(last) + 1])

    query = "?url={}&output=json&filter=status:200&limit=5"
    known = query.format("https%3A%2F%2Fan.wikipedia.org%2Fwiki%2FEscopete")
    missing = query.format("http%3A%2F%2Fnowhere.test%2F")
    line = json.dumps(entry).encode() + b"\n"
    host = "127.0.0.2"
    web.pages[host, "/CC-MAIN-2024-22-index" + known] = lambda h: index(h, 200, line)
    web.pages[host, "/CC-MAIN-2024-22-index" + missing] = lambda h: index(h, 404)
    answers = iter([503, 200])
    web.pages[host, "/CC-MAIN-2017-51-index" + known] = lambda h: index(h, next(answers, 404))
    web.pages[host, "/CC-MAIN-2017-51-index" + missing] = lambda h: index(h, 404)
    web.pages[host, "/" + name] = ranged
    return f"http://{host}:{web.port}", asked


def test_pages_out_of_common_crawl(web, common_crawl, tmp_path, small_tokenizer):
    server, asked = common_crawl
    (tmp_path / "urls.txt").write_text(
        "https://an.wikipedia.org/wiki/Escopete\nhttp://nowhere.test/\n"
    )
    small_tokenizer.save(tmp_path / "tokenizer")
    recipe = Recipe(
        source=Source("urls", (str(tmp_path / "urls.txt"),)),
        links=Links(block="none"),
        crawl=Crawl(
            via="commoncrawl", index=server, data=server, delay=0.01, backoff=0.05,
            crawls=("CC-MAIN-2017-51", "CC-MAIN-2024-22"),
        ),
        extract=Extract(language=""),
        clean=Clean(wikipedia=True),
        shard=Shard(tokenizer=str(tmp_path / "tokenizer"), held_out=0.0),
        run=Run(workers=1),
    )  # fmt: skip
    state = pipeline.build(recipe, tmp_path / "out")
    assert state.stages["crawl"].counts == {"fetched": 1, "not in the archive": 1}
    (row,) = pq.read_table(tmp_path / "out" / "documents" / "train.parquet").to_pylist()
    assert row["url"] == "https://an.wikipedia.org/wiki/Escopete"
    assert "Escopete" in row["text"]
    assert sum("2017-51" in path for path in asked) == 3  # one of them after a 503
    (warc,) = sorted(state.stages["crawl"].folders[0].glob("*.warc.gz"))
    (record,) = read_records(warc, damage := [])
    assert damage == []
    assert record.headers["gpt2lab-asked"] == "https://an.wikipedia.org/wiki/Escopete"
    assert record.headers["warc-record-id"] == "<urn:uuid:2aabeff2-67f5-4608-8466-e87c6296e2b6>"


def test_a_record_that_comes_short_is_not_taken(web, common_crawl, tmp_path):
    server, _ = common_crawl
    name = next(path for _, path in web.pages if path.endswith("whirlwind.warc.gz"))
    web.pages["127.0.0.2", name] = (206, {}, b"\x1f\x8b\x08 not as long as it should be")
    (tmp_path / "urls.txt").write_text("https://an.wikipedia.org/wiki/Escopete\n")
    recipe = Recipe(
        source=Source("urls", (str(tmp_path / "urls.txt"),)),
        links=Links(block="none"),
        crawl=Crawl(
            via="commoncrawl", index=server, data=server, delay=0.01, backoff=0.05,
            crawls=("CC-MAIN-2024-22",),
        ),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no page could be fetched \(not in the archive 1\)"):
        pipeline.build(recipe, tmp_path / "out", until="crawl")


def test_an_index_that_does_not_answer_is_said(web, tmp_path, small_tokenizer):
    (tmp_path / "urls.txt").write_text("http://a.test/\n")
    small_tokenizer.save(tmp_path / "tokenizer")
    server = f"http://127.0.0.2:{web.port}"
    query = "?url=http%3A%2F%2Fa.test%2F&output=json&filter=status:200&limit=5"
    web.pages["127.0.0.2", "/X-index" + query] = (503, {}, b"")
    recipe = Recipe(
        source=Source("urls", (str(tmp_path / "urls.txt"),)),
        crawl=Crawl(
            via="commoncrawl", index=server, data=server, crawls=("X",), delay=0.01, backoff=0.01
        ),
        shard=Shard(tokenizer=str(tmp_path / "tokenizer")),
    )
    with pytest.raises(UserError, match=r"X-index does not answer \(status 503\); try later"):
        pipeline.build(recipe, tmp_path / "out")
