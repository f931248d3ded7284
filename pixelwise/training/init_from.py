"""Begin a training with the weights of another run, as far as they fit (FCN-16s with those of FCN-32s)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..checkpoint import load
from ..reduced import unwrapped
from ..registry import build
from ..types import Model

_NAMED = 6  # so many names are told, of many more the number


@dataclass(frozen=True)
class Taken:
    """What a model has of another run: names of tensors.

    Attributes:
        source: the run.
        taken: those that have a name and a shape in common.
        new: those of the model that begin anew.
        unused: those of the run for which the model has no place.
        other_classes: whether the classes of the run are others, so that scores that were taken mean others.
    """

    source: str
    taken: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    other_classes: bool

    def __str__(self) -> str:
        """One sentence for each of the three.

        >>> print(Taken("runs/fcn32s", ("fc6.weight", "fc6.bias"), ("score.bias",), (), False))
        2 of 3 tensors begin as in runs/fcn32s. Begin anew: score.bias. Of the run not used: none.
        """
        told = (
            f"{len(self.taken)} of {len(self.taken) + len(self.new)} tensors begin as in {self.source}. "
            f"Begin anew: {_list(self.new)}. Of the run not used: {_list(self.unused)}."
        )
        return f"{told} The classes of the run are others." if self.other_classes else told


def take_weights(
    model: Model, source: str | os.PathLike[str], classes: Sequence[str], *, reset_head: bool = False
) -> Taken:
    """Copy the weights and statistics that have the same name and shape into `model`, in place.

    Args:
        model: to be trained.
        source: run directory, whose best weights are read, or a file of weights.
        classes: names of those that the model learns.
        reset_head: whether the tensors whose shape follows from the number of classes begin anew in any case.

    Raises:
        ValueError: if there are no weights, they are not ours, none of them fits, or the run has another
            number of classes and `reset_head` is not set.
    """
    checkpoint = load(source)
    given, own = (unwrapped(one).state_dict() for one in (checkpoint.model, model))
    fitting = {key for key in own if key in given and given[key].shape == own[key].shape}
    others = [key for key in own if key in given and key not in fitting]
    head = _of_classes(unwrapped(model)) if reset_head or others else frozenset()
    if not reset_head and (clashing := [key for key in others if key in head]):
        raise ValueError(
            f"{os.fspath(source)} knows {checkpoint.model.num_classes} classes, the model to be trained "
            f"{model.num_classes}: with reset_head (--reset-head), {_list(tuple(clashing))} begin anew"
        )
    taken = tuple(key for key in own if key in fitting and not (reset_head and key in head))
    if not {key for key, _ in unwrapped(model).named_parameters()} & set(taken):
        raise ValueError(
            f"no weight of {os.fspath(source)}, a {checkpoint.built_by.builder}, fits the model to be trained"
        )
    with torch.no_grad():
        for key in taken:
            own[key].copy_(given[key])
    return Taken(
        os.fspath(source),
        taken,
        tuple(key for key in own if key not in taken),
        tuple(key for key in given if key not in taken),
        tuple(classes) != checkpoint.classes.names,
    )


def _of_classes(model: Model) -> frozenset[str]:
    """Names of the tensors whose shape follows from the number of classes."""
    built = model.built_by
    if built is None or "num_classes" not in built.arguments:
        return frozenset()
    plain = {"pretrained": False} if "pretrained" in built.arguments else {}
    more = {**built.arguments, **plain, "num_classes": built.arguments["num_classes"] + 1}
    with torch.device("meta"):
        other = build(built.builder, **more).state_dict()
    return frozenset(
        key for key, x in model.state_dict().items() if key not in other or other[key].shape != x.shape
    )


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "none") + more
