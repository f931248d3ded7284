"""Ending a long command when the system asks for it, as batch systems and containers do."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. A `KeyboardInterrupt`, so whatever cleans up after Ctrl-C does so here."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated` in the main thread; the handler that was there comes back.

    In other threads nothing changes: Python lets the main thread alone set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    heed_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def heed_sigterm() -> None:
    """Let SIGTERM raise `Terminated` from now on, as SIGINT does `KeyboardInterrupt`. Main thread only."""
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a loading process, forked with this handler
            os._exit(Terminated.exit_code)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
