"""Load on a server of this machine: processes that are started, clients that ask, what it costs."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CODE = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_LONGEST = 180  # seconds


@dataclass
class Running:
    """A server in a process of its own.

    Attributes:
        process: the process.
        port: where it listens.
        seconds: from its start until it answered that it was ready.
    """

    process: "subprocess.Popen[bytes]"
    port: int
    seconds: float

    def tree(self) -> list[int]:
        """The process and all that it started."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(stat.parent.name))
        found = [self.process.pid]
        for one in found:
            found += parents.get(one, [])
        return found

    def cpu(self) -> float:
        """Seconds of the processor that the tree has used."""
        total = 0
        for one in self.tree():
            try:
                fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / _TICKS

    def memory(self) -> float:
        """MiB of the tree's own: without files that are mapped, such as libraries, which others share."""
        return sum(anonymous(one) for one in self.tree())

    def pause(self) -> None:
        """Let the tree rest: some servers compute while nobody asks."""
        self._send(self.tree(), signal.SIGSTOP)

    def go_on(self) -> None:
        """After a pause."""
        self._send(self.tree(), signal.SIGCONT)

    def stop(self) -> int:
        """Tell it to end, and wait; its exit code."""
        tree = self.tree()
        self.process.send_signal(signal.SIGTERM)
        self._send(tree, signal.SIGCONT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._send(tree[1:], signal.SIGKILL)  # what it left behind

    @staticmethod
    def _send(processes: Sequence[int], number: signal.Signals) -> None:
        for one in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)


def anonymous(process: int) -> float:
    """MiB of a process's own; 0 if there is none."""
    try:
        rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(row.split()[1]) for row in rows if row.startswith("Anonymous:")) / 1024


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def start(words: Sequence[str], port: int, ready: str, threads: int) -> Running:
    """Start a server and wait until `ready` answers 200.

    Raises:
        RuntimeError: if it ends before that, or takes longer than three minutes.
    """
    variables = {
        **os.environ,
        "PYTHONPATH": str(CODE),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *words], env=variables, stdout=subprocess.DEVNULL)
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}: {' '.join(words)}")
        if time.monotonic() > began + _LONGEST:
            Running(process, port, 0.0).stop()
            raise RuntimeError(f"the server was not ready after {_LONGEST} s: {' '.join(words)}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", ready)
            if connection.getresponse().status == 200:
                return Running(process, port, time.monotonic() - began)
        except OSError:
            pass
        time.sleep(0.05)


@dataclass
class Answers:
    """What clients got.

    Attributes:
        seconds: that each accepted request took.
        statuses: how many answers had which status; 0 counts broken connections.
        without_hint: refusals that did not say when to come back.
        wrong: accepted answers that were not the expected ones.
        wall: seconds from the first request to the last answer.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    without_hint: int = 0
    wrong: int = 0
    wall: float = 0.0

    @property
    def rate(self) -> float:
        """Accepted requests per second."""
        return len(self.seconds) / self.wall

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the accepted requests was answered."""
        ordered = sorted(self.seconds)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


Request = tuple[str, bytes, str]  # path, body, type of the body


def ask(
    port: int,
    requests: Sequence[Request],
    *,
    clients: int,
    seconds: float,
    pace: float | None = None,
    right: Callable[[int, bytes], bool] | None = None,
) -> Answers:
    """Ask for some seconds.

    Args:
        port: of the server.
        requests: that are sent in turn.
        clients: connections that are used at once; each sends when it has its answer.
        seconds: for which requests are begun.
        pace: requests per second of all clients together, whatever the server does; None for as fast as the
            answers come.
        right: number of a request and body of its answer -> whether it is right.
    """
    answers, lock = Answers(), threading.Lock()
    began = time.monotonic()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        turn = number
        while (now := time.monotonic()) < began + seconds:
            if pace is not None:
                due = began + turn / pace
                if due > began + seconds:
                    return
                time.sleep(max(0.0, due - now))
            which = turn % len(requests)
            path, body, kind = requests[which]
            turn += clients
            started = time.perf_counter()
            try:
                connection.request("POST", path, body, {"Content-Type": kind})
                answer = connection.getresponse()
                content, status = answer.read(), answer.status
                hint = answer.headers.get("Retry-After")
            except (OSError, http.client.HTTPException):
                connection.close()
                status, content, hint = 0, b"", None
            taken = time.perf_counter() - started
            with lock:
                answers.statuses[status] = answers.statuses.get(status, 0) + 1
                if status == 200:
                    answers.seconds.append(taken)
                    answers.wrong += right is not None and not right(which, content)
                answers.without_hint += status == 503 and hint is None

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.wall = time.monotonic() - began
    return answers
