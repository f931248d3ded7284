"""Writing files so that nobody ever sees half of one, and nobody loses one of their own."""

import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
# In a folder of results: what was written to it, as `sha256sum -c` reads it.
MANIFEST = ".pixelwise.sha256"
BEGUN = ".pixelwise.begun"  # names of files that are being written


def cache_folder() -> Path:
    """Where files are kept that can be made again: `PIXELWISE_CACHE`, or else `~/.cache/pixelwise`."""
    if named := os.environ.get("PIXELWISE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixelwise"


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


def check_targets(
    targets: Iterable[Path], folder: Path, *, sources: Iterable[Path] = (), overwrite: bool = False
) -> None:
    """Refuse to lose a file of the user, before anything is written.

    A file is pixelwise's own where the manifest of `folder` (see `record`) has it exactly as it is now: one
    that was changed since, or copied there, is the user's.

    Args:
        targets: files that will be written.
        folder: the folder of results that they are in.
        sources: files that are read; no target may be one of them, also by a link.
        overwrite: whether files that pixelwise wrote may be replaced.

    Raises:
        ValueError: if a target is a source or exists already and must not be replaced; names it.
    """
    read = {(status.st_dev, status.st_ino) for status in map(os.stat, sources)}
    written = _manifest(folder)
    for target in targets:
        try:
            status = target.stat()
        except OSError:  # there is none; whether it can be made shows when it is written
            if target.is_symlink():
                raise ValueError(f"{target} is a link to nowhere: choose another folder") from None
            continue
        if target.is_dir():
            raise ValueError(f"cannot write {target}: it is a folder")
        if (status.st_dev, status.st_ino) in read:
            raise ValueError(f"{target} is one of the sources and is not overwritten: choose another folder")
        if not _is_listed(target, folder, written):
            raise ValueError(
                f"{target} exists, and pixelwise did not write it as it is now: choose another folder"
            )
        if not overwrite:
            raise ValueError(
                f"{target} was written before: allow to overwrite it (--overwrite, overwrite=True) "
                "or choose another folder"
            )


def was_written(target: Path, folder: Path) -> bool:
    """Whether pixelwise wrote `target`, somewhere below `folder`, as it is now."""
    return written_in(folder)(target)


def written_in(folder: Path) -> Callable[[Path], bool]:
    """Tells of a file somewhere below `folder` whether pixelwise wrote it as it is now."""
    written = _manifest(folder)
    return lambda target: _is_listed(target, folder, written)


def record(target: Path, folder: Path) -> None:
    """Note in the manifest of `folder` that pixelwise wrote `target`, somewhere below it.

    Raises:
        ValueError: if the manifest cannot be written.
    """
    record_as(target, target, folder)


def record_as(target: Path, written: Path, folder: Path) -> None:
    """Note what `target` will be once `written` has taken its place.

    Noted before the file is moved there, a file that pixelwise wrote is never taken for one of the user,
    whatever happens in between.

    Raises:
        ValueError: if the manifest cannot be written.
    """
    try:
        # A line is appended in one piece, so that several processes may write to one folder.
        with (folder / MANIFEST).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{sha256_of(written)}  {target.relative_to(folder).as_posix()}\n")
    except OSError as error:
        raise ValueError(f"cannot write {folder / MANIFEST}: {error.strerror or error}") from error


def announce(targets: Iterable[Path], folder: Path) -> None:
    """Note in `folder` that `targets`, somewhere below it, are about to be written; see `unfinished`.

    Raises:
        ValueError: if that cannot be written.
    """
    lines = "".join(f"{target.relative_to(folder).as_posix()}\n" for target in targets)
    try:
        with (folder / BEGUN).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(lines)
    except OSError as error:
        raise ValueError(f"cannot write {folder / BEGUN}: {error.strerror or error}") from error


def unfinished(folder: Path) -> set[Path]:
    """Targets in `folder` that were announced and never recorded: the program was killed in between.

    Such a file is pixelwise's own, if it is there at all: every target was missing, or its own, when the
    program began.
    """
    try:
        names = (folder / BEGUN).read_text("utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return set()
    written = _manifest(folder)
    return {folder / name for name in names if name and name not in written}


def forget_announced(folder: Path) -> None:
    """Remove the notes of `announce`, when all is written or given up."""
    with suppress(OSError):  # nothing was begun
        (folder / BEGUN).unlink()


def _manifest(folder: Path) -> dict[str, set[str]]:
    """The digests that each file of the folder was written with."""
    found: dict[str, set[str]] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for line in (folder / MANIFEST).read_text("utf-8", errors="surrogateescape").split("\n"):
            digest, _, name = line.partition("  ")
            found.setdefault(name, set()).add(digest)
    return found


def _is_listed(target: Path, folder: Path, written: Mapping[str, set[str]]) -> bool:
    digests = written.get(target.relative_to(folder).as_posix())
    return digests is not None and target.is_file() and sha256_of(target) in digests


def sha256_of(path: Path) -> str:
    """The digest of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_temporary(folder: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Remove what `atomic_write` to one of the files `names` left in `folder` when its process was killed.

    Call it only where nobody else writes, as under `lock_folder`.

    Returns:
        The names of the removed files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / ".last.0123abcd.ckpt").write_text("half")
    ...     _ = (Path(folder) / ".mine.ckpt").write_text("whole")
    ...     remove_temporary(folder, ["last.ckpt"])
    ['.last.0123abcd.ckpt']
    """
    patterns = [
        re.compile(rf"\.{re.escape(Path(name).stem[:100])}\.[0-9a-f]{{8}}{re.escape(Path(name).suffix)}")
        for name in names
    ]
    removed = []
    for path in sorted(Path(folder).iterdir()):
        if any(pattern.fullmatch(path.name) for pattern in patterns) and path.is_file():
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


@contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[int]:
    """Hold `folder` for this process, by a lock on a file `.lock` in it; gives the open file's descriptor.

    The system releases the lock when the last process that holds the descriptor ends, however it ends, so
    nobody has to clean up after a crash. The file itself stays. Windows has no such locks: there, nothing is
    locked.

    Raises:
        ValueError: if another process holds the folder, or the file cannot be written.
    """
    path = Path(folder) / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        if sys.platform != "win32":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(descriptor, 20).decode(errors="replace")
                raise ValueError(
                    f"another process{f' ({holder})' if holder else ''} is working in {folder}: wait for its "
                    "end, or stop it first"
                ) from error
            except OSError as error:
                raise ValueError(f"cannot lock {path}: {error.strerror or error}") from error
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield descriptor
    finally:
        os.close(descriptor)
