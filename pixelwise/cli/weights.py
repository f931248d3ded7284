"""`pixelwise weights`: list published weights, show one, fetch one; publish your own on a hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checksums import kind_and_digits
from .options import AsJson, Overwrite, print_json

if TYPE_CHECKING:  # torch comes with it
    from ..checkpoint import Checkpoint
    from ..weights import PublishedWeights

weights = typer.Typer(
    name="weights",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_PROOFS = {
    "file": "published files, or the names and shapes of all their tensors",
    "peer": "networks that the publisher's own library builds",
    "code": "names and shapes written down from the publisher's code, not on the file itself",
}
_Cache = Annotated[
    Path | None, typer.Option(help="Folder of fetched files (default PIXELWISE_CACHE or ~/.cache/pixelwise).")
]
_Source = Annotated[
    Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run directory or weights.", show_default=False)
]
_Licence = Annotated[
    str | None, typer.Option(help="Licence of the weights as the hub calls it, such as apache-2.0.")
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
        "checksum": _checksum(entry.checksum),
        "fetched": "by hand: open the address, and put the file where `weights get` says"
        if entry.by_hand
        else "",
        "read by": f"pixelwise.models.{entry.converter}, tried on {_PROOFS[entry.proof]}",
        "classes": f"{len(entry.classes)}: {', '.join(entry.classes.names)}",
        "here": str(cached_file(name) or ""),
    }
    for key, text in lines.items():
        if text:
            typer.echo(f"{key:<10}{text}")


@weights.command()
def get(
    name: Annotated[
        str,
        typer.Argument(
            help="One of `pixelwise weights`, or OWNER/NAME of a repository on the Hugging Face hub.",
            show_default=False,
        ),
    ],
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
    from ..files import check_targets
    from ..weights import fetch_weights, load_weights

    if out is not None:
        check_targets([out], out.parent, overwrite=overwrite)
    if "/" in name:
        from ..hub import from_hub

        there = from_hub(name, revision=revision, cache=cache, offline=offline)
        typer.echo(repr(there))
        if out is not None:
            _save(there, out)
        return
    path = fetch_weights(
        name, cache=cache, allow_noncommercial=allow_noncommercial, offline=offline, revision=revision
    )
    typer.echo(path)
    if out is not None:
        found = load_weights(
            name, cache=cache, allow_noncommercial=allow_noncommercial, offline=offline, revision=revision
        )
        _save(found, out)


@weights.command()
def pack(
    source: _Source,
    folder: Annotated[Path, typer.Argument(help="Where to write.", show_default=False)],
    licence: _Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Write what a repository of the Hugging Face hub holds: weights, config and model card. No network.

    Example: [bold]pixelwise weights pack runs/street-unet street-unet --licence apache-2.0[/bold]
    """
    from ..hub import save_for_hub

    for path in save_for_hub(source, folder, licence=licence, overwrite=overwrite):
        typer.echo(path)


@weights.command()
def push(
    source: _Source,
    repository: Annotated[
        str, typer.Argument(help="OWNER/NAME; made where there is none.", show_default=False)
    ],
    licence: _Licence = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write to (default main).")] = None,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="Open a pull request instead of writing to the branch.")
    ] = False,
) -> None:
    """Publish a trained network on the Hugging Face hub, with a model card made from its run's report.

    The token is that of HF_TOKEN or `hf auth login`. Paths, pictures and data of the run are not sent;
    `pixelwise weights pack` writes what is.

    Example: [bold]pixelwise weights push runs/street-unet me/street-unet --licence apache-2.0[/bold]
    """
    from ..hub import push_to_hub

    typer.echo(
        push_to_hub(
            source,
            repository,
            licence=licence,
            private=private,
            revision=revision,
            pull_request=pull_request,
        )
    )


def _checksum(checksum: str) -> str:
    """A checksum as it is shown."""
    kind, digits = kind_and_digits(checksum)
    if not digits:
        return "none is published: what comes is read without running code, and not compared"
    return f"{kind} {digits}{'' if len(digits) in (40, 64) else '...'}"


def _save(checkpoint: "Checkpoint", out: Path) -> None:
    from ..checkpoint import save
    from ..files import record

    save(
        checkpoint.model,
        out,
        checkpoint.classes,
        task=checkpoint.task,
        decoding=checkpoint.decoding,
        notes=checkpoint.notes,
    )
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
        "checksum": entry.checksum,
        "by_hand": entry.by_hand,
        "proof": entry.proof,
        "file": None if fetched is None else str(fetched),
    }
