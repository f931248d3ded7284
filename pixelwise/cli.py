"""The command line. It parses, calls what the Python interface offers, and prints.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import inspect
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from . import __version__
from .interruption import Terminated
from .recipe import KINDS, SETTINGS, Recipe, read_settings
from .wording import brief

BAD_INPUT, INTERRUPTED, PROBLEMS, BUG = 2, 130, 1, 70
LONGEST_SIDE = 16384  # pixels of a crop, a tile, or a size to compute with
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


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
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Format = Annotated[
    str,
    typer.Option(
        help="Layout of the data: auto looks at the folder. Else: pairs, voc, camvid, cityscapes, coco."
    ),
]
MaskRule = Annotated[
    str,
    typer.Option(
        help="How masks are read: exact (values are classes), or above-127 or above-0, which make brighter "
        "pixels foreground: for JPEG masks, smooth edges and instance maps."
    ),
]
Classes = Annotated[
    Path | None, typer.Option(help="Class table: a csv with name,r,g,b or json. Without it: from the data.")
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="What to do, where the model serves several tasks: see `pixelwise models`."),
]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]
Split = Annotated[str, typer.Option(help="Part of the data: train, val or test.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Crf = Annotated[
    bool, typer.Option("--crf", help="Refine what the model says by a fully connected CRF on the image.")
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace files that pixelwise wrote earlier; files of your own never are."
    ),
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


def _option_of(name: str) -> inspect.Parameter:
    """The option of `train` for a setting of `Recipe`: None where it is not given."""
    setting, kind = SETTINGS[name], KINDS[name][0]
    default = Recipe.__dataclass_fields__[name].default
    if setting.without:
        told = setting.without
    elif isinstance(default, bool):
        told = setting.flags[0].removeprefix("--").partition("/")[0]
    elif isinstance(default, tuple):
        told = ("x" if setting.metavar == "HxW" else ",").join(map(str, default))
    else:
        told = str(default)
    if kind not in (int, float, bool):  # texts, and what `_recipe_settings` makes of them
        kind = list[str] if setting.metavar == "PART" else Path if setting.is_path else str
    choices = list(setting.choices)
    option = typer.Option(
        *setting.flags,
        help=f"{setting.help.removesuffix('.')} (default {told}).",
        metavar=setting.metavar,
        rich_help_panel=setting.panel,
        autocompletion=(lambda: choices) if choices else None,
    )
    return _parameter(name, Annotated[kind | None, option])


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


# Further arguments of the builder, which a recipe keeps together as `model_arguments`.
_MODEL_OPTIONS = (
    _parameter(
        "encoder",
        Annotated[
            str | None,
            _in("Model", "Any timm backbone, for models that take one (default that of the model)."),
        ],
    ),
    _parameter(
        "pretrained",
        Annotated[
            bool | None,
            _in(
                "Model",
                "Start from published weights or from random ones (default published, where there are any).",
                "--pretrained/--scratch",
            ),
        ],
    ),
    _parameter("in_channels", Annotated[int | None, _in("Model", "Channels of the images (default 3).")]),
    _parameter(
        "set_",
        Annotated[
            list[str] | None,
            _in(
                "Model",
                "Further argument of the builder; may be repeated.",
                "--set",
                metavar="KEY=VALUE",
            ),
        ],
    ),
)


def _with_settings_of_a_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for each setting of `Recipe`, in their order, for typer to see."""
    options: list[inspect.Parameter] = []
    for name in SETTINGS:
        options += (
            _MODEL_OPTIONS if name == "model_arguments" else [_option_of(name)] if name != "data" else []
        )
    own = inspect.signature(command)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = own.replace(parameters=[*parameters, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*parameters, *options)} | {"return": None}
    return command


