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

    def invoke(self, ctx: Any) -> Any:
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
Crf = Annotated[
    bool, typer.Option("--crf", help="Refine what the model says by a fully connected CRF on the image.")
]
Several = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Further argument of the builder; may be repeated."),
]


def _in(panel: str, help: str, *names: str, metavar: str | None = None) -> Any:
    """An option, shown under the heading `panel`."""
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"pixelwise {__version__}")
        raise typer.Exit
    return wanted


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
    model: Annotated[str | None, _in("Model", "See `pixelwise models` (default unet).")] = None,
    encoder: Annotated[
        str | None, _in("Model", "Any timm backbone, for models that take one (default that of the model).")
    ] = None,
    pretrained: Annotated[
        bool | None,
        _in(
            "Model",
            "Start from published weights or from random ones (default scratch).",
            "--pretrained/--scratch",
        ),
    ] = None,
    in_channels: Annotated[int | None, _in("Model", "Channels of the images (default 3).")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Further argument of the builder; may be repeated.",
            rich_help_panel="Model",
        ),
    ] = None,
    format: Annotated[
        str | None,
        _in("Data", "Layout of the data: pairs, voc, camvid, coco; auto looks at the folder (default auto)."),
    ] = None,
    classes: Annotated[
        Path | None, _in("Data", "Class table: csv, json or txt (default from the data).")
    ] = None,
    val_fraction: Annotated[
        float | None,
        _in("Data", "Share of the images kept for validation where the data name none (default 0.2)."),
    ] = None,
    loss: Annotated[
        str | None,
        _in("Loss", "A loss of docs/losses.md or a sum: cross_entropy+0.5*dice (default cross_entropy)."),
    ] = None,
    class_weights: Annotated[
        str | None, _in("Loss", "none, balanced, or one number per class: 1,1,5 (default none).")
    ] = None,
    label_smoothing: Annotated[
        float | None, _in("Loss", "For cross-entropy, in [0, 1] (default 0.0).")
    ] = None,
    aux_weight: Annotated[
        float | None, _in("Loss", "Factor of the loss on auxiliary maps (default 0.4).")
    ] = None,
    epochs: Annotated[
        int | None, _in("Length and batches", "Length in passes over the training images (default 50).")
    ] = None,
    steps: Annotated[
        int | None, _in("Length and batches", "Length in optimiser steps instead (default by epochs).")
    ] = None,
    batch_size: Annotated[
        int | None, _in("Length and batches", "Images per forward pass, of all devices together (default 8).")
    ] = None,
    val_batch_size: Annotated[
        int | None, _in("Length and batches", "Images per validation pass and device (default 1).")
    ] = None,
    accumulate: Annotated[
        int | None, _in("Length and batches", "Batches per optimiser step (default 1).")
    ] = None,
    optimizer: Annotated[str | None, _in("Optimiser", "adamw or sgd (default adamw).")] = None,
    lr: Annotated[float | None, _in("Optimiser", "Highest learning rate (default 0.001).")] = None,
    encoder_lr_factor: Annotated[
        float | None, _in("Optimiser", "Learning rate of the encoder over that of the rest (default 1.0).")
    ] = None,
    weight_decay: Annotated[
        float | None, _in("Optimiser", "Of weights; norms and biases have none (default 0.01).")
    ] = None,
    momentum: Annotated[float | None, _in("Optimiser", "Of sgd (default 0.9).")] = None,
    clip_norm: Annotated[
        float | None, _in("Optimiser", "Largest norm of the gradient (default any).")
    ] = None,
    schedule: Annotated[str | None, _in("Optimiser", "poly, cosine or constant (default poly).")] = None,
    warmup_steps: Annotated[
        int | None, _in("Optimiser", "Steps of linear warm-up (default 0).", "--warmup-steps", "--warmup")
    ] = None,
    crop: Annotated[
        str | None,
        _in(
            "Augmentation",
            "Size of the training crops; none for whole images (default 256x256).",
            metavar="HxW",
        ),
    ] = None,
    scale: Annotated[
        str | None, _in("Augmentation", "Range of random scaling (default 0.5,2.0).", metavar="LOW,HIGH")
    ] = None,
    flip: Annotated[float | None, _in("Augmentation", "Probability of mirroring (default 0.5).")] = None,
    color: Annotated[
        float | None, _in("Augmentation", "Strength of colour changes in [0, 1] (default 0.4).")
    ] = None,
    rotation: Annotated[float | None, _in("Augmentation", "Largest angle in degrees (default 0.0).")] = None,
    elastic: Annotated[
        float | None, _in("Augmentation", "Strength of elastic deformation in pixels (default 0.0).")
    ] = None,
    precision: Annotated[str | None, _in("Machine", "32, bf16 or 16 (default 32).")] = None,
    channels_last: Annotated[
        bool | None,
        _in(
            "Machine", "How images lie in memory (default channels-last).", "--channels-last/--channels-first"
        ),
    ] = None,
    workers: Annotated[
        int | None, _in("Machine", "Processes that load images, per device (default 2).")
    ] = None,
    devices: Annotated[
        int | None, _in("Machine", "How many; more than one trains with DDP (default 1).")
    ] = None,
    accelerator: Annotated[str | None, _in("Machine", "auto, cpu, gpu or mps (default auto).")] = None,
    early_stopping: Annotated[
        int | None, _in("Run", "Stop after so many epochs without a better mean IoU (default never).")
    ] = None,
    freeze: Annotated[
        list[str] | None,
        _in(
            "Run",
            "Part of the model that is not trained, such as encoder; may be repeated (default nothing).",
            metavar="PART",
        ),
    ] = None,
    seed: Annotated[int | None, _in("Run", "Of every random choice (default 0).")] = None,
    out: Annotated[Path | None, _in("Run", "Run directory (default runs/DATA-MODEL).")] = None,
    name: Annotated[str | None, _in("Run", "Title of the run (default that of the run directory).")] = None,
    resume: Annotated[
        Path | None,
        _in(
            "Run",
            "Continue an interrupted run with its own settings; takes no others (default no).",
            metavar="RUN",
        ),
    ] = None,
) -> None:
    """Train a model on a folder of images and masks.

    Example: [bold]pixelwise train street --model deeplabv3plus --encoder resnet50 --epochs 40[/bold]

    After an interruption: [bold]pixelwise train --resume runs/street-deeplabv3plus[/bold]
    """
    given = {name: value for name, value in ctx.params.items() if value is not None and value != ()}
    others = [name for name in given if name != "resume"]
    if resume is not None and others:
        raise ValueError(f"--resume continues with the settings of the run: leave out {_option(others[0])}")
    if resume is None and data is None:
        raise ValueError("train needs the folder of images and masks: pixelwise train DATA")
    settings = _recipe_settings(given)

    from .console import console, scores_table
    from .training import Recipe, resume as resume_run, run

    result = run(Recipe.of(settings)) if resume is None else resume_run(resume)
    console().print(scores_table(result.scores, "best weights on the validation part"))
    typer.echo(f"run directory: {result.path}\nbest weights:  {result.best}")
    typer.echo(f"report:        {result.report}")


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
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report here; with pictures if a model is scored.")
    ] = None,
    as_json: AsJson = False,
    crf: Crf = False,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Score a model, or predictions written earlier, against the masks of a data set.

    Example: [bold]pixelwise evaluate runs/street-unet street --split test[/bold]
    """
    from .checkpoint import IN_A_RUN
    from .console import console, scores_table
    from .data import open_data
    from .data.formats import find_class_file
    from .predict import Predictor, evaluate_images

    of_run = any((predictor / name).exists() for name in (*IN_A_RUN, "recipe.json"))
    masks = predictor.is_dir() and not of_run
    if masks and crf:
        raise ValueError("--crf refines what a model predicts: written masks have no probabilities")
    model = None if masks else Predictor(predictor, device=device, refine=_refining(crf))
    given: Any = classes
    if given is None and model is not None and not find_class_file(data):
        given = model.classes  # a part of the data may not show every class
    splits = open_data(data, format=format, classes=given, seed=seed)
    part = {"train": splits.train, "val": splits.val, "test": splits.test}.get(split)
    if part is None:
        raise ValueError(
            f"{data} has no test part"
            if split == "test"
            else f"--split takes train, val or test, got {split!r}"
        )
    evaluation = evaluate_images(
        model or predictor, part, absent=cast(Any, absent), progress=_watched() and not as_json
    )
    scores, title = evaluation.scores, f"{split} part of {data}"
    if report is not None:
        from .evaluation_report import write_evaluation_report

        write_evaluation_report(report, title, evaluation, part, model, remark=f"Scores of {predictor}.")
    if as_json:
        _print_json({**scores.as_dict(), "classes": {row.name: row._asdict() for row in scores.rows()}})
        return
    console().print(scores_table(scores, title))
    if report is not None:
        typer.echo(f"report: {report}")


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
    crf: Crf = False,
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
        refine=_refining(crf),
    )
    suffix = ".npy" if npy else ".png"
    targets = [
        out / (source.resolve().name if source.is_dir() else source.with_suffix(suffix).name)
        for source in sources
    ]
    if doubled := [target for target in targets if targets.count(target) > 1]:
        raise ValueError(f"two sources would be written to {doubled[0]}: predict them one after the other")
    written: list[Path] = []
    for source, target in zip(sources, targets, strict=True):
        if source.is_dir():
            place = out if len(sources) == 1 else target
            written += predictor.folder(source, place, suffix=suffix, overlay=overlay, progress=_watched())
            continue
        prediction = predictor(source)
        written.append(prediction.save(target))
        if overlay:
            written.append(prediction.save(target.with_name(f"{target.stem}_overlay.png")))
    typer.echo(f"{len(written)} files written to {out}")


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="Image file, or .npy (H W or H W c).", show_default=False)],
    method: Annotated[
        str,
        typer.Option(
            help="kmeans, mini_batch_kmeans, mean_shift, dirichlet_gibbs, dirichlet_variational, "
            "normalized_cuts (or ncut), graph_cut, grabcut, mrf, dense_crf, slic, felzenszwalb, watershed, "
            "random_walker or otsu."
        ),
    ] = "kmeans",
    segments: Annotated[
        int | None, typer.Option("--segments", "--clusters", help="How many (default that of the method).")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Colour space: rgb or lab (default lab for three channels).")
    ] = None,
    position: Annotated[
        float | None,
        typer.Option(
            help="What a pixel of distance counts beside colour, for clusters in XYRGB (default 0)."
        ),
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="L,T,R,B", help="Around the foreground, in pixels: for grabcut.")
    ] = None,
    strokes: Annotated[
        Path | None,
        typer.Option(
            help="Image of what is known: 0 background, 1 foreground, 2 unknown; or red on foreground and "
            "blue on background of a copy of the image."
        ),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Of the pairs, for graph_cut, grabcut and mrf.")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="For mrf: alpha_expansion (default), alpha_beta_swap, icm, belief_propagation, "
            "tree_reweighted, mean_field, gibbs, metropolis_hastings, simulated_annealing or, for two "
            "segments, minimum_cut."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Further argument of the method; may be repeated."),
    ] = None,
    merge: Annotated[
        float | None,
        typer.Option(help="Then merge regions that touch while their mean colours are nearer than this."),
    ] = None,
    min_size: Annotated[
        int | None, typer.Option(help="Then let regions of fewer pixels join their most similar neighbour.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("segments"),
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Segment one image by a classical method: label PNG, outlines on the image, plot of the energy.

    Example: [bold]pixelwise segment coffee.png --method kmeans --segments 8 --position 0.2[/bold]

    Foreground: [bold]pixelwise segment cat.jpg --method grabcut --box 40,30,300,260[/bold]
    """
    import time

    from .console import progress_bar
    from .segmenting import read_any_image, read_strokes, segment_image, write_segmentation

    pixels = read_any_image(image)
    options = {
        "segments": segments,
        "space": cast(Any, space),
        "position": position,
        "box": _box(box) if box is not None else None,
        "strokes": read_strokes(strokes) if strokes is not None else None,
        "strength": strength,
        "solver": solver,
        "further": _pairs(set_),
        "merge": merge,
        "min_size": min_size,
    }
    start = time.perf_counter()
    with progress_bar(method, hidden=as_json or not _watched()) as advance:
        found = segment_image(pixels, method, **options, seed=seed, progress=advance)
    seconds = time.perf_counter() - start
    files = write_segmentation(out, f"{image.stem}_{method}", pixels, found)
    if as_json:
        _print_json(
            {
                "method": method,
                "segments": found.num_segments,
                "seconds": seconds,
                "converged": found.converged,
                "objective": found.objective,
                "trace": found.trace,
                "files": {kind: str(path) for kind, path in files.items()},
            }
        )
        return
    ending = "" if found.converged else ", stopped at its limit of steps"
    typer.echo(f"{method}: {found.num_segments} segments in {seconds:.2f} s{ending}")
    for kind, path in files.items():
        typer.echo(f"{kind + ':':<9}{path}")


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
    from .registry import describe, list_models
    from .summary import published_size

    cards = [describe(name) for name in list_models()]
    parameters = [published_size(card.name, classes) for card in cards]
    if as_json:
        _print_json(
            [
                {
                    "name": card.name,
                    "paper": card.paper.title,
                    "year": card.paper.year,
                    "tasks": list(card.tasks),
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

    from .summary import model_info

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
    return {name: value for name, value in given.items() if value is not None} | _pairs(pairs)


def _pairs(pairs: Iterable[str] | None) -> dict[str, Any]:
    """What --set says.

    Raises:
        ValueError: if a pair is not KEY=VALUE.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--set takes KEY=VALUE, got {pair!r}")
        try:
            arguments[name] = json.loads(text)
        except json.JSONDecodeError:
            arguments[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return arguments


def _box(text: str) -> tuple[int, int, int, int]:
    """Left, top, right, bottom.

    Raises:
        ValueError: if it is something else.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--box takes LEFT,TOP,RIGHT,BOTTOM in pixels, such as 40,30,300,260, got {text!r}")
    left, top, right, bottom = map(int, parts)
    return left, top, right, bottom


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


def _refining(crf: bool) -> Any:
    """What --crf does to probabilities."""
    if not crf:
        return None
    import torch

    from .algorithms.dense_crf import DenseCrf

    return DenseCrf(threads=torch.get_num_threads())


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
