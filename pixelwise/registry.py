"""Models by name: the namespace `pixelwise.models` read as a registry."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from . import models
from .types import BuiltBy as BuiltBy, Model, Paper

Builder = Callable[..., Model]


@dataclass(frozen=True)
class ModelCard:
    """What is known of a builder without calling it.

    Attributes:
        name: of the builder.
        paper: where the network comes from.
        tasks: names of the tasks that its model serves, the first one where none is chosen.
        encoder: the default one by name, None where the network has its own.
        summary: first line of the builder's docstring.
    """

    name: str
    paper: Paper
    tasks: tuple[str, ...]
    encoder: str | None
    summary: str


def list_models() -> list[str]:
    """The names that `build` knows, sorted.

    >>> "pspnet" in list_models()
    True
    """
    return sorted(_builders())


def build(name: str, num_classes: int, **arguments: Any) -> Model:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        num_classes: number of classes k: channels of the logits, or classes of objects.
        arguments: further arguments of the builder, such as `encoder` or `in_channels`.

    Raises:
        ValueError: if there is no such model or it has no such argument.

    >>> model = build("pspnet", 5, encoder="tiny")
    >>> model.num_classes
    5
    """
    builder = _find(name)
    known = inspect.signature(builder).parameters
    for argument in arguments:
        if argument not in known:
            near = get_close_matches(argument, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f": it takes {', '.join(known)}"
            raise ValueError(f"model {name!r} has no argument {argument!r}{hint}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    model = builder(num_classes, **arguments)
    model.built_by = BuiltBy(name, {"num_classes": num_classes, **arguments})
    return model


def describe(name: str) -> ModelCard:
    """What is known of the builder `name` without calling it.

    Raises:
        ValueError: if there is no such model.
    """
    builder = _find(name)
    encoder = inspect.signature(builder).parameters.get("encoder")
    default = encoder.default if encoder is not None else None
    summary = (inspect.getdoc(builder) or "").splitlines()[0]
    paper: Paper = sys.modules[builder.__module__].PAPER
    returned = inspect.signature(builder).return_annotation
    model: type[Model] = (*get_args(returned), returned)[0]  # of several classes, the first speaks for all
    return ModelCard(name, paper, model.tasks, default, summary)


def _builders() -> dict[str, Builder]:
    """Public functions of `pixelwise.models` that return a model."""
    return {
        name: function
        for name, function in vars(models).items()
        if inspect.isfunction(function) and name[0].islower() and not name.startswith("from_")
    }


def _find(name: str) -> Builder:
    builders = _builders()
    if name in builders:
        return builders[name]
    near = get_close_matches(name, builders, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(near)}?" if near else ": see `pixelwise models`"
    raise ValueError(f"there is no model {name!r}{hint}")
