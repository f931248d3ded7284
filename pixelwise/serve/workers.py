"""Several processes that answer on one address: one that dies is replaced, and the others go on."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from tempfile import TemporaryDirectory
from typing import Any

from ..machine import usable_cores
from .listening import check_address, listen

METRICS = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client adds up what processes count
_PAUSES = (1.0, 60.0)  # seconds before a process is started again: at first, and at most
_ENDING = 10.0  # seconds for a process to end after its requests


@dataclass(frozen=True)
class Among:
    """What a process is given that is one of several.

    Attributes:
        listening: the socket that all of them answer on.
        told: gets a line once the models are loaded.
    """

    listening: socket.socket
    told: Callable[[str], object]


@dataclass
class _Worker:
    """A process, its pipe, and when and how often it was started."""

    process: BaseProcess
    pipe: Connection
    started: float
    failures: int = 0


def serve_in_processes(
    count: int, runs: Sequence[str], *, host: str = "127.0.0.1", port: int = 8000, **settings: Any
) -> None:
    """Serve as `serve` does with several processes, each with its own copy of the models.

    A process that dies is started again; what waits for the address is answered by the others. The threads
    of the machine are divided among them.

    Args:
        count: of processes.
        runs: as for `serve`.
        host: as for `serve`.
        port: as for `serve`.
        settings: the other arguments of `serve`.

    Raises:
        ValueError: as `serve`, or if a model takes prompts, whose images are remembered by one process.
    """
    check_address(host, settings.get("token"))
    listening = listen(host, port)
    threads = max(1, usable_cores() // count)
    before = os.environ.get(METRICS)
    with listening, TemporaryDirectory(prefix="pixelwise-metrics-") as folder, _told_to_stop() as stop:
        os.environ[METRICS] = folder
        try:
            work = (listening, threads, tuple(runs), {"host": host, "port": port, **settings})
            _watch(count, work, stop, settings.get("drain", 30.0))
        finally:
            os.environ.pop(METRICS)
            if before is not None:
                os.environ[METRICS] = before


def _watch(count: int, work: tuple[Any, ...], stop: Connection, drain: float) -> None:
    """Start the processes, and look after them until the stop comes."""
    workers = [_start(work) for _ in range(count)]
    try:
        lines = [_first_words(worker) for worker in workers]
        print(f"{lines[0].removesuffix(')')}; {count} processes)", flush=True)
        while True:
            waiting: list[Any] = [worker.process.sentinel for worker in workers if worker.process.is_alive()]
            if stop in wait([stop, *waiting], _until_next(workers)):
                return
            for place, worker in enumerate(workers):
                if not worker.process.is_alive():
                    workers[place] = _replaced(worker, work)
    finally:
        _end(workers, drain)


def _start(work: tuple[Any, ...], failures: int = 0) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, *work), name="pixelwise serve")
    process.start()
    theirs.close()
    return _Worker(process, ours, time.monotonic(), failures)


def _first_words(worker: _Worker) -> str:
    """The line of a process that loaded its models.

    Raises:
        ValueError: with its sentence, if it could not.
    """
    try:
        is_fine, said = worker.pipe.recv()
    except EOFError:
        worker.process.join()
        raise ValueError(f"a process of the server ended while it began ({_ending(worker)})") from None
    if not is_fine:
        raise ValueError(said)
    return str(said)


def _pause(worker: _Worker) -> float:
    """Seconds from a start to the next: longer, the more often the process died soon."""
    first, longest = _PAUSES
    return min(longest, first * 2.0**worker.failures)


def _until_next(workers: Sequence[_Worker]) -> float | None:
    """Seconds until a dead process is to be started again; None where all live."""
    due = [one.started + _pause(one) for one in workers if not one.process.is_alive()]
    return max(0.0, min(due) - time.monotonic()) if due else None


def _replaced(dead: _Worker, work: tuple[Any, ...]) -> _Worker:
    """A new process in the place of one that ended, when it is time."""
    process = dead.process.pid
    if not dead.pipe.closed:  # the first time that it is seen
        said = ""
        with contextlib.suppress(EOFError, OSError):
            while dead.pipe.poll():
                is_fine, words = dead.pipe.recv()
                said = said if is_fine else f": {words}"
        dead.pipe.close()
        print(
            f"process {process} of the server ended ({_ending(dead)}){said}; the others answer, and it is "
            "started again",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError):
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(process)
    lived = time.monotonic() - dead.started
    if lived < _pause(dead):
        return dead
    return _start(work, 0 if lived > _PAUSES[1] else dead.failures + 1)


def _ending(worker: _Worker) -> str:
    code = worker.process.exitcode or 0
    return f"signal {-code}" if code < 0 else f"code {code}"


def _end(workers: Sequence[_Worker], drain: float) -> None:
    """Let every process answer what it has begun, and end."""
    for worker in workers:
        if worker.process.is_alive() and worker.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + drain + _ENDING
    for worker in workers:
        worker.process.join(max(0.1, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Connection]:
    """Becomes readable at Ctrl-C or SIGTERM."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    known = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, lambda *_: writer.send(None)) for one in known}
    try:
        with reader, writer:
            yield reader
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


# --- in a process of its own --------------------------------------------------------------------------


def _work(
    pipe: Connection, listening: socket.socket, threads: int, runs: tuple[str, ...], settings: dict[str, Any]
) -> None:
    """Serve until told to stop, or until the process that watches is gone."""
    import torch

    from . import serve

    torch.set_num_threads(threads)
    threading.Thread(target=_end_when_alone, args=(pipe,), daemon=True).start()
    try:
        serve(runs, among=Among(listening, lambda line: pipe.send((True, line))), **settings)
    except ValueError as error:
        pipe.send((False, str(error)))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_when_alone(pipe: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os.kill(os.getpid(), signal.SIGTERM)
