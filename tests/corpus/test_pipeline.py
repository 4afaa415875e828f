"""Whole corpora: the same bytes whatever happens on the way, and readable by whom they are for."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from gpt2lab.corpus import finish, overlap, pipeline, plan
from gpt2lab.corpus.execute import Task, run_task, run_tasks
from gpt2lab.corpus.recipe import (
    Clean,
    Crawl,
    Dedup,
    Extract,
    Overlap,
    Recipe,
    Run,
    Shard,
    Source,
)
from gpt2lab.corpus.shards import open_split
from gpt2lab.errors import DamagedInput, UserError
from gpt2lab.settings import to_toml
from gpt2lab.storage import locked
from kills import build_killed, digest

WORDS = [f"{a}{b}" for a in ("river", "stone", "cloud", "lamp", "road") for b in "abcdefghijklmnop"]


def texts(count=120, seed=1):
    """Texts of which every third is an exact, a near or a loose copy of an earlier one."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        if i % 3 == 2:
            words = rng.choice(out).split()
            kind = rng.randrange(3)
            if kind == 0:
                words = [w.upper() for w in words]
            else:
                for _ in range(kind * 3):
                    words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = rng.choices(WORDS, k=rng.randrange(20, 120))
        out.append(" ".join(words))
    return out


def write(path, documents, **more):
    lines = "".join(json.dumps({"text": t} | more) + "\n" for t in documents)
    data = lines.encode()
    path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)
    return path


@pytest.fixture
def source(tmp_path, small_tokenizer):
    """Three files of documents and a vocabulary."""
    folder = tmp_path / "source"
    folder.mkdir()
    found = texts()
    write(folder / "a.jsonl", found[:50], url="http://www.a.test/1", score=5, date="2016-01-02")
    write(folder / "b.jsonl.zst", found[50:90])
    (folder / "c.txt").write_text("<|endoftext|>".join(found[90:]))
    small_tokenizer.save(tmp_path / "tokenizer")
    return folder


def recipe(source, **changes):
    """A recipe over the documents, with every stage at work."""
    base = Recipe(
        source=Source("documents", (str(source),)),
        clean=Clean(min_tokens=10),
        overlap=Overlap(benchmarks=(str(source / "c.txt"),), bloom=True, bloom_error=1e-4),
        shard=Shard(
            tokenizer=str(source.parent / "tokenizer"),
            held_out=0.15,
            tokens_per_shard=3000,
            formats=("nanogpt", "parquet", "jsonl"),
        ),
        run=Run(workers=1),
    )
    return replace(base, **changes)


def build(tmp_path, name, wanted, **more):
    return pipeline.build(wanted, tmp_path / name, work=tmp_path / f"{name}.work", **more)


def test_what_comes_out_is_what_went_in(tmp_path, source, small_tokenizer):
    build(tmp_path, "out", recipe(source))
    out = tmp_path / "out"
    tables = {
        s: pq.read_table(out / "documents" / f"{s}.parquet").to_pylist() for s in finish.SPLITS
    }
    rows = tables["train"] + tables["val"]
    ins = set(texts())
    assert {row["text"] for row in rows} <= ins
    assert 70 < len(rows) < 100  # of 120, about 40 copies
    for split, table in tables.items():
        tokens = open_split(out, split)
        assert tokens.slice(0, len(tokens)).tolist() == [
            i
            for row in table
            for i in [small_tokenizer.end_of_text, *small_tokenizer.encode(row["text"])]
        ]
        with zstandard.open(out / "documents" / f"{split}.jsonl.zst", "rt") as file:
            assert [json.loads(line) for line in file] == table
        # nanoGPT: no header, the end of text after each document.
        plain = np.fromfile(out / "nanogpt" / f"{split}.bin", "<u2").tolist()
        assert plain == [
            i
            for row in table
            for i in [*small_tokenizer.encode(row["text"]), small_tokenizer.end_of_text]
        ]
    index = json.loads((out / "index.json").read_text())
    assert index["tokenizer"] == small_tokenizer.digest
    assert index["train"]["documents"] == len(tables["train"])
    assert len(index["train"]["files"]) > 1
    known = [row for row in rows if row["url"]]
    assert known
    assert {(row["score"], row["date"]) for row in known} == {(5, "2016-01-02")}


