"""`pixelwise prompt`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..wording import counted
from .options import Device, Overwrite


def prompt(
    image: Annotated[Path, typer.Argument(help="Image file.", show_default=False)],
    model: Annotated[
        str,
        typer.Option(help="Weights, a run directory, or the name of published weights such as sam_vit_b."),
    ],
    point: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="Pixel on the object; may be repeated.")
    ] = None,
    outside: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="Pixel beside the object; may be repeated.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="Box around the object; several are one object each, without points.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Find every object, without points and boxes.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(help="File to write: .png (masks), .json (COCO), .npy, or _overlay.png (picture)."),
    ] = Path("mask.png"),
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Keep every mask that a point may mean, not only the best.")
    ] = False,
    embedding: Annotated[
        Path | None,
        typer.Option(
            help="Keep what the encoder makes of the image in this .safetensors file; read where it exists."
        ),
    ] = None,
    points_per_side: Annotated[
        int, typer.Option(min=1, help="With --everything: points along each side of the image.")
    ] = 32,
    min_iou: Annotated[
        float, typer.Option(help="With --everything: least IoU that the network must expect of a mask.")
    ] = 0.88,
    min_stability: Annotated[
        float, typer.Option(help="With --everything: least stability of a mask against its threshold.")
    ] = 0.95,
    crop_layers: Annotated[
        int, typer.Option(min=0, help="With --everything: look at 4, 16, ... crops of the image too.")
    ] = 0,
    min_area: Annotated[
        int, typer.Option(min=0, help="With --everything: fill holes and drop islands of fewer pixels.")
    ] = 0,
    overwrite: Overwrite = False,
    precision: Annotated[str, typer.Option(help="32, or bf16 or 16 for mixed precision.")] = "32",
    device: Device = "auto",
) -> None:
    """Segment what you point at, with a promptable network such as SAM.

    Example: [bold]pixelwise prompt truck.jpg --model sam_vit_b --point 500,375 --out mask.png[/bold]

    Everything: [bold]pixelwise prompt truck.jpg --model sam_vit_b --everything --out masks.json[/bold]
    """
    from ..files import check_targets, record
    from ..predict import AutomaticMasks, Prediction, Predictor
    from ..weights import list_weights, load_weights

    prompts = _prompts(point or [], outside or [], box or [])
    if (prompts is None) != everything:
        raise ValueError("give points (--point) or boxes (--box) of what you mean, or --everything")
    if not image.is_file():
        raise ValueError(f"there is no image {image}")
    check_targets([out], out.parent, sources=[image], overwrite=overwrite)
    source = load_weights(model) if model in list_weights() and not Path(model).exists() else model
    predictor = Predictor(
        source, device=device, precision=cast(Any, precision), decoding={"all": True} if candidates else {}
    )
    if prompts is None:
        find = AutomaticMasks(
            points_per_side=points_per_side,
            min_iou=min_iou,
            min_stability=min_stability,
            crop_layers=crop_layers,
            min_area=min_area,
        )
        found: Prediction = find(predictor, image).prediction
    else:
        if embedding is not None and embedding.exists():
            embedded = predictor.load_embedded(embedding)
        else:
            embedded = predictor.embed(image)
            if embedding is not None:
                embedded.save(embedding)
        found = predictor.masks(embedded, prompts)
    found.save(out, overwrite=overwrite)
    record(out, out.parent)
    annotation: Any = found.annotation
    scores = ", ".join(f"{score:.2f}" for score in annotation.scores[:8].tolist())
    more = ", ..." if len(annotation) > 8 else ""
    typer.echo(f"{out}: {counted(len(annotation), 'mask')}, expected IoU {scores or 'none'}{more}")


def _prompts(points: list[str], outside: list[str], boxes: list[str]) -> Any:
    """What the options point at; None where there are none.

    Raises:
        ValueError: if a text is no point or box, or points come with several boxes.
    """
    import torch

    from ..types import Prompts

    places = [_numbers(text, "--point", 2) for text in points]
    places += [_numbers(text, "--outside", 2) for text in outside]
    corners = [_numbers(text, "--box", 4) for text in boxes]
    if places and len(corners) > 1:
        raise ValueError("several boxes are one object each: give points with one box only")
    if not places and not corners:
        return None
    labels = [1] * len(points) + [0] * len(outside)
    return Prompts.of(
        torch.tensor([places]) if places else None,
        torch.tensor([labels]) if places else None,
        torch.tensor(corners) if corners else None,
    )


def _numbers(text: str, option: str, count: int) -> list[float]:
    example = "120,80" if count == 2 else "40,30,300,260"
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"{option} takes {count} numbers in pixels, such as {example}, got {text!r}")
    return numbers
