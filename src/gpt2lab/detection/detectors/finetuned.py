"""`finetuned`: one of our models with a head, taught to tell people's texts from machines'.

What made OpenAI's classifier general is kept: texts of all samplers and sizes mixed, pieces of
random lengths from ten tokens up, and tokens dropped at random (openai/gpt-2-output-dataset,
detector/). The head sees the mean of the final hidden states, so every token counts, and a long
text is the mean of its windows.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from gpt2lab.detection.detectors import arrays
from gpt2lab.detection.detectors.detector import Lesson
from gpt2lab.detection.features import Floats
from gpt2lab.detection.reading import Reading
from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import Ids
from gpt2lab.model import checkpoint
from gpt2lab.model.transformer import GPT2

EPOCHS, BATCH, RATE, WARMUP = 3, 16, 3e-4, 0.1
SHORTEST, DROPPED = 10, 0.1
# Tokens that go through the model together when texts are scored.
_TOKENS = 4096
_MODEL, _HEAD = "model", "head.safetensors"


class Finetuned:
    """A GPT-2 and a vector that its mean hidden state is multiplied with."""

    name: ClassVar[str] = "finetuned"
    models: ClassVar[int] = 0
    cross: ClassVar[bool] = False

    def __init__(self, model: GPT2, head: nn.Linear) -> None:
        self._model, self._head = model, head

    @classmethod
    def fit(cls, lesson: Lesson) -> Self:
        """Teach every weight. Raises UserError if there is no model to begin from."""
        if lesson.backbone is None:
            raise UserError("finetuned needs a model to begin from; name one with --backbone")
        generator = torch.Generator().manual_seed(lesson.seed)
        model = copy.deepcopy(lesson.backbone).train()
        device = model.wpe.weight.device
        head = nn.Linear(model.config.n_embd, 1)
        nn.init.normal_(head.weight, std=0.02, generator=generator)
        nn.init.zeros_(head.bias)
        head.to(device)
        parameters = [*model.parameters(), *head.parameters()]
        steps = max(1, EPOCHS * len(lesson.readings) // BATCH)
        optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _rate(s, steps))
        with lesson.step("teaching a model to tell texts") as on_progress:
            for number, (pieces, machine_B) in enumerate(_batches(lesson, steps), start=1):
                logit_B = _logits(model, head, pieces)
                loss = nn.functional.binary_cross_entropy_with_logits(logit_B, machine_B.to(device))
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                on_progress(number / steps)
        return cls(model.eval(), head)

    @torch.inference_mode()
    def score(self, readings: Sequence[Reading]) -> Floats:
        """Log-odds, were people and machines as many: of a long text the mean of its windows."""
        context = self._model.config.n_positions
        cut = [
            (number, r.ids[start : start + context])
            for number, r in enumerate(readings)
            for start in range(0, len(r), context)
        ]
        order = sorted(range(len(cut)), key=lambda i: len(cut[i][1]))
        total, weight = np.zeros(len(readings)), np.zeros(len(readings))
        while order:
            longest = len(cut[order[-1]][1])
            batch = [order.pop() for _ in range(min(len(order), max(1, _TOKENS // longest)))]
            logit_B = _logits(self._model, self._head, [cut[i][1] for i in batch]).tolist()
            for i, logit in zip(batch, logit_B, strict=True):
                number, ids = cut[i]
                total[number] += logit * len(ids)
                weight[number] += len(ids)
        return total / np.maximum(weight, 1)

    def save(self, folder: Path) -> None:
        """Write the model as a checkpoint folder, and the head beside it."""
        checkpoint.save(folder / _MODEL, self._model, None, {})
        learned = {name: t.cpu().numpy() for name, t in self._head.state_dict().items()}
        arrays.save(folder / _HEAD, learned)

    @classmethod
    def load(cls, folder: Path, scorers: Sequence[str]) -> Self:
        """Read them."""
        model = checkpoint.load(folder / _MODEL).model.eval()
        width = model.config.n_embd
        kept = arrays.load(folder / _HEAD, {"weight": (1, width), "bias": (1,)})
        head = nn.Linear(width, 1)
        head.load_state_dict({name: torch.from_numpy(one) for name, one in kept.items()})
        return cls(model, head)


def _rate(step: int, steps: int) -> float:
    """Up in a line, then down in one."""
    done = (step + 1) / steps
    return min(done / WARMUP, (1 - done) / (1 - WARMUP) + 1 / steps)


def _batches(lesson: Lesson, steps: int) -> Iterator[tuple[list[Ids], Tensor]]:
    """Pieces of random lengths, half of them people's, some tokens of each dropped."""
    rng = np.random.default_rng(lesson.seed)
    kinds = [np.flatnonzero(lesson.machine == one) for one in (False, True)]
    machine_B = torch.tensor([0.0, 1.0]).repeat(BATCH // 2)
    assert lesson.backbone is not None
    context = lesson.backbone.config.n_positions
    for _ in range(steps):
        drawn = [lesson.readings[rng.choice(kinds[int(one)])] for one in machine_B]
        yield [_piece(r, rng, context) for r in drawn], machine_B


def _piece(reading: Reading, rng: np.random.Generator, context: int) -> Ids:
    most = min(len(reading), context)
    count = int(rng.integers(min(SHORTEST, most), most + 1))
    start = int(rng.integers(len(reading) - count + 1))
    ids = reading.ids[start : start + count].copy()
    ids[rng.random(count) < DROPPED] = reading.tokenizer.end_of_text
    return ids


def _logits(model: GPT2, head: nn.Linear, pieces: Sequence[Ids]) -> Tensor:
    """Of each piece [B]; shorter ones are filled up at their end, which those before do not see."""
    device, T = model.wpe.weight.device, max(map(len, pieces))
    ids_BT = torch.zeros(len(pieces), T, dtype=torch.long, device=device)
    inside_BT1 = torch.zeros(len(pieces), T, 1, device=device)
    for b, ids in enumerate(pieces):
        ids_BT[b, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        inside_BT1[b, : len(ids)] = 1
    x_BTD = model.hidden(ids_BT) * inside_BT1
    return head(x_BTD.sum(1) / inside_BT1.sum(1))[:, 0]
