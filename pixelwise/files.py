"""Writing files so that nobody ever sees half of one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name beside `path` to write to; move it to `path` when all went well, remove it otherwise.

    Parent folders are made. The name has the suffix of `path`, so writers that go by it do the same, and
    differs from call to call, so several processes may write one file: the last one wins.

    Raises:
        ValueError: if the place cannot be written to (permission, disk full, a file where a folder must be).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    if not path.name:
        raise ValueError(f"cannot write {str(path)!r}: it names no file")
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        make_folder(path.parent)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # what the user wants of new files; some writers make private ones
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone when all went well; never there under a folder that is none
            temporary.unlink()


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder `path`, made where it is missing.

    Raises:
        ValueError: if it cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        raise ValueError(f"cannot write to the folder {path}: permission denied")
    return path


def check_replaceable(path: str | os.PathLike[str], mark: str) -> None:
    """Refuse to write where a file lies that pixelwise did not write.

    Args:
        path: of the file to be written; nothing need be there.
        mark: what the first kilobyte of such a file of pixelwise holds.

    Raises:
        ValueError: if a folder or another file is there, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            beginning = file.read(1024)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    if mark.encode() not in beginning:
        raise ValueError(f"{path} is a file that pixelwise did not write: choose another name")
