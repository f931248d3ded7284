"""JSON that strangers wrote: whatever is wrong with it is one sentence that names the file."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...files import atomic_write


def read_json(path: Path, encoding: str | None = None) -> Any:
    """The content of a file.

    Args:
        path: the file.
        encoding: of its text; None for that of JSON (UTF-8, 16 or 32), which the file tells.

    Raises:
        ValueError: if it is missing, is no JSON, or is nested too deeply.
    """
    try:
        with _no_cycles_looked_for():
            return json.loads(_text(path, encoding))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except RecursionError as error:
        raise ValueError(f"cannot read {path}: its brackets are nested too deeply") from error
    except (OSError, ValueError, MemoryError) as error:
        raise ValueError(f"cannot read {path}: {str(error)[:200]}") from error


def _text(path: Path, encoding: str | None) -> str:
    content = path.read_bytes()
    if encoding is not None:
        return content.decode(encoding)
    return content.decode(json.detect_encoding(content), "surrogatepass")


@contextmanager
def _no_cycles_looked_for() -> Iterator[None]:
    """Inside, Python does not look for cycles: JSON has none, and among millions of objects it takes long."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all.

    Raises:
        ValueError: if it cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
