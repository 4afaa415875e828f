"""What a sequence's own tokens, and the user, add to its logits: penalties and bias."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2lab.generation.sampling import Sampling


class Penalties:
    """Repetition, presence and frequency penalties and bias of the sequences in `slots` slots.

    Tables of slots by vocabulary, so that a step costs a few operations whatever the number of
    sequences; they are made when the first sequence comes that needs them.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device | None = None) -> None:
        self._shape = (slots, vocabulary)
        self._on_S = torch.zeros(slots, dtype=torch.bool, device=device)
        self._repetition_S = torch.ones(slots, device=device)
        self._presence_S = torch.zeros(slots, device=device)
        self._frequency_S = torch.zeros(slots, device=device)
        self._seen_SV = torch.zeros(0, vocabulary, dtype=torch.bool, device=device)
        self._count_SV = torch.zeros(0, vocabulary, dtype=torch.int32, device=device)
        self._bias_SV = torch.zeros(0, vocabulary, device=device)

    def put(self, slot: int, rules: Sampling, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Begin a sequence in a slot."""
        self._on_S[slot] = not rules.plain
        if rules.plain:
            return
        if not len(self._seen_SV):
            self._seen_SV = self._seen_SV.new_zeros(self._shape)
            self._count_SV = self._count_SV.new_zeros(self._shape)
            self._bias_SV = self._bias_SV.new_zeros(self._shape)
        self._repetition_S[slot] = rules.repetition_penalty
        self._presence_S[slot] = rules.presence_penalty
        self._frequency_S[slot] = rules.frequency_penalty
        self._seen_SV[slot] = False
        self._seen_SV[slot, torch.tensor([*prompt, *output], dtype=torch.long)] = True
        self._count_SV[slot] = torch.bincount(
            torch.tensor(output, dtype=torch.long), minlength=self._shape[1]
        )
        self._bias_SV[slot] = 0
        for i, bias in rules.logit_bias.items():
            self._bias_SV[slot, i] = bias

    def note(self, slot_B: Tensor, id_B: Tensor) -> None:
        """Count the tokens just drawn, at most one a slot."""
        if not len(self._seen_SV):
            return
        on_B = self._on_S[slot_B]
        slot, i = slot_B[on_B], id_B[on_B]
        if len(slot):
            self._seen_SV[slot, i] = True
            self._count_SV[slot, i] += 1

    def apply(self, logits_BV: Tensor, slot_B: Tensor) -> Tensor:
        """Logits [B, V] of sequences in given slots after penalties, then bias."""
        if not len(self._seen_SV) or not (on_B := self._on_S[slot_B]).any():
            return logits_BV
        slot = slot_B[on_B]
        logits = logits_BV[on_B]
        penalty = self._repetition_S[slot][:, None]
        punished = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(self._seen_SV[slot], punished, logits)
        count = self._count_SV[slot]
        less = self._presence_S[slot][:, None] + self._frequency_S[slot][:, None] * count
        logits -= torch.where(count > 0, less, 0)
        out_BV = logits_BV.clone()
        out_BV[on_B] = logits + self._bias_SV[slot]
        return out_BV
