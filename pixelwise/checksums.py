"""Checksums of published files, in the kinds that their publishers tell.

A checksum is text: hexadecimal digits of SHA-256, all or the first ones; with "md5:", "sha1:", "sha384:" or
"git:" (the name of a blob) before them, digits of that kind; with "sha1-inside:", digits of the SHA-1 of the
only file in a zip archive. "" stands for a file whose publisher tells none: any file will do.
"""

import hashlib
import zipfile
from pathlib import Path

_KINDS = ("sha256", "md5", "sha1", "sha384", "git", "sha1-inside")


def is_file_of(path: Path, checksum: str) -> bool:
    """Whether there is a file at `path` with this checksum."""
    if not path.is_file():
        return False
    kind, digits = kind_and_digits(checksum)
    return not digits or digest_of(path, kind).startswith(digits)


def checksum_of(path: Path, expected: str) -> str:
    """What is wrong with the file's checksum, as part of a sentence."""
    kind, digits = kind_and_digits(expected)
    name = {"sha256": "SHA-256", "git": "git blob"}.get(kind, kind.upper())
    return f"its {name} must start with {digits[:16]}, it is {digest_of(path, kind)[:16] or 'none'}..."


def kind_and_digits(checksum: str) -> tuple[str, str]:
    """Kind and hexadecimal digits of a checksum.

    Raises:
        ValueError: if it is of no kind that is known, or has other signs than digits.

    >>> kind_and_digits("md5:94dc52")
    ('md5', '94dc52')
    """
    kind, _, digits = checksum.rpartition(":")
    kind = kind or "sha256"
    if kind not in _KINDS or set(digits) - set("0123456789abcdef"):
        raise ValueError(f"a checksum must be hexadecimal digits of {', '.join(_KINDS)}, got {checksum!r}")
    return kind, digits


def digest_of(path: Path, kind: str) -> str:
    """The digest of a file; "" for "sha1-inside" of what is no zip archive of one file."""
    with path.open("rb") as file:
        if kind == "sha1-inside":
            return _inside(path)
        if kind == "git":
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            while piece := file.read(1 << 20):
                digest.update(piece)
            return digest.hexdigest()
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _inside(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(only_file(archive)) as file:
            digest = hashlib.sha1(usedforsecurity=False)
            while piece := file.read(1 << 20):
                digest.update(piece)
            return digest.hexdigest()
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError):
        return ""


def only_file(archive: zipfile.ZipFile) -> str:
    """The name of the only file in an archive.

    Raises:
        ValueError: if it holds none or several.
    """
    names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
    if len(names) != 1:
        raise ValueError(f"the archive must hold one file, it holds {len(names)}")
    return names[0]
