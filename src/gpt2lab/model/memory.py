"""Memory for weights in huge pages, from which a processor reads them up to 1.7 times as fast.

A token reads every weight once; with pages of 4 KiB half the time goes into finding them (LOG.md,
2026-11-21). PyTorch asks for huge pages only if told so by the environment when it starts.
"""

import ctypes
import math
import mmap

import torch
from torch import Tensor

_PAGE = 2**21
_ARENA = 2**26  # small weights share one of these, as pages are larger than they are
_LINE = 64
_HUGE = hasattr(mmap, "MADV_HUGEPAGE")


class _Arena:
    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._used = 0

    def take(self, size: int) -> tuple[mmap.mmap, int]:
        """Memory for `size` bytes, and where in it they begin."""
        if size > _ARENA // 4:
            return _huge(size), 0
        if self._memory is None or self._used + size > len(self._memory):
            self._memory, self._used = _huge(_ARENA), 0
        at, self._used = self._used, self._used + -(-size // _LINE) * _LINE
        return self._memory, at


_arena = _Arena()


def _huge(size: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has rules of its own
    memory = mmap.mmap(-1, -(-size // _PAGE) * _PAGE, flags=flags)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def scratch(size: int) -> Tensor:
    """Bytes [size] to read into, given back to the system with the tensor; malloc may keep them."""
    if size < _PAGE or not _HUGE:
        return torch.empty(size, dtype=torch.uint8)
    return torch.frombuffer(_huge(size), dtype=torch.uint8, count=size)


def give_back() -> None:
    """Return to the system what glibc keeps of the memory of temporary copies, up to 64 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _HUGE else None
    if trim:
        trim(0)


def own_copy(t: Tensor) -> Tensor:
    """A contiguous copy of a tensor; on Linux, if it lies on the CPU, in huge pages.

    The memory of small ones is given back when all that share it are gone.
    """
    size = t.numel() * t.element_size()
    if t.device.type != "cpu" or not _HUGE or not size:
        return t.clone(memory_format=torch.contiguous_format)
    memory, at = _arena.take(size)
    flat = torch.frombuffer(memory, dtype=t.dtype, count=math.prod(t.shape), offset=at)
    return flat.view(t.shape).copy_(t)
