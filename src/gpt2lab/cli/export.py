"""`gpt2lab export MODEL OUT --to hf | gguf | onnx`"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import tyro

from gpt2lab.cli.output import show
from gpt2lab.errors import UserError
from gpt2lab.model.export import Floats

if TYPE_CHECKING:
    from gpt2lab.model.checkpoint import Checkpoint

_GIB = 2**30


@dataclass(frozen=True)
class Command:
    """Write a model in the form that others open: a Hugging Face folder for transformers and vLLM,
    a GGUF file for llama.cpp and Ollama, or ONNX. A LoRA adapter is merged into its base first.
    """

    model: tyro.conf.Positional[str]
    """A checkpoint folder, a run, an adapter's folder, a published size, or hf:owner/name."""
    out: tyro.conf.Positional[Path]
    """What to write: a folder, for gguf a file."""
    to: Literal["hf", "gguf", "onnx"] = "hf"
    """The form."""
    dtype: Literal["f32", "f16", "bf16", "q8_0"] | None = None
    """Number format: for hf f32, f16, bf16 (its own if not given); for gguf f32, f16 (if not
    given), q8_0; onnx is f32."""
    shard_gib: float | None = None
    """hf: the most GiB of one file of weights; one file if not given."""
    base: str | None = None
    """The model an adapter belongs to, if it is not where the adapter says."""
    overwrite: bool = False
    """Replace OUT if it exists."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    command = tyro.cli(Command, args=argv, prog="gpt2lab export")
    formats = {"hf": get_args(Floats), "gguf": ("f32", "f16", "q8_0"), "onnx": ("f32",)}
    if command.dtype not in (None, *formats[command.to]):
        raise UserError(
            f"--dtype {command.dtype} goes not with --to {command.to}; take one of "
            f"{', '.join(formats[command.to])}"
        )
    if command.shard_gib is not None:
        if command.to != "hf":
            raise UserError(f"--shard-gib goes not with --to {command.to}; leave it out")
        if not 1e-6 <= command.shard_gib <= 1e6:
            raise UserError(f"--shard-gib is {command.shard_gib}; it must be from 1e-6 to 1e6")
    from gpt2lab.progress import step
    from gpt2lab.storage import refuse_existing

    refuse_existing(command.out, overwrite=command.overwrite)
    if command.to == "gguf" and command.out.is_dir():
        raise UserError(f"{command.out} is a folder; name the file to write, as in mine.gguf")
    with step(f"reading {command.model}"):
        found = _read(command)
    with step(f"writing {command.out}"):
        _write(command, found)
    out = command.out
    files = sorted(out.rglob("*")) if out.is_dir() else [out]
    size = sum(file.stat().st_size for file in files if file.is_file())
    show({"written": str(out), "form": command.to, "bytes": size}, as_json=command.json)


def _read(command: Command) -> "Checkpoint":
    """The model, with an adapter merged into it."""
    from gpt2lab.model import checkpoint
    from gpt2lab.storage import read_json
    from gpt2lab.tokenizer import Tokenizer
    from gpt2lab.training import lora

    folder = Path(command.model)
    if not (folder / lora.CONFIG).exists():
        if command.base is not None:
            raise UserError(f"--base goes with an adapter, but {folder} is none; leave it out")
        source = checkpoint.folder_of(command.model)
        _require_apart(command.out, source)
        return checkpoint.load(source)
    base = checkpoint.folder_of(command.base or lora.base_of(folder))
    _require_apart(command.out, folder, base)
    found = checkpoint.load(base)
    lora.load(folder, found.model)
    found.model = lora.merge(found.model)
    if (folder / checkpoint.METADATA).exists():  # a run's adapter, which has its own tokenizer
        found.metadata = read_json(folder / checkpoint.METADATA)
        found.tokenizer = Tokenizer.load(folder)
    return found


def _require_apart(out: Path, *sources: Path) -> None:
    """Raise UserError if writing to `out` would replace what is read."""
    for source in sources:
        if source.resolve().is_relative_to(out.resolve()):
            raise UserError(f"{out} holds the model that is read, {source}; choose another OUT")


def _write(command: Command, found: "Checkpoint") -> None:
    if command.to == "hf":
        from gpt2lab.model.export import write_huggingface

        form: Floats | None = command.dtype  # type: ignore[assignment]
        size = None if command.shard_gib is None else int(command.shard_gib * _GIB)
        write_huggingface(command.out, found, form, shard_bytes=size, overwrite=command.overwrite)
        return
    if command.to == "onnx":
        from gpt2lab.model.onnx import write_onnx

        write_onnx(command.out, found.model, overwrite=command.overwrite)
        return
    from gpt2lab.model.gguf import write_gguf

    if found.tokenizer is None:
        raise UserError(
            f"{command.model} has no tokenizer, which a GGUF holds; put vocab.json and merges.txt "
            "beside its weights"
        )
    name = Path(command.model).resolve().name
    form_of_matrices = command.dtype or "f16"
    write_gguf(command.out, found.model, found.tokenizer, form_of_matrices, name)  # type: ignore[arg-type]
