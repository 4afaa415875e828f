"""Near-duplicates: found, and only they, whatever the parts, workers or order."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

import reference_ngrams as reference
from gpt2lab.corpus import dedup, documents
from gpt2lab.corpus.recipe import Dedup


def write_parts(folder, texts, parts, created=None):
    """Documents in order, in so many files."""
    cuts = np.linspace(0, len(texts), parts + 1).astype(int)
    files = []
    for p, (a, b) in enumerate(itertools.pairwise(cuts)):
        rows = [
            dict.fromkeys(documents.SCHEMA.names)
            | {"key": i.to_bytes(16, "big"), "created": (created or {}).get(i, 0), "text": texts[i]}
            for i in range(a, b)
        ]
        path = folder / f"part-{parts}-{p}.arrow"
        documents.write(pa.Table.from_pylist(rows, documents.SCHEMA), path)
        files.append(str(path))
    return files, cuts.tolist()


def cluster(folder, texts, rules, parts=3, created=None, tasks=2):
    """All stages by hand; returns leaders, edges and the manifests."""
    folder.mkdir()
    files, starts = write_parts(folder, texts, parts, created)

    def run(name, function, **arguments):
        out = folder / name
        out.mkdir()
        return str(out), function(out, **arguments)

    signed = [run(f"sign-{n}", dedup.sign, file=f, rules=rules)[0] for n, f in enumerate(files)]
    groups = np.array_split(np.arange(rules.bands), tasks)
    pairs = [
        run(f"pairs-{n}", dedup.propose, folders=signed, bands=g.tolist(), rules=rules)[0]
        for n, g in enumerate(groups)
    ]
    union = run("union", dedup.union, folders=pairs)[0]
    sets = [
        run(
            f"sets-{n}", dedup.gather, file=f, pairs=union, start=starts[n],
            count=starts[n + 1] - starts[n], ngram=rules.ngram,
        )[0]
        for n, f in enumerate(files)
    ]  # fmt: skip
    threshold = rules.threshold if rules.verify else 0.0
    edges = [
        run(f"verify-{n}", dedup.verify, folders=sets, part=n, pairs=union, threshold=threshold)[0]
        for n in range(len(files))
    ]
    paths = [f"{folder}/{dedup.EDGES}" for folder in edges]
    out, manifest = run("clusters", dedup.cluster, edges=paths, files=files)
    found = np.concatenate([np.load(path) for path in paths])
    return np.load(f"{out}/{dedup.LEADERS}"), set(zip(*dedup.unpack(found), strict=True)), manifest


def planted(count=150, seed=3):
    """Texts, some of them edited copies of others at every degree of likeness."""
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(4000)]
    texts = []
    for _ in range(count):
        base = [rng.choice(words) for _ in range(rng.randrange(30, 200))]
        texts.append(" ".join(base))
        for share in (0.0, 0.005, 0.02, 0.05, 0.1, 0.2):
            if rng.random() < 0.5:
                copy = [rng.choice(words) if rng.random() < share else w for w in base]
                texts.append(" ".join(copy).upper() if rng.random() < 0.3 else ", ".join(copy))
    rng.shuffle(texts)
    return texts


def all_pairs(texts, n):
    """Every pair's similarity, by looking at every pair."""
    sets = [set(reference.ngrams(text, n)) for text in texts]
    for i, j in itertools.combinations(range(len(texts)), 2):
        both = len(sets[i] & sets[j])
        if both:
            yield i, j, both / len(sets[i] | sets[j])


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_recall_and_precision_on_every_pair(tmp_path, threshold):
    texts = planted()
    rules = Dedup(threshold=threshold, bands=35, rows=3)
    _, edges, _ = cluster(tmp_path / "x", texts, rules)
    true = {(i, j) for i, j, s in all_pairs(texts, 5) if s >= threshold}
    assert len(true) > 300
    assert edges <= true  # precision 1
    assert len(edges & true) >= 0.99 * len(true)


