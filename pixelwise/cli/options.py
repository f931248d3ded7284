"""Options that several commands have, and how texts of options become values."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..wording import brief

DEFAULT_BUDGET = "20m"
LONGEST_SIDE = 16384  # pixels of a crop, a tile, or a size to compute with

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
LAYOUTS = (
    "pairs, voc, camvid, mapillary, cityscapes, coco, class_folders, layers, yolo, labelme, cvat, "
    "supervisely, label_studio, via, datumaro, geojson, cityscapes_polygons, ade20k_full, instance_maps, "
    "coco_panoptic, coco_keypoints, imagescope, geotiff, volumes, or the name of a data set (`pixelwise "
    "datasets`)"
)
Format = Annotated[str, typer.Option(help=f"Layout of the data: auto looks at the folder. Else: {LAYOUTS}.")]
MaskRule = Annotated[
    str,
    typer.Option(
        help="How masks are read: exact (values are classes), above-127 or above-0, which make brighter "
        "pixels foreground (JPEG masks, smooth edges, instance maps), or first-channel (the first channel of "
        "masks in colours holds the classes)."
    ),
]
Classes = Annotated[
    Path | None, typer.Option(help="Class table: csv with name,r,g,b; json; toml. Without it: from the data.")
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="Task, where the model serves several tasks: see `pixelwise models`."),
]
Decoding = Annotated[
    list[str] | None,
    typer.Option(
        "--decoding",
        metavar="KEY=VALUE",
        help="Setting of how the task decodes, such as thresholds=0.4, refine=dark or boxes=FILE; may be "
        "repeated.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Split = Annotated[str, typer.Option(help="Part of the data: train, val or test.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Crf = Annotated[
    bool | None,
    typer.Option(
        "--crf/--no-crf",
        help="Refine predictions by a fully connected CRF on the image (default: as chosen for the weights).",
    ),
]
CrfSettings = Annotated[
    str | None,
    typer.Option(
        help="Refine with the settings that authors used for a data set: deeplabv1_voc, deeplabv2_voc or "
        "deconvnet_voc."
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Average over the image and its mirror image (default: as chosen for the weights).",
    ),
]
Views = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Average over further views: mirror, mirrors (also upside down), turns (by quarters) or all "
        "(eight). Objects of all views are fused.",
    ),
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        help="Leave out what was chosen for the weights on validation images: mirror images, thresholds, "
        "smallest component, CRF.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace files that pixelwise wrote earlier; your own files are never replaced."
    ),
]
Several = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Further argument of the builder; may be repeated."),
]


def in_panel(panel: str, help: str, *names: str, metavar: str | None = None) -> Any:
    """An option, shown under the heading `panel`."""
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


def model_arguments(
    encoder: str | None, in_channels: int | None, pretrained: bool | None, pairs: Iterable[str] | None
) -> dict[str, Any]:
    """Arguments of a builder from options; those not given are left to the builder.

    Raises:
        ValueError: if a pair is not KEY=VALUE.
    """
    given = {"encoder": encoder, "in_channels": in_channels, "pretrained": pretrained}
    return {name: value for name, value in given.items() if value is not None} | pairs_of(pairs)


def pairs_of(pairs: Iterable[str] | None, option: str = "--set") -> dict[str, Any]:
    """What an option says that takes KEY=VALUE.

    Raises:
        ValueError: if a pair is not KEY=VALUE.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{option} takes KEY=VALUE, got {pair!r}")
        if option == "--set" and name in ("name", "num_classes"):
            raise ValueError(f"--set takes further arguments of the builder, not {name}")
        try:
            arguments[name] = json.loads(text)
        except json.JSONDecodeError:
            arguments[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return arguments


def box_of(text: str) -> tuple[int, int, int, int]:
    """Left, top, right, bottom.

    Raises:
        ValueError: if it is something else.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--box takes LEFT,TOP,RIGHT,BOTTOM in pixels, such as 40,30,300,260, got {text!r}")
    left, top, right, bottom = map(int, parts)
    return left, top, right, bottom


def size_of(text: str, option: str) -> tuple[int, int]:
    """480x360, or one number for a square: height and width.

    Raises:
        ValueError: if it is neither.
    """
    size = extent_of(text, option)
    if len(size) != 2:
        raise ValueError(f"{option} takes HEIGHTxWIDTH in pixels, such as 360x480, got {text!r:.80}")
    return size[0], size[1]


def extent_of(text: str, option: str) -> tuple[int, ...]:
    """480x360, or of volumes 48x64x48; one number is a square.

    Raises:
        ValueError: if it is none of them.
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2, 3) or not all(part.isdecimal() and part.strip("0") for part in parts):
        raise ValueError(
            f"{option} takes HEIGHTxWIDTH in pixels, such as 360x480, or DEPTHxHEIGHTxWIDTH, got {text!r:.80}"
        )
    if any(len(part) > 5 or int(part) > LONGEST_SIDE for part in parts):
        raise ValueError(f"{option} takes at most {LONGEST_SIDE} pixels for a side, got {text!r:.80}")
    sides = tuple(map(int, parts))
    return sides * 2 if len(sides) == 1 else sides


def numbers_of(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        ValueError: if it is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes numbers with commas between them, got {text!r}") from error


def refinement(crf: bool | None, settings: str | None) -> Any:
    """What --crf and --crf-like do to probabilities.

    Raises:
        ValueError: if nobody published settings of that name, or --no-crf is given with them.
    """
    if crf is False and settings is not None:
        raise ValueError("--no-crf leaves out what --crf-like asks for: give one of them")
    if not crf and settings is None:
        return None
    import torch

    from ..algorithms.dense_crf import PUBLISHED_KERNELS, USUAL_KERNELS, DenseCrf

    if settings is not None and settings not in PUBLISHED_KERNELS:
        raise ValueError(f"--crf-like is one of {', '.join(PUBLISHED_KERNELS)}, got {brief(settings)}")
    kernels = USUAL_KERNELS if settings is None else PUBLISHED_KERNELS[settings]
    return DenseCrf(kernels=kernels, threads=torch.get_num_threads())


def without_crf(settings: dict[str, Any], crf: bool | None) -> dict[str, Any]:
    """Settings of decoding, with --no-crf among them."""
    return {**settings, "crf": False} if crf is False else settings


def leave_idle_cores() -> None:
    """Let threads of OpenMP sleep while they wait, where nobody asked for something else.

    They spin otherwise, and take the cores from the threads that read and write. The library reads the
    variable when it is loaded, so this comes before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def watched() -> bool:
    """Whether somebody sees standard error: a log file gets no progress bars."""
    return sys.stderr.isatty()


def print_json(what: Any) -> None:
    """Print numbers, texts, lists and mappings as JSON."""
    typer.echo(json.dumps(_without_nan(what), indent=2))


def _without_nan(what: Any) -> Any:
    """JSON knows no nan: null stands for a score that does not exist."""
    if isinstance(what, dict):
        return {key: _without_nan(value) for key, value in what.items()}
    if isinstance(what, list | tuple):
        return [_without_nan(value) for value in what]
    return None if isinstance(what, float) and what != what else what
