"""Choosing next tokens: temperature and truncation, for many rows of different rules at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

import torch
from torch import Tensor

from gpt2lab.errors import UserError

# Numbers beyond this overflow, or vanish, in the logits' float32 or do to a text what this does.
MOST = 1e6


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Defaults sample from the model's own distribution.

    Applied in this order: repetition penalty, presence and frequency penalties, bias, watermark,
    temperature, top-k, top-p, min-p (temperature to top-p as in openai/gpt-2 src/sample.py).
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens, ties with the k-th included; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together have this probability."""
    top_p_form: Literal["nucleus", "openai"] = "nucleus"
    """nucleus keeps the token that crosses top_p; OpenAI's 2019 code leaves it out."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the most likely one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or output (CTRL)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens in the output."""
    frequency_penalty: float = 0.0
    """Subtracted once per occurrence in the output."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of the given ids."""
    watermark: int | None = None
    """Secret key of a watermark, which `gpt2lab detect watermark` finds with the same key."""
    watermark_strength: float = 2.0
    """Added to the logits of the tokens that the key favours."""

    def __post_init__(self) -> None:
        rules = (
            (
                "temperature",
                self.temperature == 0 or 1 / MOST <= self.temperature <= MOST,
                "0 or from 1e-6 to 1e6",
            ),
            ("top_k", 0 <= self.top_k < 2**31, "0 (off) to 2147483647"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 1 / MOST <= self.repetition_penalty <= MOST, "1e-6 to 1e6"),
            ("presence_penalty", abs(self.presence_penalty) <= MOST, "-1e6 to 1e6"),
            ("frequency_penalty", abs(self.frequency_penalty) <= MOST, "-1e6 to 1e6"),
            ("watermark", self.watermark is None or 0 <= self.watermark < 2**63, "0 to 2^63 - 1"),
            ("watermark_strength", 0 <= self.watermark_strength <= MOST, "0 to 1e6"),
        )
        for name, ok, wanted in rules:
            if not ok:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {wanted}")
        for i, bias in self.logit_bias.items():
            if not abs(bias) <= MOST:
                raise UserError(f"logit_bias of token {i} is {bias}; it must be -1e6 to 1e6")

    @property
    def plain(self) -> bool:
        """Whether logits reach the choice unchanged but for temperature and truncation."""
        return (
            self.repetition_penalty == 1.0
            and not self.presence_penalty
            and not self.frequency_penalty
            and not self.logit_bias
            and self.watermark is None
        )


@dataclass(frozen=True)
class Rules:
    """The rules of B rows as tensors [B], for one vectorised draw."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    openai: Tensor
    min_p: Tensor

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device | None = None) -> Self:
        """Rules of several rows, on the device where their logits are."""
        columns: tuple[tuple[list[Any], torch.dtype], ...] = (
            ([s.temperature for s in samplings], torch.float32),
            ([s.top_k for s in samplings], torch.long),
            ([s.top_p for s in samplings], torch.float64),
            ([s.top_p_form == "openai" for s in samplings], torch.bool),
            ([s.min_p for s in samplings], torch.float32),
        )
        return cls(*(torch.tensor(c, dtype=dtype, device=device) for c, dtype in columns))

    def rows(self, index: Tensor | list[int]) -> Self:
        """The rules of some of the rows."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))


def choose(logits_BV: Tensor, rules: Rules, point_B: Tensor) -> Tensor:
    """The next token's id of each row, [B].

    logits_BV: after penalties and bias. point_B: random numbers in [0, 1), float64.
    A row's result does not depend on the rows beside it.
    """
    drawn_B = rules.temperature > 0
    if not drawn_B.any():
        return likeliest(logits_BV)
    if drawn_B.all():
        return draw(truncate(logits_BV, rules), point_B)
    ids_B = likeliest(logits_BV)
    some = drawn_B.nonzero()[:, 0]
    ids_B[some] = draw(truncate(logits_BV[some], rules.rows(some)), point_B[some])
    return ids_B


