"""What this process may use of the machine."""

import contextlib
import ctypes
import os

_GLIBC = "libc.so.6"
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # numbers of glibc's malloc.h
_LARGEST_KEPT, _MOST_KEPT = 1 << 26, 1 << 29  # bytes of one tensor, and of all at the end of the heap


def usable_cores() -> int:
    """Cores on which this process may run: all, or those that a container or `taskset` leaves it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Keep memory that tensors of up to 64 MiB have left for the next ones, where the C library is glibc.

    It gives large pieces back at once otherwise, and a network waits for empty pages in every layer: up to a
    third of the time of small networks (`bench/tiling.py`). Threads that are started later share one heap: in
    heaps of their own, of 64 MiB, large tensors find no room to stay. Up to 512 MiB stay with the process.
    Nothing is done where the environment sets malloc.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(_GLIBC)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
        library.mallopt(_ARENA_MAX, 1)


def give_memory_back() -> None:
    """Return freed memory to the system, such as that of large batches; glibc keeps some (200 MiB)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(_GLIBC).malloc_trim(0)
