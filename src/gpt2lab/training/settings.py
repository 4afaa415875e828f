"""What can be asked of fine-tuning; what is left open is chosen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt2lab.training.fit import Name, Weights
from gpt2lab.training.recipe import Method


@dataclass(frozen=True)
class Texts:
    """How files are read."""

    blank_lines: bool = False
    """In plain text, blank lines part documents; <|endoftext|> alone if not."""
    column: str = ""
    """The column or field that holds the text, if it is not called text."""
    encoding: str = ""
    """Of text and tables; UTF-8, or what it looks like, if not given."""
    chat: Literal["text", "tokens"] = "text"
    """How turns of a chat are written: User: ..., or with control tokens of their own, which are
    added to the vocabulary (--method full)."""
    held_out: float = 0.05
    """Share of documents kept for validation."""
    check: tuple[Path, ...] = ()
    """Files of evaluation texts; how much of them is among the training texts is reported."""


@dataclass(frozen=True)
class Settings:
    """How a model is fine-tuned. What is left open is chosen for the model, the texts and this
    machine, and written into the run's recipe.toml.
    """

    texts: Texts = Texts()
    method: Method | None = None
    """full: every weight. lora: low-rank changes to every linear map. top: the last blocks. bias:
    bias terms only. What `gpt2lab finetune plan` marks, if not given."""
    layers: int = 2
    """top: how many blocks."""
    rank: int = 16
    """lora: rank of the changes."""
    alpha: float = 32.0
    """lora: changes count alpha / rank times."""
    lora_dropout: float = 0.05
    """lora: dropout of what goes into the changes."""
    optimizer: Name | None = None
    """adamw; adamw8bit (bitsandbytes); or adafactor, whose gradients are never held together."""
    weights: Weights | None = None
    """Number format that weights are kept in; bfloat16 halves them, for lora and adafactor."""
    checkpoint_blocks: bool | None = None
    """Compute activations again in the backward pass, to save memory."""
    epochs: float = 3.0
    """How often the texts are read."""
    steps: int | None = None
    """Optimizer steps, in place of epochs."""
    minutes: float | None = None
    """Wall-clock budget, in place of epochs."""
    learning_rate: float | None = None
    """Peak rate: 5e-5 for full, 2e-4 for lora, 1e-4 for top, 1e-3 for bias; ten times that for
    adafactor, whose steps are relative to a weight's size."""
    batch: int = 8
    """Sequences per step."""
    context: int | None = None
    """Tokens per sequence; the model's context, or less if the texts are short."""
    dropout: float = 0.0
    """Dropout inside the model."""
    separate_documents: bool | None = None
    """Let each document attend to itself only; so if the texts have prompts, if not given."""
    evaluate: int | None = None
    """Steps between validations; a twentieth of the run if not given."""
    patience: int = 4
    """Validations, none better than the best, after which the run ends; 0 goes on."""
    sample: int | None = None
    """Steps between samples; a tenth of the run, at most 100, if not given; 0 writes none."""
    prompts: tuple[str, ...] = ()
    """What samples continue; beginnings of held-out texts if not given."""
    seed: int = 0
    """Of data order, dropout and new weights."""
    device: str | None = None
    """cpu or cuda; a CUDA card if there is one."""
