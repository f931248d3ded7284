"""What an error becomes: one sentence on standard error, and an exit code."""

import re

import typer

from ..interruption import Terminated
from ..wording import brief

BAD_INPUT, INTERRUPTED, PROBLEMS, BUG = 2, 130, 1, 70
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def explain(error: BaseException) -> int:
    """Print one sentence to stderr; the exit code."""
    if isinstance(error, Terminated):
        typer.echo(str(error) or "Terminated.", err=True)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        typer.echo(str(error) or "Interrupted.", err=True)
        return INTERRUPTED
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    # Whatever was given is told, but never thousands of characters of it.
    message = re.sub(r"\S{1000,}", lambda word: brief(word[0], 200), message)
    if isinstance(error, ValueError | OSError):
        typer.echo(f"Error: {message}", err=True)
        return BAD_INPUT
    if isinstance(error, MemoryError) or any(words in message.lower() for words in _OUT_OF_MEMORY):
        typer.echo(
            "Error: there is not enough memory: predict in smaller tiles (--tile 512x512), "
            "train on smaller crops or batches (--crop, --batch-size)",
            err=True,
        )
        return BAD_INPUT
    typer.echo(
        f"Unexpected {type(error).__name__}: {message}\n"
        "This may be a bug in pixelwise: `pixelwise --debug ...` shows where.",
        err=True,
    )
    return BUG
