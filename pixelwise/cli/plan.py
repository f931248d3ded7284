"""`pixelwise plan`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DEFAULT_BUDGET, AsJson, print_json
from .train import Budget, recipe_settings, with_settings_of_a_recipe


@with_settings_of_a_recipe
def plan(
    ctx: typer.Context,
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    *,
    budget: Budget = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Say what `train` would decide for a folder on this machine, and why; nothing is trained.

    Takes the options of `train`: what is given stays, and the other choices see it.

    Example: [bold]pixelwise plan street --budget 20m[/bold]
    """
    from ..console import console, print_plan
    from ..planning import read_budget
    from ..training import make_plan

    given = {name: value for name, value in ctx.params.items() if value is not None and value != ()}
    chosen = recipe_settings({name: value for name, value in given.items() if name != "as_json"})
    long = chosen.get("epochs") or chosen.get("steps")
    seconds = read_budget(budget or ("none" if long else DEFAULT_BUDGET))
    planned = make_plan(chosen, budget=seconds, started=ctx.obj)
    if as_json:
        print_json(planned.plan.as_dict())
    else:
        print_plan(planned.plan, str(data), console(), facts=True)
