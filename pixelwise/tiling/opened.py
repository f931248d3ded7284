"""What sources of pixels share: they are closed by `with`, and whatever a library raises names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class Closing:
    """What `with` does with a source."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open."""


class UnknownCodec(ValueError):
    """A compression that needs a further package; knows where the image lies on the Earth."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.geography: list[tuple[Any, ...]] = []


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Whatever a library raises becomes a sentence that names the file."""
    try:
        yield
    except UnknownCodec:
        raise
    except Exception as error:  # damaged files make decoders raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"cannot read {name or 'the array'}: {reason}") from error
