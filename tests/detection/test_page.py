"""What people look at: pages, terminals and reports that hostile text does not break."""

import io
import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from rich.console import Console

from gpt2lab.detection import display
from gpt2lab.detection.display import headline, show
from gpt2lab.detection.page import page
from gpt2lab.detection.tokens import BIN_NAMES, histograms, pieces
from gpt2lab.detection.verdict import Judge, Setup

BODY = "The committee met — 👩‍👩‍👧 naïve — on Tuesday to discuss the new library of the town. "
TEXT = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&<b> "
    "\x1b[31mred\x07\x9b0m\x7f " + BODY * 20
)


@pytest.fixture(scope="module")
def judged(panel, subject):
    judge = Judge(panel, panel.reader({"reference-1M": subject}), Setup(fpr=0.05))
    return judge.judge([TEXT], ["hostile"])[0]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "span" in self.open:
            self.text += data


def test_hostile_text_stays_text(judged):
    verdict, reading = judged
    html = page(verdict, reading, "a <title> & more")
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert [t for t, _ in tags.found].count("script") == 2
    assert not any(t in ("img", "b") and "onerror" in a for t, a in tags.found)
    assert "default-src 'none'" in html and "a &lt;title&gt; &amp; more" in html
    assert not re.search(r"https?://", html)  # it opens offline
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    tokens = json.loads(data[1])["tokens"]
    assert len(tokens) == len(pieces(reading))
    spans = [a for t, a in tags.found if t == "span" and "data-i" in a]
    assert len(spans) == len(tokens)
    assert (BODY * 20).strip() in tags.text


def test_pieces_are_whole_characters_and_the_whole_text(judged):
    _, reading = judged
    found = pieces(reading)
    assert "".join(p.text for p in found) == " ".join(TEXT.split())
    assert all(p.text and "\ufffd" not in p.text for p in found)
    assert all(0 < p.p <= 1 and 0 <= p.bin < len(BIN_NAMES) for p in found)
    single = [p for p in found if len(p.others) == 5]
    assert len(single) == len(found)
    for p in single:
        chances = [q for _, q in p.others]
        assert chances == sorted(chances, reverse=True)
        if p.rank == 0 and p.p > 0:
            assert p.p <= chances[0] * 1.001


def test_histograms_are_shares(judged):
    for shares in histograms(judged[1]).values():
        assert sum(shares.values()) == pytest.approx(1)


def test_a_terminal_is_not_steered(judged):
    steering = ("Cc", "Cf")
    coloured = display._coloured(judged[1]).plain
    assert "alert(1)" in coloured and "committee" in coloured
    assert not [c for c in coloured if unicodedata.category(c) in steering and c != "\n"]
    for terminal in (True, False):
        out = io.StringIO()
        show(*judged, Console(file=out, force_terminal=terminal, width=100))
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
        assert headline(judged[0])[:20] in plain
        assert ("committee" in plain) is terminal


def test_a_text_without_a_verdict_has_a_page(panel, subject):
    judge = Judge(panel, panel.reader({"reference-1M": subject}), Setup())
    verdict, reading = judge.judge(["Just a few words."], ["short"])[0]
    assert headline(verdict) == "no verdict"
    tags = Tags()
    tags.feed(page(verdict, reading, "short"))
    assert "No confident verdict" in page(verdict, reading, "short")
