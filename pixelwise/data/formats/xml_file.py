"""XML files of annotation tools."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element

_LARGEST = 1 << 30  # bytes


@contextmanager
def root_of(path: Path, tag: str, tool: str) -> Iterator[Element]:
    """The outermost element of a file; what goes wrong inside names the file and the tool.

    Raises:
        ValueError: if it is missing or no such file; also if it holds entities, which could fill the memory.
    """
    from defusedxml.ElementTree import parse  # type: ignore[import-untyped]

    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        root = parse(path).getroot()
        if root.tag != tag:
            raise ValueError(f"expected the element {tag}, got {root.tag[:80]!r}")
        yield root
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:  # parsers of XML raise what they like, SyntaxError among it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not a file of {tool}: {reason}") from error
