"""What the model writes while it is trained: the same prompts, the same seed, every time."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.model.transformer import GPT2
from gpt2lab.storage import writing_failed
from gpt2lab.training.callbacks import keep_lines
from gpt2lab.training.copied import copied, distinct, longest
from gpt2lab.training.loop import Callback, Trainer

SAMPLES = "samples.jsonl"
SAMPLE_TOKENS = 60
_SAMPLING = Sampling(temperature=0.8, top_k=40)


class Samples(Callback):
    """Continue the recipe's prompts every few steps, or every few seconds.

    Texts go into `samples.jsonl`, the first onto the screen, and into the step's metrics how varied
    they are (distinct-2) and how much of them stands in the training text, by 8-grams of tokens.
    """

    def __init__(
        self, show: Callable[[str], None], *, steps: int = 0, seconds: float = math.inf
    ) -> None:
        self._show, self._steps, self._seconds = show, steps, seconds
        self._next = seconds

    def begin(self, trainer: Trainer) -> None:
        if trainer.world.main:
            keep_lines(trainer.run / SAMPLES, trainer.progress.step)

    def after_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        step, seconds = trainer.progress.step, trainer.progress.seconds
        due = self._steps and (step % self._steps == 0 or trainer.ended)
        if not due and seconds < self._next:
            return
        self._next = seconds + self._seconds
        model = trainer.whole_model()
        if model is not None:
            was_training = model.training
            self._write(model.eval(), trainer, record)
            model.train(was_training)

    def _write(self, model: GPT2, trainer: Trainer, record: dict[str, Any]) -> None:
        prompts = trainer.recipe.every.prompts or ("",)
        most = model.config.n_positions // 2
        requests = [
            Request(tuple(ids[-most:]), SAMPLE_TOKENS, _SAMPLING, 0)
            for ids in (trainer.tokenizer.encode(p, specials=True) for p in prompts)
        ]
        texts = generate(model, trainer.tokenizer, requests)
        written = [text.ids for text in texts]
        flags = copied(written, trainer.mixture.sources[0].tokens)
        every = np.concatenate(flags)
        record["sample_distinct_2"] = round(distinct(written, 2), 4)
        record["sample_copied"] = round(float(every.mean()), 4) if len(every) else 0.0
        record["sample_longest_copy"] = max(longest(f) for f in flags)
        path = trainer.run / SAMPLES
        step = trainer.progress.step
        try:
            with path.open("a", encoding="utf-8") as file:
                for prompt, text in zip(prompts, texts, strict=True):
                    line = {"step": step, "prompt": prompt, "text": text.text,
                            "finish_reason": text.finish_reason}  # fmt: skip
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise writing_failed(path, error) from error
        after = f" after {prompts[0]!r}" if prompts[0] else ""
        self._show(f"sample at step {step:,}{after}: {texts[0].text.strip()!r}")
