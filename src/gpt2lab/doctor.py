"""What this machine can do: device, threads, and rates measured rather than believed."""

import ctypes
import os
import platform
import sys
import time
from dataclasses import dataclass

import torch

from gpt2lab.errors import UserError

# Dense bf16/fp16 peak of common cards in TFLOP/s (vendors' data sheets, without sparsity).
TABLED_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "T4": 65.0,
    "V100": 125.0,
}

DEVICES = ("cpu", "cuda", "mps")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Peak:
    """The matrix rate that utilisation is measured against, and where the number is from."""

    tflops: float
    source: str


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def usable_device(name: str, field: str, kinds: tuple[str, ...] = DEVICES) -> torch.device:
    """The device of a name; UserError, naming the field it is from, if it is of no use here."""
    try:
        device = torch.device(name)
        if device.type not in kinds:
            raise RuntimeError(f"it must be {', '.join(kinds[:-1])} or {kinds[-1]}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{field} {name!r} cannot be used here: {reason}") from None
    return device


def named_or_best_device(name: str | None) -> str:
    """The device of --device, or a CUDA card if there is one; UserError if it cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    return str(usable_device(name, "--device", ("cpu", "cuda")))


def matmul_tflops(device: torch.device, dtype: torch.dtype, n: int | None = None) -> float:
    """TFLOP/s of an n x n x n matrix product: the best of five after one warm-up."""
    n = n or (1024 if device.type == "cpu" else 8192)
    a = torch.randn(n, n, device=device).to(dtype)
    b = torch.randn(n, n, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e12


def read_gb_per_second(x: torch.Tensor) -> float:
    """GB/s of reading an array, which should be larger than all caches: the best of five."""
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        x.sum()
        _wait(x.device)
        best = min(best, time.perf_counter() - start)
    return x.numel() * x.element_size() / best / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """Tabled peak for a known card in a 16-bit format, else the measured matrix rate."""
    if device.type == "cuda" and dtype is not torch.float32:
        words = torch.cuda.get_device_name(device).replace("-", " ")
        for known, tflops in TABLED_TFLOPS.items():
            if f" {known} " in f" {words} ":
                return Peak(tflops, f"table, {known}")
    return Peak(matmul_tflops(device, dtype), "measured matrix product")


def fastest_dtype(device: torch.device) -> str:
    """The format to train in here: bfloat16 where it is at least 1.3 times as fast, else float32.

    Many CPUs emulate bfloat16 and lose by it, so on a CPU the choice is measured.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type != "cpu":
        return "float32"
    slow = matmul_tflops(device, torch.float32, 512)
    return "bfloat16" if matmul_tflops(device, torch.bfloat16, 512) > 1.3 * slow else "float32"


def memory_bytes(device: torch.device) -> int | None:
    """The memory of a device, or of this machine for a CPU; None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning each large block to the system.

    A training step frees and takes the same hundreds of megabytes again; page faults for them cost
    about 5 % of a step on CPU (LOG.md, 2026-11-21). Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def report() -> dict[str, str | int | float]:
    """Everything `gpt2lab doctor` prints."""
    device = default_device()
    cpu = torch.device("cpu")
    found: dict[str, str | int | float] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cpu_read_gb_per_s": round(read_gb_per_second(torch.ones(2**26)), 1),
    }
    for name in ("float32", "bfloat16"):
        rate = matmul_tflops(cpu, DTYPES[name])
        found[f"cpu_{name}_gflops"] = round(1000 * rate, 1)
    if device.type == "cuda":
        found["gpu_bfloat16_tflops"] = round(matmul_tflops(device, torch.bfloat16), 1)
        found["gpu_memory_gib"] = round(
            torch.cuda.get_device_properties(device).total_memory / 2**30, 1
        )
    found["training_dtype"] = fastest_dtype(device)
    return found
