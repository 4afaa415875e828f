"""The KV cache: keys and values of past tokens, preallocated once, rows of different lengths."""

from typing import Self

import torch
from torch import Tensor

from gpt2lab.model.config import GPT2Config


class KVCache:
    """Keys and values of up to `capacity` tokens for each of B sequences.

    Rows may hold different numbers of tokens: `length_B` says how many of each row's are real.
    A prompt shorter than its neighbours is padded on the right; what its padding wrote is
    masked at once and overwritten by the row's next tokens, so no row sees another's length.

    keys, values: [L, B, H, capacity, K].
    """

    def __init__(self, keys_LBHSK: Tensor, values_LBHSK: Tensor, length_B: Tensor) -> None:
        self.keys_LBHSK = keys_LBHSK
        self.values_LBHSK = values_LBHSK
        self.length_B = length_B
        self.length = int(length_B.max())
        self._even = bool((length_B == self.length).all())

    @classmethod
    def empty(
        cls,
        config: GPT2Config,
        batch: int,
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """A cache with no tokens yet; `capacity` is the model's context unless given."""
        capacity = config.n_positions if capacity is None else capacity
        shape = (config.n_layer, batch, config.n_head, capacity, config.head_dim)
        keys = torch.zeros(shape, dtype=dtype, device=device)
        lengths = torch.zeros(batch, dtype=torch.long, device=device)
        return cls(keys, torch.zeros_like(keys), lengths)

    @property
    def capacity(self) -> int:
        """Most tokens a row can hold."""
        return self.keys_LBHSK.shape[3]

    def place(self, T: int) -> tuple[Tensor, Tensor | None]:
        """Positions [B or 1, T] of the next T tokens, and the mask [B, 1, T, S] of keys they see.

        The mask is None where plain causal attention, or seeing everything, is right.
        """
        device = self.length_B.device
        step_T = torch.arange(T, device=device)
        if self._even:
            position_BT = (self.length + step_T)[None]
            if T == 1 or self.length == 0:
                return position_BT, None
        else:
            position_BT = self.length_B[:, None] + step_T
        # A padding token's position may lie past the table; what it computes is thrown away.
        position_BT = position_BT.clamp(max=self.capacity - 1)
        key_S = torch.arange(self.length + T, device=device)
        return position_BT, (key_S <= position_BT[:, :, None])[:, None]

    def append(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; return all of them, [B, H, S, K] each."""
        keys, values = self.keys_LBHSK[layer], self.values_LBHSK[layer]
        T = k_BHTK.shape[2]
        end = self.length + T
        if self._even:
            keys[:, :, self.length : end] = k_BHTK
            values[:, :, self.length : end] = v_BHTK
        else:
            row_B1 = torch.arange(len(self.length_B), device=self.length_B.device)[:, None]
            slot_BT = self.length_B[:, None] + torch.arange(T, device=self.length_B.device)
            slot_BT = slot_BT.clamp(max=self.capacity - 1)
            # Indexing rows and slots around H puts them first: [B, T, H, K].
            keys[row_B1, :, slot_BT] = k_BHTK.transpose(1, 2)
            values[row_B1, :, slot_BT] = v_BHTK.transpose(1, 2)
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, T: int) -> None:
        """Count T more tokens in every row, once all layers have stored them."""
        self.length_B += T
        self.length += T

    def view(self, first: int, last: int, length_B: Tensor) -> Self:
        """Rows first..last as a cache on the same memory that holds so many tokens of each."""
        rows = slice(first, last)
        return type(self)(self.keys_LBHSK[:, rows], self.values_LBHSK[:, rows], length_B)


class StepCache(KVCache):
    """The cache of one next token a row, in shapes that do not depend on how many came before.

    So a CUDA graph of the pass can be played again: what changes lies in `position_B`. Keys and
    values from `seen` on are not read; a row that is to be left alone has the last position of the
    cache's memory, which must be beyond the model's.
    """

    def __init__(self, keys_LBHSK: Tensor, values_LBHSK: Tensor, seen: int) -> None:
        rows, device = keys_LBHSK.shape[1], keys_LBHSK.device
        self.position_B = torch.full((rows,), keys_LBHSK.shape[3] - 1, device=device)
        super().__init__(keys_LBHSK, values_LBHSK, torch.zeros_like(self.position_B))
        self.length = seen - 1
        self._row_B = torch.arange(rows, device=device)
        self._key_S = torch.arange(seen, device=device)

    def place(self, T: int) -> tuple[Tensor, Tensor | None]:
        """Positions [B, 1] and the mask [B, 1, 1, S]."""
        assert T == 1
        position_B1 = self.position_B[:, None]
        seen_BS = self._key_S <= position_B1
        return position_B1.clamp(max=self.capacity - 2), seen_BS[:, None, None]

    def append(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; return those that may be seen."""
        keys, values = self.keys_LBHSK[layer], self.values_LBHSK[layer]
        keys[self._row_B, :, self.position_B] = k_BHTK[:, :, 0]
        values[self._row_B, :, self.position_B] = v_BHTK[:, :, 0]
        return keys[:, :, : len(self._key_S)], values[:, :, : len(self._key_S)]

    def advance(self, T: int) -> None:
        """Leave the positions to whoever plays the pass again."""
