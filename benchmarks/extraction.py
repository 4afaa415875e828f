"""Text taken out of 181 real pages, against gold text and against the libraries themselves.

    python benchmarks/extraction.py [--rounds 3] [--data ../shared/data]

Quality is the article-extraction benchmark's own measure: precision and recall of word 4-grams,
each page weighing the same; 95 % interval from 1,000 bootstraps over pages, seed 0. Speed is of
one page after another in the pipeline's own process, against a plain loop over trafilatura and
resiliparse in this one, alternating.
"""

import argparse
import gzip
import json
import re
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from gpt2lab.corpus.extract import Extractor
from gpt2lab.corpus.recipe import Extract
from peers import machine, save

_WORD = re.compile(r"\w+")


def gold_pages(data: Path) -> list[tuple[bytes, str, str]]:
    """HTML, URL and gold text of the article-extraction benchmark's pages."""
    folder = data / "webtext" / "html" / "article-extraction-benchmark"
    gold = json.loads((folder / "ground-truth.json").read_text())
    with tarfile.open(folder / "html.tar") as tar:
        html = {m.name.split(".")[0]: gzip.decompress(tar.extractfile(m).read()) for m in tar}
    return [(html[key], gold[key]["url"], gold[key]["articleBody"]) for key in sorted(gold)]


def _grams(text: str, n: int = 4) -> Counter:
    words = _WORD.findall(text)
    return Counter(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1)) if words)


def scores(gold: list[str], found: list[str]) -> np.ndarray:
    """For each page precision and recall; NaN where there is nothing to be right about."""
    rows = []
    for want, got in zip(map(_grams, gold), map(_grams, found), strict=True):
        both = sum((want & got).values())
        rows.append(
            (
                both / sum(got.values()) if got else np.nan,
                both / sum(want.values()) if want else np.nan,
            )
        )
    return np.array(rows)


def f1(gold: list[str], found: list[str]) -> tuple[float, float, float]:
    """F1 of mean precision and mean recall, and its 95 % interval over pages."""
    table = scores(gold, found)
    rng = np.random.default_rng(0)
    draws = [_f1(table[rng.integers(0, len(table), len(table))]) for _ in range(1000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return _f1(table), float(low), float(high)


def _f1(table: np.ndarray) -> float:
    precision, recall = np.nanmean(table, axis=0)
    return float(2 * precision * recall / (precision + recall))


def trafilatura_alone(html: bytes, url: str) -> str:
    import trafilatura

    return trafilatura.extract(html, url=url, include_comments=False) or ""


def resiliparse_alone(html: bytes, url: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return extract_plain_text(bytes_to_str(html, detect_encoding(html)), main_content=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    args = parser.parse_args()
    pages = gold_pages(args.data)
    gold = [text for *_, text in pages]
    extractors = {
        p: Extractor(Extract(profile=p, language="")) for p in ("default", "fast", "quality")
    }
    ways = {
        f"gpt2lab {p}": (lambda html, url, e=e: e.extract(html, charset="utf-8", url=url).text)
        for p, e in extractors.items()
    }
    ways |= {"trafilatura": trafilatura_alone, "resiliparse": resiliparse_alone}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for way in ways.values():
        way(*pages[0][:2])  # libraries loaded, process started
    for round_ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            found = [way(html, url) for html, url, _ in pages]
            seconds[name].append(time.perf_counter() - start)
            if round_ == 0:
                value, low, high = f1(gold, found)
                results[name] = {"f1": round(value, 4), "interval": [round(low, 4), round(high, 4)]}
    for extractor in extractors.values():
        extractor.close()
    for name, times in seconds.items():
        rates = sorted(len(pages) / t for t in times)
        results[name] |= {
            "pages_per_second": round(rates[len(rates) // 2], 1),
            "range": [round(rates[0], 1), round(rates[-1], 1)],
        }
        print(f"{name:<16} {results[name]}")
    save("extraction", {"machine": machine(), "pages": len(pages), "results": results})


if __name__ == "__main__":
    main()
