"""`pixelwise grounded`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..wording import counted
from .errors import PROBLEMS
from .options import Device, Overwrite, watched

if TYPE_CHECKING:
    from ..predict import Prediction


def grounded(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders of images, or quoted patterns: 'photos/**/*.jpg'.",
            show_default=False,
        ),
    ],
    text: Annotated[
        str | None,
        typer.Option(help="What to look for: 'dog, red ball' (with --boxes-from: default every class)."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|CHECKPOINT|WEIGHTS",
            help="Promptable network that makes masks of boxes, such as sam_vit_b.",
        ),
    ] = None,
    boxes_from: Annotated[
        str | None,
        typer.Option(metavar="RUN|CHECKPOINT", help="Take the boxes of a detector of yours, not of text."),
    ] = None,
    grounding_dino: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", help="Grounding DINO that finds boxes by text.")
    ] = "IDEA-Research/grounding-dino-tiny",
    clipseg: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Masks by CLIPSeg at once, without boxes and --model, such as CIDAS/clipseg-rd64-refined.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Boxes (default 0.3), or with --clipseg pixels (0.5), that are less sure are left out."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the masks.")] = Path("grounded"),
    format: Annotated[
        str | None,
        typer.Option(
            help="json, png, coco, yolo or labelme as of `predict`; with --clipseg png, tif or npy (default "
            "the first)."
        ),
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write a picture of what was found.")
    ] = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Segment what a text names: boxes by Grounding DINO, a mask for each by SAM or its kin.

    Example: [bold]pixelwise grounded dog.jpg --text "dog, red ball" --model sam_vit_b --overlay[/bold]

    Boxes of a detector: [bold]pixelwise grounded photos --boxes-from runs/boxes --model sam_vit_b[/bold]
    """
    import torch

    from ..files import check_targets, record
    from ..predict.prediction import files_of
    from ..predict.writing import output_format, overlay_of, plan, shown, summary
    from ..tasks.instance import INSTANCE
    from ..tasks.multilabel import MULTILABEL

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    task = INSTANCE if clipseg is None else MULTILABEL
    suffix, collector = output_format(task, format)
    if collector is not None:
        raise ValueError(f"--format {format} holds all images together: take one file each, as json")
    jobs = plan(sources, out, suffix)
    pictures = [overlay_of(job.target) for job in jobs] if overlay else []
    check_targets(
        [*(job.target for job in jobs), *pictures],
        out,
        sources=[job.image for job in jobs],
        overwrite=overwrite,
    )
    if len({job.target for job in jobs}) < len(jobs):
        raise ValueError("two images would be written to one file: give them in calls of their own")
    find = _finder(text, model, boxes_from, grounding_dino, clipseg, min_score, device)

    problems = []
    for job in shown(iter(jobs), len(jobs), "images", watched() and len(jobs) > 1):
        try:
            found = find(job.image)
            files = files_of(job.target, task, found.classes)
            check_targets(files, out, sources=[job.image], overwrite=overwrite)
            found.save(job.target, overwrite=overwrite)
            for path in files:
                record(path, out)
            if overlay:
                record(found.save(overlay_of(job.target), overwrite=overwrite), out)
        except ValueError as error:
            if len(jobs) == 1:
                raise
            problems.append(str(error))
    done = len(jobs) - len(problems)
    typer.echo(f"{counted(done, 'image')} segmented, masks written to {out}")
    if problems:
        typer.echo(f"Error: {summary(problems, len(jobs), out)}", err=True)
        raise typer.Exit(PROBLEMS)


def _finder(
    text: str | None,
    model: str | None,
    boxes_from: str | None,
    grounding_dino: str,
    clipseg: str | None,
    min_score: float | None,
    device: str,
) -> "Callable[[Path], Prediction]":
    """What finds the masks of an image.

    Raises:
        ValueError: if the options do not go together, or a network cannot be had.
    """
    from functools import partial

    from ..grounded import ClipSeg, DetectorBoxes, GroundingDino, grounded_sam, phrases_of
    from ..predict import Predictor
    from ..weights import list_weights, load_weights

    if text is None and boxes_from is None:
        raise ValueError("say what to look for by --text, or whose boxes to take by --boxes-from")
    phrases = None if text is None else phrases_of(text)
    if clipseg is not None:
        if model is not None or boxes_from is not None or phrases is None:
            raise ValueError("--clipseg takes --text alone, without --model and --boxes-from")
        network = ClipSeg.load(clipseg, device=device)
        return partial(network, phrases=phrases, threshold=0.5 if min_score is None else min_score)
    if model is None:
        raise ValueError("--model names the promptable network that makes masks of boxes, such as sam_vit_b")
    sure = 0.3 if min_score is None else min_score
    find: GroundingDino | DetectorBoxes
    if boxes_from is not None:
        find = DetectorBoxes(Predictor(boxes_from, device=device), min_score=sure)
        phrases = phrases or find.names
    else:
        find = GroundingDino.load(grounding_dino, device=device, min_score=sure)
    named = model in list_weights() and not Path(model).exists()
    segment = Predictor(load_weights(model) if named else model, device=device)
    assert phrases is not None
    return partial(grounded_sam, phrases=phrases, find=find, segment=segment)
