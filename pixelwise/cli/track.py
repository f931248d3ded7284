"""`pixelwise track`."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..wording import brief, counted
from .errors import PROBLEMS
from .options import Device, Overwrite, watched

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..types import Prompts

PLACE = "[OBJECT:]FRAME,X,Y"


def track(
    video: Annotated[
        Path,
        typer.Argument(
            metavar="VIDEO",
            help="A movie, or a folder of images in the order of their names.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A checkpoint of SAM 2, the name of published weights (sam2.1_hiera_tiny), or their file.",
            show_default=False,
        ),
    ],
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar=PLACE, help="A point on an object; frames and pixels count from 0, objects from 1."
        ),
    ] = None,
    outside: Annotated[
        list[str] | None, typer.Option(metavar=PLACE, help="A point that is not on the object.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="[OBJECT:]FRAME,X0,Y0,X1,Y1", help="A box around an object."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FRAME,FILE", help="The objects of a frame as an image whose pixels are their numbers."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for masks/, tracks.json and overlay.mp4.")] = Path(
        "tracks"
    ),
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Write the video tinted with the masks.")
    ] = True,
    direction: Annotated[
        str,
        typer.Option(help="Follow forward and backward from the first prompted frame (both), or one way."),
    ] = "both",
    fill_holes: Annotated[
        int,
        typer.Option(
            min=0,
            help="Fill holes of at most that many cells in the network's coarse masks; 0 for none.",
        ),
    ] = 8,
    truth: Annotated[
        Path | None,
        typer.Option(help="Folder with a true mask per frame: print J and F as DAVIS counts them."),
    ] = None,
    overwrite: Overwrite = False,
    precision: Annotated[str, typer.Option(help="32, or bf16 or 16 for mixed precision.")] = "32",
    device: Device = "auto",
) -> None:
    """Follow objects through a video: point at them in one frame, get their masks in all.

    Example: [bold]pixelwise track clip.mp4 --model sam2.1_hiera_tiny --point 0,210,300 --out tracks[/bold]
    """
    from ..predict import Predictor
    from ..predict.track_files import MASKS, TrackWriter, score_masks
    from ..predict.tracking import IncompleteVideo, track_video
    from ..video import read_frames

    if not video.exists():
        raise ValueError(f"there is no video {video}")
    prompts = _prompts(point or [], outside or [], box or [])
    height, width, _ = next(read_frames(video)).shape
    for text in mask or []:
        _add_mask(text, (height, width), prompts)
    writer = TrackWriter(out, video, overwrite=overwrite)
    loaded = _loaded(model)
    predictor = Predictor(loaded, device=device, precision=cast(Any, precision))
    done = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", IncompleteVideo)
        following = track_video(
            predictor, video, prompts, direction=cast(Any, direction), fill_holes=fill_holes
        )
        for _, found in following:
            writer.write(found)
            done += 1
            if watched():
                typer.echo(f"\r{counted(done, 'frame')}", nl=False, err=True)
    if watched():
        typer.echo(err=True)
    writer.finish(movie=overlay)
    objects = {number for given in prompts.values() for number in given}
    typer.echo(
        f"{counted(len(objects), 'object')} followed through {counted(done, 'frame')}, written to {out}"
    )
    problems = [str(one.message) for one in told if issubclass(one.category, IncompleteVideo)]
    for problem in problems:
        typer.echo(f"Error: {problem}", err=True)
    if truth is not None:
        scores = score_masks(out / MASKS, truth)
        typer.echo(f"J {scores.j.mean:.4f}, F {scores.f.mean:.4f}, J&F {scores.j_and_f:.4f}")
    if problems:
        raise typer.Exit(PROBLEMS)


def _loaded(name: str) -> "Checkpoint":
    """A checkpoint of ours, published weights by their name, or the file of such weights."""
    from ..checkpoint import load
    from ..weights import describe_weights, list_weights, load_weights

    if name in list_weights():
        return load_weights(name)
    path = Path(name)
    for known in list_weights():
        entry = describe_weights(known)
        if path.is_file() and entry.checksum and entry.url.rpartition("/")[2] == path.name:
            return load_weights(known, source=path)
    return load(path)


def _prompts(points: list[str], outside: list[str], boxes: list[str]) -> "dict[int, dict[int, Prompts]]":
    """What the options say, by frame and object.

    Raises:
        ValueError: if one cannot be read.
    """
    import torch

    from ..types import Prompts

    clicks: dict[tuple[int, int], list[tuple[float, float, int]]] = {}
    for texts, option, inside in ((points, "--point", 1), (outside, "--outside", 0)):
        for text in texts:
            number, frame, (x, y) = _numbers(text, option, PLACE, 2)
            clicks.setdefault((frame, number), []).append((x, y, inside))
    around: dict[tuple[int, int], list[float]] = {}
    for text in boxes:
        number, frame, corners = _numbers(text, "--box", "[OBJECT:]FRAME,X0,Y0,X1,Y1", 4)
        if (frame, number) in around:
            raise ValueError(f"--box gives object {number} two boxes in frame {frame}")
        around[frame, number] = corners
    found: dict[int, dict[int, Prompts]] = {}
    for frame, number in sorted(clicks.keys() | around.keys()):
        given = clicks.get((frame, number))
        places = None if given is None else torch.tensor([[(x, y) for x, y, _ in given]])
        labels = None if given is None else torch.tensor([[inside for _, _, inside in given]])
        box = around.get((frame, number))
        drawn = None if box is None else torch.tensor([box])
        found.setdefault(frame, {})[number] = Prompts.of(places, labels, drawn)
    return found


def _add_mask(text: str, size: tuple[int, int], found: "dict[int, dict[int, Prompts]]") -> None:
    """Add the objects of a mask to prompts.

    Raises:
        ValueError: if the file cannot be read, has not the size of the frames, shows no object, or one that
            has other prompts in that frame.
    """
    import torch

    from ..data.formats.mask import read_mask_pixels
    from ..types import Prompts

    start, comma, file = text.partition(",")
    if not (start.isdecimal() and comma and file):
        raise ValueError(f"--mask must be FRAME,FILE, got {brief(text)}")
    pixels, frame = read_mask_pixels(Path(file)), int(start)
    if pixels.ndim != 2:
        raise ValueError(f"{file} must be an image whose pixels are numbers of objects, it is coloured")
    if pixels.shape != size:
        told = " x ".join(map(str, pixels.shape))
        raise ValueError(f"{file} has {told} pixels, the frames of the video {size[0]} x {size[1]}")
    labels = torch.from_numpy(pixels.astype("int64"))
    numbers = [number for number in labels.unique().tolist() if number]
    if numbers == [255]:  # black and white
        labels, numbers = labels.clamp(max=1), [1]
    if not numbers:
        raise ValueError(f"{file} shows no object: all its pixels are 0")
    for number in numbers:
        if number in found.setdefault(frame, {}):
            raise ValueError(
                f"object {number} has a mask and points or a box in frame {frame}: give one of them"
            )
        inside = (labels == number)[None]
        found[frame][number] = Prompts.of(masks=torch.where(inside, 1.0, -1.0))


def _numbers(text: str, option: str, form: str, count: int) -> tuple[int, int, list[float]]:
    """Object, frame and coordinates."""
    name, colon, rest = text.rpartition(":")
    parts = rest.split(",")
    try:
        number, frame = int(name) if colon else 1, int(parts[0])
        places = [float(part) for part in parts[1:]]
        if len(places) != count or number < 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"{option} must be {form}, got {brief(text)}") from None
    return number, frame, places
