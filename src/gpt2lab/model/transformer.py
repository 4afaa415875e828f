"""The GPT-2 transformer (paper section 2.3; openai/gpt-2 src/model.py).

Axes in names: B batch, T time (query), S time (key), D model width, H heads, K head width,
F MLP width, V vocabulary.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt2lab.errors import UserError
from gpt2lab.model.attention import attend
from gpt2lab.model.cache import KVCache
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.linear import Linear, linear

Init = Literal["paper", "openai"]


class Attention(nn.Module):
    """Causal self-attention with all heads in one projection, in the order q, k, v."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(
        self, x_BTD: Tensor, mask_BHTS: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BHTK, k_BHSK, v_BHSK = (
            t.view(B, T, self.n_head, -1).transpose(1, 2)
            for t in self.c_attn(x_BTD).chunk(3, dim=-1)
        )
        if cache is not None:
            k_BHSK, v_BHSK = cache.append(layer, k_BHSK, v_BHSK)
        y_BHTK = attend(q_BHTK, k_BHSK, v_BHSK, mask_BHTS, self.dropout if self.training else 0.0)
        return self.c_proj(y_BHTK.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """Two layers, four times as wide between them, with GELU."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.gelu_form = "tanh" if config.activation == "gelu_tanh" else "none"
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x_BTD), approximate=self.gelu_form))


class Block(nn.Module):
    """Pre-LN: each branch normalises its input and adds to the residual stream."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self, x_BTD: Tensor, mask_BHTS: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        x_BTD = x_BTD + self.drop(self.attn(self.ln_1(x_BTD), mask_BHTS, cache, layer))
        return x_BTD + self.drop(self.mlp(self.ln_2(x_BTD)))


class Embedding(nn.Embedding):
    """A table whose rows are drawn by the model; that of tokens is also the head (tied)."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def unembed(self, x_BTD: Tensor) -> Tensor:
        """Products with every row: logits [B, T, rows]."""
        return linear(x_BTD, self.weight)


class GPT2(nn.Module):
    """GPT-2: token and position embeddings, pre-LN blocks, a final LayerNorm, a tied head.

    init: `paper` scales the projections into the residual stream by 1/sqrt(2 * n_layer)
    (section 2.3); `openai` leaves them unscaled and draws positions with std 0.01 (src/model.py).
    seed: makes the initial weights a function of it alone.
    checkpoint_blocks: recompute each block's activations in the backward pass to save memory.
    """

    def __init__(self, config: GPT2Config, *, init: Init = "openai", seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_blocks = False
        self.wte = Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        if self.wte.weight.device.type != "meta":
            self.init_weights(init, seed)

    @torch.no_grad()
    def init_weights(self, init: Init, seed: int) -> None:
        """Draw fresh weights."""
        generator = torch.Generator(self.wte.weight.device).manual_seed(seed)
        residual_std = 0.02 / math.sqrt(2 * self.config.n_layer) if init == "paper" else 0.02
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif ".ln_" in name or name.startswith("ln_f"):
                p.fill_(1.0)
            elif name == "wte.weight":
                # Rows that pad the table stay zero and leave the draw of all others as it is.
                p.zero_()[: self.config.vocab_size].normal_(0.0, 0.02, generator=generator)
            elif name == "wpe.weight":
                p.normal_(0.0, 0.01 if init == "openai" else 0.02, generator=generator)
            elif name.endswith("c_proj.weight"):
                p.normal_(0.0, residual_std, generator=generator)
            else:
                p.normal_(0.0, 0.02, generator=generator)

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        cache: KVCache | None = None,
        document_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [B, T, D], after the last LayerNorm: what the head multiplies.

        cache: keys and values of the tokens before `ids_BT`, which are appended to it.
        document_BT: a number per token; attention stays inside runs of equal numbers and positions
        restart with each run, so that packed documents see only themselves.
        Raises UserError if the tokens do not fit the context.
        """
        _B, T = ids_BT.shape
        past = cache.length if cache is not None else 0
        if past + T > self.config.n_positions:
            raise UserError(
                f"{past + T} tokens exceed the model's context of {self.config.n_positions}; "
                "shorten the input"
            )
        mask_BHTS: Tensor | None = None
        position_BT = torch.arange(past, past + T, device=ids_BT.device).expand(1, T)
        if document_BT is not None:
            position_BT, mask_BHTS = separate_documents(document_BT)
        elif cache is not None:
            position_BT, mask_BHTS = cache.place(T)

        x_BTD = self.drop(self.wte(ids_BT) + self.wpe(position_BT))
        for layer, block in enumerate(self.h):
            if self.checkpoint_blocks and self.training:
                x_BTD = checkpoint(block, x_BTD, mask_BHTS, cache, layer, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, mask_BHTS, cache, layer)
        if cache is not None:
            cache.advance(T)
        return self.ln_f(x_BTD)

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Next-token logits [B, T, V] of hidden states; rows that only pad the table are cut."""
        return self.wte.unembed(x_BTD)[..., : self.config.vocab_size]

    def forward(
        self,
        ids_BT: Tensor,
        *,
        cache: KVCache | None = None,
        document_BT: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits [B, T, V] in nats; see `hidden` for the arguments."""
        return self.logits(self.hidden(ids_BT, cache=cache, document_BT=document_BT))


def separate_documents(document_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [B, T] that restart with each document, and the mask [B, 1, T, T] that parts them.

    document_BT: a number per token, equal within a document and different in the next.
    """
    T = document_BT.shape[1]
    index_T = torch.arange(T, device=document_BT.device)
    starts_BT = torch.ones_like(document_BT, dtype=torch.bool)
    starts_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    first_BT = torch.where(starts_BT, index_T, 0).cummax(dim=1).values
    # A document is named by where it starts, so a number that comes back is another document.
    same_BTS = first_BT[:, :, None] == first_BT[:, None, :]
    causal_TS = index_T[:, None] >= index_T[None, :]
    return index_T - first_BT, (same_BTS & causal_TS)[:, None]