def test_the_result_is_the_same_for_any_number_of_parts_and_tasks(tmp_path):
    texts = planted(60)
    created = {i: 1000 + (i * 7919) % 100 for i in range(0, len(texts), 2)}
    rules = Dedup()
    results = [
        cluster(tmp_path / f"{parts}-{tasks}", texts, rules, parts, created, tasks)
        for parts, tasks in ((1, 1), (2, 5), (7, 35))
    ]
    for leaders, edges, manifest in results[1:]:
        assert (leaders == results[0][0]).all()
        assert edges == results[0][1]
        assert manifest == results[0][2]


def test_clusters_are_the_connected_documents_and_the_oldest_leads(tmp_path):
    texts = planted(60)
    rng = random.Random(4)
    created = {i: rng.randrange(1000, 1010) for i in range(len(texts)) if rng.random() < 0.7}
    leaders, edges, manifest = cluster(tmp_path / "x", texts, Dedup(), 4, created)
    group = list(range(len(texts)))
    for _ in texts:  # spread the least label along edges until nothing changes
        for i, j in edges:
            group[i] = group[j] = min(group[i], group[j])
    for members in (np.flatnonzero(np.array(group) == g).tolist() for g in set(group)):
        oldest = min(members, key=lambda i: (created.get(i, 10**12), i))
        assert {int(leaders[i]) for i in members} == {oldest}
    sizes = manifest["cluster_sizes"]
    assert sum(int(size) * n for size, n in sizes.items()) == len(texts)
    assert manifest["counts"]["kept"] == sum(sizes.values()) == len(set(leaders.tolist()))


def test_a_template_shared_by_thousands_does_not_make_millions_of_pairs(tmp_path):
    """Pages of one shop: nearly the same text, 3,000 times, and a few that only share its frame."""
    rng = random.Random(0)
    frame = [f"frame{i}" for i in range(300)]
    texts = [" ".join([*frame, f"item{i}"]) for i in range(3000)]
    texts += [" ".join(frame[:30] + [f"own{rng.random()}" for _ in range(300)]) for _ in range(5)]
    folder = tmp_path / "x"
    leaders, _, manifest = cluster(folder, texts, Dedup())
    assert len(np.load(folder / "union" / dedup.PAIRS)) < 70 * 3005
    assert len(set(leaders[:3000].tolist())) == 1
    assert manifest["counts"]["near duplicate"] == 2999


def test_without_verification_a_shared_band_is_enough(tmp_path):
    texts = planted(60)
    loose = cluster(tmp_path / "a", texts, Dedup(bands=14, rows=8, verify=False, threshold=0.99))
    strict = cluster(tmp_path / "b", texts, Dedup(bands=14, rows=8, threshold=0.99))
    assert strict[1] < loose[1]


def test_empty_and_short_texts(tmp_path):
    texts = ["", "...", "one", "One!", "two words", "Two, words", "", "one two three four five six"]
    leaders, edges, _ = cluster(tmp_path / "x", texts, Dedup())
    assert {(2, 3), (4, 5)} == edges  # texts without a word are like no other
    assert leaders.tolist() == [0, 1, 2, 2, 4, 4, 6, 7]


def test_parts_without_documents(tmp_path):
    leaders, _, manifest = cluster(tmp_path / "x", ["a b c d e f", "a b c d e f"], Dedup(), parts=5)
    assert leaders.tolist() == [0, 0]
    assert manifest["counts"] == {"documents": 2, "near duplicate": 1, "kept": 1}
    assert len(documents.read_column([str(tmp_path / "x" / "part-5-0.arrow")], "text")) == 0


def test_texts_without_words_are_no_duplicates_even_unverified(tmp_path):
    texts = ["...", "!!!", "", "one two three", "ONE two three"]
    leaders, _, _ = cluster(tmp_path / "x", texts, Dedup(verify=False))
    assert leaders.tolist() == [0, 1, 2, 3, 3]
