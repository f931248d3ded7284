"""`pixelwise train`: its options are made from the fields of `Recipe`."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..machine import keep_freed_memory
from ..paper_recipes import list_recipes, paper_recipe
from ..recipe import KINDS, SETTINGS, Recipe, read_settings
from .options import DEFAULT_BUDGET, extent_of, in_panel, model_arguments, numbers_of

Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time from the command to the report, such as 90s, 20m or 2h; the settings that are not given "
        "follow from data, machine and time: see docs/auto.md. none: such settings without a deadline "
        f"(default {DEFAULT_BUDGET} where neither --epochs nor --steps, --recipe or --config say how long).",
        rich_help_panel="Length and batches",
    ),
]


def _option_of(name: str) -> inspect.Parameter:
    """The option of `train` for a setting of `Recipe`: None where it is not given."""
    setting, kind = SETTINGS[name], KINDS[name][0]
    default = Recipe.__dataclass_fields__[name].default
    if setting.without:
        told = setting.without
    elif isinstance(default, bool):
        on, _, off = setting.flags[0].partition("/")
        told = (on if default else off).removeprefix("--")
    elif isinstance(default, tuple):
        told = ("x" if setting.metavar == "HxW" else ",").join(map(str, default))
    else:
        told = str(default)
    if kind not in (int, float, bool):  # texts, and what `recipe_settings` makes of them
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
            in_panel("Model", "Any timm backbone, for models that take one (default that of the model)."),
        ],
    ),
    _parameter(
        "pretrained",
        Annotated[
            bool | None,
            in_panel(
                "Model",
                "Start from published weights or from random ones (default published, where there are any).",
                "--pretrained/--scratch",
            ),
        ],
    ),
    _parameter(
        "in_channels", Annotated[int | None, in_panel("Model", "Channels of the images (default 3).")]
    ),
    _parameter(
        "set_",
        Annotated[
            list[str] | None,
            in_panel(
                "Model",
                "Further argument of the builder; may be repeated.",
                "--set",
                metavar="KEY=VALUE",
            ),
        ],
    ),
)


def with_settings_of_a_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for each setting of `Recipe`, in their order, for typer to see."""
    options: list[inspect.Parameter] = []
    for name, setting in SETTINGS.items():
        if name == "model_arguments":
            options += _MODEL_OPTIONS
        elif setting.panel:
            options.append(_option_of(name))
    own = inspect.signature(command)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = own.replace(parameters=[*parameters, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*parameters, *options)} | {"return": None}
    return command


@with_settings_of_a_recipe
def train(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Argument(help="Folder of images and masks.", show_default=False)
    ] = None,
    *,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Take model and settings of the training of a paper, such as pspnet_voc: see `pixelwise "
            "models --recipes`; other options override them.",
            autocompletion=list_recipes,
        ),
    ] = None,
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
    budget: Budget = None,
    no_plan: Annotated[
        bool,
        typer.Option(
            "--no-plan", help="Take the defaults below for all that is not given, not a plan's choices."
        ),
    ] = False,
    **settings: Any,
) -> None:
    """Train a model on a folder of images and masks.

    Example: [bold]pixelwise train street --budget 20m[/bold]

    With your own settings: [bold]pixelwise train street --model unet --encoder resnet50 --epochs 40[/bold]

    As in a paper: [bold]pixelwise train street --recipe pspnet_voc --batch-size 4[/bold]

    After an interruption: [bold]pixelwise train --resume runs/street-deeplabv3plus[/bold]
    """
    keep_freed_memory()
    given = {
        name: value
        for name, value in ctx.params.items()
        if value is not None and value != () and (name != "no_plan" or value)
    }
    others = [name for name in given if name not in ("resume", "epochs")]
    if resume is not None and others:
        raise ValueError(f"--resume continues with the settings of the run: leave out {_option(others[0])}")
    if recipe is not None and config is not None:
        raise ValueError("give --recipe or --config, not both")
    chosen = recipe_settings(given)
    if recipe is not None:
        chosen = _overriding(paper_recipe(recipe).settings, chosen)
    if config is not None:
        chosen = _overriding(read_settings(config), chosen)
    if resume is None and "data" not in chosen:
        raise ValueError("train needs the folder of images and masks: pixelwise train DATA")

    if no_plan and budget is not None:
        raise ValueError("--no-plan takes no --budget: give --epochs or --steps")

    from ..console import console, print_plan, report_table
    from ..training import is_planned, make_plan, recipe_of, resume as resume_run, run, train_by_plan
    from ..training.machines import help_train, this_machine

    machine = this_machine()
    if machine.number:
        place = resume or chosen.get("out")
        if place is None:
            raise ValueError("several machines need the name of the run directory: --out RUN")
        typer.echo(f"machine {machine.number + 1} of {machine.count} takes part in {place}")
        help_train(Path(place), machine)
        return
    if resume is not None:
        result = resume_run(resume, epochs=chosen.get("epochs"), started=ctx.obj)
    elif budget is None and (
        no_plan or recipe or config is not None or _says_how_long(chosen) or not is_planned(chosen)
    ):
        result = run(recipe_of(chosen))
    else:
        from ..planning import read_budget

        seconds = read_budget(budget or DEFAULT_BUDGET)
        planned = make_plan(chosen, budget=seconds, started=ctx.obj)
        print_plan(planned.plan, str(chosen["data"]), console())
        result = train_by_plan(planned)
    title = "all images, out of fold" if result.folds else "best weights on the validation part"
    if result.closing is not None and result.closing.choices.decoding:
        title += ", before test-time settings were chosen"
    console().print(report_table(result.scores, title, result.remarks))
    typer.echo(f"run directory: {result.path}\nbest weights:  {result.best}")
    typer.echo(f"report:        {result.report}")


def _says_how_long(settings: Mapping[str, Any]) -> bool:
    """Whether the length of the training is given; several devices have no clock in common."""
    return bool(settings.get("epochs") or settings.get("steps") or settings.get("devices", 1) > 1)


def recipe_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `train` as settings of a recipe.

    Raises:
        ValueError: if one of them cannot be read.
    """
    parts = ("encoder", "in_channels", "pretrained", "set_")
    settings = {name: value for name, value in given.items() if name in SETTINGS}
    settings["model_arguments"] = model_arguments(*(given.get(part) for part in parts))
    for name in ("data", "classes", "init_from", "out"):
        if name in given:
            settings[name] = str(given[name])
    if "crop" in given:
        settings["crop"] = None if given["crop"] == "none" else extent_of(given["crop"], "--crop")
    if "scale" in given:
        settings["scale"] = numbers_of(given["scale"], "--scale")
    if given.get("class_weights") not in (None, "none", "balanced"):
        settings["class_weights"] = numbers_of(given["class_weights"], "--class-weights")
    if "drops" in given:
        settings["drops"] = numbers_of(given["drops"], "--drops")
    if "freeze" in given:
        settings["freeze"] = tuple(given["freeze"])
    return settings


def _overriding(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file or a paper, with those of the command line in their place."""
    arguments = settings.get("model_arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"model_arguments must be names with values, got {arguments!r:.80}")
    kept = dict(settings)
    if "epochs" in given or "steps" in given:  # one length in place of the other
        kept = {name: value for name, value in kept.items() if name not in ("epochs", "steps")}
    return kept | dict(given) | {"model_arguments": arguments | given["model_arguments"]}


def _option(name: str) -> str:
    return "DATA" if name == "data" else f"--{name.strip('_').replace('_', '-')}"