def test_datasets_opens_it(tmp_path, source, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    build(tmp_path, "out", recipe(source))
    folder = tmp_path / "out" / "documents"
    files = {split: str(folder / f"{split}.parquet") for split in finish.SPLITS}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    assert loaded["train"].to_list() == rows
    lines = datasets.load_dataset(
        "json", data_files=str(folder / "train.jsonl.zst"), cache_dir=str(tmp_path / "cache2")
    )
    assert lines["train"]["text"][:] == [row["text"] for row in rows]


@pytest.mark.parametrize(
    "run", [Run(workers=2), Run(workers=8), Run(workers=1, partitions=7), Run(executor="ray")]
)
def test_the_same_bytes_from_any_number_of_workers_and_partitions_and_from_ray(
    tmp_path, source, run, monkeypatch
):
    build(tmp_path, "one", recipe(source))
    if run.executor == "ray":
        monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        build(tmp_path, "other", recipe(source, run=run))
    finally:
        if run.executor == "ray":
            ray.shutdown()
    assert digest(tmp_path / "one") == digest(tmp_path / "other")


def test_near_duplicates_marked_stay_on_one_side(tmp_path, source):
    marked = recipe(
        source, dedup=Dedup(near="mark"), shard=replace(recipe(source).shard, held_out=0.4)
    )
    build(tmp_path, "out", marked)
    rows = {
        split: pq.read_table(tmp_path / "out" / "documents" / f"{split}.parquet").to_pylist()
        for split in finish.SPLITS
    }
    clusters = {split: {row["cluster"] for row in table} for split, table in rows.items()}
    assert not clusters["train"] & clusters["val"]
    everything = rows["train"] + rows["val"]
    assert len(everything) > len(clusters["train"] | clusters["val"])
    build(tmp_path, "off", replace(marked, dedup=Dedup(near="off")))
    kept = pq.read_table(tmp_path / "off" / "documents" / "train.parquet").num_rows
    kept += pq.read_table(tmp_path / "off" / "documents" / "val.parquet").num_rows
    assert kept == len(everything)


def stages_done(work):
    return {str(f.relative_to(work)): f.stat().st_mtime_ns for f in work.rglob("manifest.json")}


def test_changing_a_late_stage_redoes_only_what_follows(tmp_path, source):
    work = tmp_path / "work"
    first = recipe(source)
    pipeline.build(first, tmp_path / "out", work=work)
    before = stages_done(work)
    pipeline.build(
        replace(first, shard=replace(first.shard, held_out=0.3)), tmp_path / "out2", work=work
    )
    after = stages_done(work)
    assert {name: after[name] for name in before} == before
    assert {name.split("-")[0] for name in set(after) - set(before)} == {"tokens"}
    pipeline.build(replace(first, dedup=Dedup(threshold=0.9)), tmp_path / "out3", work=work)
    new = {name.split("-")[0] for name in set(stages_done(work)) - set(after)}
    assert new == {"verify", "clusters", "overlap", "table", "bloom", "tokens"}


def test_changed_input_is_noticed(tmp_path, source):
    work = tmp_path / "work"
    pipeline.build(recipe(source), tmp_path / "out", work=work)
    (source / "c.txt").write_text("only this one text is left " * 10)
    state = pipeline.build(recipe(source), tmp_path / "out", work=work, overwrite=True)
    assert state.stages["read"].counts["documents"] == 91


def test_a_renamed_file_is_read_anew(tmp_path, source):
    work = tmp_path / "work"
    pipeline.build(recipe(source), tmp_path / "out", work=work)
    (source / "c.txt").rename(source / "d.txt")
    renamed = replace(recipe(source), overlap=Overlap())
    pipeline.build(renamed, tmp_path / "out", work=work, overwrite=True)
    rows = pq.read_table(tmp_path / "out" / "documents" / "train.parquet").to_pylist()
    assert {row["source"] for row in rows} == {"a.jsonl", "b.jsonl.zst", "d.txt"}


def test_the_overlap_of_what_is_kept_counts_duplicates_that_are(tmp_path, small_tokenizer):
    """Near-duplicates with a benchmark's text in one of them only: found when both are kept."""
    rng = random.Random(0)
    small_tokenizer.save(tmp_path / "tokenizer")
    documents, secrets = [], []
    for _ in range(6):
        words = rng.choices(WORDS, k=200)
        secret = [f"secret{rng.randrange(10**6)}" for _ in range(8)]
        documents += [" ".join(words), " ".join(words[:100] + secret + words[100:])]
        secrets.append(" ".join(secret))
    write(tmp_path / "corpus.jsonl", documents)
    write(tmp_path / "test.jsonl", secrets)
    for near in ("mark", "off"):
        wanted = Recipe(
            source=Source("documents", (str(tmp_path / "corpus.jsonl"),)),
            dedup=Dedup(near=near),
            overlap=Overlap(benchmarks=(str(tmp_path / "test.jsonl"),)),
            shard=Shard(tokenizer=str(tmp_path / "tokenizer"), held_out=0.0),
            run=Run(workers=1),
        )
        build(tmp_path, near, wanted)
        facts = json.loads((tmp_path / near / "corpus.json").read_text())
        assert facts["overlap"][0]["percent"] == 100.0


def test_reports_do_not_depend_on_partitions_however_many_sites(tmp_path, source):
    lines = [
        json.dumps({"text": f"{text} {i}", "url": f"http://site{i * 7 % 1500}.com/"})
        for i in range(1500)
        for text in ["a text of its own number"]
    ]
    (source / "d.jsonl").write_text("\n".join(lines))
    wanted = recipe(source, dedup=Dedup(near="off"))
    build(tmp_path, "one", wanted)
    build(tmp_path, "five", replace(wanted, run=Run(workers=1, partitions=5)))
    assert digest(tmp_path / "one") == digest(tmp_path / "five")


def test_existing_output_is_kept(tmp_path, source):
    build(tmp_path, "out", recipe(source))
    with pytest.raises(UserError, match="--overwrite"):
        build(tmp_path, "out", recipe(source))


def test_output_is_never_put_over_input(tmp_path, source):
    for out, work in ((source, None), (tmp_path / "x", source), (source.parent, None)):
        with pytest.raises(UserError, match=r"source lies in .*; choose another --(out|work)"):
            pipeline.build(recipe(source), out, work=work, overwrite=True)
    assert len(list(source.iterdir())) == 3


def test_no_links_in_documents(tmp_path, source):
    with pytest.raises(UserError, match=r"source\.kind 'documents' has no links"):
        build(tmp_path, "out", recipe(source), until="links")


@pytest.mark.parametrize("text", ["", "   \n\n"])
def test_input_without_text_is_said(tmp_path, source, text):
    (tmp_path / "empty.txt").write_text(text)
    empty = replace(
        recipe(source),
        source=Source("documents", (str(tmp_path / "empty.txt"),)),
        overlap=Overlap(bloom=True),
    )
    with pytest.raises(UserError, match="no document came out of the input"):
        build(tmp_path, "out", empty)


def test_a_filter_without_benchmarks(tmp_path, source):
    build(tmp_path, "out", recipe(source, overlap=Overlap(bloom=True, bloom_error=1e-3)))
    assert (tmp_path / "out" / "bloom.npy").stat().st_size > 1000


def test_a_parquet_file_with_text_that_is_no_text(tmp_path, source):
    table = pa.table({"text": ["some words of text " * 20] * 50})
    pq.write_table(table, source / "d.parquet", compression="none", use_dictionary=False)
    data = bytearray((source / "d.parquet").read_bytes())
    data[5000:5100] = b"\xff" * 100
    (source / "d.parquet").write_bytes(data)
    with pytest.raises(DamagedInput, match=r"d\.parquet is not a whole Parquet file"):
        build(tmp_path, "out", recipe(source))


@pytest.mark.parametrize("text", ["{}", "[]", "null", "x", '{"splits": 5}'])
def test_a_report_of_what_is_no_corpus(tmp_path, text, capsys):
    from gpt2lab.cli.main import main

    (tmp_path / "corpus.json").write_text(text)
    assert main(["corpus", "report", str(tmp_path)]) == 2
    assert "corpus.json" in capsys.readouterr().err


def test_two_runs_in_one_folder_are_refused(tmp_path, source):
    (tmp_path / "out.work").mkdir()
    with (
        locked(tmp_path / "out.work" / "lock", tmp_path / "out.work"),
        pytest.raises(UserError, match=r"another run is at work in .*out\.work"),
    ):
        build(tmp_path, "out", recipe(source))


def damaged(source):
    path = source / "b.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-40])


def test_damaged_input_stops_the_run_unless_allowed(tmp_path, source):
    damaged(source)
    with pytest.raises(DamagedInput, match=r"b\.jsonl\.zst: truncated.*--run\.allow-damaged"):
        build(tmp_path, "out", recipe(source))
    assert not (tmp_path / "out").exists()
    allowed = recipe(source, run=Run(workers=1, allow_damaged=True))
    state = build(tmp_path, "out", allowed)
    assert len(state.damage) == 1
    assert "b.jsonl.zst: truncated" in (tmp_path / "out" / "README.md").read_text()


def test_a_published_checksum_that_does_not_match_is_told(tmp_path, source):
    (source / "sha256sums.txt").write_text("0" * 64 + "  a.jsonl\n")
    with pytest.raises(DamagedInput, match=r"a\.jsonl: checksum.*sha256sums\.txt says otherwise"):
        build(tmp_path, "out", recipe(source))
    allowed = recipe(source, run=Run(workers=1, allow_damaged=True))
    assert "a.jsonl: checksum" in build(tmp_path, "out", allowed).damage[0]


def test_command_line_exits_with_3_on_damage(tmp_path, source, monkeypatch, capsys):
    from gpt2lab.cli.main import main

    damaged(source)
    (tmp_path / "r.toml").write_text(to_toml(recipe(source)))
    assert main(["corpus", "build", str(tmp_path / "r.toml"), "--out", str(tmp_path / "o")]) == 3
    assert capsys.readouterr().err.count("b.jsonl.zst: truncated") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": Source("documents", ())}, r"source\.paths is empty"),
        (
            {"source": Source("documents", ("/no/such/file.txt",))},
            r"/no/such/file\.txt does not exist",
        ),
        (
            {"clean": Clean(min_tokens=10**6)},
            r"none of 120 documents is left, for these reasons: too few tokens 120",
        ),
        ({"dedup": Dedup(threshold=0.0)}, r"dedup\.threshold must be in"),
        ({"dedup": Dedup(rows=0)}, r"dedup\.rows must lie between"),
        ({"source": Source("documents", ("",))}, r"source\.paths is empty"),
        (
            {"overlap": Overlap(benchmarks=("/nope",))},
            r"/nope does not exist; check overlap\.benchm",
        ),
        ({"extract": Extract(seconds=float("nan"))}, r"extract\.seconds must lie between"),
        ({"crawl": Crawl(ports=(0,))}, r"crawl\.ports must lie between"),
        ({"crawl": Crawl(index="banana")}, r"crawl\.index must be an http address"),
        ({"clean": Clean(language="klingon")}, r"clean\.language must be a code"),
        ({"dedup": Dedup(bands=4000, rows=4000)}, r"dedup\.bands times dedup\.rows"),
        ({"shard": Shard(tokens_per_shard=1)}, r"shard\.tokens_per_shard must lie between"),
        ({"run": Run(workers=-1)}, r"run\.workers must lie between"),
        ({"run": Run(partitions=-1)}, r"run\.partitions must lie between"),
        ({"shard": Shard(held_out=1.0)}, r"shard\.held_out must be in"),
        ({"shard": Shard(tokenizer="/no/such/folder")}, r"/no/such/folder"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(tmp_path, source, changes, words):
    with pytest.raises(UserError, match=words):
        build(tmp_path, "out", replace(recipe(source), **changes))
    assert not (tmp_path / "out").exists()


def test_a_split_that_would_be_empty_is_refused(tmp_path, source):
    wanted = recipe(source)
    with pytest.raises(UserError, match=r"would fall into 'val' at shard\.held_out 1e-09"):
        build(tmp_path, "out", replace(wanted, shard=replace(wanted.shard, held_out=1e-9)))


def fails_when_told(out: Path, *, fail: bool):
    (out / "half.bin").write_bytes(b"x" * 100)
    if fail:
        raise OSError(28, "No space left on device")
    return {"counts": {}}


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    task = Task(tmp_path / "stage" / "0", fails_when_told, {"fail": True})
    with pytest.raises(UserError, match="disk is full"):
        run_task(task)
    assert list((tmp_path / "stage").iterdir()) == []
    assert not task.done


def test_a_full_disk_in_the_middle_of_a_build(tmp_path, source):
    """A real one: 1 MB of memory file system."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        rng = random.Random(5)
        write(source / "d.jsonl", [f"{rng.getrandbits(4000):x}" for _ in range(3000)])
        with pytest.raises(UserError, match=r"disk is full|free some disk space"):
            pipeline.build(recipe(source), tmp_path / "out", work=folder / "work")
        assert not (tmp_path / "out").exists()
        left = [p for p in (folder / "work").rglob("*") if p.is_dir() and p.name.endswith(".tmp")]
        assert left == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_dry_run_says_what_to_expect_and_writes_nothing(tmp_path, source):
    expected = plan.estimate(recipe(source))
    assert expected["files"] == 3
    assert expected["documents"] == 120
    assert expected["documents_after_rules"] <= expected["documents"]
    assert expected["hours_reading_and_cleaning"] >= 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "tokenizer"]


def dies(out: Path):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_ends_the_run_with_a_sentence(tmp_path):
    tasks = [Task(tmp_path / str(n), dies, {}) for n in range(3)]
    with pytest.raises(UserError, match="a worker was killed, most likely for want of memory"):
        run_tasks(tasks, workers=2)


def test_workers_end_when_their_run_is_killed(tmp_path):
    code = (
        "import time, sys, os\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from gpt2lab.corpus.execute import Task, run_tasks\n"
        "from slow_task import wait\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "run_tasks([Task(folder / str(n), wait, {}) for n in range(2)], workers=2)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob(".*/pid"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(file.read_text()) for file in tmp_path.glob(".*/pid")]
    run.kill()
    run.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_three_times(tmp_path, source):
    build(tmp_path, "whole", recipe(source))
    build_killed(recipe(source, run=Run(workers=2)), tmp_path / "killed", 3, seed=1, longest=2.5)
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_fifty_random_points(tmp_path, source):
    build(tmp_path, "whole", recipe(source))
    wanted = recipe(source, run=Run(workers=2))
    hits = seed = 0
    while hits < 50:
        out = tmp_path / f"killed{seed}"
        hits += build_killed(wanted, out, 50, seed=seed, longest=2.5)
        assert digest(out) == digest(tmp_path / "whole")
        seed += 1
        assert seed < 60


def test_overlap_is_the_hand_computed_table(tmp_path, small_tokenizer):
    """Two test sets over a corpus of three documents, counted by hand."""
    eight = "one two three four five six seven eight"
    nine = "red blue green black white pink brown grey gold"
    corpus = [
        f"Before it, {eight} nine ten and after.",
        "nothing of interest is said in this short text at all",
        f"{nine.upper()}!",
    ]
    write(tmp_path / "corpus.jsonl", corpus)
    # A: 10 words, 3 8-grams, of which the first stands in the corpus, and the second.
    # B: 9 words twice over, as two documents: 2 + 2 8-grams, all in the corpus; and 8 new words, 1
    # 8-gram that is not; and a text of 3 words, which has none.
    write(tmp_path / "A.jsonl", [f"{eight} nine zzz"])
    new = "these eight words are nowhere in the corpus"
    write(tmp_path / "B.jsonl", [nine, nine, new, "one two three"])
    small_tokenizer.save(tmp_path / "tokenizer")
    wanted = Recipe(
        source=Source("documents", (str(tmp_path / "corpus.jsonl"),)),
        overlap=Overlap(benchmarks=(str(tmp_path / "A.jsonl"), str(tmp_path / "B.jsonl"))),
        shard=Shard(tokenizer=str(tmp_path / "tokenizer"), held_out=0.0),
        run=Run(workers=1),
    )
    build(tmp_path, "out", wanted)
    facts = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert facts["overlap"] == [
        {"benchmark": "A.jsonl", "documents": 1, "ngrams": 3, "found": 2, "percent": 66.6667},
        {"benchmark": "B.jsonl", "documents": 4, "ngrams": 5, "found": 4, "percent": 80.0},
    ]


def test_benchmark_text_is_cut_out_when_asked(tmp_path, small_tokenizer):
    rng = random.Random(0)
    secret = " ".join(f"secret{rng.randrange(10**6)}" for _ in range(20))
    left, right = (" ".join(rng.choices(WORDS, k=150)) for _ in range(2))
    write(tmp_path / "corpus.jsonl", [f"{left} {secret} {right}", left[::-1]])
    write(tmp_path / "test.jsonl", [secret])
    small_tokenizer.save(tmp_path / "tokenizer")
    wanted = Recipe(
        source=Source("documents", (str(tmp_path / "corpus.jsonl"),)),
        overlap=Overlap(benchmarks=(str(tmp_path / "test.jsonl"),), remove=True),
        shard=Shard(tokenizer=str(tmp_path / "tokenizer"), held_out=0.0),
        run=Run(workers=1),
    )
    state = build(tmp_path, "out", wanted)
    rows = pq.read_table(tmp_path / "out" / "documents" / "train.parquet").to_pylist()
    assert len(rows) == 3
    assert not any("secret" in row["text"] for row in rows)
    pieces = [row["text"] for row in rows if row["text"] in left or row["text"] in right]
    assert len(pieces) == 2
    assert all(len(piece) >= overlap.CUT_CHARS for piece in pieces)
    assert state.stages["tokens"].counts["benchmark text cut"] == 1


@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-8])
def test_the_bloom_filter_forgets_nothing_and_errs_no_more_than_stated(tmp_path, error):
    rng = np.random.default_rng(0)
    items = rng.integers(0, 2**64, 200_000, np.uint64)
    bloom = overlap.Bloom(len(items), error)
    bloom.add(items)
    bloom.save(tmp_path / "bloom.npy")
    bloom = overlap.Bloom.load(tmp_path / "bloom.npy")
    assert bloom.found(items).all()
    probes = rng.integers(0, 2**64, 1_000_000, np.uint64)
    wrong = int(bloom.found(probes).sum())
    # A million strings, as in the paper; three standard deviations of the number expected.
    assert wrong <= error * 1e6 + 3 * (error * 1e6) ** 0.5
    assert error < 1e-6 or wrong >= 0.8 * error * 1e6  # no larger than it needs to be
    assert bloom.bits / len(items) < 1.03 * 1.4427 * np.log2(1 / error)


def test_a_filter_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(overlap, "available_memory", lambda: 1 << 20)
    with pytest.raises(
        UserError, match=r"a Bloom filter of 8,000,000 n-grams at error 1e-08 needs"
    ):
        overlap.Bloom(8_000_000, 1e-8)
