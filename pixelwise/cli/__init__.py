"""The command line. It parses, calls what the Python interface offers, and prints: one file per command.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from .background import background
from .check import check
from .compare import compare
from .convert import convert
from .datasets import datasets
from .demo import demo
from .ensemble import ensemble
from .errors import explain
from .evaluate import evaluate
from .export import export
from .grounded import grounded
from .info import info
from .models import models
from .optimize import optimize
from .plan import plan
from .predict import predict
from .prompt import prompt
from .segment import segment
from .serve import serve
from .style import style
from .track import track
from .train import train
from .warmup import warmup
from .weights import weights


class _Sentences(TyperGroup):
    """Says in one sentence what went wrong: bad input ends with code 2, Ctrl-C with 130, a bug with 70."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            of_typer = type(error).__module__.startswith(("typer", "click"))
            if of_typer or isinstance(error, BrokenPipeError) or ctx.params.get("debug"):
                raise
            raise typer.Exit(explain(error)) from error


app = typer.Typer(
    cls=_Sentences,
    name="pixelwise",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"pixelwise {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Image segmentation: train, evaluate and predict.

    Start with [bold]pixelwise demo[/bold], or with a folder of images and masks:

    [bold]pixelwise train DATA[/bold]
    """
    ctx.obj = time.monotonic()  # when the command began: budgets count from here


for command in (
    demo,
    plan,
    train,
    evaluate,
    compare,
    predict,
    prompt,
    ensemble,
    export,
    optimize,
    serve,
    segment,
    grounded,
    background,
    style,
    track,
    check,
    convert,
    datasets,
    warmup,
    models,
    info,
):
    app.command()(command)
app.add_typer(weights)


def main() -> None:
    """Entry point of the command `pixelwise`."""
    app()
