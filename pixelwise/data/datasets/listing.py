"""Which files lie in a folder: listed once, as data sets of a hundred thousand files need it.

A listing is kept for this process and used again as long as no folder in it has changed since: adding,
removing or renaming a file changes the time of its folder. A folder that changed within the last two seconds
before it was listed is listed again, since file systems count time in coarse steps.

That of a large folder is also kept in a file of the cache of pixelwise (`PIXELWISE_CACHE`), so that the next
process need not list it.
"""

import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ...files import atomic_write, cache_folder
from ..formats.image import IMAGE_SUFFIXES

_KEPT = 32  # listings in memory, and files of listings
_MANY = 10_000  # files from which a listing is kept in a file
_COARSE = 2_000_000_000  # nanoseconds
_known: OrderedDict[tuple[str, bool], "Listing"] = OrderedDict()


@dataclass(frozen=True)
class Listing:
    """The visible files in a folder.

    Attributes:
        root: the folder.
        names: paths of the files below it, in order.
        changed: when each folder in it last changed, in nanoseconds.
        at: when they were listed.
    """

    root: Path
    names: tuple[str, ...]
    changed: dict[str, int]
    at: int

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The names whose suffix is that of an image."""
        return tuple(name for name in self.names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """The files of `image_names`."""
        return tuple(self.root / name for name in self.image_names)

    @cached_property
    def by_stem(self) -> Mapping[str, Path]:
        """The images by their names without the suffix.

        Raises:
            ValueError: if two of them differ only in their suffix.
        """
        return by_stem(self.images, self.image_names)

    @property
    def holds(self) -> bool:
        """Whether no folder has changed since."""
        try:
            return all(
                os.stat(folder).st_mtime_ns == changed < self.at - _COARSE
                for folder, changed in self.changed.items()
            )
        except OSError:
            return False


def by_stem(files: Iterable[Path], names: Iterable[str]) -> dict[str, Path]:
    """Files by their names without the suffix.

    Raises:
        ValueError: if two of them differ only in their suffix.
    """
    found: dict[str, Path] = {}
    for path, name in zip(files, names, strict=True):
        key = without_suffix(name)
        if key in found:
            raise ValueError(f"{found[key]} and {path} have one name: which of them counts?")
        found[key] = path
    return found


def without_suffix(name: str) -> str:
    """A path without the suffix that `Path` sees.

    >>> without_suffix("a.b/c.tar.gz"), without_suffix("a.b/.c")
    ('a.b/c.tar', 'a.b/.c')
    """
    dot = name.rfind(".")
    return name[:dot] if name.rfind("/") + 1 < dot < len(name) - 1 else name


def listed(root: Path, *, deep: bool = True) -> Listing:
    """The visible files in a folder, and in those below it.

    Links to folders elsewhere are followed, once each; links to a folder in `root` or above it are not.
    Folders that may not be read are left out.
    """
    key = (os.path.abspath(root), deep)
    found = _known.get(key)
    if found is None or found.root != root or not found.holds:
        found = _from_file(root, key)
        if found is None:
            found = _listed(root, deep=deep)
            if len(found.names) >= _MANY:
                _to_file(found, key)
        _known[key] = found
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return found


def folders(root: Path) -> list[Path]:
    """The visible folders in a folder, in order; none in a file."""
    if root.is_file():
        return []
    changed = os.stat(root).st_mtime_ns
    if changed < time.time_ns() - _COARSE:
        return list(_folders(root, changed))
    return list(_folders.__wrapped__(root, changed))


@lru_cache(maxsize=_KEPT)
def _folders(root: Path, changed: int) -> tuple[Path, ...]:
    """`folders` of a folder that changed last at that time."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return tuple(root / name for name in sorted(names))


def _listed(root: Path, *, deep: bool) -> Listing:
    at = time.time_ns()
    names: list[str] = []
    changed: dict[str, int] = {}
    todo, known = [(os.fspath(root), "")], [os.path.join(os.path.realpath(root), "")]
    while todo:
        folder, prefix = todo.pop()
        changed[folder] = os.stat(folder).st_mtime_ns
        for entry in _entries(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if deep and (not entry.is_symlink() or _leads_out(entry.path, known)):
                    todo.append((entry.path, f"{prefix}{entry.name}/"))
            elif entry.is_file():
                names.append(prefix + entry.name)
    names.sort(key=lambda name: name.split("/"))
    return Listing(root, tuple(names), changed, at)


def _leads_out(link: str, known: list[str]) -> bool:
    """Whether a link leads to a folder neither in one of the `known` ones nor above the first; then known."""
    goal = os.path.join(os.path.realpath(link), "")
    if known[0].startswith(goal) or any(goal.startswith(folder) for folder in known):
        return False
    known.append(goal)
    return True


def _file_of(key: tuple[str, bool]) -> Path:
    return cache_folder() / "listings" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.json"


def _from_file(root: Path, key: tuple[str, bool]) -> Listing | None:
    """The listing that an earlier process kept, if nothing has changed since."""
    try:
        with _file_of(key).open(encoding="ascii") as file:
            kept = json.load(file)
        places = kept["changed"].items()
        changed = {os.fspath(root / folder): int(time) for folder, time in places}
        found = Listing(root, tuple(map(str, kept["names"])), changed, int(kept["at"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return found if found.holds else None


def _to_file(found: Listing, key: tuple[str, bool]) -> None:
    """Keep a listing, and not more files than `_KEPT`; a cache that cannot be written is done without."""
    path = _file_of(key)
    folders = {os.path.relpath(folder, found.root): time for folder, time in found.changed.items()}
    content = {"at": found.at, "changed": folders, "names": found.names}
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="ascii")
        files = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for old in files[:-_KEPT]:
            old.unlink()
    except (OSError, ValueError):
        return


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        return []
