"""`pixelwise info`."""

from typing import Annotated

import typer

from .options import AsJson, Several, model_arguments, print_json, size_of


def info(
    name: Annotated[str, typer.Argument(help="See `pixelwise models`.", show_default=False)],
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 21,
    encoder: Annotated[str | None, typer.Option(help="Any timm backbone, for models that take one.")] = None,
    in_channels: Annotated[int | None, typer.Option(help="Channels of the images: 3 unless told.")] = None,
    set_: Several = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Size of the image in pixels.")] = "512x512",
    as_json: AsJson = False,
) -> None:
    """Show stages, shapes, parameters, FLOPs and receptive field of a model.

    Example: [bold]pixelwise info deeplabv3plus --encoder resnet101 --size 513x513[/bold]
    """
    from dataclasses import asdict

    from ..summary import model_info

    found = model_info(
        name, classes, size=size_of(size, "--size"), **model_arguments(encoder, in_channels, None, set_)
    )
    if as_json:
        fields = asdict(found)
        card = fields.pop("card")
        print_json({"name": name, "paper": found.card.paper._asdict(), "encoder": card["encoder"], **fields})
        return
    from ..console import console, print_info

    print_info(found, console())
