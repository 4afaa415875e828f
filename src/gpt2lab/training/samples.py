"""What the model writes while it is trained: one sample from a fixed seed."""

from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.model.transformer import GPT2
from gpt2lab.training.loop import Trainer

SAMPLE_TOKENS = 60


def write_sample(model: GPT2, trainer: Trainer) -> str:
    """A short text from nothing, with the step it was written at."""
    request = Request(
        (), max_tokens=SAMPLE_TOKENS, sampling=Sampling(temperature=0.8, top_k=40), seed=0
    )
    (result,) = generate(model, trainer.tokenizer, [request])
    return f"sample at step {trainer.progress.step:,}: {result.text.strip()!r}"
