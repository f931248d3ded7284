"""The command line. It parses, calls what the Python interface offers, and prints.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from . import __version__

BAD_INPUT, INTERRUPTED, PROBLEMS, BUG = 2, 130, 1, 70


class _Sentences(TyperGroup):
    """Says in one sentence what went wrong: bad input ends with code 2, Ctrl-C with 130, a bug with 70."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            of_typer = type(error).__module__.startswith(("typer", "click"))
            if of_typer or isinstance(error, BrokenPipeError) or ctx.params.get("debug"):
                raise
            raise typer.Exit(_explain(error)) from error


app = typer.Typer(
    cls=_Sentences,
    name="pixelwise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Format = Annotated[
    str, typer.Option(help="Layout of the data: auto looks at the folder. Else: pairs, voc, camvid, coco.")
]
Classes = Annotated[
    Path | None, typer.Option(help="Class table: a csv with name,r,g,b or json. Without it: from the data.")
]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]
Split = Annotated[str, typer.Option(help="Part of the data: train, val or test.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Several = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Further argument of the builder; may be repeated."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pixelwise {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Image segmentation: train, evaluate and predict.

    Start with [bold]pixelwise demo[/bold], or with a folder of images and masks:

    [bold]pixelwise train DATA[/bold]
    """


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data, the run and the pictures.")] = Path(
        "pixelwise-demo"
    ),
    seed: Seed = 0,
) -> None:
    """Train, evaluate and predict on the embedded photograph of coins, in some minutes on a CPU.

    Example: [bold]pixelwise demo --out coins[/bold]
    """
    from .demo import run_demo

    run_demo(out, seed=seed)


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Argument(help="Folder of images and masks.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="See `pixelwise models`.", show_default="unet")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Any timm backbone, for models that take one.", show_default="that of the model"),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained/--scratch",
            help="Start from published weights or from random ones.",
            show_default="scratch",
        ),
    ] = None,
    in_channels: Annotated[int | None, typer.Option(help="Channels of the images.", show_default="3")] = None,
    set_: Several = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Layout of the data: pairs, voc, camvid, coco; auto looks at the folder.",
            show_default="auto",
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class table: csv, json or txt.", show_default="from the data")
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the images kept for validation where the data name none.", show_default="0.2"
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="cross_entropy, dice, focal, or a sum: cross_entropy+0.5*dice.", show_default="cross_entropy"
        ),
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="none, balanced, or one number per class: 1,1,5.", show_default="none")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="For cross-entropy, in [0, 1].", show_default="0.0")
    ] = None,
    aux_weight: Annotated[
        float | None, typer.Option(help="Factor of the loss on auxiliary maps.", show_default="0.4")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Length in passes over the training images.", show_default="50")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Length in optimiser steps instead.", show_default="by epochs")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per forward pass, of all devices together.", show_default="8")
    ] = None,
    val_batch_size: Annotated[
        int | None, typer.Option(help="Images per validation pass and device.", show_default="1")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Batches per optimiser step.", show_default="1")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd.", show_default="adamw")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.", show_default="0.001")] = None,
    encoder_lr_factor: Annotated[
        float | None,
        typer.Option(help="Learning rate of the encoder over that of the rest.", show_default="1.0"),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of weights; norms and biases have none.", show_default="0.01")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.", show_default="0.9")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient.", show_default="any")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="poly, cosine or constant.", show_default="poly")
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option("--warmup-steps", "--warmup", help="Steps of linear warm-up.", show_default="0"),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            help="Size of the training crops; none for whole images.", show_default="256x256", metavar="HxW"
        ),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Range of random scaling.", show_default="0.5,2.0", metavar="LOW,HIGH")
    ] = None,
    flip: Annotated[float | None, typer.Option(help="Probability of mirroring.", show_default="0.5")] = None,
    color: Annotated[
        float | None, typer.Option(help="Strength of colour changes in [0, 1].", show_default="0.4")
    ] = None,
    rotation: Annotated[
        float | None, typer.Option(help="Largest angle in degrees.", show_default="0.0")
    ] = None,
    elastic: Annotated[
        float | None, typer.Option(help="Strength of elastic deformation in pixels.", show_default="0.0")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16 or 16.", show_default="32")] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--channels-first", help="How images lie in memory.", show_default="channels-last"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that load images, per device.", show_default="2")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="How many; more than one trains with DDP.", show_default="1")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="auto, cpu, gpu or mps.", show_default="auto")
    ] = None,
    early_stopping: Annotated[
        int | None,
        typer.Option(help="Stop after so many epochs without a better mean IoU.", show_default="never"),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of the model that is not trained, such as encoder; may be repeated.",
            show_default="nothing",
            metavar="PART",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.", show_default="0")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/DATA-MODEL")] = None,
    name: Annotated[
        str | None, typer.Option(help="Title of the run.", show_default="that of the run directory")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue an interrupted run with its own settings; takes no others.",
            show_default="no",
            metavar="RUN",
        ),
    ] = None,
) -> None:
    """Train a model on a folder of images and masks.

    Example: [bold]pixelwise train street --model deeplabv3plus --encoder resnet50 --epochs 40[/bold]

    After an interruption: [bold]pixelwise train --resume runs/street-deeplabv3plus[/bold]
    """
    given = {name: value for name, value in ctx.params.items() if value is not None and value != ()}
    if resume is not None:
        if others := [name for name in given if name != "resume"]:
            raise ValueError(
                f"--resume continues with the settings of the run: leave out {_option(others[0])}"
            )
        settings = None
    elif data is None:
        raise ValueError("train needs the folder of images and masks: pixelwise train DATA")
    else:
        settings = _recipe_settings(given)

    from .console import console, scores_table
    from .train import Recipe, resume as resume_run, run

    result = resume_run(resume) if resume is not None else run(Recipe.of(settings))
    console().print(scores_table(result.scores, "best weights on the validation part"))
    typer.echo(
        f"run directory: {result.path}\nbest weights:  {result.best}\nreport:        {result.path / 'report.html'}"
    )


@app.command()
def evaluate(
    predictor: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT|RUN|PREDICTIONS",
            help="Weights, a run directory, or a folder of predicted masks named like the images.",
            show_default=False,
        ),
    ],
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    split: Split = "val",
    absent: Annotated[
        str, typer.Option(help="Score of a class in neither target nor prediction: exclude, zero or one.")
    ] = "exclude",
    format: Format = "auto",
    classes: Classes = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with pictures here.")] = None,
    as_json: AsJson = False,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Score a model, or predictions written earlier, against the masks of a data set.

    Example: [bold]pixelwise evaluate runs/street-unet street --split test[/bold]
    """
    from .console import console, scores_table
    from .data import open_data
    from .predict import evaluate as score

    splits = open_data(data, format=format, classes=classes, seed=seed)
    scores = score(
        predictor, splits, split=split, absent=cast(Any, absent), progress=_watched() and not as_json
    )
    if as_json:
        _print_json({**scores.as_dict(), "classes": {row.name: row._asdict() for row in scores.rows()}})
    else:
        console().print(scores_table(scores, f"{split} part of {data}"))


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT|RUN", show_default=False)],
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Images, or folders of images.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")] = Path("predictions"),
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the image tinted with the classes.")
    ] = False,
    npy: Annotated[bool, typer.Option("--npy", help="Write NumPy arrays instead of palette PNGs.")] = False,
    tile: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Predict large images in overlapping tiles of this size."),
    ] = None,
    tile_overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 64,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average over the image and its mirror image.")
    ] = False,
    scales: Annotated[
        str, typer.Option(metavar="S,S,...", help="Average over the image resized by these factors.")
    ] = "1",
    precision: Annotated[str, typer.Option(help="32, or bf16 or 16 for mixed precision.")] = "32",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="For models that draw while they predict; most do not.")] = 0,
) -> None:
    """Write the classes of every pixel of images as palette PNGs.

    Example: [bold]pixelwise predict runs/street-unet photos --out predictions --overlay[/bold]
    """
    if missing := [source for source in sources if not source.exists()]:
        raise ValueError(f"there is no image or folder {missing[0]}")
    import torch

    from .predict import Predictor

    torch.manual_seed(seed)
    predictor = Predictor(
        checkpoint,
        device=device,
        precision=cast(Any, precision),
        tile=_size(tile, "--tile") if tile else None,
        overlap=tile_overlap,
        flip=flip,
        scales=_numbers(scales, "--scales"),
    )
    suffix = ".npy" if npy else ".png"
    targets = [out / source.with_suffix(suffix).name for source in sources if source.is_file()]
    if doubled := [target for target in targets if targets.count(target) > 1]:
        raise ValueError(f"two images would be written to {doubled[0]}: predict them one after the other")
    written: list[Path] = []
    for source in sources:
        if source.is_dir():
            place = out if len(sources) == 1 else out / source.resolve().name
            written += predictor.folder(source, place, suffix=suffix, overlay=overlay, progress=_watched())
            continue
        prediction = predictor(source)
        target = out / source.with_suffix(suffix).name
        written.append(prediction.save(target))
        if overlay:
            written.append(prediction.save(target.with_name(f"{target.stem}_overlay.png")))
    typer.echo(f"{len(written)} files written to {out}")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    format: Format = "auto",
    classes: Classes = None,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Look for what would spoil a training: broken files, missing partners, wrong sizes and labels, leaks.

    Ends with code 1 if there are problems. Example: [bold]pixelwise check street[/bold]
    """
    from .console import progress_bar
    from .data import check_data

    with progress_bar("reading", hidden=as_json or not _watched()) as advance:
        report = check_data(data, format=format, classes=classes, seed=seed, progress=advance)
    if as_json:
        _print_json(report.as_dict())
    else:
        typer.echo(report.render())
    if report.problems:
        raise typer.Exit(PROBLEMS)


@app.command()
def models(
    classes: Annotated[
        int, typer.Option(min=1, help="Number of classes that parameters are counted for.")
    ] = 21,
    as_json: AsJson = False,
    seed: Annotated[int, typer.Option(help="Every command takes it; nothing here is random.")] = 0,
) -> None:
    """List the models that can be built.

    Example: [bold]pixelwise models --json[/bold]
    """
    from .catalogue import describe, list_models
    from .info import published_size

    cards = [describe(name) for name in list_models()]
    parameters = [published_size(card.name, classes) for card in cards]
    if as_json:
        _print_json(
            [
                {
                    "name": card.name,
                    "paper": card.paper.title,
                    "year": card.paper.year,
                    "task": card.task,
                    "parameters": count,
                    "encoder": card.encoder,
                    "summary": card.summary,
                }
                for card, count in zip(cards, parameters, strict=True)
            ]
        )
        return
    from .console import console, models_table

    console().print(models_table(cards, parameters, classes))


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="See `pixelwise models`.", show_default=False)],
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 21,
    encoder: Annotated[str | None, typer.Option(help="Any timm backbone, for models that take one.")] = None,
    in_channels: Annotated[int | None, typer.Option(help="Channels of the images: 3 unless told.")] = None,
    set_: Several = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Size of the image in pixels.")] = "512x512",
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Show stages, shapes, parameters, FLOPs and receptive field of a model.

    Example: [bold]pixelwise info deeplabv3plus --encoder resnet101 --size 513x513[/bold]
    """
    from dataclasses import asdict

    from .info import model_info

    found = model_info(
        name, classes, size=_size(size, "--size"), **_model_arguments(encoder, in_channels, None, set_)
    )
    if as_json:
        fields = asdict(found)
        card = fields.pop("card")
        _print_json({"name": name, "paper": found.card.paper._asdict(), "encoder": card["encoder"], **fields})
        return
    from .console import console, print_info

    print_info(found, console())


