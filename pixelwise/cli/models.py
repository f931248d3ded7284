"""`pixelwise models`."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..paper_recipes import list_recipes, paper_recipe
from .options import AsJson, print_json


def models(
    classes: Annotated[
        int, typer.Option(min=1, help="Number of classes that parameters are counted for.")
    ] = 21,
    recipes: Annotated[
        bool,
        typer.Option(
            "--recipes", help="List instead how papers trained them: see `pixelwise train --recipe`."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models that can be built.

    Example: [bold]pixelwise models --json[/bold]

    Names for pixelwise train --recipe: [bold]pixelwise models --recipes[/bold]
    """
    if recipes:
        _list_recipes(as_json)
        return
    from ..registry import describe, list_models
    from ..summary import published_size

    cards = [describe(name) for name in list_models()]
    parameters = [published_size(card.name, classes) for card in cards]
    if as_json:
        print_json(
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
    from ..console import console, models_table

    console().print(models_table(cards, parameters, classes))
    typer.echo("How papers trained them: pixelwise models --recipes")


def _list_recipes(as_json: bool) -> None:
    found = [paper_recipe(name) for name in list_recipes()]
    if as_json:
        print_json([asdict(recipe) for recipe in found])
        return
    from ..console import console, recipes_table

    console().print(recipes_table(found))
