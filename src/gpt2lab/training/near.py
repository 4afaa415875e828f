"""What of the texts to learn from is there twice, and what of other texts is among them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.errors import UserError

U64 = npt.NDArray[np.uint64]

# Near-duplicates: Jaccard similarity of word 5-grams, told from min-hashes. Bands of eight find a
# pair at 0.8 with probability 0.95.
_WORDS, _HASHES, _ROWS, _SIMILAR = 5, 128, 8, 0.8
# Examples beyond so many are not compared: 640 bytes each are held.
_MOST = 500_000
OVERLAP_WORDS = 8


class NearDuplicates:
    """Counts texts that are nearly one that came before; without numba it counts none."""

    def __init__(self) -> None:
        self._kernels = _kernels()
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
            known = key_N != self._kernels.NO_KEY  # of a text without a word
            found |= known & (earlier < np.arange(len(keys))) & (agree >= _SIMILAR)
        return {"compared": len(keys), "found": int(found.sum())}


class Overlap:
    """How much of other texts stands in those to learn from, as `gpt2lab evaluate` and the paper
    (section 4, table 6) count it: by word 8-grams, lower-cased and alphanumeric.

    Those of the other texts are held exactly, and the texts to learn from pass by once.
    """

    def __init__(self) -> None:
        self._kernels = _kernels()
        self._wanted: dict[str, list[U64]] = {}
        self._found: set[int] = set()
        self._table = np.empty(0, np.uint64)

    def want(self, name: str, texts: Iterable[str]) -> None:
        """Take texts to look for, before any to learn from.

        Raises UserError if there are none, or numba is missing.
        """
        if self._kernels is None:
            raise UserError(
                f"to look for {name} among the texts takes numba; pip install 'gpt2lab[corpus]'"
            )
        self._wanted[name] = [self._grams(text) for text in texts]
        if not self._wanted[name]:
            raise UserError(f"{name} holds no text to look for; check its form, or leave it out")
        self._table = np.unique(np.concatenate([self._table, *self._wanted[name]]))

    def add(self, texts: Sequence[str]) -> None:
        """Look through texts to learn from."""
        if len(self._table):
            for text in texts:
                grams = self._grams(text)
                self._found.update(grams[np.isin(grams, self._table)].tolist())

    def report(self) -> dict[str, dict[str, Any]]:
        """Of each name, the share of 8-grams found, and texts of which half are."""
        found = np.array(sorted(self._found), np.uint64)
        return {
            name: _share([np.isin(grams, found) for grams in each])
            for name, each in self._wanted.items()
        }

    def _grams(self, text: str) -> U64:
        grams, ends = self._kernels.ngrams_and_ends(text.encode("utf-8", "replace"), OVERLAP_WORDS)
        found: U64 = grams if len(ends) >= OVERLAP_WORDS else grams[:0]
        return found


def _share(flags: list[npt.NDArray[np.bool_]]) -> dict[str, Any]:
    grams, found = sum(map(len, flags)), sum(int(f.sum()) for f in flags)
    known = sum(bool(len(f)) and bool(f.mean() >= 0.5) for f in flags)
    share = round(found / grams, 4) if grams else 0.0
    return {"texts": len(flags), "known": known, "ngrams": grams, "share": share}


def _kernels() -> Any:
    """The corpus's compiled loops; None where numba is not installed."""
    try:
        from gpt2lab.corpus import kernels
    except ImportError:
        return None
    return kernels
