"""Compiling the C++ of this folder for this machine, once, into the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("types.h", "vector.h", "linear.h", "attention.h", "score.h", "pass.cpp")
FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast", "-fopenmp",
    "-fPIC",
)  # fmt: skip
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300


class NotBuiltError(Exception):
    """Why there is no compiled pass on this machine."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled pass; built first if this machine has not built this version before.

    Raises NotBuiltError saying why it cannot be had; PyTorch does the work then.
    """
    if os.environ.get("GPT2LAB_NATIVE") == "0":
        raise NotBuiltError("GPT2LAB_NATIVE is 0")
    compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(shutil.which, COMPILERS))[:1]
    if not compiler:
        raise NotBuiltError("no C++ compiler; install g++ or clang++")
    try:
        path = cache_folder() / f"pass-{_digest(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        raise NotBuiltError(
            f"{shlex.join(compiler)} failed: {error.stderr.strip()[-500:]}"
        ) from None
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:  # Runtime: no home folder
        raise NotBuiltError(str(error)) from None


def status() -> str:
    """`yes`, or why there is no compiled pass."""
    try:
        library()
    except NotBuiltError as error:
        return f"no: {error}"
    return "yes"


def cache_folder() -> Path:
    """Where what was found out about this machine is kept; OSError if it cannot be."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "gpt2lab"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to somebody else")
    return folder


def _digest(compiler: list[str]) -> str:
    """Of all that the result depends on, the processor included: homes are shared by machines."""
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, check=True, timeout=SECONDS
    ).stdout
    facts = [version, " ".join(FLAGS).encode(), platform.machine().encode(), processor()]
    facts += [(HERE / name).read_bytes() for name in SOURCES]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]


def processor() -> bytes:
    """What tells this kind of processor from others."""
    info = Path("/proc/cpuinfo")
    lines = info.read_bytes().splitlines() if info.exists() else []
    return b"".join(line for line in lines if line.startswith((b"flags", b"Features")))


def _compile(compiler: list[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        made, final = Path(work) / "pass.o", Path(work) / "pass.so"
        # GCC's is not linked with an OpenMP library: it shares PyTorch's threads. Clang's cannot.
        threads = ["-fopenmp"] if any("clang" in Path(word).name for word in compiler) else []
        for command in (
            [*compiler, *FLAGS, "-c", str(HERE / "pass.cpp"), "-o", str(made)],
            [*compiler, "-shared", *threads, str(made), "-o", str(final)],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
        final.replace(path)
