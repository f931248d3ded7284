"""How a kernel is compiled, announced and run on several threads."""

import inspect
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
from numba.core import event

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
R = TypeVar("R")


def kernel(function: F) -> F:
    """Compile `function` with Numba at its first call with each combination of types.

    The machine code is kept beside the source (or in the user's cache, where that cannot be written), so that
    only the first process that ever calls the kernel waits for the compiler; it says so on standard error.
    The kernel runs without Python's lock: `parallel_map` runs it on several threads.
    """
    plain = inspect.unwrap(function)  # without a shape checker, which no compiler understands
    compiled: Any = numba.njit(cache=True, nogil=True)(plain)
    return cast(F, compiled)


def inlined(function: F) -> F:
    """Compile `function` into the kernels that call it: for short parts of a hot loop."""
    compiled: Any = numba.njit(cache=True, nogil=True, forceinline=True)(inspect.unwrap(function))
    return cast(F, compiled)


def parallel_map(work: Callable[[T], R], pieces: Sequence[T], threads: int) -> list[R]:
    """`work` of every piece, in order, on at most `threads` threads.

    Threads of Python, not of OpenMP: those of a kernel that runs before a DataLoader forks its workers would
    end the workers.
    """
    if threads <= 1 or len(pieces) <= 1:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(min(threads, len(pieces))) as pool:
        return list(pool.map(work, pieces))


class Announcer(event.Listener):
    """Says once in a process that Python seems to hang because a compiler runs.

    Attributes:
        compiled: names of the kernels that the compiler worked on, in order.
        silent: whether nothing is said.
    """

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.silent = False

    def on_start(self, event: event.Event) -> None:
        """A kernel is about to be compiled."""
        function = event.data["dispatcher"].py_func
        if not function.__module__.startswith("pixelwise."):
            return
        if not self.compiled and not self.silent:
            print(
                "pixelwise: compiling some functions, once on this machine, for up to half a minute "
                "(`pixelwise warmup` compiles all)",
                file=sys.stderr,
            )
        self.compiled.append(function.__name__)

    def on_end(self, event: event.Event) -> None:
        """A kernel is compiled."""


ANNOUNCER = Announcer()
event.register("numba:compile", ANNOUNCER)
