"""Writes tests/fixtures/datatrove_rules.json: what datatrove's filters say of 1,000 real texts.

Run it with a Python that has datatrove 0.10.1, regex, nltk and zstandard:

    python benchmarks/datatrove_rules.py ../shared/data/corpus

Words are split at white space in datatrove too (as shipped it needs spaCy), so that the rules are
compared and not the tokenisers.
"""

import hashlib
import json
import sys
from pathlib import Path

import zstandard
from datatrove.data import Document
from datatrove.pipeline.filters import (
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

PER_FILE, MOST_CHARS = 150, 60_000


def kept(verdict: object) -> bool:
    return verdict is True or (isinstance(verdict, tuple) and bool(verdict[0]))


def main(folder: Path) -> None:
    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = lambda text, language=None: text.split()
    gopher = [
        gopher_repetition_filter.GopherRepetitionFilter(),
        gopher_quality_filter.GopherQualityFilter(),
    ]
    fineweb = fineweb_quality_filter.FineWebQualityFilter()
    verdicts = {}
    for path in sorted(folder.glob("*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            for _, line in zip(range(PER_FILE), file, strict=False):
                text = json.loads(line)["text"].strip("\n")
                if text.strip() and len(text) <= MOST_CHARS:
                    document = Document(text=text, id="")
                    both = all(kept(f.filter(document)) for f in gopher)
                    key = hashlib.sha256(text.encode()).hexdigest()[:16]
                    verdicts[key] = f"{both:d}{kept(fineweb.filter(document)):d}"
    fixture = Path(__file__).parents[1] / "tests" / "fixtures" / "datatrove_rules.json"
    fixture.write_text(json.dumps(verdicts) + "\n")
    print(len(verdicts), "texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
