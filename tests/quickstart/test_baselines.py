import lzma
import math
import random
from collections import Counter, defaultdict

import pytest

from gpt2lab.quickstart.baselines import ngram_bits, xz_bits_per_byte


def kneser_ney(train, held_out, vocab, order):
    """The same model written with dictionaries, from Chen and Goodman's formulas."""
    counts = [Counter() for _ in range(order + 1)]
    for s in train:
        for k in range(1, order + 1):
            for i in range(len(s) - k + 1):
                counts[k][tuple(s[i : i + k])] += 1
    used = [Counter() for _ in range(order + 1)]
    for k in range(1, order):
        for gram in counts[k + 1]:
            used[k][gram[1:]] += 1
        for gram in counts[k]:
            used[k].setdefault(gram, 0)
    used[order] = counts[order]
    totals, kinds, discounts = [None], [None], [None]
    for k in range(1, order + 1):
        total, kind = defaultdict(int), defaultdict(int)
        for gram, c in used[k].items():
            total[gram[:-1]] += c
            kind[gram[:-1]] += c > 0
        ones = sum(c == 1 for c in used[k].values())
        twos = sum(c == 2 for c in used[k].values())
        totals.append(total)
        kinds.append(kind)
        discounts.append(ones / (ones + 2 * twos) if ones else 0.5)

    def probability(context, word):
        p = 1 / vocab
        for k in range(1, order + 1):
            if len(context) < k - 1:
                break
            before = tuple(context[len(context) - (k - 1) :])
            if not totals[k].get(before):
                # Where a context was never seen, no longer one was either.
                if before not in totals[k]:
                    break
                continue
            c = used[k].get((*before, word), 0)
            p = (max(c - discounts[k], 0) + discounts[k] * kinds[k][before] * p) / totals[k][before]
        return p

    return sum(-math.log2(probability(s[:i], s[i])) for s in held_out for i in range(1, len(s)))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_formulas(order):
    rng = random.Random(0)
    words = [rng.choices(range(1, 9), k=3) for _ in range(12)]

    def text():
        return [0, *(w for _ in range(rng.randint(1, 9)) for w in rng.choice(words))]

    train, held = [text() for _ in range(60)], [text() for _ in range(20)]
    held.append([0, 9, 9, 1, 9])  # a symbol never seen
    assert ngram_bits(train, held, 10, order) == pytest.approx(kneser_ney(train, held, 10, order))


def test_probabilities_sum_to_one():
    rng = random.Random(1)
    train = [[0, *rng.choices([1, 2, 3, 4], weights=[8, 4, 2, 1], k=12)] for _ in range(50)]
    for context in ([0], [0, 1], [0, 1, 2, 1], [0, 4, 4, 4, 4, 4]):
        base = ngram_bits(train, [context], 6) if len(context) > 1 else 0.0
        bits = [ngram_bits(train, [[*context, w]], 6) - base for w in range(6)]
        assert sum(2**-b for b in bits) == pytest.approx(1.0)


def test_xz():
    texts = ["the cat sat on the mat " * 20, "another"]
    data = "\n\n".join(texts).encode()
    assert xz_bits_per_byte(texts) == 8 * len(lzma.compress(data, preset=9)) / len(data)
