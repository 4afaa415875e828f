"""The audit log: added to, cut off by crashes, and changed by somebody."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpt2lab import UserError
from gpt2lab.serving.audit import Audit, verify


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "audit.jsonl"
    with Audit(where, b"pepper") as log:
        for n in range(5):
            log.write({"key": "a", "tokens": n})
    return where


def test_a_log_goes_on(path):
    count, last = verify(path)
    assert count == 5 and path.stat().st_mode & 0o777 == 0o600
    with Audit(path, b"pepper") as log:
        log.write({"key": "b"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[5] == {"number": 6, "key": "b", "before": last}
    assert verify(path)[0] == 6


def test_many_write_at_once(path):
    with Audit(path, b"pepper") as log, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: log.write({"n": n}), range(200)))
    assert verify(path)[0] == 205


def test_what_a_crash_cut_off_is_taken_away(path):
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UserError, match="line 5 of"):
            verify(path)
        with Audit(path, b"pepper") as log:
            log.write({"again": cut})
        assert verify(path)[0] == 5
    path.write_bytes(whole[:10])
    with Audit(path, b"pepper") as log:
        log.write({})
    assert verify(path)[0] == 1


def changed(lines, n):
    return [*lines[:n], lines[n].replace(b'"key": "a"', b'"key": "b"'), *lines[n + 1 :]]


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (lambda lines: changed(lines, 1), 3, "does not follow the line before"),
        (lambda lines: lines[:1] + lines[2:], 2, "does not follow the line before"),
        (lambda lines: lines[1:], 1, "does not follow the line before"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1, "does not follow the line before"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3, "does not follow the line before"),
        (lambda lines: [*lines[:3], b"{}\n"], 4, "is no entry of an audit log"),
        (lambda lines: [*lines[:3], b"[" * 9000 + b"\n"], 4, "is no entry of an audit log"),
        (lambda lines: [*lines[:3], b"x" * 100_000 + b"\n"], 4, "is no entry of an audit log"),
        (lambda lines: [*lines[:4], lines[4][:-1]], 5, "was not written to its end"),
    ],
)
def test_changes_are_seen(path, change, line, message):
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(UserError, match=f"line {line} of {re.escape(str(path))} .*{message}"):
        verify(path)


def test_prompts_are_told_by_who_has_the_pepper(path):
    with Audit(path, b"pepper") as one, Audit(path.with_name("b"), b"other") as other:
        assert one.sign(b"text") == one.sign(b"text") != other.sign(b"text")


def test_what_is_no_log(tmp_path):
    (tmp_path / "text").write_text("no log\n")
    with pytest.raises(UserError, match="the last line of .*text is no entry of an audit log"):
        Audit(tmp_path / "text", b"")
    for bad in (tmp_path, tmp_path / "no" / "log"):
        with pytest.raises(UserError, match="cannot write the audit log"):
            Audit(bad, b"")
        with pytest.raises(UserError, match="cannot read the audit log"):
            verify(bad)
