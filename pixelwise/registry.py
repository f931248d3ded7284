"""Models by name: the namespace `pixelwise.models` read as a registry."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from . import models
from .encoders import has_weights
from .types import BuiltBy as BuiltBy, Model, Paper
from .wording import brief

Builder = Callable[..., Model]


@dataclass(frozen=True)
class ModelCard:
    """What is known of a builder without calling it.

    Attributes:
        name: of the builder.
        paper: where the network comes from.
        tasks: names of the tasks that it serves.
        output: the type of what it returns.
        encoder: the default one by name, None where the network has its own.
        summary: first line of the builder's docstring.
    """

    name: str
    paper: Paper
    tasks: tuple[str, ...]
    output: type
    encoder: str | None
    summary: str


def list_models() -> list[str]:
    """The names that `build` knows, sorted.

    >>> "pspnet" in list_models()
    True
    """
    return sorted(_builders())


def build(name: str, num_classes: int | None = None, **arguments: Any) -> Model:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        num_classes: number of classes k, for builders that take it.
        arguments: further arguments of the builder, such as `encoder` or `in_channels`.

    Raises:
        ValueError: if there is no such model, it has no such argument, or an argument is of the wrong kind.

    >>> model = build("pspnet", 5, encoder="tiny")
    >>> model.num_classes
    5
    """
    builder = _find(name)
    known = inspect.signature(builder).parameters
    if num_classes is not None:
        arguments = {"num_classes": num_classes, **arguments}
    missing = [key for key, one in known.items() if one.default is inspect.Parameter.empty]
    for argument in missing:
        if argument not in arguments:
            raise ValueError(f"model {name!r} needs {argument}")
    for argument in arguments:
        if argument not in known:
            near = get_close_matches(argument, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f": it takes {', '.join(known)}"
            raise ValueError(f"model {name!r} has no argument {brief(argument)}{hint}")
    for argument, given in arguments.items():
        _check(argument, given, known[argument].annotation)
    try:
        model = builder(**arguments)
    except (TypeError, RuntimeError, ArithmeticError, LookupError, MemoryError) as error:
        told = ", ".join(f"{key}={given!r:.40}" for key, given in arguments.items())
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"model {name!r} cannot be built with {told or 'its defaults'}: {reason}") from error
    model.built_by = BuiltBy(name, {**arguments, **model.read_arguments})
    return model


def taken_by(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the builder of a model takes.

    Raises:
        ValueError: if there is no such model.

    >>> taken_by("unet", {"num_classes": 3, "things": [0]})
    {'num_classes': 3}
    """
    known = inspect.signature(_find(name)).parameters
    return {argument: given for argument, given in arguments.items() if argument in known}


def takes_classes(name: str) -> bool:
    """Whether `build` needs `num_classes` for that model.

    Raises:
        ValueError: if there is no such model.
    """
    return "num_classes" in inspect.signature(_find(name)).parameters


def may_be_pretrained(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the encoder of a model has published weights; nothing is fetched.

    Args:
        name: one of `list_models()`.
        arguments: of the builder, such as `encoder`.

    Raises:
        ValueError: if there is no such model.
    """
    known = inspect.signature(_find(name)).parameters
    if "pretrained" not in known:
        return False
    if "encoder" not in known:  # built on one encoder
        return True
    encoder = arguments.get("encoder", known["encoder"].default)
    return isinstance(encoder, str) and has_weights(encoder)


def describe(name: str) -> ModelCard:
    """What is known of the builder `name` without calling it.

    Raises:
        ValueError: if there is no such model.
    """
    builder = _find(name)
    signature = inspect.signature(builder)
    encoder = signature.parameters.get("encoder")
    default = encoder.default if encoder is not None else None
    summary = (inspect.getdoc(builder) or "").splitlines()[0]
    paper: Paper = sys.modules[builder.__module__].PAPER
    made = _model_class(builder)
    return ModelCard(name, paper, made.tasks, made.output, default, summary)


def _model_class(builder: Builder) -> type[Model]:
    """The class of the models that a builder makes, the first one where there are several."""
    made = inspect.signature(builder).return_annotation
    kinds = get_args(made) if get_origin(made) in (Union, UnionType) else (made,)
    kind: type[Model] = kinds[0]
    return kind


def _builders() -> dict[str, Builder]:
    """Public functions of `pixelwise.models` that return a model."""
    return {
        name: function
        for name, function in vars(models).items()
        if inspect.isfunction(function) and name[0].islower() and not name.startswith("from_")
    }


def _check(argument: str, given: Any, annotation: Any) -> None:
    """Hold what came from a command line or a file against the signature of a builder.

    Raises:
        ValueError: if it does not fit. Whole numbers of builders are counts, so they start at 1.
    """
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if any(_fits(given, kind) for kind in kinds):
        return
    expected = " or ".join(_told(kind) for kind in kinds)
    raise ValueError(f"{argument} must be {expected}, got {given!r}")


def _fits(given: Any, kind: Any) -> bool:
    if kind is int:
        return type(given) is int and given >= 1
    if kind is float:
        return type(given) in (int, float) and isfinite(given)
    if get_origin(kind) is Literal:
        return given in get_args(kind)
    if get_origin(kind) is Sequence:
        (item,) = get_args(kind)
        if item is int:  # labels start at 0
            return isinstance(given, list | tuple | range) and all(
                type(one) is int and one >= 0 for one in given
            )
        return isinstance(given, list | tuple) and all(_fits(one, item) for one in given)
    if get_origin(kind) is tuple:
        return isinstance(given, list | tuple) and all(_fits(one, get_args(kind)[0]) for one in given)
    return isinstance(given, kind)


def _told(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is Sequence:
        return f"a list of which each is {_told(get_args(kind)[0])}"
    words = {
        int: "a whole number of at least 1",
        float: "a number",
        bool: "true or false",
        str: "a name",
        NoneType: "none",
    }
    return words.get(kind) or kind.__name__


def _find(name: str) -> Builder:
    builders = _builders()
    if name in builders:
        return builders[name]
    near = get_close_matches(name, builders, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(near)}?" if near else ": see `pixelwise models`"
    raise ValueError(f"there is no model {brief(name)}{hint}")
