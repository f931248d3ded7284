"""JSON that strangers wrote: whatever is wrong with it is one sentence that names the file."""

import json
from pathlib import Path
from typing import Any

from ...files import atomic_write


def read_json(path: Path) -> Any:
    """The content of a file.

    Raises:
        ValueError: if it is missing, is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except RecursionError as error:
        raise ValueError(f"cannot read {path}: its brackets are nested too deeply") from error
    except (OSError, ValueError, MemoryError) as error:
        raise ValueError(f"cannot read {path}: {str(error)[:200]}") from error


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all.

    Raises:
        ValueError: if it cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
