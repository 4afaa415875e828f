"""How many threads decode fastest: measured once for a machine and kind of model, then kept."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import torch

from gpt2lab.generation.backend import Backend, Chunk, backend
from gpt2lab.model.native import cache_folder, processor
from gpt2lab.model.quantize import model_form
from gpt2lab.model.transformer import GPT2

KEPT = "threads.json"
PASSES = 4


def use_fastest_threads(model: GPT2) -> None:
    """Set PyTorch's number of threads to what decodes this kind of model fastest here.

    Nothing is measured for a model on another device, or if OMP_NUM_THREADS says what is wanted.
    """
    if model.wpe.weight.device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    key = _key(model)
    table = _read()
    if key not in table:
        table[key] = fastest(backend(model, 1))
        _write(table)
    torch.set_num_threads(table[key])


def fastest(decoder: Backend) -> int:
    """The number of threads that reads one token soonest, of all cores, half of them and so on."""
    count, best, least = torch.get_num_threads(), 1, float("inf")
    while count:
        torch.set_num_threads(count)
        seconds = min(_pass(decoder) for _ in range(PASSES))
        # Fewer threads must win by a tenth: they leave more to others, but noise is as large.
        if seconds < least * 0.9:
            best, least = count, seconds
        count //= 2
    return best


def _pass(decoder: Backend) -> float:
    began = time.perf_counter()
    decoder.forward([Chunk(0, 0, (0,), 1)])
    return time.perf_counter() - began


def kept() -> dict[str, int]:
    """Threads found fastest on this machine, by format and size of the model."""
    prefix = f"{_machine()} "
    found = _read().items()
    return {key.removeprefix(prefix): n for key, n in found if key.startswith(prefix)}


def _key(model: GPT2) -> str:
    most = 2 ** model.config.n_params.bit_length()
    return f"{_machine()} {model_form(model)} up to {most:,} parameters"


def _machine() -> str:
    facts = processor() + f"{os.cpu_count()} {torch.__version__}".encode()
    return hashlib.sha256(facts).hexdigest()[:16]


def _path() -> Path:
    return cache_folder() / KEPT


def _read() -> dict[str, int]:
    """What was kept; nothing if it cannot be read or makes no sense."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        table = json.loads(_path().read_text("utf-8"))
        most = os.cpu_count() or 1
        if isinstance(table, dict):
            return {k: n for k, n in table.items() if type(n) is int and 1 <= n <= most}
    return {}


def _write(table: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written is measured again
        temporary = _path().with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(table, indent=2) + "\n", "utf-8")
        temporary.replace(_path())
