"""`pixelwise weights`: list published weights, show one, fetch one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AsJson, Overwrite, print_json

if TYPE_CHECKING:  # torch comes with it
    from ..weights import PublishedWeights

weights = typer.Typer(
    name="weights",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_Cache = Annotated[
    Path | None, typer.Option(help="Folder of fetched files (default PIXELWISE_CACHE or ~/.cache/pixelwise).")
]


@weights.callback(invoke_without_command=True)
def list_them(
    ctx: typer.Context,
    task: Annotated[
        str | None, typer.Option(help="Those for a task, such as semantic, instance or promptable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Those with this in their name, such as segformer.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Those with this in the name of their licence, such as apache.")
    ] = None,
    commercial: Annotated[
        bool | None,
        typer.Option("--commercial/--noncommercial", help="Those that allow commercial use, or do not."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List published weights; nothing is fetched.

    Example: [bold]pixelwise weights --task semantic --commercial[/bold]

    Then: [bold]pixelwise weights get segformer_b0_ade --allow-noncommercial[/bold]
    """
    if ctx.invoked_subcommand is not None:
        return
    from ..weights import cached_file, describe_weights, list_weights

    names = list_weights(task=task, model=model, licence=licence, commercial=commercial)
    entries = [describe_weights(name) for name in names]
    if as_json:
        print_json([_as_dict(entry) for entry in entries])
        return
    from ..console import console, weights_table

    console().print(weights_table(entries, {name for name in names if cached_file(name)}))
    typer.echo("More of one: pixelwise weights show NAME. Fetch it: pixelwise weights get NAME.")


@weights.command()
def show(
    name: Annotated[str, typer.Argument(help="One of `pixelwise weights`.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Tell all that is known of published weights; nothing is fetched.

    Example: [bold]pixelwise weights show sam_vit_b[/bold]
    """
    from ..weights import cached_file, describe_weights

    entry = describe_weights(name)
    if as_json:
        print_json(_as_dict(entry))
        return
    arguments = ", ".join(f"{key}={value}" for key, value in entry.arguments.items())
    height, width = entry.input_size
    lines = {
        "model": entry.builder + (f" ({arguments})" if arguments else ""),
        "task": entry.task,
        "licence": f"{entry.licence}, {'' if entry.commercial else 'not '}for commercial use",
        "note": entry.note,
        "scores": ", ".join(f"{key} {score:.4g}" for key, score in entry.scores.items()),
        "scored on": f"{entry.scores_on}, {height} x {width} pixels" if entry.scores_on else "",
        "images": "RGB in [0, 1]; mean and deviation are inside the model",
        "source": entry.source,
        "url": entry.url,
        "sha256": entry.sha256 + ("..." if len(entry.sha256) < 64 else ""),
        "read by": f"pixelwise.models.{entry.converter}",
        "classes": f"{len(entry.classes)}: {', '.join(entry.classes.names)}",
        "here": str(cached_file(name) or ""),
    }
    for key, text in lines.items():
        if text:
            typer.echo(f"{key:<10}{text}")


@weights.command()
def get(
    name: Annotated[str, typer.Argument(help="One of `pixelwise weights`.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Write them here as a checkpoint (.safetensors) that every command takes."),
    ] = None,
    cache: _Cache = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: say where the file lies, or that it does not.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of the repository, for weights on the Hugging Face hub."),
    ] = None,
    allow_noncommercial: Annotated[
        bool,
        typer.Option("--allow-noncommercial", help="Take weights whose terms forbid commercial use."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Fetch published weights, check them, and print where the file lies.

    What a broken connection left is gone on with. PIXELWISE_MIRROR, a folder or an address with files named
    as in the cache, is asked first; HF_ENDPOINT takes the place of the hub's address; with
    PIXELWISE_OFFLINE=1 no command uses the network.

    Example: [bold]pixelwise weights get deeplabv3_resnet50_coco_voc --out deeplab.safetensors[/bold]
    """
    from ..files import check_targets, record
    from ..weights import fetch_weights, load_weights

    if out is not None:
        check_targets([out], out.parent, overwrite=overwrite)
    path = fetch_weights(
        name, cache=cache, allow_noncommercial=allow_noncommercial, offline=offline, revision=revision
    )
    typer.echo(path)
    if out is not None:
        from ..checkpoint import save

        found = load_weights(
            name, cache=cache, allow_noncommercial=allow_noncommercial, offline=offline, revision=revision
        )
        save(found.model, out, found.classes, task=found.task, notes=found.notes)
        record(out, out.parent)
        typer.echo(f"checkpoint: {out}")


def _as_dict(entry: "PublishedWeights") -> dict[str, Any]:
    from ..weights import cached_file

    fetched = cached_file(entry.name)
    return {
        "name": entry.name,
        "model": entry.builder,
        "arguments": entry.arguments,
        "task": entry.task,
        "licence": entry.licence,
        "commercial": entry.commercial,
        "note": entry.note,
        "classes": list(entry.classes.names),
        "input_size": list(entry.input_size),
        "scores": entry.scores,
        "scores_on": entry.scores_on,
        "source": entry.source,
        "url": entry.url,
        "sha256": entry.sha256,
        "file": None if fetched is None else str(fetched),
    }
