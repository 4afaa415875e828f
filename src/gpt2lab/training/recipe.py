"""Everything a training run is: read from TOML, overridden on the command line, saved beside it."""

from dataclasses import dataclass, field
from typing import Literal

from gpt2lab.errors import UserError
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.transformer import Init

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Data:
    """What to train on."""

    path: str = ""
    """A folder of token shards, or text: a file or folder of .txt, .md, .rst, .jsonl."""
    tokenizer: str = "gpt2"
    """For text, and for shards that carry none: a folder, a file, or a published name."""
    held_out: float = 0.05
    """For text: share of documents kept for validation."""
    separate_documents: bool = False
    """Let each document attend to itself only, with positions of its own."""


@dataclass(frozen=True)
class Optimizer:
    """How weights move."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of the blocks' matrices and leaves the rest to AdamW."""
    learning_rate: float = 6e-4
    """Peak rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak rate of Muon."""
    weight_decay: float = 0.1
    """On matrices only."""
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 turns clipping off."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """cosine, or warm-up, stable, decay: constant until the last `decay` of the run."""
    warmup: float = 0.01
    """Share of the run in which the rate rises from zero."""
    decay: float = 0.3
    """wsd: share of the run in which the rate falls in a straight line."""
    final: float = 0.1
    """Rate at the end as a share of the peak."""


@dataclass(frozen=True)
class Train:
    """How long, how large and where."""

    steps: int | None = None
    """Optimizer steps. Give this or `minutes`."""
    minutes: float | None = None
    """Wall-clock budget; the schedule follows the clock, so such a run is not repeatable."""
    batch_tokens: int = 524_288
    """Tokens per optimizer step; 512 x 1,024 in the paper (section 2.3)."""
    context: int | None = None
    """Tokens per sequence; the model's context if not given."""
    micro_batch: int = 8
    """Sequences per forward pass; gradients are accumulated over the rest of the batch."""
    dtype: Dtype = "auto"
    """Of matrix products; weights and optimizer stay float32. auto measures what is faster."""
    compile: bool = False
    """Run the blocks through torch.compile."""
    checkpoint_blocks: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""
    init: Init = "paper"
    """Initial weights: as the paper says, or as OpenAI's code does."""
    seed: int = 0
    """Of initial weights, data order and dropout."""
    device: str | None = None
    """cpu, cuda or mps; the best there is if not given."""
    threads: int | None = None
    """CPU threads; PyTorch's choice if not given."""
    peak_tflops: float | None = None
    """For MFU; a table or a measurement if not given."""


@dataclass(frozen=True)
class Every:
    """How often things happen beside training; 0 means never."""

    log: int = 1
    """Steps between lines in metrics.jsonl."""
    evaluate: int = 250
    """Steps between validations."""
    windows: int = 256
    """Validation windows, spread evenly over the held-out tokens and the same each time."""
    save: int = 500
    """Steps between checkpoints; the last and the best are kept."""
    sample: int = 0
    """Steps between samples."""


@dataclass(frozen=True)
class Recipe:
    """A training run."""

    model: GPT2Config = field(default_factory=GPT2Config)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    every: Every = field(default_factory=Every)

    def __post_init__(self) -> None:
        t = self.train
        if t.steps is not None and t.minutes is not None:
            raise UserError("train.steps and train.minutes are both given; keep one")
        for name, value in (("train.steps", t.steps), ("train.minutes", t.minutes)):
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}; it must be above 0")
        for name, number in (
            ("train.batch_tokens", t.batch_tokens),
            ("train.micro_batch", t.micro_batch),
            ("every.log", self.every.log),
            ("every.windows", self.every.windows),
        ):
            if number < 1:
                raise UserError(f"{name} is {number}; it must be at least 1")
        for name, share in (
            ("data.held_out", self.data.held_out),
            ("optimizer.warmup", self.optimizer.warmup),
            ("optimizer.decay", self.optimizer.decay),
            ("optimizer.final", self.optimizer.final),
        ):
            if not 0 <= share <= 1:
                raise UserError(f"{name} is {share}; it is a share, from 0 to 1")
        for name, rate in (
            ("optimizer.learning_rate", self.optimizer.learning_rate),
            ("optimizer.muon_learning_rate", self.optimizer.muon_learning_rate),
        ):
            if not 0 < rate < float("inf"):
                raise UserError(f"{name} is {rate}; it must be above 0")
        if self.context > self.model.n_positions:
            raise UserError(
                f"train.context {self.context} exceeds model.n_positions {self.model.n_positions}; "
                "lower the one or raise the other"
            )
        if t.batch_tokens % (self.context * t.micro_batch):
            raise UserError(
                f"train.batch_tokens {t.batch_tokens} is not a multiple of context x micro_batch = "
                f"{self.context} x {t.micro_batch}; change one of them"
            )

    @property
    def context(self) -> int:
        """Tokens per training sequence."""
        return self.train.context or self.model.n_positions

    @property
    def sequences(self) -> int:
        """Sequences per optimizer step."""
        return self.train.batch_tokens // self.context
