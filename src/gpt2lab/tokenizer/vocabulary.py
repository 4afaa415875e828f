"""What a byte-level BPE vocabulary is: tokens as bytes, their ids, and the order of merges."""

from dataclasses import dataclass
from functools import cached_property

from gpt2lab.errors import UserError

END_OF_TEXT = "<|endoftext|>"


def _bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte (openai/gpt-2 src/encoder.py).

    Printable bytes stand for themselves; the other 68 become U+0100 upwards, in numeric order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


BYTE_TO_CHAR = _bytes_to_unicode()
_CODES = {ord(char): byte for byte, char in BYTE_TO_CHAR.items()}
_FOREIGN = 0xFFFF  # which latin-1 cannot hold
_FROM_VISIBLE = dict.fromkeys(range(256), _FOREIGN) | _CODES


def to_visible(token: bytes) -> str:
    """A token as vocabulary files write it: b' the' is 'Ġthe'."""
    return token.decode("latin-1").translate(BYTE_TO_CHAR)


def from_visible(text: str) -> bytes:
    """The bytes of a token as vocabulary files write it; KeyError for a foreign character."""
    try:
        return text.translate(_FROM_VISIBLE).encode("latin-1")
    except UnicodeEncodeError:
        raise KeyError(next(c for c in text if ord(c) not in _CODES)) from None


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and merges, checked on construction; `where` names their file in errors.

    ids: token bytes -> id, for ordinary tokens (256 bytes and one per merge).
    merges: pairs of tokens in rank order; merge r joins its pair before any merge of higher rank.
    specials: text -> id of control tokens such as `<|endoftext|>`.
    chat_template: how turns of a chat are written, in Jinja, as Hugging Face's tokenizers record.
    """

    ids: dict[bytes, int]
    merges: tuple[tuple[bytes, bytes], ...]
    specials: dict[str, int]
    where: str
    chat_template: str | None = None

    def __post_init__(self) -> None:
        for byte in range(256):
            if bytes([byte]) not in self.ids:
                raise UserError(
                    f"{self.where}: no token for byte 0x{byte:02x}; "
                    "this is not a byte-level vocabulary like GPT-2's"
                )
        every_id = [*self.ids.values(), *self.specials.values()]
        if sorted(every_id) != list(range(len(every_id))):
            raise UserError(
                f"{self.where}: ids are not 0 to {len(every_id) - 1} once each; "
                "the file is damaged, fetch or make it again"
            )
        joined = {left + right for left, right in self.merges}
        if len(joined) != len(self.merges) or len(joined) + 256 != len(self.ids):
            raise UserError(
                f"{self.where}: {len(self.ids)} tokens do not follow from 256 bytes and "
                f"{len(self.merges)} merges; the vocabulary and merges are of two tokenizers"
            )
        known = {bytes([byte]) for byte in range(256)}
        for rank, (left, right) in enumerate(self.merges):
            if left not in known or right not in known or left + right not in self.ids:
                raise UserError(
                    f"{self.where}: merge {rank} ({to_visible(left)} {to_visible(right)}) uses a "
                    "token that no earlier merge makes; the file is damaged, fetch or make it again"
                )
            known.add(left + right)

    @property
    def size(self) -> int:
        """Number of ids, specials included: 50,257 for GPT-2."""
        return len(self.ids) + len(self.specials)

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        """Token -> merge priority: bytes first, then merges in order."""
        singles = sorted((bytes([byte]) for byte in range(256)), key=self.ids.__getitem__)
        tokens = [*singles, *(left + right for left, right in self.merges)]
        return {token: rank for rank, token in enumerate(tokens)}


def merges_from_ranks(ranks: dict[bytes, int], where: str) -> tuple[tuple[bytes, bytes], ...]:
    """Recover the pair behind each token of a vocabulary that lists tokens by rank only.

    A token's pair is what its bytes have become just before the merge of its own rank.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            pair = split_below(ranks, token, rank)
            if len(pair) != 2:
                raise UserError(
                    f"{where}: token {token!r} cannot be made by merging two earlier tokens; "
                    "the file is damaged or not a BPE vocabulary"
                )
            merges.append((pair[0], pair[1]))
    return tuple(merges)


def split_below(ranks: dict[bytes, int], token: bytes, limit: int) -> list[bytes]:
    """Merge the bytes of `token` by every rank below `limit`, lowest first."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        best = limit
        where = -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], limit)
            if rank < best:
                best, where = rank, i
        if where < 0:
            return parts
        parts[where : where + 2] = [parts[where] + parts[where + 1]]
    return parts