def likeliest(logits_BV: Tensor) -> Tensor:
    """The id of each row's largest logit, [B]; of equals the first."""
    if logits_BV.device.type != "cpu":
        return logits_BV.argmax(dim=1)
    return torch.from_numpy(logits_BV.numpy().argmax(axis=1))  # ten times as fast as torch's


def draw(probs_BV: Tensor, point_B: Tensor) -> Tensor:
    """Ids [B] where the cumulative distributions pass `point_B`; rows need not sum to one."""
    # In float64, so that rounding cannot run out of mass. A sum over the row would be rounded
    # differently by the number of rows; a cumulative sum is not.
    cumulative_BV = probs_BV.cumsum(dim=1, dtype=torch.float64)
    point_B1 = (point_B * cumulative_BV[:, -1])[:, None]
    ids_B = torch.searchsorted(cumulative_BV, point_B1, right=True)[:, 0]
    return ids_B.clamp(max=probs_BV.shape[1] - 1)


def truncate(logits_BV: Tensor, rules: Rules) -> Tensor:
    """Weights [B, V] after temperature, top-k, top-p and min-p: probabilities, of which some are 0.

    What is left of a row is not scaled to sum to one.
    """
    V = logits_BV.shape[1]
    logits_BV = logits_BV.float()
    logits_BV = (logits_BV - logits_BV.amax(1, keepdim=True)) / rules.temperature[:, None]
    cut_B = (rules.top_k > 0) & (rules.top_k < V)
    if cut_B.any():
        best_BK = logits_BV.topk(int(rules.top_k[cut_B].max()), dim=1).values
        kth_B = best_BK.gather(1, (rules.top_k.clamp(1, best_BK.shape[1]) - 1)[:, None])[:, 0]
        kth_B = torch.where(cut_B, kth_B, -torch.inf)
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B[:, None], -torch.inf)
    probs_BV = torch.softmax(logits_BV, dim=1)
    nucleus = (rules.top_p < 1).nonzero()[:, 0]
    if len(nucleus):
        kept_BV = _nucleus(probs_BV[nucleus], rules.top_p[nucleus], rules.openai[nucleus])
        probs_BV[nucleus] = kept_BV
    if (rules.min_p > 0).any():
        least_B = rules.min_p * probs_BV.amax(dim=1)
        probs_BV = probs_BV.masked_fill(probs_BV < least_B[:, None], 0.0)
    return probs_BV


# As many of the most likely tokens hold almost every nucleus; a whole sort costs twenty times more.
_SHORTLIST = 1024


def _nucleus(probs_BV: Tensor, top_p_B: Tensor, openai_B: Tensor) -> Tensor:
    V = probs_BV.shape[1]
    sorted_BK = probs_BV.topk(min(_SHORTLIST, V), dim=1).values
    cumulative_BK = sorted_BK.cumsum(dim=1, dtype=torch.float64)
    if (cumulative_BK[:, -1] < top_p_B).any():
        sorted_BK = probs_BV.sort(dim=1, descending=True).values
        cumulative_BK = sorted_BK.cumsum(dim=1, dtype=torch.float64)
    # The token that crosses top_p is kept, or, by OpenAI's code, is not; the first always is.
    before_BK = torch.where(openai_B[:, None], cumulative_BK, cumulative_BK - sorted_BK)
    inside_BK = torch.where(
        openai_B[:, None], before_BK <= top_p_B[:, None], before_BK < top_p_B[:, None]
    )
    count_B = inside_BK.sum(dim=1).clamp(min=1)
    last_B1 = sorted_BK.gather(1, count_B[:, None] - 1)
    # Of tokens as likely as the last one kept, those with the lowest ids.
    equal_BV = probs_BV == last_B1
    room_B1 = count_B[:, None] - (sorted_BK > last_B1).sum(dim=1, keepdim=True)
    keep_BV = (probs_BV > last_B1) | (equal_BV & (equal_BV.cumsum(dim=1) <= room_B1))
    return torch.where(keep_BV, probs_BV, 0.0)
