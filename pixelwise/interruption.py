"""Ending a long command when the system asks for it, as batch systems and containers do."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_arrived = False  # whether SIGTERM did, since the innermost `terminable` began


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. A `KeyboardInterrupt`, so whatever cleans up after Ctrl-C does so here."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated` in the main thread; the handler that was there comes back.

    Where the signal reaches loading processes too, their death may raise something else first: this becomes
    `Terminated` as well. In other threads nothing changes: Python lets the main thread alone set handlers.
    """
    global _arrived
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    _arrived = False
    heed_sigterm()
    try:
        yield
    except BaseException as error:
        if _arrived and not isinstance(error, Terminated):
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def heed_sigterm() -> None:
    """Let SIGTERM raise `Terminated` from now on, as SIGINT does `KeyboardInterrupt`. Main thread only."""
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        global _arrived
        if os.getpid() != process:  # a loading process, forked with this handler
            os._exit(Terminated.exit_code)
        _arrived = True
        raise Terminated

    signal.signal(signal.SIGTERM, end)
