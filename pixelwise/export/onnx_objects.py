"""Networks of one stage, and DETR, behind ONNX Runtime.

Their outputs are values within values, and hold sizes that follow from that of the image. The file gives
each tensor under its path ("objects.class_logits"), and all sizes as one list; a description tells how the
output is put together again. Images are resized outside, as the network does it, and decoded one by one, so
that the code which decodes a model decodes its file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib import import_module
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim

from .. import decode
from ..layers import fit_images, size_of
from ..models import DETR, YOLACT, CenterMask, CondInst
from ..models.centermask import AttentionLogits
from ..models.detr import SetOfBoxes
from ..models.fcos import OneStage, Scales
from ..types import Boxes, ClassTable, MaskSet, Model, PanopticMap, Value, value
from .onnx_regions import largest_difference

TYPE = "objects"
SIZES = "sizes"  # name of the list of sizes among the results of a file
KINDS = (CenterMask, CondInst, DETR, OneStage, YOLACT)
LEAST, MOST = 64, 4096  # pixels of a side that a program takes


@value
class OneByOne(Value):
    """Outputs of the images of a batch, each of which was looked at alone."""

    outputs: tuple[Value, ...]


@decode.boxes.register
def _(output: OneByOne) -> tuple[Boxes, ...]:
    return tuple(chain.from_iterable(decode.boxes(one) for one in output.outputs))


@decode.instances.register
def _(output: OneByOne) -> tuple[MaskSet, ...]:
    return tuple(chain.from_iterable(decode.instances(one) for one in output.outputs))


@decode.panoptic.register
def _(
    output: OneByOne, classes: ClassTable, merging: decode.Merging = decode.PAPERS_OWN
) -> tuple[PanopticMap, ...]:
    return tuple(chain.from_iterable(decode.panoptic(one, classes, merging) for one in output.outputs))


class ObjectProgram(nn.Module):
    """A network whose output is a tuple of its tensors, the last of which holds all sizes.

    Args:
        model: in eval mode, which takes images as they are, see `unscaled`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "b c H W"]) -> tuple[Tensor, ...]:
        """The tensors in the order of `taken_apart`."""
        with unscaled(self.model):
            _, tensors, sizes = taken_apart(self.model(image))
        return *tensors.values(), torch.stack([torch.scalar_tensor(n, dtype=torch.int64) for n in sizes])


def taken_apart(output: Value) -> tuple[Any, dict[str, Tensor], list[int]]:
    """How an output is put together, in words of JSON; its tensors by path; its whole numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: list[int] = []

    def described(part: Any, path: str) -> Any:
        if isinstance(part, Tensor):
            tensors[path] = part
            return {"tensor": path}
        if isinstance(part, Value):
            names = [field.name for field in fields(part)]  # type: ignore[arg-type]
            parts = {name: described(getattr(part, name), f"{path}.{name}".lstrip(".")) for name in names}
            return {"type": f"{type(part).__module__}:{type(part).__qualname__}", "fields": parts}
        if isinstance(part, tuple):
            return {"items": [described(one, f"{path}.{number}") for number, one in enumerate(part)]}
        if part is None or isinstance(part, bool | str | float):
            return {"constant": part}
        numbers.append(part)
        return {"number": len(numbers) - 1}

    return described(output, ""), tensors, numbers


def put_together(described: Mapping[str, Any], tensors: Mapping[str, Tensor], numbers: Sequence[int]) -> Any:
    """What was taken apart.

    Raises:
        ValueError: if a type is none of this package.
    """
    if "tensor" in described:
        return tensors[described["tensor"]]
    if "number" in described:
        return numbers[described["number"]]
    if "items" in described:
        return tuple(put_together(one, tensors, numbers) for one in described["items"])
    if "type" in described:
        parts = described["fields"].items()
        return type_of(described["type"])(
            **{name: put_together(one, tensors, numbers) for name, one in parts}
        )
    return described["constant"]


def type_of(place: str) -> type[Value]:
    """A type of values by module and name; only those of this package.

    Raises:
        ValueError: if it is another one.
    """
    module, _, name = place.partition(":")
    if module.split(".")[0] != __name__.split(".")[0]:
        raise ValueError(f"it names the output {place!r:.80}, which is not of this package")
    found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Value)):
        raise ValueError(f"it names the output {place!r:.80}, which does not exist")
    return found


def resizes(model: Model) -> DETR | OneStage | None:
    """The part of a model that brings images to its scale; YOLACT's square is a part of its program."""
    part = model.detector if isinstance(model, CenterMask | CondInst) else model
    return part if isinstance(part, DETR | OneStage) else None


@contextmanager
def unscaled(model: Model) -> Iterator[None]:
    """Inside, the model takes images as they are."""
    part = resizes(model)
    if part is None:
        yield
        return
    scale, part.min_size = part.min_size, None
    try:
        yield
    finally:
        part.min_size = scale


