"""From Reddit links to a trained model, over a web of 246 real pages on this machine.

    python benchmarks/small_web.py [--out runs/small-web] [--data ../shared/data]

Serves the 181 pages of the article-extraction benchmark and 65 of Readability's on 40 host names of
loopback addresses, every fifth of the latter behind a redirect, beside sites with every fault: a
decompression bomb, a page too large, a redirect loop, a redirect to a private address, a robots.txt
that forbids, one that fails, a missing page. Writes a dump in Pushshift's form that links to all of
them, then runs `gpt2lab corpus build recipes/webtext.toml` and `gpt2lab train` as anyone would.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import zstandard

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from extraction import gold_pages  # noqa: E402
from web import NETWORKS, TRAP, Web  # noqa: E402


def serve(web: Web, data: Path) -> tuple[list[str], list[str]]:
    """Serve the pages; return the addresses of the good ones and of the bad ones."""
    good = []
    for i, (html, *_) in enumerate(gold_pages(data)):
        good.append(web.page(f"news{i % 20}.test", f"/{i}?id={i}", html))
    with tarfile.open(data / "webtext" / "html" / "readability-test-pages.tar.xz") as tar:
        sources = [m for m in tar if m.name.endswith("source.html")]
        for i, member in enumerate(sources):
            body = tar.extractfile(member).read()
            more = {"Content_Encoding": "gzip"} if i % 2 else {}
            body = gzip.compress(body) if i % 2 else body
            address = web.page(
                f"blog{i % 20}.test", f"/{i}", body, Content_Type="text/html", **more
            )
            if i % 5 == 0:
                web.page("short.test", f"/{i}", "", status=301, Location=address)
                address = web.url("short.test", f"/{i}")
            good.append(address)
    bomb = gzip.compress(b"<p>" + b"\0" * 300_000_000, 9)
    web.page("closed.test", "/robots.txt", "User-agent: *\nDisallow: /", Content_Type="text/plain")
    web.page("broken.test", "/robots.txt", "", status=500)
    bad = [
        web.page("bomb.test", "/", bomb, Content_Encoding="gzip"),
        web.page("big.test", "/", b"x" * 6_000_000),
        web.page("loop.test", "/a", "", status=302, Location="/b"),
        web.page("loop.test", "/b", "", status=302, Location="/a"),
        web.page("inside.test", "/", "", status=302, Location=f"http://{TRAP}:PORT/"),
        web.page("closed.test", "/page", "<p>not for robots"),
        web.page("broken.test", "/page", "<p>who knows"),
        web.url("news1.test", "/missing"),
        f"http://{TRAP}:{web.port}/admin",
    ]
    return good, bad


def dump(path: Path, addresses: list[str]) -> str:
    """A dump in Pushshift's form whose submissions link to the addresses."""
    rows = [
        {"url": url, "score": 3 + i % 50, "created_utc": 1_400_000_000 + i, "is_self": False,
         "over_18": False, "subreddit": "news", "id": f"t{i}"}
        for i, url in enumerate(addresses)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(text))
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/small-web"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        web = Web(Path(folder))
        good, bad = serve(web, args.data)
        source = dump(Path(folder) / "RS_2014-05.zst", good + bad)
        corpus = args.out / "corpus"
        commands = [
            ["corpus", "build", str(ROOT / "recipes" / "webtext.toml"), "--source.paths", source,
             "--crawl.contact", "you@example.org",
             "--crawl.delay", "0.05", "--crawl.backoff", "0.1",
             "--crawl.ports", str(web.port), "--crawl.networks", *NETWORKS,
             "--shard.tokenizer", str(args.data / "tokenizer" / "gpt2"), "--shard.held-out", "0.1",
             "--out", str(corpus), "--overwrite"],
            ["train", str(ROOT / "recipes" / "gpt2-124M.toml"), "--data.path", str(corpus),
             "--model.n-layer", "2", "--model.n-head", "2", "--model.n-embd", "64",
             "--train.steps", "20", "--train.batch-tokens", "4096", "--train.micro-batch", "4",
             "--train.context", "256", "--train.no-compile",
             "--out", str(args.out / "run"), "--overwrite"],
        ]  # fmt: skip
        for command in commands:
            print("$ gpt2lab", *command[:3], "...", flush=True)
            environment = os.environ | web.environment
            run = [sys.executable, "-m", "gpt2lab.cli.main", *command]
            subprocess.run(run, env=environment, check=True)
        print(f"requests {len(web.asked):,}, connections to private addresses {len(web.trapped)}")
        web.close()


if __name__ == "__main__":
    main()
