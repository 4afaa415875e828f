"""Everything a training run is: read from TOML, overridden on the command line, saved beside it."""

from dataclasses import dataclass, field
from typing import Literal

from gpt2lab.errors import UserError
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.transformer import Init
from gpt2lab.training.lora import Shape

_INF = float("inf")
_MOST_SEQUENCES = 2**22
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Sink = Literal["tensorboard", "wandb", "trackio"]
Method = Literal["full", "lora", "top", "bias"]


@dataclass(frozen=True)
class Finetune:
    """What a run goes on from, and what of it may move."""

    model: str = ""
    """A checkpoint folder, a published size such as gpt2-xl, or hf:owner/name; its shape takes the
    place of [model]. New weights if not given."""
    method: Method = "full"
    """full: every weight. lora: low-rank changes to every linear map of the blocks (Hu et al.
    2021). top: the last blocks and the last norm. bias: bias terms only (Zaken et al. 2022)."""
    layers: int = 2
    """top: how many of the last blocks."""
    lora: Shape = field(default_factory=Shape)
    vocab_size: int | None = None
    """full: rows of the token table, for a tokenizer with more tokens than the model's own; each
    new row begins as the mean of the others."""


@dataclass(frozen=True)
class Data:
    """What to train on."""

    path: str = ""
    """A folder of token shards, or text: a file or folder of .txt, .md, .rst, .jsonl."""
    also: tuple[str, ...] = ()
    """More folders of token shards, written with the same tokenizer."""
    weights: tuple[float, ...] = ()
    """Shares of the sequences that come from `path` and from each of `also`, in that order; in
    proportion to their tokens if not given."""
    tokenizer: str = "gpt2"
    """For text, and for shards that carry none: a folder, a file, or a published name."""
    held_out: float = 0.05
    """For text: share of documents kept for validation."""
    separate_documents: bool = False
    """Let each document attend to itself only, with positions of its own."""