def sides() -> dict[int, Any]:
    """Which axes of the images of a program are not fixed."""
    import torchvision.ops  # noqa: F401  (the exporter knows its operators if they are there before)

    return {
        0: Dim("b", min=1, max=64),
        2: Dim("H", min=LEAST, max=MOST),
        3: Dim("W", min=LEAST, max=MOST),
    }


def described(model: Model) -> tuple[list[str], dict[str, Any]]:
    """Names of the results of a program, and what `OnnxObjects` must know."""
    image = torch.rand(1, model.in_channels, 96, 130)
    with torch.no_grad(), unscaled(model):
        form, tensors, _ = taken_apart(model(image))
    part = resizes(model)
    scale = {"min_size": part.min_size if part else None, "max_size": part.max_size if part else 0}
    names = [*tensors, SIZES]
    return names, {"type": TYPE, "names": names, "value": form, **scale}


class OnnxObjects(Model):
    """What an `ObjectProgram` says, computed by ONNX Runtime on the CPU.

    Args:
        session: of ONNX Runtime.
        about: what the file says of itself.
    """

    encoder_parts = ()
    output = OneByOne

    def __init__(self, session: Any, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.session, self.in_channels = session, int(about["in_channels"])
        self.minimum_size, self.tasks = int(about["minimum_size"]), tuple(about["tasks"])  # type: ignore[misc]
        described = about["output"]
        self.min_size, self.max_size = described["min_size"], described["max_size"]
        self.names, self.form = list(described["names"]), described["value"]
        check(self.form)

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> OneByOne:
        """Look for objects; `sizes` are those of images that were padded.

        Raises:
            ValueError: if the network would see an image below 64 or above 4096 pixels on a side.
        """
        sizes = sizes or [size_of(image, self.minimum_size)] * len(image)
        black = image.new_zeros(1, image.shape[1], 1, 1)
        found = []
        for one, (height, width) in zip(image, sizes, strict=True):
            own, size = one[None, :, :height, :width], (height, width)
            fitted = fit_images(
                own, [size], black, min_size=self.min_size, max_size=self.max_size, multiple=1
            )
            found.append(with_size(self.run(fitted.images), size))
        return OneByOne(tuple(found))

    def run(self, image: Float[Tensor, "b c h w"]) -> Any:
        """The output of the network for images as it sees them."""
        height, width = image.shape[-2], image.shape[-1]
        if min(height, width) < LEAST or max(height, width) > MOST:
            raise ValueError(
                f"an exported network of objects must see images of {LEAST} to {MOST} pixels on each side, "
                f"got {height} x {width}"
            )
        given = image.detach().float().cpu().contiguous().numpy()
        found = self.session.run(self.names, {"image": given})
        tensors = {name: torch.from_numpy(one) for name, one in zip(self.names, found, strict=True)}
        return put_together(self.form, tensors, tensors.pop(SIZES).tolist())


def check(form: Any) -> None:
    """All types of a description are of this package.

    Raises:
        ValueError: if one is not.
    """
    if "type" in form:
        type_of(form["type"])
    for one in chain(form.get("items", ()), form.get("fields", {}).values()):
        check(one)


def with_size(output: Any, size: tuple[int, int]) -> Any:
    """The output of a network for an image that was `size` high and wide before it was resized."""
    if isinstance(output, Scales):
        return Scales(output.canvas, (size,), output.seen_sizes)
    if isinstance(output, SetOfBoxes):
        return replace(output, size=size)
    if not isinstance(output, Value):
        return output
    parts = {field.name: getattr(output, field.name) for field in fields(output)}  # type: ignore[arg-type]
    return replace(output, **{name: with_size(one, size) for name, one in parts.items()})  # type: ignore[type-var]


@torch.no_grad()
def difference(model: Model, exported: OnnxObjects, image: Float[Tensor, "b c h w"]) -> float:
    """The largest difference of a tensor of the output, over the largest value of the tensor.

    CenterMask detects within the network: its detections are compared by `largest_difference` instead, since
    those whose scores are nearly equal may change places.
    """
    with unscaled(model):
        ours, theirs = model(image), exported.run(image)
    largest = 0.0
    if isinstance(ours, AttentionLogits):
        largest = largest_difference(decode.boxes(ours), decode.boxes(theirs))
        ours, theirs = ours.objects, theirs.objects
    (form, expected, sizes), (same, found, also) = taken_apart(ours), taken_apart(theirs)
    if form != same or sizes != also:
        return float("inf")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return float("inf")
        if tensor.numel():
            scale = tensor.abs().max().item() or 1.0
            largest = max(largest, (found[name] - tensor).abs().max().item() / scale)
    return largest
