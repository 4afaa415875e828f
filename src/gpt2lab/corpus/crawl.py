"""Fetching pages politely: links in, WARC files out; the work is done by crawler.py's process."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt2lab.corpus.recipe import Crawl
from gpt2lab.errors import UserError
from gpt2lab.progress import Bar, step
from gpt2lab.storage import read_json, write_json

FINISHED = "manifest.json"


def crawl(folder: Path, files: list[str], rules: Crawl, *, block: str) -> dict[str, Any]:
    """Fetch the pages of Parquet files of links into WARC files in `folder`; return counts.

    Goes on where an earlier run stopped or was killed, fetching nothing twice that it had
    archived. Pages that answer an error, refuse robots, are too large, lead nowhere or to an
    address that is not public are counted by reason.
    Raises UserError without a contact: site owners must be able to reach whoever crawls.
    """
    if (folder / FINISHED).exists():
        return dict(read_json(folder / FINISHED))
    require_contact(rules.contact)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "crawl.json",
        {"rules": asdict(rules), "block": block, "files": [str(Path(f).absolute()) for f in files]},
    )
    with step("fetching pages") as bar:
        counts = _watch(folder, bar)
    if counts.get("left"):
        raise UserError(
            f"the crawl stopped with {counts['left']} pages left; see {folder}/crawl.log"
        )
    manifest = {"counts": counts}
    require_pages(folder, counts)
    write_json(folder / FINISHED, manifest)
    return manifest


def require_contact(contact: str) -> None:
    """Raise UserError unless it is an e-mail address or a web page."""
    if not re.fullmatch(r"(https?://\S+\.\S+|mailto:\S+@\S+|\S+@\S+\.\S+)", contact):
        raise UserError(
            "crawl.contact must be an e-mail address or a page about your crawl, so that site "
            f"owners can reach you; it is {contact!r}"
        )


def require_pages(folder: Path, counts: dict[str, int]) -> None:
    """Raise UserError if not one page came, and forget the attempts: the network may be down."""
    if not counts.get("fetched"):
        shutil.rmtree(folder)
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
        raise UserError(f"no page could be fetched ({reasons}); check the network and the links")


def _watch(folder: Path, bar: Bar) -> dict[str, int]:
    """Run the crawler and show its progress until it ends."""
    command = [sys.executable, "-m", __package__ + ".crawler", str(folder)]
    counts: dict[str, int] = {}
    recent: deque[tuple[float, int]] = deque(maxlen=10)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                state = json.loads(line)
                if "failed" in state:
                    raise UserError(f"cannot write {folder}: {state['failed']}; what came is kept")
                counts = state["counts"]
                bar.update(*_progress(state, recent))
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise UserError(
            f"the crawler ended with status {process.returncode}; see {folder}/crawl.log"
        )
    return counts


def _progress(state: dict[str, Any], recent: deque[tuple[float, int]]) -> tuple[float, str]:
    """The share done, and rate, hosts and errors in words."""
    counts = state["counts"]
    total, left = sum(counts.values()), counts.get("left", 0)
    recent.append((time.monotonic(), total - left))
    seconds = recent[-1][0] - recent[0][0]
    rate = (recent[-1][1] - recent[0][1]) / seconds if seconds else 0.0
    failed = {k: n for k, n in counts.items() if k not in ("left", "fetched")}
    worst = ", ".join(f"{k} {n:,}" for k, n in list(failed.items())[:3])
    note = (
        f"{rate:.1f} pages/s, {counts.get('fetched', 0):,} fetched, {state['hosts']:,} hosts, "
        f"{state['bytes'] / 1e6:.0f} MB" + (f"; {worst}" if worst else "")
    )
    return (total - left) / max(1, total), note
