"""What of the texts to learn from is there twice, and what of other texts is among them."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.corpus.shards import Tokens
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.training.copied import copied

# Near-duplicates: Jaccard similarity of word 5-grams, told from min-hashes. Bands of eight find a
# pair at 0.8 with probability 0.95.
_WORDS, _HASHES, _ROWS, _SIMILAR = 5, 128, 8, 0.8
# Examples beyond so many are not compared: 640 bytes each are held.
_MOST = 500_000
# The n-grams, of tokens, by which another text is found among the training text.
OVERLAP_N = 13
_BATCH = 1024


class NearDuplicates:
    """Counts texts that are nearly one that came before; without numba it counts none."""

    def __init__(self) -> None:
        try:
            from gpt2lab.corpus import kernels
        except ImportError:
            self._kernels = None
        else:
            self._kernels = kernels
        self._signatures: list[npt.NDArray[np.uint32]] = []
        self._held = 0

    def add(self, texts: Sequence[str]) -> None:
        """Take more texts."""
        if self._kernels is None or self._held >= _MOST or not texts:
            return
        encoded = [text.encode("utf-8", "replace") for text in texts]
        ends = np.cumsum([0, *map(len, encoded)])
        data = np.frombuffer(b"".join(encoded), np.uint8)
        self._signatures.append(self._kernels.signatures(data, ends, _WORDS, _HASHES))
        self._held += len(texts)

    def report(self) -> dict[str, int] | None:
        """How many texts were compared, and how many are nearly an earlier one."""
        if self._kernels is None:
            return None
        if not self._held:
            return {"compared": 0, "found": 0}
        signatures = np.concatenate(self._signatures)
        keys = self._kernels.band_keys(signatures, _HASHES // _ROWS, _ROWS)
        found = np.zeros(len(keys), bool)
        for key_N in keys.T:
            _, first, which = np.unique(key_N, return_index=True, return_inverse=True)
            earlier = first[which]
            agree = (signatures == signatures[earlier]).mean(axis=1)
            found |= (earlier < np.arange(len(keys))) & (agree >= _SIMILAR)
        return {"compared": len(keys), "found": int(found.sum())}


def overlap(texts: Iterable[str], tokenizer: Tokenizer, training: Tokens) -> dict[str, Any]:
    """How much of other texts stands in the training text, by 13-grams of tokens.

    A text is held to be known if half of its 13-grams are there.
    """
    texts = iter(texts)
    grams = found = documents = known = 0
    while batch := list(islice(texts, _BATCH)):
        for flags in copied(tokenizer.encode_batch(batch), training, OVERLAP_N):
            grams, found = grams + len(flags), found + int(flags.sum())
            documents += 1
            known += bool(len(flags)) and flags.mean() >= 0.5
    share = round(found / grams, 4) if grams else 0.0
    return {"texts": documents, "known": int(known), "ngrams": grams, "share": share}