@app.command()
@_with_settings_of_a_recipe
def train(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Argument(help="Folder of images and masks.", show_default=False)
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Take the settings of a recipe, .json or .toml, such as recipe.json of a run; other options "
            "override it."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue an interrupted run with its own settings; of others it takes a greater --epochs.",
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Train a model on a folder of images and masks.

    Example: [bold]pixelwise train street --model deeplabv3plus --encoder resnet50 --epochs 40[/bold]

    After an interruption: [bold]pixelwise train --resume runs/street-deeplabv3plus[/bold]
    """
    given = {name: value for name, value in ctx.params.items() if value is not None and value != ()}
    others = [name for name in given if name not in ("resume", "epochs")]
    if resume is not None and others:
        raise ValueError(f"--resume continues with the settings of the run: leave out {_option(others[0])}")
    chosen = _recipe_settings(given)
    if config is not None:
        chosen = _overriding(read_settings(config), chosen)
    if resume is None and "data" not in chosen:
        raise ValueError("train needs the folder of images and masks: pixelwise train DATA")

    from .console import console, report_table
    from .training import recipe_of, resume as resume_run, run

    if resume is None:
        result = run(recipe_of(chosen))
    else:
        result = resume_run(resume, epochs=chosen.get("epochs"))
    console().print(report_table(result.scores, "best weights on the validation part"))
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
    task: TaskName = None,
    absent: Annotated[
        str | None,
        typer.Option(
            help="Score of a class in neither target nor prediction: exclude, zero or one (default exclude)."
        ),
    ] = None,
    format: Format = "auto",
    classes: Classes = None,
    mask_rule: MaskRule = "exact",
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report here; with pictures if a model is scored.")
    ] = None,
    overwrite: Overwrite = False,
    csv: Annotated[
        Path | None, typer.Option(help="Write the scores of each image here, one row per image.")
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
    from .console import console, report_table
    from .data.formats import find_class_file
    from .files import check_targets, record
    from .predict import Predictor, evaluate_images
    from .predict.evaluation import labelled_part
    from .report import write_evaluation_report
    from .tasks import get_task, open_data
    from .training.environment import environment

    for target in (report, csv):
        if target is not None:
            check_targets([target], target.parent, overwrite=overwrite)
    of_run = any((predictor / name).exists() for name in (*IN_A_RUN, "recipe.json"))
    masks = predictor.is_dir() and not of_run
    if masks and crf:
        raise ValueError("--crf refines what a model predicts: written masks have no probabilities")
    model = None if masks else Predictor(predictor, task=task, device=device, refine=_refining(crf))
    chosen = model.task if model else get_task(task)
    scoring = {} if absent is None else {"absent": absent}
    chosen.scoring_with(scoring)  # what cannot be is told now
    given: Any = classes
    rule = cast(Any, mask_rule)
    splits = open_data(data, task=chosen.name, format=format, classes=given, seed=seed, mask_rule=rule)
    of_layout = given is None and not splits.encoding.from_files and not find_class_file(data)
    if model is not None and of_layout:
        # The names of a known layout give way to those of the model.
        splits = open_data(
            data, task=chosen.name, format=format, classes=model.classes, seed=seed, mask_rule=rule
        )
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    if parts.get(split) is None:
        raise ValueError(
            f"{data} has no test part"
            if split == "test"
            else f"--split takes train, val or test, got {brief(split)}"
        )
    # The masks of a part may not show every class of the model.
    part = labelled_part(splits, split, model.classes if model else None, chosen)
    evaluation = evaluate_images(
        model or predictor, part, task=task, scoring=scoring, progress=_watched() and not as_json
    )
    title = f"{split} part of {data}"
    if math.isnan(evaluation.report[chosen.monitor]):
        raise ValueError(f"nothing of the {title} is annotated: there is nothing to score")
    if csv is not None:
        evaluation.write_csv(csv)
        record(csv, csv.parent)
    if report is not None:
        write_evaluation_report(
            report,
            title,
            evaluation,
            part,
            model,
            environment=environment(),
            command=shlex.join(["pixelwise", *sys.argv[1:]]),
            remark=f"Scores of {predictor} on {len(part)} images.",
        )
        record(report, report.parent)
    if as_json:
        _print_json({**evaluation.report.values, "classes": evaluation.report.per_class})
        return
    console().print(report_table(evaluation.report, title))
    if report is not None:
        typer.echo(f"report: {report}")
    if csv is not None:
        typer.echo(f"scores of each image: {csv}")


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT|RUN", show_default=False)],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders of images, or quoted patterns: 'photos/**/*.jpg'.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")] = Path("predictions"),
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the image tinted with the classes.")
    ] = False,
    tint_background: Annotated[
        bool, typer.Option("--tint-background", help="Tint classes named background or void in overlays too.")
    ] = False,
    overwrite: Overwrite = False,
    task: TaskName = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="How predictions are saved. One class per pixel: png (palette) or npy; several: png, tif or "
            "npy; instances: json, png (numbers) or coco; boxes: json, txt (YOLO) or coco; panoptic: coco; "
            "volumes: nii.gz (default the first)."
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Predict in overlapping tiles (default: only where an image does not fit into memory).",
        ),
    ] = None,
    tile_overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 64,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average over the image and its mirror image.")
    ] = False,
    scales: Annotated[
        str, typer.Option(metavar="S,S,...", help="Average over the image resized by these factors.")
    ] = "1",
    crf: Crf = False,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Largest height times width of an image.")
    ] = 1_000_000_000,
    precision: Annotated[str, typer.Option(help="32, or bf16 or 16 for mixed precision.")] = "32",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="For models that draw while they predict; most do not.")] = 0,
) -> None:
    """Write the classes of every pixel of images as palette PNGs.

    Example: [bold]pixelwise predict runs/street-unet photos --out predictions --overlay[/bold]
    """
    from .data.formats import IMAGE_SUFFIXES
    from .predict.writing import missing_source, output_format, plan, summary, write_predictions

    if checkpoint.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{checkpoint} is an image: weights or a run directory come first, then the images")
    if missing := missing_source(sources):
        raise ValueError(missing)
    import torch

    from .predict import Predictor
    from .types import LabelMap

    torch.manual_seed(seed)
    predictor = Predictor(
        checkpoint,
        task=task,
        device=device,
        precision=cast(Any, precision),
        tile=_size(tile, "--tile") if tile else "auto",
        overlap=tile_overlap,
        flip=flip,
        scales=_numbers(scales, "--scales"),
        refine=_refining(crf),
        max_pixels=max_pixels,
    )
    if tint_background and predictor.task.annotation is not LabelMap:
        raise ValueError(
            f"--tint-background is for one class per pixel, not for the task {predictor.task.name}"
        )
    suffix, collector = output_format(predictor.task, format)
    jobs = plan(sources, out, suffix, predictor.task.suffixes)
    written = write_predictions(
        predictor,
        jobs,
        out,
        collector=collector,
        overlay=overlay,
        drawing={"clear": ()} if tint_background else {},
        overwrite=overwrite,
        progress=_watched() and len(jobs) > 1,
    )
    if written.problems and len(jobs) == 1:
        raise ValueError(written.problems[0])
    overlays = f" and {_counted(len(written.overlays), 'overlay')}" if overlay else ""
    typer.echo(f"{_counted(len(written.predictions), 'prediction')}{overlays} written to {out}")
    if written.problems:
        typer.echo(f"Error: {summary(written.problems, len(jobs), out)}", err=True)
        raise typer.Exit(PROBLEMS)


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
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Segment one image by a classical method: label PNG, outlines on the image, plot of the energy.

    Example: [bold]pixelwise segment coffee.png --method kmeans --segments 8 --position 0.2[/bold]

    Foreground: [bold]pixelwise segment cat.jpg --method grabcut --box 40,30,300,260[/bold]
    """
    import time

    from .console import progress_bar
    from .files import check_targets
    from .segmenting import (
        files_of_segmentation,
        read_any_image,
        read_strokes,
        segment_image,
        write_segmentation,
    )

    name = f"{image.stem}_{method}"
    sources = [path for path in (image, strokes) if path is not None and path.exists()]
    targets = files_of_segmentation(out, name).values()
    check_targets(targets, out, sources=sources, overwrite=overwrite)
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
    files = write_segmentation(out, name, pixels, found)
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
    task: TaskName = None,
    format: Format = "auto",
    classes: Classes = None,
    mask_rule: MaskRule = "exact",
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Look for what would spoil a training: broken files, missing partners, wrong sizes and labels, leaks.

    Ends with code 1 if there are problems. Example: [bold]pixelwise check street[/bold]
    """
    from .console import progress_bar
    from .data import check_data
    from .tasks import get_task, task_of_folder

    chosen = get_task(task) if task is not None else task_of_folder(data, format)
    with progress_bar("reading", hidden=as_json or not _watched()) as advance:
        report = check_data(
            data,
            format=format,
            classes=classes,
            seed=seed,
            mask_rule=cast(Any, mask_rule),
            formats=chosen.formats,
            progress=advance,
        )
    if as_json:
        _print_json(report.as_dict())
    else:
        typer.echo(report.render())
    if report.problems:
        raise typer.Exit(PROBLEMS)


@app.command()
def warmup() -> None:
    """Compile the functions that prediction, metrics and losses use, so that no later command waits for it.

    The machine code is kept on disk: once on each machine is enough.

    Example: [bold]pixelwise warmup[/bold]
    """
    from .warmup import warm_up

    warm_up(typer.echo)


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
    settings = {name: value for name, value in given.items() if name in SETTINGS}
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


def _overriding(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file, with those of the command line in their place."""
    arguments = settings.get("model_arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"model_arguments must be names with values, got {arguments!r:.80}")
    kept = dict(settings)
    if "epochs" in given or "steps" in given:  # one length in place of the other
        kept = {name: value for name, value in kept.items() if name not in ("epochs", "steps")}
    return kept | dict(given) | {"model_arguments": arguments | given["model_arguments"]}


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
        if name in ("name", "num_classes"):
            raise ValueError(f"--set takes further arguments of the builder, not {name}")
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
    if len(parts) not in (1, 2) or not all(part.isdecimal() and part.strip("0") for part in parts):
        raise ValueError(f"{option} takes HEIGHTxWIDTH in pixels, such as 360x480, got {text!r:.80}")
    if any(len(part) > 5 or int(part) > LONGEST_SIDE for part in parts):
        raise ValueError(f"{option} takes at most {LONGEST_SIDE} pixels for a side, got {text!r:.80}")
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


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


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
    if isinstance(error, Terminated):
        typer.echo(str(error) or "Terminated.", err=True)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        typer.echo(str(error) or "Interrupted.", err=True)
        return INTERRUPTED
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    # Whatever was given is told, but never thousands of characters of it.
    message = re.sub(r"\S{1000,}", lambda word: brief(word[0], 200), message)
    if isinstance(error, ValueError | OSError):
        typer.echo(f"Error: {message}", err=True)
        return BAD_INPUT
    if isinstance(error, MemoryError) or any(words in message.lower() for words in _OUT_OF_MEMORY):
        typer.echo(
            "Error: there is not enough memory: predict in smaller tiles (--tile 512x512), "
            "train on smaller crops or batches (--crop, --batch-size)",
            err=True,
        )
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
