"""Something global of another library, changed while any thread of this process reads a file."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WhileReading:
    """A change that the first reader makes and the last one takes back.

    Args:
        change: makes it, and gives what takes it back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change, self._lock, self._readers = change, threading.Lock(), 0
        self._take_back: Callable[[], None] = lambda: None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the change holds for all threads."""
        with self._lock:
            if not self._readers:
                self._take_back = self._change()
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    self._take_back()
