"""The shape of a GPT-2, its four published sizes, and what a shape costs."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from gpt2lab.errors import UserError

Activation = Literal["gelu_tanh", "gelu_erf"]

# Far above anything trained, far below what would exhaust a machine before it can be refused.
_MOST = {
    "n_layer": 2**12,
    "n_head": 2**12,
    "n_embd": 2**17,
    "n_positions": 2**24,
    "vocab_size": 2**24,
    "pad_vocab_to": 2**16,
}


@dataclass(frozen=True)
class GPT2Config:
    """A GPT-2's shape. Names are those of Hugging Face's config.json; defaults are 124M's."""

    n_layer: int = 12
    """Number of blocks."""
    n_head: int = 12
    """Attention heads per block; must divide n_embd."""
    n_embd: int = 768
    """Model width."""
    n_positions: int = 1024
    """Context: the most tokens the model can attend to."""
    vocab_size: int = 50257
    """Number of token ids."""
    dropout: float = 0.0
    """Dropout on embeddings, attention and both residual branches, while training."""
    activation: Activation = "gelu_tanh"
    """GPT-2's GELU is the tanh form; gelu_erf is for importing models trained with the exact."""
    pad_vocab_to: int = 1
    """Round the embedding's rows up to a multiple of this (64 or 128 suits GPUs); the added rows
    are masked out of the logits and never saved."""

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise UserError(
                    f"model.{name} is {getattr(self, name)}; it must be from 1 to {most:,}"
                )
        if self.n_embd % self.n_head:
            raise UserError(
                f"model.n_embd {self.n_embd} is not divisible by model.n_head {self.n_head}; "
                "make it a multiple"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}; it must be from 0 to below 1")

    @classmethod
    def named(cls, size: str) -> Self:
        """One of the paper's four sizes: 124M, 355M, 774M or 1.5B (Table 2)."""
        if size not in SIZES:
            raise UserError(f"no GPT-2 size {size!r}; choose from {', '.join(SIZES)}")
        n_layer, n_head, n_embd = SIZES[size]
        return cls(n_layer=n_layer, n_head=n_head, n_embd=n_embd)

    def unpadded(self) -> Self:
        """The same shape without vocabulary padding, as it is saved."""
        return replace(self, pad_vocab_to=1)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, padding included."""
        return -(-self.vocab_size // self.pad_vocab_to) * self.pad_vocab_to

    @property
    def n_params(self) -> int:
        """Parameters, the tied head counted once, padding not counted."""
        return self.n_params_embedding + self.n_params_blocks

    @property
    def n_params_embedding(self) -> int:
        """Parameters of the token and position tables."""
        return (self.vocab_size + self.n_positions) * self.n_embd

    @property
    def n_params_blocks(self) -> int:
        """Parameters of the blocks and the final layer norm."""
        d = self.n_embd
        return self.n_layer * (12 * d * d + 13 * d) + 2 * d

    def flops_per_token(self, context: int) -> int:
        """Training FLOPs per token, forward and backward, at `context` tokens of context.

        Two per weight and pass and three passes, for every matrix a token meets (blocks and tied
        head; the tables are look-ups), plus 12*L*d*T for attention scores and mixing, counted over
        the whole square as PaLM does (appendix B), though causal kernels may skip half.
        """
        d, layers = self.n_embd, self.n_layer
        matrices = layers * 12 * d * d + self.vocab_size * d
        return 6 * matrices + 12 * layers * d * context


# Table 2 of the paper, under the corrected parameter counts: n_layer, n_head, n_embd.
SIZES = {
    "124M": (12, 12, 768),
    "355M": (24, 16, 1024),
    "774M": (36, 20, 1280),
    "1.5B": (48, 25, 1600),
}
