"""Encoding whole corpora: gigatoken where it is installed and agrees with tiktoken."""

import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.tokenizer.bpe import Tokenizer

Ids = npt.NDArray[np.uint32]

# What a young encoder may get wrong; compared at every start, with the caller's own texts.
_PROBES = (
    "Hello world, it's they'RE  we'll\t\n\n  'quoted'   text \r\n end ",
    "naïve café – “quotes” … 東京タワー Ελλάδα Здравствуйте नमस्ते 🤦🏽‍♀️ \u200b\ufeff\u0300",
    "<|endoftext|> 12345 ٣٤٥ Ⅷ ½ \x00\x01 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa " + " " * 50 + "x",
    "",
)


class BulkTokenizer:
    """Encodes batches of texts to flat arrays; the ids are those of the Tokenizer it is made from.

    gigatoken (Rust, ten times tiktoken's rate) is young, so it is held against tiktoken on fixed
    texts and on `sample`; if one id differs it is not used, with a warning.
    """

    def __init__(self, tokenizer: Tokenizer, sample: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._fast = _gigatoken(tokenizer)
        if self._fast is not None:
            texts = [*_PROBES, *sample]
            ours, counts = self._encode_fast(texts)
            for text, ids in zip(texts, np.split(ours, np.cumsum(counts)[:-1]), strict=True):
                if ids.tolist() != tokenizer.encode(text):
                    warnings.warn(
                        f"gigatoken and tiktoken disagree on {text[:60]!r}; going on with tiktoken",
                        stacklevel=2,
                    )
                    self._fast = None
                    break

    def encode(self, texts: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Ids of all texts end to end, and the number of each; specials are not parsed."""
        if self._fast is not None:
            return self._encode_fast(texts)
        rows = self._tokenizer.encode_batch(texts)
        counts = np.array([len(row) for row in rows], np.int64)
        return np.array([i for row in rows for i in row], np.uint32), counts

    def _encode_fast(self, texts: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        layout = self._fast.encode_batch(list(texts)).layout
        offsets = np.asarray(layout.offsets.data, np.int64)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)


def _gigatoken(tokenizer: Tokenizer) -> Any:
    try:
        import gigatoken
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        table = json.loads((Path(folder) / "tokenizer.json").read_text("utf-8"))
    table["added_tokens"] = []  # it would parse them out of plain text
    return gigatoken.Tokenizer.from_json(json.dumps(table))