@dataclass(frozen=True)
class Optimizer:
    """How weights move."""

    name: Literal["adamw", "muon", "adamw8bit", "adafactor"] = "adamw"
    """muon orthogonalises the updates of the blocks' matrices and leaves the rest to AdamW.
    adamw8bit keeps its two averages in 8 bits (bitsandbytes). adafactor keeps a row and a column of
    squares for each matrix, no average, and on one process moves each weight as soon as its
    gradient is there, so that gradients are never held together."""
    learning_rate: float = 6e-4
    """Peak rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak rate of Muon."""
    weight_decay: float = 0.1
    """On matrices only."""
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 turns clipping off. adafactor limits updates itself."""
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
    """Of matrix products; weights and optimizer stay float32. auto measures what is faster;
    float64 is for all of it, to compare runs exactly."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """What weights are kept in; the optimizer's own numbers, and LoRA's changes, stay float32.
    bfloat16 halves the memory, for weights that do not move or that adafactor moves, which rounds
    at random so that small moves are not lost."""
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
    spike: float = 0.0
    """A loss this many standard deviations above the recent mean is a spike; 0 looks for none."""
    on_spike: Literal["record", "skip", "rollback"] = "record"
    """What to do about a spike: note it; leave the batch out; or go back to the last checkpoint and
    on from there with the batches after this one. With the latter two, a loss that is not finite
    is a spike as well; otherwise it ends the run."""
    patience: int = 0
    """End the run after so many validations, one after another, none better than the best; 0 goes
    on to the end."""
    result: Literal["last", "best"] = "last"
    """Which weights become the finished model: the last, or the best by validation."""
    sinks: tuple[Sink, ...] = ()
    """Where metrics go beside metrics.jsonl; each is a package of that name."""
    profile: int = 0
    """Record a trace of this many steps, the first two left out, for Perfetto."""


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
    """Steps between checkpoints."""
    keep: int = 1
    """How many of the last checkpoints stay; the best stays as well."""
    keep_each: int = 0
    """Checkpoints of steps that are multiples of this stay, too."""
    sample: int = 0
    """Steps between samples."""
    prompts: tuple[str, ...] = ()
    """What samples continue, each time with the same seed; nothing, if not given."""


@dataclass(frozen=True)
class Parallel:
    """How a run is spread over the processes that torchrun starts."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each process holds the whole model. fsdp: each holds a part of weights, gradients and
    optimizer, and gathers a block when it is computed."""
    reshard: bool = True
    """fsdp: drop a gathered block after its forward pass, and gather it again in the backward."""
    tensor: int = 1
    """Processes that share every matrix of a block, for models too large for one device; best
    those of one machine."""
    timeout: float = 600.0
    """Seconds after which a step in which some process does not answer ends the run."""


@dataclass(frozen=True)
class Recipe:
    """A training run."""

    model: GPT2Config = field(default_factory=GPT2Config)
    finetune: Finetune = field(default_factory=Finetune)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    parallel: Parallel = field(default_factory=Parallel)
    every: Every = field(default_factory=Every)

    def __post_init__(self) -> None:
        t, o, e = self.train, self.optimizer, self.every
        if t.steps is not None and t.minutes is not None:
            raise UserError("train.steps and train.minutes are both given; keep one")
        above = "above 0"
        least = "at least 1"
        share = "a share, from 0 to 1"
        rate = "above 0 and at most 1000"
        rules = (
            (
                "train.steps",
                t.steps,
                "from 1 to 10^12",
                t.steps is None or 0 < t.steps <= 10**12,
            ),
            ("train.minutes", t.minutes, above, t.minutes is None or 0 < t.minutes < _INF),
            ("train.batch_tokens", t.batch_tokens, least, t.batch_tokens >= 1),
            ("train.micro_batch", t.micro_batch, least, t.micro_batch >= 1),
            ("train.context", t.context, least, self.context >= 1),
            (
                "train.threads",
                t.threads,
                "from 1 to 4096",
                t.threads is None or 1 <= t.threads <= 4096,
            ),
            ("train.seed", t.seed, "from 0 to 2^63 - 1", 0 <= t.seed < 2**63),
            (
                "train.peak_tflops",
                t.peak_tflops,
                "from 1e-6 to 1e9",
                t.peak_tflops is None or 1e-6 <= t.peak_tflops <= 1e9,
            ),
            ("data.held_out", self.data.held_out, share, 0 <= self.data.held_out <= 1),
            ("optimizer.learning_rate", o.learning_rate, rate, 0 < o.learning_rate <= 1e3),
            (
                "optimizer.muon_learning_rate",
                o.muon_learning_rate,
                rate,
                0 < o.muon_learning_rate <= 1e3,
            ),
            ("optimizer.weight_decay", o.weight_decay, "0 or above", 0 <= o.weight_decay < _INF),
            ("optimizer.beta1", o.beta1, "from 0 to below 1", 0 <= o.beta1 < 1),
            ("optimizer.beta2", o.beta2, "from 0 to below 1", 0 <= o.beta2 < 1),
            ("optimizer.clip", o.clip, "0 (off) or above", 0 <= o.clip < _INF),
            ("optimizer.warmup", o.warmup, share, 0 <= o.warmup <= 1),
            ("optimizer.decay", o.decay, share, 0 <= o.decay <= 1),
            ("optimizer.final", o.final, share, 0 <= o.final <= 1),
            ("train.patience", t.patience, "0 (off) or above", t.patience >= 0),
            ("finetune.layers", self.finetune.layers, least, self.finetune.layers >= 1),
            ("train.profile", t.profile, "0 (off) or above", t.profile >= 0),
            ("train.spike", t.spike, "0 (off) or above", 0 <= t.spike < _INF),
            ("parallel.tensor", self.parallel.tensor, least, self.parallel.tensor >= 1),
            ("parallel.timeout", self.parallel.timeout, above, 0 < self.parallel.timeout < _INF),
            ("every.keep", e.keep, least, e.keep >= 1),
            ("every.keep_each", e.keep_each, "0 (none) or above", e.keep_each >= 0),
            ("every.log", e.log, least, e.log >= 1),
            ("every.windows", e.windows, least, e.windows >= 1),
            ("every.evaluate", e.evaluate, "0 (never) or above", e.evaluate >= 0),
            ("every.save", e.save, "0 (never) or above", e.save >= 0),
            ("every.sample", e.sample, "0 (never) or above", e.sample >= 0),
        )
        for name, value, wanted, ok in rules:
            if not ok:
                raise UserError(f"{name} is {value}; it must be {wanted}")
        if self.data.weights and len(self.data.weights) != 1 + len(self.data.also):
            raise UserError(
                f"data.weights has {len(self.data.weights)} numbers; give one for data.path and "
                f"one for each of the {len(self.data.also)} in data.also"
            )
        if not all(0 < w < _INF for w in self.data.weights):
            raise UserError(f"data.weights is {self.data.weights}; each must be above 0")
        self._require_agreement()
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

        if self.sequences > _MOST_SEQUENCES:
            raise UserError(
                f"train.batch_tokens {t.batch_tokens} is {self.sequences:,} sequences a step; "
                f"take at most {_MOST_SEQUENCES:,}"
            )

    def _require_agreement(self) -> None:
        """Raise UserError if the parts of the recipe that say what moves, and how, do not fit."""
        method, name = self.finetune.method, self.optimizer.name
        if method != "full" and not self.finetune.model:
            raise UserError(
                f"finetune.method is {method}, but finetune.model is not set; give the model that "
                "is to be changed"
            )
        if method != "full" and self.finetune.vocab_size is not None:
            raise UserError(
                f"finetune.vocab_size adds tokens, which finetune.method {method} does not teach; "
                "take full"
            )
        if method != "full" and (name == "muon" or not self._whole):
            raise UserError(
                f"finetune.method {method} goes with adamw, adamw8bit or adafactor and parallel."
                "strategy ddp; change one of them"
            )
        if name in ("adamw8bit", "adafactor") and not self._whole:
            raise UserError(
                f"optimizer.name {name} needs each weight whole; set parallel.strategy to ddp and "
                "parallel.tensor to 1, or take adamw"
            )
        if self.train.weights == "bfloat16" and method != "lora" and name != "adafactor":
            raise UserError(
                f"train.weights is bfloat16, in which {name} would lose most of its moves to "
                "rounding; take optimizer.name adafactor, or finetune.method lora"
            )
        if self.train.weights == "bfloat16" and self.train.dtype not in ("auto", "bfloat16"):
            raise UserError(
                f"train.weights is bfloat16 and train.dtype {self.train.dtype}; set that to "
                "bfloat16 as well"
            )
        if name == "adafactor" and (
            self.train.on_spike != "record" or self.train.dtype == "float16"
        ):
            raise UserError(
                "optimizer.name adafactor moves weights while gradients are made, so that no step "
                "can be taken back; set train.on_spike to record and train.dtype to another than "
                "float16, or take adamw"
            )

    @property
    def draws(self) -> bool:
        """Whether a forward pass draws random numbers."""
        tune = self.finetune
        return self.model.dropout > 0 or (tune.method == "lora" and tune.lora.dropout > 0)

    @property
    def _whole(self) -> bool:
        """Whether every process holds every weight whole."""
        return self.parallel.strategy == "ddp" and self.parallel.tensor == 1

    @property
    def context(self) -> int:
        """Tokens per training sequence."""
        return self.model.n_positions if self.train.context is None else self.train.context

    @property
    def sequences(self) -> int:
        """Sequences per optimizer step."""
        return self.train.batch_tokens // self.context
