"""GPT-2's encoder written plainly from its description: the pattern, then lowest rank first."""

import itertools

import regex

from gpt2lab.tokenizer.vocabulary import Vocabulary

PATTERN = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def encode(vocabulary: Vocabulary, text: str) -> list[int]:
    order = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
    ids = []
    for word in PATTERN.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: order.get(pair, len(order)))
            if best not in order:
                break
            merged, i = [], 0
            while i < len(parts):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        ids += [vocabulary.ids[part] for part in parts]
    return ids
