"""Fetching a published file: whole and checked, or not at all.

What arrives is kept beside the file as `.NAME.part` until all of it is there and its checksum is right, so
nobody ever sees half a file under its name. What a broken connection left is gone on with by the next call.
"""

import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .checksums import checksum_of, is_file_of
from .files import make_folder

if sys.platform != "win32":
    import fcntl

_TIMEOUT = 30.0  # seconds without a byte
_PIECE = 1 << 18  # bytes per read
_ATTEMPTS = 4  # of one address, each going on where the last one broke off


class _BrokenOff(Exception):
    """The connection ended before the file did."""


def download(addresses: Sequence[str], path: Path, checksum: str, *, title: str) -> None:
    """Fetch a file from the first address that gives it.

    Another process that fetches the same file at the same time is waited for, and its file taken. (Windows
    has no such locks: there, the checksum tells when two have written into one file.) Without a checksum
    what came first counts, once as many bytes have come as the server tells.

    Args:
        addresses: http, https or file addresses, tried in this order.
        path: the file's name here; parent folders are made.
        checksum: see `checksums.py`; "" where none is known.
        title: what is fetched, for the progress bar and messages.

    Raises:
        ValueError: if no address gives the file, what it gives is another file, or it cannot be written.
    """
    with _partial(path) as part:
        if is_file_of(path, checksum):  # another process has just fetched it
            return
        failures = []
        for address in addresses:
            try:
                _complete(address, part, checksum, title)
            except ValueError as error:
                failures.append(str(error))
                continue
            try:
                os.replace(part, path)
            except OSError as error:
                raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
            return
        raise ValueError("; ".join(failures))


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """The name of what has arrived of `path`, held for this process; an empty file is removed at the end."""
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.part")
    descriptor = _locked(part)
    if sys.platform == "win32":  # a file that is open cannot be renamed there
        os.close(descriptor)
    try:
        yield part
    finally:
        with suppress(OSError):  # it has its own name when all went well
            if part.stat().st_size == 0:
                part.unlink()
        if sys.platform != "win32":
            os.close(descriptor)


def _locked(part: Path) -> int:
    """A descriptor of the file `part`, on which this process alone has a lock.

    Raises:
        ValueError: if the file cannot be made.
    """
    while True:
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"cannot write {part}: {error.strerror or error}") from error
        if sys.platform != "win32":
            with suppress(OSError):  # some network folders have no locks; the checksum guards them
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(OSError):  # whoever held it may have removed or renamed the file meanwhile
            if os.path.samestat(os.fstat(descriptor), part.stat()):
                return descriptor
        os.close(descriptor)


def _complete(address: str, part: Path, checksum: str, title: str) -> None:
    """Bring `part` to the whole file.

    Raises:
        ValueError: if that fails; `part` holds what arrived of the right file then, or nothing.
    """
    for attempt in range(_ATTEMPTS):
        if not checksum:  # nothing would tell that the beginning is of another file
            os.truncate(part, 0)
        begun = part.stat().st_size > 0
        try:
            _receive(address, part, title)
        except _BrokenOff as error:
            if attempt == _ATTEMPTS - 1:
                raise ValueError(f"{error}; the same call goes on from there") from error
            continue
        if is_file_of(part, checksum):
            return
        told = checksum_of(part, checksum)
        os.truncate(part, 0)
        if not begun:
            raise ValueError(f"{address} is not the published file of {title!r}: {told}")
        # The beginning was of another file: once more, from the start.
    raise ValueError(f"cannot fetch {address}: what it gives is not the published file of {title!r}")


def _receive(address: str, part: Path, title: str) -> None:
    """Add to `part` what it lacks.

    Raises:
        _BrokenOff: if the connection broke; what arrived is in `part`.
        ValueError: if the server does not answer or has no such file, or `part` cannot be written.
    """
    have = part.stat().st_size
    response = _answer(address, have)
    if response is None:
        return
    with response:
        if response.status != 206:  # the server sends all of it
            have = 0
        size = response.headers.get("Content-Length")
        total = have + int(size) if size else 0
        try:
            with part.open("r+b") as file, _progress(title, have, total) as advance:
                file.truncate(have)
                file.seek(have)
                while piece := _read(response, address, file.tell()):
                    file.write(piece)
                    advance(len(piece))
                received = file.tell()
        except OSError as error:
            raise ValueError(f"cannot write {part}: {error.strerror or error}") from error
    if received < total:
        raise _BrokenOff(f"fetching {address} broke off after {received} of {total} bytes")


def _answer(address: str, have: int) -> Any:
    """The server's answer to a request for all but the first `have` bytes; None where there are no more.

    Raises:
        ValueError: if there is none.
    """
    headers = {"User-Agent": "pixelwise"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return None
        raise ValueError(f"cannot fetch {address}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: it is no address
        raise ValueError(f"cannot fetch {address}: {getattr(error, 'reason', error)}") from error


def _read(response: Any, address: str, received: int) -> bytes:
    try:
        piece: bytes = response.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(f"fetching {address} broke off after {received} bytes: {error}") from error
    return piece


@contextmanager
def _progress(title: str, have: int, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error where that is a terminal; call what it gives with bytes received."""
    from rich.console import Console  # only those who fetch pay for it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total or None, completed=have)
        yield lambda count: bar.advance(task, count)