def _recipe_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `train` as settings of a recipe.

    Raises:
        ValueError: if one of them cannot be read.
    """
    parts = ("encoder", "in_channels", "pretrained", "set_")
    settings = {name: value for name, value in given.items() if name not in parts}
    settings["model_arguments"] = _model_arguments(*(given.get(part) for part in parts))
    for name in ("data", "classes", "out"):
        if name in given:
            settings[name] = str(given[name])
    if "crop" in given:
        settings["crop"] = None if given["crop"] == "none" else _size(given["crop"], "--crop")
    if "scale" in given:
        settings["scale"] = _numbers(given["scale"], "--scale")
    if given.get("class_weights") not in (None, "none", "balanced"):
        settings["class_weights"] = _numbers(given["class_weights"], "--class-weights")
    if "freeze" in given:
        settings["freeze"] = tuple(given["freeze"])
    return settings


def _option(name: str) -> str:
    return "DATA" if name == "data" else f"--{name.strip('_').replace('_', '-')}"


def _model_arguments(
    encoder: str | None, in_channels: int | None, pretrained: bool | None, pairs: Iterable[str] | None
) -> dict[str, Any]:
    """Arguments of a builder from options; those not given are left to the builder.

    Raises:
        ValueError: if a pair is not KEY=VALUE.
    """
    given = {"encoder": encoder, "in_channels": in_channels, "pretrained": pretrained}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--set takes KEY=VALUE, got {pair!r}")
        try:
            arguments[name] = json.loads(text)
        except json.JSONDecodeError:
            arguments[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return arguments


def _size(text: str, option: str) -> tuple[int, int]:
    """480x360, or one number for a square: height and width.

    Raises:
        ValueError: if it is neither.
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{option} takes HEIGHTxWIDTH in pixels, such as 360x480, got {text!r}")
    return int(parts[0]), int(parts[-1])


def _numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        ValueError: if it is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes numbers with commas between them, got {text!r}") from error


def _watched() -> bool:
    """Whether somebody sees standard error: a log file gets no progress bars."""
    return sys.stderr.isatty()


def _print_json(what: Any) -> None:
    typer.echo(json.dumps(_without_nan(what), indent=2))


def _without_nan(what: Any) -> Any:
    """JSON knows no nan: null stands for a score that does not exist."""
    if isinstance(what, dict):
        return {key: _without_nan(value) for key, value in what.items()}
    if isinstance(what, list | tuple):
        return [_without_nan(value) for value in what]
    return None if isinstance(what, float) and what != what else what


def _explain(error: BaseException) -> int:
    """Print one sentence to stderr; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        typer.echo(str(error) or "Interrupted.", err=True)
        return INTERRUPTED
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, ValueError | OSError):
        typer.echo(f"Error: {message}", err=True)
        return BAD_INPUT
    typer.echo(
        f"Unexpected {type(error).__name__}: {message}\n"
        "This may be a bug in pixelwise: `pixelwise --debug ...` shows where.",
        err=True,
    )
    return BUG


def main() -> None:
    """Entry point of the command `pixelwise`."""
    app()
