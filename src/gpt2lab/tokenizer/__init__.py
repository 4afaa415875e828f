"""GPT-2's byte-level BPE: encode, decode, train, read and write every common file form."""

from gpt2lab.tokenizer.bpe import Tokenizer
from gpt2lab.tokenizer.train import train
from gpt2lab.tokenizer.vocabulary import END_OF_TEXT

__all__ = ["END_OF_TEXT", "Tokenizer", "train"]
