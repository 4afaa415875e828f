"""Documents and a tokenizer to a folder of shards that training reads."""

from collections.abc import Callable, Sequence
from pathlib import Path

from gpt2lab.corpus.document import Document
from gpt2lab.corpus.shards import ShardWriter, write_index
from gpt2lab.errors import UserError
from gpt2lab.storage import atomic_folder
from gpt2lab.tokenizer.bpe import Tokenizer

BATCH = 512


def shard(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    out: Path,
    *,
    held_out: float,
    overwrite: bool = False,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, int]:
    """Write `train` and `val` shards and the tokenizer to `out`; return token counts by split.

    held_out: share of documents for `val`, chosen by each document's own text.
    Raises UserError if a split would be empty, or if ids do not fit uint16.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"held_out must be in [0, 1), not {held_out}")
    if tokenizer.size > 2**16:
        raise UserError(f"a vocabulary of {tokenizer.size} does not fit shards of 16-bit ids")
    with atomic_folder(out, overwrite=overwrite) as folder:
        writers = {s: ShardWriter(folder, s, tokenizer.end_of_text) for s in ("train", "val")}
        for start in range(0, len(documents), BATCH):
            batch = documents[start : start + BATCH]
            for document, ids in zip(
                batch, tokenizer.encode_batch([d.text for d in batch]), strict=True
            ):
                writers["val" if document.held_out(held_out) else "train"].add(ids)
            on_progress(min(1.0, (start + BATCH) / len(documents)))
        for split, writer in writers.items():
            if writer.documents == 0 and (split == "train" or held_out > 0):
                raise UserError(
                    f"none of {len(documents)} documents fell into {split!r} at held_out "
                    f"{held_out}; give more text or another share"
                )
        splits = {split: writer.close() for split, writer in writers.items()}
        tokenizer.save(folder / "tokenizer")
        write_index(folder, tokenizer.digest, splits)
    return {split: int(entry["tokens"]) for split, entry in splits.items()}
