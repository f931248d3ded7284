"""`pixelwise background`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..wording import counted
from .options import Device, Overwrite, watched

if TYPE_CHECKING:
    from ..backgrounds import BackgroundReplacer


def background(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|FOLDER|MOVIE|CAMERA",
            help="Picture, folder of pictures, movie, or the number of a camera: 0 is the first.",
            show_default=False,
        ),
    ],
    replace: Annotated[
        str, typer.Option(help="Picture, blur, transparent, or a colour such as white or #00ff00.")
    ],
    out: Annotated[Path, typer.Option(help="Picture, folder or movie to write, as the source is.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="RUN|CHECKPOINT|WEIGHTS",
            help="Run directory, checkpoint, name of published weights, or their file.",
        ),
    ] = "sinet_portrait_224x224",
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS,...",
            help="Classes that are foreground (default: people, else all but background).",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Longest side of what the network sees, in pixels (default 256, or 512 for mattes)."
        ),
    ] = None,
    smoothing: Annotated[
        float, typer.Option(help="Of movies: how much doubtful pixels follow the frame before, 0 to 1.")
    ] = 0.7,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after so many seconds of a movie or camera.")
    ] = None,
    allow_noncommercial: Annotated[
        bool,
        typer.Option("--allow-noncommercial", help="Take published weights that are not for commercial use."),
    ] = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Put people before another background, in photographs, movies and live video.

    Example: [bold]pixelwise background call.mp4 --replace beach.jpg --out call_at_the_beach.mp4[/bold]

    A camera until Ctrl-C: [bold]pixelwise background 0 --replace blur --out me.mp4[/bold]

    With hair: [bold]pixelwise background me.jpg --replace white --out new.jpg --model modnet_portrait[/bold]
    """
    from ..backgrounds import BackgroundReplacer, background_of, background_predictor
    from ..video import is_movie

    path = Path(source)
    camera = source.isdecimal() and not path.exists()
    moving = camera or (path.is_file() and is_movie(path))
    if not camera and not path.exists():
        raise ValueError(f"there is no picture, folder or movie {path}")
    other = background_of(replace)
    if moving and other == "transparent":
        raise ValueError("a movie has no transparent background: take pictures, or a colour such as #00ff00")
    jobs = [] if moving else _jobs(path, out, transparent=other == "transparent")
    _check_targets([target for _, target in jobs] or [out], path, out, replace, overwrite=overwrite)
    replacer = BackgroundReplacer(
        background_predictor(model, device=device, allow_noncommercial=allow_noncommercial),
        other,
        keep=[name.strip() for name in keep.split(",")] if keep is not None else None,
        size=size,
        smoothing=smoothing if moving else 0.0,
    )
    if moving:
        _movie(replacer, int(source) if camera else path, out, seconds)
    else:
        _pictures(replacer, jobs, path, out)


def _jobs(path: Path, out: Path, *, transparent: bool) -> list[tuple[Path, Path]]:
    """Each picture, and what is written of it."""
    from ..data.formats.image import IMAGE_SUFFIXES

    suffixes = (
        (".png", ".webp", ".tif", ".tiff") if transparent else (".png", ".jpg", ".jpeg", ".webp", ".bmp")
    )
    if not path.is_dir():
        if out.suffix.lower() not in suffixes:
            raise ValueError(f"the result is written as {', '.join(suffixes)}, got {out.name!r}")
        return [(path, out)]
    pictures = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES - {".npy"})
    if not pictures:
        raise ValueError(f"there is no image in the folder {path}")
    jobs = [(one, out / f"{one.stem}.png") for one in pictures]
    if len({target for _, target in jobs}) < len(jobs):
        raise ValueError(f"two pictures in {path} differ only in their suffix, and would be one file")
    return jobs


def _check_targets(targets: list[Path], path: Path, out: Path, replace: str, *, overwrite: bool) -> None:
    from ..files import check_targets

    sources = [one for one in (path, Path(replace)) if one.is_file()]
    if path.is_dir():
        sources += [one for one in path.iterdir() if one.is_file()]
    check_targets(targets, out if path.is_dir() else out.parent, sources=sources, overwrite=overwrite)


def _pictures(replacer: "BackgroundReplacer", jobs: list[tuple[Path, Path]], path: Path, out: Path) -> None:
    from ..console import progress_bar
    from ..data.formats.image import read_image, write_image
    from ..files import record

    folder = out if path.is_dir() else out.parent
    with progress_bar("background", hidden=len(jobs) < 2 or not watched()) as advance:
        for number, (picture, target) in enumerate(jobs, 1):
            record(write_image(target, replacer(read_image(picture))), folder)
            advance(number, len(jobs))
    typer.echo(f"{counted(len(jobs), 'picture')} written to {out}")


def _movie(replacer: "BackgroundReplacer", source: Path | int, out: Path, seconds: float | None) -> None:
    import time
    from itertools import islice

    import torch

    from ..console import progress_bar
    from ..files import record
    from ..video import MovieWriter, read_camera, read_frames

    frames = read_camera(source) if isinstance(source, int) else read_frames(source)
    rate = frames.rate or 25.0
    most = None if seconds is None else max(1, round(seconds * rate))
    done, start = 0, time.perf_counter()
    with MovieWriter(out, rate) as movie, progress_bar("background", hidden=not watched()) as advance:
        try:
            for frame in islice(frames, most):
                image = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
                pixels = (replacer(image) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
                movie.write(pixels)
                done += 1
                advance(done, most or frames.count or done)
        except KeyboardInterrupt:
            if not done:
                raise  # else what was recorded is kept
    record(out, out.parent)
    took = time.perf_counter() - start
    typer.echo(f"{out}: {counted(done, 'frame')}, {done / took:.1f} per second")
    if frames.problem:
        typer.echo(f"Warning: {frames.problem}", err=True)
