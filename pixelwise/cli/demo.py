"""`pixelwise demo`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Seed


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data, the run and the pictures.")] = Path(
        "pixelwise-demo"
    ),
    seed: Seed = 0,
) -> None:
    """Train, evaluate and predict on the embedded photograph of coins, in some minutes on a CPU.

    Example: [bold]pixelwise demo --out coins[/bold]
    """
    from ..demo import run_demo

    run_demo(out, seed=seed)
