"""What a model is made of: stages with shapes, parameters, floating-point operations, receptive field."""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .ops import measured_receptive_field
from .registry import ModelCard, build, describe, takes_classes
from .types import DenseLogits, DenseModel, Features, Model

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """One part of a model, in the order in which the image passes.

    Attributes:
        name: attribute of the model, such as `encoder` or `context`; `encoder.c3` for one map of an encoder.
        shape: channels, height, width of what it gives; None where it gives something else than one map, or
            nothing because it works in training only.
        parameters: number of them; None for the single maps of an encoder, which are counted together.
    """

    name: str
    shape: Shape | None
    parameters: int | None


@dataclass(frozen=True)
class ModelInfo:
    """What `model_info` gives.

    Attributes:
        card: name, paper, default encoder.
        size: height and width of the image that shapes and FLOPs are for.
        stages: in the order in which the image passes.
        parameters: number of trainable and frozen parameters.
        flops: floating-point operations of one image in eval mode; a multiplication with its addition is two.
            Matrix products and convolutions count, element-wise work does not.
        receptive_field: height and width in pixels of the part of the image that one output pixel depends on.
            A network with global pooling sees all of it. None where the output is no map of scores.
        minimum_size: smallest height and width in pixels.
    """

    card: ModelCard
    size: tuple[int, int]
    stages: tuple[Stage, ...]
    parameters: int
    flops: int
    receptive_field: tuple[int, int] | None
    minimum_size: int


def model_info(
    name: str, num_classes: int = 21, *, size: tuple[int, int] = (512, 512), **arguments: Any
) -> ModelInfo:
    """Build a model with random weights and look at what it does to one image.

    Args:
        name: one of `list_models()`.
        num_classes: number of channels k of the logits.
        size: height and width of the image in pixels.
        arguments: further arguments of the builder, such as `encoder`.

    Raises:
        ValueError: if there is no such model, it has no such argument or the image is too small for it.

    >>> model_info("pspnet", encoder="tiny", size=(64, 96)).stages[0].name
    'encoder'
    """
    card = describe(name)
    model = build(name, num_classes, **arguments)
    dense = isinstance(model, DenseModel)
    # Shapes and FLOPs of scores need no numbers; what is found in an image depends on them.
    with torch.device("meta" if dense else "cpu"):
        shadow = build(name, num_classes, **arguments).eval() if dense else model.eval()
        image = torch.zeros(1, shadow.in_channels, *size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        stages = _stages(shadow, image)
    return ModelInfo(
        card,
        size,
        stages,
        count_parameters(model),
        counter.get_total_flops(),
        _receptive_field(model, size) if isinstance(model, DenseModel) else None,
        model.minimum_size,
    )


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def _known_sizes() -> dict[str, int]:
    """Parameters of the models of this package for 21 classes: building them all takes a minute."""
    text = (resources.files(__package__) / "model_sizes.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["parameters"]


def published_size(name: str, num_classes: int = 21) -> int:
    """Number of parameters of a model with its default arguments, from a table where it is there."""
    if num_classes == 21 and name in _known_sizes():
        return _known_sizes()[name]
    return counted_size(name, num_classes)


def counted_size(name: str, num_classes: int = 21) -> int:
    """`published_size` of a model that is built, which takes no memory."""
    with torch.device("meta"):
        return count_parameters(build(name, num_classes) if takes_classes(name) else build(name))


def _receptive_field(model: Model, size: tuple[int, int]) -> tuple[int, int]:
    """Measured on a small image where that is enough: it costs a forward and a backward pass."""
    small = (min(size[0], 256), min(size[1], 256))
    seen = measured_receptive_field(model, small)
    if small == size or (seen[0] < small[0] and seen[1] < small[1]):
        return seen
    return measured_receptive_field(model, size)


def _parts(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Direct children; of lists, which have no forward of their own, their members."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _stages(model: Model, image: Tensor) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    seen: set[str] = set()

    def note(name: str, child: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, output: Any) -> None:
            if name in seen:  # a part that runs twice is told once
                return
            seen.add(name)
            shape = _shape(output)
            stages.append(Stage(name, shape, count_parameters(child)))
            if isinstance(output, Features):
                stages.extend(Stage(f"{name}.{s}", _shape(map), None) for s, map in output.maps.items())

        return hook

    handles = [child.register_forward_hook(note(name, child)) for name, child in _parts(model)]
    try:
        output = model(image)
    finally:
        for handle in handles:
            handle.remove()
    if isinstance(output, DenseLogits):
        stages.append(Stage("logits", _shape(output.logits), None))
    idle = ((name, count_parameters(child)) for name, child in _parts(model) if name not in seen)
    stages.extend(Stage(name, None, count) for name, count in idle if count)
    return tuple(stages)


def _shape(output: Any) -> Shape | None:
    return tuple(output.shape[1:]) if isinstance(output, Tensor) else None
