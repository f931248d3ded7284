"""`pixelwise predict --server`: the same command with the model behind `pixelwise serve`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:  # torch comes with it
    from ..serve.remote import ServedPredictor

_ALLOWED = frozenset(
    "checkpoint sources out overlay tint_background overwrite format decoding flip resume workers batch_size "
    "server token_file".split()
)


def refuse_local_options(context: typer.Context) -> None:
    """Refuse what would have no effect on a model that runs elsewhere.

    Raises:
        ValueError: names the option.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in _ALLOWED and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"{parameter.opts[0]} is for models in this process, not for --server")


def predictor_behind(
    url: str, model: str, token_file: Path | None, options: Mapping[str, Any]
) -> "ServedPredictor":
    """What predicts like a `Predictor`.

    Args:
        url: of the server.
        model: its name there.
        token_file: with the server's token; None for the environment's.
        options: of the command; `flip` and `decoding` go to the server.

    Raises:
        ValueError: if the server does not answer, has no such model, or knows no such setting.
    """
    from ..serve import read_token
    from ..serve.client import Client

    token = read_token(token_file) if token_file is not None else os.environ.get("PIXELWISE_TOKEN") or None
    client = Client(url, model=model, token=token, timeout=300)
    from ..serve.remote import ServedPredictor, options_of_decoding

    given = options_of_decoding(options["decoding"])
    if options["flip"] is not None:
        given["flip"] = options["flip"]
    return ServedPredictor(client, **given)
