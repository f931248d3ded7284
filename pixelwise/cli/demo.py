"""`pixelwise demo`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .options import Seed


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data, the run and the pictures.")] = Path(
        "pixelwise-demo"
    ),
    seed: Seed = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training windows; fewer are quicker.")
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Then open the page of `pixelwise serve` with the result.")
    ] = False,
) -> None:
    """Train, evaluate and predict on the embedded photograph of coins, in some minutes on a CPU.

    Example: [bold]pixelwise demo --out coins[/bold]
    """
    from ..demo import run_demo
    from ..serve import check_serving
    from .serve import serve

    if open_page:
        check_serving()
    result = run_demo(out, seed=seed, epochs=epochs)
    if open_page:
        serve(
            [os.fspath(result.training.path)],
            port=0,
            size=128,
            data=result.data,
            split="test",
            evaluation=[result.image_scores],
            save_to=out / "labels",
            open_page=True,
        )
