"""Learning a vocabulary from text with Hugging Face's `tokenizers`, laid out as GPT-2's is."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer as Trainer
from tokenizers import models, pre_tokenizers, trainers

from gpt2lab.errors import UserError
from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.vocabulary import (
    BYTE_TO_CHAR,
    END_OF_TEXT,
    Vocabulary,
    from_visible,
)


def train(texts: Iterable[str], vocab_size: int, *, exact: bool = True) -> Tokenizer:
    """Learn `vocab_size` tokens: 256 bytes, the most frequent merges, and `<|endoftext|>` last.

    Ids are laid out as in GPT-2: bytes in the order of its byte table, then merges by rank.
    exact: refuse a text too short to yield that many merges; else take as many as there are.
    Raises UserError if the size is below 257 or cannot be reached.
    """
    wanted = vocab_size - 257
    if wanted < 0:
        raise UserError(
            f"vocab_size {vocab_size} is too small; 256 bytes and {END_OF_TEXT} need 257"
        )
    bpe = Trainer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=256 + wanted,
            initial_alphabet=list(BYTE_TO_CHAR.values()),
            special_tokens=[],
            show_progress=False,
        ),
    )
    learned = json.loads(bpe.to_str())["model"]["merges"]
    pairs = tuple((from_visible(a), from_visible(b)) for a, b in learned)
    if exact and len(pairs) < wanted:
        raise UserError(
            f"the text yields only {len(pairs)} merges, not {wanted}; "
            f"give more text or set vocab_size to at most {257 + len(pairs)}"
        )
    tokens = [bytes([byte]) for byte in BYTE_TO_CHAR] + [a + b for a, b in pairs]
    ids = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(Vocabulary(ids, pairs, {END_OF_TEXT: len(ids)}, where="trained vocabulary"))
