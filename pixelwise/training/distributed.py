"""Several processes, on one machine or on several.

Each is started on the run directory alone: the recipe in it says everything. So it works the same from a
script, a notebook, a test or the command line, and no user code runs twice.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..interruption import Terminated
from ..machine import usable_cores

_GRACE, _PATIENCE = 5, 30  # seconds to end after Ctrl-C, and after being told to


@dataclass(frozen=True)
class Machine:
    """One of the machines of a training.

    Attributes:
        count: how many machines there are.
        number: of this one, from 0.
        address: of the first one, where the processes of all meet.
        port: there; 0 for any that is free, where there is one machine.
    """

    count: int
    number: int
    address: str
    port: int


ONE = Machine(1, 0, "127.0.0.1", 0)


def launch(
    path: Path, world: int, *, progress: bool, lock: int | None = None, machine: Machine = ONE
) -> None:
    """Train in a run directory with `world` processes; returns when those of this machine are done.

    Args:
        path: run directory.
        world: number of processes on all machines.
        progress: whether to show how far they are.
        lock: descriptor of the run directory's lock; None on other machines than the first. The processes
            hold it too, so it lasts where this one is killed and they are not.
        machine: on which they are started.

    Raises:
        ValueError: what one of them raised, that the system killed one, or that the processes cannot be
            divided among the machines; the others are ended.
        KeyboardInterrupt: on Ctrl-C, and as `Terminated` on SIGTERM, after all have ended.
    """
    if world % machine.count:
        raise ValueError(f"{world} devices cannot be divided among {machine.count} machines")
    here = world // machine.count
    with tempfile.TemporaryDirectory() as messages:
        processes = [
            _start(path, rank, here, Path(messages), progress, lock, machine) for rank in range(here)
        ]
        try:
            failed = _wait(processes)
        except KeyboardInterrupt:
            for process in processes:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)
            _let_end(processes, _GRACE)
            raise
        finally:
            _end(processes)
        if failed is None:
            return
        said = Path(messages) / f"{failed}.txt"
        if said.exists():
            raise ValueError(said.read_text())
        code = processes[failed].returncode
        if code == 130:
            raise KeyboardInterrupt
        if code in (Terminated.exit_code, -signal.SIGTERM):
            raise Terminated
        if code < 0:
            raise ValueError(
                f"process {failed} of {world} of the training was killed by signal {-code}, perhaps because "
                f"memory ran out: pixelwise train --resume {path}"
            )
        raise RuntimeError(f"process {failed} of {world} of the training ended with code {code}")


def _start(
    path: Path,
    rank: int,
    here: int,
    messages: Path,
    progress: bool,
    lock: int | None,
    machine: Machine,
) -> subprocess.Popen[bytes]:
    package = Path(__file__).parent.parent.parent
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    # What launchers leave behind would be taken for the world of these processes.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TORCHELASTIC_", "SLURM_"))
        and name not in ("RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_WORLD_SIZE")
    }
    environment = inherited | {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": str(machine.number),
        "MASTER_ADDR": machine.address,
        "MASTER_PORT": str(machine.port) if machine.port else _port(messages),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // here)))
    command = [
        sys.executable,
        "-m",
        "pixelwise.training.distributed_worker",
        str(path),
        str(messages),
        str(int(progress)),
        str(machine.count),
    ]
    kept = () if lock is None or sys.platform == "win32" else (lock,)
    return subprocess.Popen(command, env=environment, pass_fds=kept)


def _port(messages: Path) -> str:
    """One free port for all processes of a training."""
    note = messages / "port"
    if not note.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            note.write_text(str(probe.getsockname()[1]))
    return note.read_text()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """The number of the first process that failed, None if all went well."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code not in (None, 0):
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.1)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    _let_end(processes, _PATIENCE)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def _let_end(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until all have ended, or so many seconds."""
    until = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
