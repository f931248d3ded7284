"""`pixelwise style`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from .options import Device, Overwrite, Seed, numbers_of, watched


def style(
    content: Annotated[Path, typer.Argument(help="The photograph to paint.", show_default=False)],
    styles: Annotated[
        list[Path],
        typer.Argument(
            metavar="STYLE...",
            help="The picture whose style it takes; several for several regions, in the order of --labels.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Picture to write.")],
    size: Annotated[int, typer.Option(help="Longest side of the result in pixels.")] = 512,
    scales: Annotated[int, typer.Option(help="Sizes from coarse to fine, each twice the last.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of the optimiser at each size.")] = 100,
    content_weight: Annotated[float, typer.Option(help="Weight of the content (alpha).")] = 1.0,
    style_weight: Annotated[float, typer.Option(help="Weight of the style (beta).")] = 5.0,
    smoothness: Annotated[float, typer.Option(help="Weight of the total variation.")] = 0.2,
    optimizer: Annotated[str, typer.Option(help="lbfgs or adam.")] = "lbfgs",
    start: Annotated[str, typer.Option(help="What is changed: the content, or noise.")] = "content",
    encoder: Annotated[
        str, typer.Option(help="Network: vgg19, or any encoder that `train --encoder` takes.")
    ] = "vgg19",
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet, random, or for vgg19 a file (default: imagenet where the weights can be had, "
            "else random filters)."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Labels of the content, such as `predict` writes: style by regions."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="L,L,...", help="Labels of --mask that take the styles; the rest stays as it is."
        ),
    ] = None,
    style_mask: Annotated[
        Path | None,
        typer.Option(help="Labels of the style: each label of --mask takes the style of the same label."),
    ] = None,
    previews: Annotated[Path | None, typer.Option(help="Folder for pictures of how it comes about.")] = None,
    preview_every: Annotated[int, typer.Option(min=1, help="Steps between two previews.")] = 25,
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Paint a photograph in the style of another picture (Gatys et al. 2016).

    Example: [bold]pixelwise style photo.jpg painting.jpg --out painted.png[/bold]

    Only what a mask marks: [bold]pixelwise style photo.jpg painting.jpg --mask predictions/photo.png
    --labels 15 --out painted.png[/bold]
    """
    import torch

    from ..console import progress_bar
    from ..data.formats.image import read_image, write_image
    from ..files import check_targets, record
    from ..style import StyleSettings, StyleStep, make_network, scales_of, transfer_style

    settings = StyleSettings(
        size,
        scales,
        steps,
        content_weight,
        style_weight,
        smoothness,
        cast(Any, optimizer),
        cast(Any, start),
        seed,
    )
    sources = [path for path in (content, *styles, mask, style_mask) if path is not None and path.exists()]
    check_targets([out], out.parent, sources=sources, overwrite=overwrite)
    photo = read_image(content)
    regions = _regions(photo, styles, mask, labels, style_mask)
    network = make_network(encoder, weights, seed=seed)
    total = len(scales_of(photo, settings, network.minimum_side)) * steps
    numbers = range(preview_every, total + 1, preview_every)
    shots = {} if previews is None else {n: previews / f"{out.stem}_{n:05}.png" for n in numbers}
    if previews is not None:
        check_targets(shots.values(), previews, sources=sources, overwrite=overwrite)
    if weights is None and network.filters == "random filters":
        typer.echo(
            f"Warning: the published weights of {encoder} cannot be had, so its filters are random: they "
            "carry over colours and texture, but fewer large shapes.",
            err=True,
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    with progress_bar("style", hidden=not watched()) as advance:

        def watch(step: StyleStep) -> None:
            advance(step.done, step.total)
            if previews is not None and step.done in shots:
                record(write_image(shots[step.done], step.image), previews)

        found = transfer_style(photo, regions, network, settings, watch=watch)
    write_image(out, found.image)
    record(out, out.parent)
    height, width = found.image.shape[1:]
    losses = "; ".join(f"{trace[0]:.3g} to {trace[-1]:.3g}" for trace in found.traces)
    typer.echo(f"{out}: {width} x {height} pixels with {network.filters}; loss at each scale {losses}")


def _regions(
    photo: Any, styles: list[Path], mask: Path | None, labels: str | None, style_mask: Path | None
) -> Any:
    """Which style goes where."""
    import torch

    from ..data.formats.image import read_image
    from ..data.formats.mask import read_mask
    from ..style import StyleRegion, regions_of_masks

    pictures = [read_image(path) for path in styles]
    if mask is None:
        if labels is not None or style_mask is not None or len(styles) > 1:
            raise ValueError("several styles, --labels and --style-mask are for regions: give --mask too")
        return [StyleRegion(pictures[0])]
    found = read_mask(mask)
    if found.shape != photo.shape[1:]:
        raise ValueError(f"{mask} has {tuple(found.shape)} pixels, the content {tuple(photo.shape[1:])}")
    if style_mask is not None:
        if labels is not None or len(styles) > 1:
            raise ValueError("--style-mask goes with one style and without --labels")
        return regions_of_masks(pictures[0], found, read_mask(style_mask))
    if labels is None:
        present = ", ".join(str(label) for label in found.unique().tolist()[:20])
        raise ValueError(f"--mask needs --labels, which say what takes the style: {mask} has {present}")
    wanted = [int(number) for number in numbers_of(labels, "--labels")]
    if missing := [label for label in wanted if not (found == label).any()]:
        raise ValueError(f"--labels names {missing[0]}, which {mask} does not have")
    if len(styles) not in (1, len(wanted)):
        raise ValueError(f"{len(wanted)} labels take one style or one each, got {len(styles)}")
    if len(styles) == 1:
        return [StyleRegion(pictures[0], torch.isin(found, torch.tensor(wanted)))]
    return [StyleRegion(picture, found == label) for picture, label in zip(pictures, wanted, strict=True)]
