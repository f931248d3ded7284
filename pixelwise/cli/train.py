"""`pixelwise train`: its options are made from the fields of `Recipe`."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..paper_recipes import list_recipes, paper_recipe
from ..recipe import KINDS, SETTINGS, Recipe, read_settings
from .options import extent_of, in_panel, model_arguments, numbers_of


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


@_with_settings_of_a_recipe
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
    **settings: Any,
) -> None:
    """Train a model on a folder of images and masks.

    Example: [bold]pixelwise train street --model deeplabv3plus --encoder resnet50 --epochs 40[/bold]

    As in a paper: [bold]pixelwise train street --recipe pspnet_voc --batch-size 4[/bold]

    After an interruption: [bold]pixelwise train --resume runs/street-deeplabv3plus[/bold]
    """
    given = {name: value for name, value in ctx.params.items() if value is not None and value != ()}
    others = [name for name in given if name not in ("resume", "epochs")]
    if resume is not None and others:
        raise ValueError(f"--resume continues with the settings of the run: leave out {_option(others[0])}")
    if recipe is not None and config is not None:
        raise ValueError("give --recipe or --config, not both")
    chosen = _recipe_settings(given)
    if recipe is not None:
        chosen = _overriding(paper_recipe(recipe).settings, chosen)
    if config is not None:
        chosen = _overriding(read_settings(config), chosen)
    if resume is None and "data" not in chosen:
        raise ValueError("train needs the folder of images and masks: pixelwise train DATA")

    from ..console import console, report_table
    from ..training import recipe_of, resume as resume_run, run

    if resume is None:
        result = run(recipe_of(chosen))
    else:
        result = resume_run(resume, epochs=chosen.get("epochs"))
    console().print(report_table(result.scores, "best weights on the validation part"))
    typer.echo(f"run directory: {result.path}\nbest weights:  {result.best}")
    typer.echo(f"report:        {result.report}")


def _recipe_settings(given: dict[str, Any]) -> dict[str, Any]:
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
