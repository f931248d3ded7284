"""`pixelwise serve`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Device


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="CHECKPOINT|RUN|FILE.onnx ...", help="Models to serve.", show_default=False),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a token that clients must send; PIXELWISE_TOKEN does the same."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="Address of a page that may use the server, such as https://a.b")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the images for the warm-up, in pixels.", min=8)] = 512,
    drain: Annotated[float, typer.Option(help="Seconds for requests under way at the end.", min=0)] = 30.0,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a request may wait and run; large images take long.", min=1)
    ] = 30.0,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer, each with its own copy of the models.")
    ] = 1,
    label_studio: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Be Label Studio's ML backend too, at /v1/label-studio/MODEL; the folder has its images.",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve trained models over HTTP, with a page to try them in the browser.

    Other machines can connect only with --host and a token. Images never leave the memory of the server.

    Example: [bold]pixelwise serve runs/first[/bold]
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would take the core of the others
    from ..serve import Limits, read_token, serve as run
    from ..serve.workers import serve_in_processes

    token = read_token(token_file) if token_file is not None else os.environ.get("PIXELWISE_TOKEN") or None
    if label_studio is not None and not label_studio.is_dir():
        raise ValueError(f"there is no folder {label_studio}")
    settings: dict[str, Any] = {
        "host": host,
        "port": port,
        "token": token,
        "origins": tuple(cors or ()),
        "size": size,
        "drain": drain,
        "limits": Limits(seconds=timeout),
        "images_of_tasks": label_studio,
        "device": device,
    }
    if workers > 1:
        serve_in_processes(workers, runs, **settings)
    else:
        run(runs, **settings)
