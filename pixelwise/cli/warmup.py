"""`pixelwise warmup`."""

import typer


def warmup() -> None:
    """Compile the functions that prediction, metrics and losses use, so that no later command waits for it.

    The machine code is kept on disk: once on each machine is enough.

    Example: [bold]pixelwise warmup[/bold]
    """
    from ..warmup import warm_up

    warm_up(typer.echo)
