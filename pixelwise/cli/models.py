"""`pixelwise models`."""

from typing import Annotated

import typer

from .options import AsJson, print_json


def models(
    classes: Annotated[
        int, typer.Option(min=1, help="Number of classes that parameters are counted for.")
    ] = 21,
    as_json: AsJson = False,
) -> None:
    """List the models that can be built.

    Example: [bold]pixelwise models --json[/bold]
    """
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
