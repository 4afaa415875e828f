"""The tokenizer: text to ids and back, byte-exact, with tiktoken doing the merging."""

import codecs
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import tiktoken

from gpt2lab.errors import UserError
from gpt2lab.tokenizer import files
from gpt2lab.tokenizer.vocabulary import END_OF_TEXT, Vocabulary, split_below, to_visible

# Letters, numbers and the rest never share a token, but for one leading space. The contractions
# are lower-case only: OpenAI's comment regrets it, parity keeps it (openai/gpt-2 src/encoder.py).
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# tiktoken's regex engine overflows its stack on very long runs of white space (a million blanks
# end the process), so such runs are cut out by hand. The class is Unicode's White_Space.
_LONG_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{4096,}")

# Digest of OpenAI's vocabulary, whose merges need no checking.
GPT2_DIGEST = "c7a3a6eb903a834843bc1817b6a6f3f1172ecb9501a40dc40cc06e49d5dddbdd"


class Tokenizer:
    """GPT-2's byte-level BPE over any vocabulary (paper section 2.2).

    `Tokenizer.load("gpt2")` fetches OpenAI's own 50,257 tokens;
    `Tokenizer.load("folder")` reads any of the forms listed in `gpt2lab.tokenizer.files`.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._specials = vocabulary.specials
        # tiktoken wants the id of a token to be its merge rank. So it is in GPT-2; files made
        # elsewhere may number tokens otherwise, so ranks and ids are mapped where they differ.
        ranks = vocabulary.ranks
        self._bpe = tiktoken.Encoding(
            "gpt2lab", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        if self.digest != GPT2_DIGEST:
            self._check_merges()
        self._id_of_rank: list[int] | None = None
        if any(vocabulary.ids[token] != rank for token, rank in ranks.items()):
            self._id_of_rank = [vocabulary.ids[token] for token in ranks]
        self._token_of_id: list[bytes] = [b""] * vocabulary.size
        for token, i in vocabulary.ids.items():
            self._token_of_id[i] = token
        for text, i in vocabulary.specials.items():
            self._token_of_id[i] = text.encode()

    def _check_merges(self) -> None:
        """Refuse merges that the bytes alone do not lead to.

        tiktoken joins whichever pair makes the token of lowest rank; the merge list names one
        pair. For a vocabulary learned by BPE the two agree, and this proves it for each merge.
        """
        ranks = self.vocabulary.ranks
        for rank, pair in enumerate(self.vocabulary.merges, start=256):
            if split_below(ranks, pair[0] + pair[1], rank) != list(pair):
                raise UserError(
                    f"{self.vocabulary.where}: merge {rank - 256} ({to_visible(pair[0])} "
                    f"{to_visible(pair[1])}) is never reached by merging in order; the merges are "
                    "not those of a trained BPE"
                )

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Read a tokenizer from a folder or file, or a published model's name such as `gpt2`."""
        path = Path(source)
        if not path.exists():
            from gpt2lab.tokenizer.hub import fetch

            path = fetch(str(source))
        return cls(files.read(path))

    def save(self, folder: Path, *, max_length: int | None = None) -> None:
        """Write the tokenizer to `folder` in Hugging Face's form."""
        files.write(self.vocabulary, folder, max_length=max_length)

    def for_chats(self, template: str, specials: Sequence[str]) -> Self:
        """The same with a chat template, and with such control tokens as it has not got yet."""
        old = self.vocabulary
        more = [text for text in specials if text not in old.specials]
        numbered = {text: old.size + i for i, text in enumerate(more)}
        return type(self)(
            dataclasses.replace(old, specials=old.specials | numbered, chat_template=template)
        )

    @property
    def size(self) -> int:
        """Number of ids: 50,257 for GPT-2."""
        return self.vocabulary.size

    @property
    def end_of_text(self) -> int:
        """Id of `<|endoftext|>`, which stands before every document."""
        try:
            return self._specials[END_OF_TEXT]
        except KeyError:
            raise UserError(
                f"{self.vocabulary.where}: the vocabulary has no {END_OF_TEXT}; add it as a special"
            ) from None

    @property
    def digest(self) -> str:
        """SHA-256 of every token with its id and rank: equal digests encode equally."""
        state = hashlib.sha256()
        for token, rank in self.vocabulary.ranks.items():
            state.update(f"{to_visible(token)} {rank} {self.vocabulary.ids[token]}\n".encode())
        for text, i in sorted(self._specials.items()):
            state.update(f"{text} special {i}\n".encode())
        return state.hexdigest()

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Ids of `text`.

        specials: also turn control tokens written in the text, such as `<|endoftext|>`, into their
        one id. Off by default, as in OpenAI's encoder: text from strangers must not control.
        Raises UserError for an unpaired surrogate, which no UTF-8 can hold.
        """
        if not specials:
            return self._encode_ordinary(text)
        ids: list[int] = []
        while text:
            found = [(text.find(name), -len(name), name) for name in self._specials if name in text]
            if not found:
                break
            start, _, name = min(found)  # the first to occur; of two there, the longer
            ids += self._encode_ordinary(text[:start])
            ids.append(self._specials[name])
            text = text[start + len(name) :]
        return ids + self._encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], *, threads: int = 2) -> list[list[int]]:
        """Ids of each text, encoded on several threads; specials are not parsed."""
        for text in texts:
            _require_unicode(text)
        if any(map(_LONG_SPACE.search, texts)):
            return [self._encode_ordinary(text) for text in texts]
        batch = self._bpe.encode_ordinary_batch(list(texts), num_threads=threads)
        return [self._to_ids(ranks) for ranks in batch]

    def _encode_ordinary(self, text: str) -> list[int]:
        _require_unicode(text)
        ranks: list[int] = []
        start = 0
        for run in _LONG_SPACE.finditer(text):
            # The pattern leaves the last blank of a run to the word after it.
            end = run.end() if run.end() == len(text) else run.end() - 1
            ranks += self._bpe.encode_ordinary(text[start : run.start()])
            ranks += self._bpe._encode_single_piece(text[run.start() : end])
            start = end
        return self._to_ids(ranks + self._bpe.encode_ordinary(text[start:]))

    def _to_ids(self, ranks: list[int]) -> list[int]:
        table = self._id_of_rank
        return ranks if table is None else [table[rank] for rank in ranks]

    def token(self, i: int) -> bytes:
        """The bytes of one id; UserError if it is out of range."""
        if not 0 <= i < len(self._token_of_id):
            raise UserError(
                f"token id {i} is outside this vocabulary, whose ids are 0 to {self.size - 1}"
            )
        return self._token_of_id[i]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; they need not be whole UTF-8 characters."""
        return b"".join(map(self.token, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD, as in OpenAI's decoder."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield text as ids arrive, never half a character; joined it equals `decode`.

        One piece per id (it may be empty), and a last one if the ids end inside a character.
        """
        decoder = self.stream_decoder()
        for i in ids:
            yield decoder.decode(self.token(i))
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    @staticmethod
    def stream_decoder() -> codecs.IncrementalDecoder:
        """An incremental UTF-8 decoder that holds back incomplete characters."""
        return codecs.getincrementaldecoder("utf-8")(errors="replace")


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has an unpaired surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}; remove it, or decode the source as UTF-16"
        ) from None
