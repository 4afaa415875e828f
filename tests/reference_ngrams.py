"""The corpus kernels in plain Python, rule for rule: what the compiled ones are compared with."""

from gpt2lab.corpus import kernels

M = 2**64


def mix(x: int) -> int:
    x = (x ^ (x >> 33)) * int(kernels.MIX_1) % M
    x = (x ^ (x >> 33)) * int(kernels.MIX_2) % M
    return x ^ (x >> 33)


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; a letter's lower case is its first character."""
    folded = "".join(c.lower()[0] if c.isalnum() else " " for c in text)
    return [word for word in folded.split(" ") if word]


def word_hash(word: str) -> int:
    h = int(kernels.FNV_OFFSET)
    for char in word:
        h = (h ^ ord(char)) * int(kernels.FNV_PRIME) % M
    return mix(h)


def ngrams(text: str, n: int) -> list[int]:
    hashes = [word_hash(w) for w in words(text)]
    size = min(n, len(hashes))
    out = []
    for i in range(len(hashes) - size + 1 if hashes else 0):
        h = 0
        for word in hashes[i : i + size]:
            h = (h * int(kernels.WEIGHT) + word) % M
        out.append(mix(h))
    return out


def signature(text: str, n: int, count: int) -> list[int]:
    multipliers, addends = kernels.permutations(count)
    tops = [gram >> 32 for gram in ngrams(text, n)]
    return [
        min(((x * int(a) + int(b)) % 2**32 for x in tops), default=2**32 - 1)
        for a, b in zip(multipliers, addends, strict=True)
    ]


def jaccard(a: str, b: str, n: int) -> float:
    left, right = set(ngrams(a, n)), set(ngrams(b, n))
    return len(left & right) / len(left | right) if left | right else 0.0
