"""Everything a training run is: read from TOML, overridden on the command line, saved beside it."""

from dataclasses import dataclass, field
from typing import Literal

from gpt2lab.errors import UserError
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.transformer import Init

_INF = float("inf")
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
        t, o, e = self.train, self.optimizer, self.every
        if t.steps is not None and t.minutes is not None:
            raise UserError("train.steps and train.minutes are both given; keep one")
        above = "above 0"
        least = "at least 1"
        share = "a share, from 0 to 1"
        rules = (
            ("train.steps", t.steps, above, t.steps is None or t.steps > 0),
            ("train.minutes", t.minutes, above, t.minutes is None or 0 < t.minutes < _INF),
            ("train.batch_tokens", t.batch_tokens, least, t.batch_tokens >= 1),
            ("train.micro_batch", t.micro_batch, least, t.micro_batch >= 1),
            ("train.context", t.context, least, self.context >= 1),
            ("train.threads", t.threads, least, t.threads is None or t.threads >= 1),
            ("train.seed", t.seed, "0 or above", t.seed >= 0),
            ("data.held_out", self.data.held_out, share, 0 <= self.data.held_out <= 1),
            ("optimizer.learning_rate", o.learning_rate, above, 0 < o.learning_rate < _INF),
            (
                "optimizer.muon_learning_rate",
                o.muon_learning_rate,
                above,
                0 < o.muon_learning_rate < _INF,
            ),
            ("optimizer.weight_decay", o.weight_decay, "0 or above", 0 <= o.weight_decay < _INF),
            ("optimizer.beta1", o.beta1, "from 0 to below 1", 0 <= o.beta1 < 1),
            ("optimizer.beta2", o.beta2, "from 0 to below 1", 0 <= o.beta2 < 1),
            ("optimizer.clip", o.clip, "0 (off) or above", 0 <= o.clip < _INF),
            ("optimizer.warmup", o.warmup, share, 0 <= o.warmup <= 1),
            ("optimizer.decay", o.decay, share, 0 <= o.decay <= 1),
            ("optimizer.final", o.final, share, 0 <= o.final <= 1),
            ("every.log", e.log, least, e.log >= 1),
            ("every.windows", e.windows, least, e.windows >= 1),
            ("every.evaluate", e.evaluate, "0 (never) or above", e.evaluate >= 0),
            ("every.save", e.save, "0 (never) or above", e.save >= 0),
            ("every.sample", e.sample, "0 (never) or above", e.sample >= 0),
        )
        for name, value, wanted, ok in rules:
            if not ok:
                raise UserError(f"{name} is {value}; it must be {wanted}")
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
        return self.model.n_positions if self.train.context is None else self.train.context

    @property
    def sequences(self) -> int:
        """Sequences per optimizer step."""
        return self.train.batch_tokens // self.context
