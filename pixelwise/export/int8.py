"""Networks in 8-bit integers: ranges are measured on images of the user, agreement on others of them."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import decode
from ..checkpoint import Checkpoint
from ..files import atomic_write
from ..types import DenseLogits, Model
from . import onnx_model, openvino_model
from .labels import PixelLabels
from .onnx_model import KEY, export_onnx, form_of, load_onnx
from .openvino_model import load_openvino, place, read_network, write_openvino

LEAST = 0.9  # share of equal labels below which a file is nonsense
MOST = 64  # images that ranges are measured on
_JUDGED = 8  # other images, by which the layers that stay in float32 are chosen
_MARGIN = 0.8  # of what may differ, so much may in those images
_LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# Layers at the start and at the end that stay in float32, and whether a range is the mean of those of images
# instead of holding all values: what is tried, in this order.
_TRIED = (
    ((0, 0), False),
    ((0, 1), False),
    ((2, 1), False),
    ((2, 1), True),
    ((4, 2), False),
    ((4, 2), True),
    ((8, 4), False),
    ((16, 8), False),
)
_TYPES = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Concat", "Relu", "MaxPool", "Resize")


class Agreement(NamedTuple):
    """What the check found.

    Attributes:
        labels: share of the pixels whose class is that of the network in float32.
        images: number of images that it was measured on.
    """

    labels: float
    images: int


def export_int8(
    found: Checkpoint,
    path: str | os.PathLike[str],
    images: Sequence[Float[Tensor, "c H W"]],
    *,
    labels: bool = False,
    tolerance: float = 0.995,
) -> Agreement:
    """Write a network in 8-bit integers as an ONNX file, or as a pair of OpenVINO files.

    Every second image measures the ranges of values, up to 64. Half of the others tell which layers stay in
    float32, and the rest, which nothing was chosen on, how well the file agrees with the network; of two or
    three images the same one tells both. Convolutions and products are computed in integers, all else in
    float32. Where too many labels change, the last layer is left in float32 with all behind it, then also
    the first two, then more from both ends, half of all layers at most: rounded scores decide which class is
    the highest, and what the first layers round goes everywhere, in networks with skip connections to the
    last ones directly. A range holds all values that were measured; the means over the images of the
    smallest and of the largest value are tried too: narrower, with finer steps, but they clip images that
    differ from the others.

    Weights have 7 bits, so that pairs of products fit into the 16 bits in which processors without VNNI
    (AVX2, older AVX-512) add them: results are those of other processors.

    Args:
        found: a network that scores pixels, its classes and settings of decoding.
        path: of the file, ending in .onnx or .xml.
        images: at least two, in [0, 1], like those that will be segmented.
        labels: whether the file gives the class of every pixel instead of scores.
        tolerance: share of equal labels that is wanted: no more layers are left in float32 where four fifths
            of what may differ do, in the images that tell it.

    Raises:
        ValueError: if there are fewer images, the network does not score pixels, the file agrees with it in
            fewer than 90 % of the pixels, or as `export_onnx` and `export_openvino`.
    """
    path = Path(path)
    if path.suffix not in (onnx_model.SUFFIX, openvino_model.SUFFIX):
        raise ValueError(f"a file in 8-bit integers ends in .onnx or .xml, got {path}")
    if len(images) < 2:
        raise ValueError(
            f"8-bit integers need at least two images to measure ranges and check, got {len(images)}"
        )
    if not issubclass(found.model.output, DenseLogits):
        raise ValueError(
            f"8-bit integers are for networks that score pixels, not for {type(found.model).__name__}"
        )
    about: dict[str, Any] = {"task": found.task, "decoding": found.decoding, "labels": labels}
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        export_onnx(found.model, plain, found.classes, **about)
        _quantize_enough(found, plain, quantized, images, tolerance)
        if path.suffix == openvino_model.SUFFIX:
            written = Path(folder) / "int8.xml"
            said = form_of(found.model, found.classes, **about)[1]
            write_openvino(read_network(quantized), written, said)
            agreement = _agreement(found, load_openvino(written).model, unused(images))
            place(written, path)
            return agreement
        agreement = _agreement(found, load_onnx(quantized).model, unused(images))
        with atomic_write(path) as temporary:
            temporary.write_bytes(quantized.read_bytes())
        return agreement


def unused(images: Sequence[Float[Tensor, "c H W"]]) -> Sequence[Float[Tensor, "c H W"]]:
    """Images on which `export_int8` chooses nothing where it is given four or more; else those least used."""
    return images[3::4] or images[1::2] or images


def _quantize_enough(
    found: Checkpoint, source: Path, path: Path, images: Sequence[Float[Tensor, "c H W"]], tolerance: float
) -> None:
    """`quantize_onnx` with as few layers in float32 as the tolerance allows, or the best that was tried."""
    measuring, judged = images[::2][:MOST], images[1::4][:_JUDGED]
    best, tried = -1.0, path.with_name("tried.onnx")
    enough = 1 - _MARGIN * (1 - tolerance) if tolerance else 0.0
    with torch.no_grad():
        expected = [classes_of(found, found.model(image[None])) for image in judged]
        for in_float, mean in _TRIED:
            if not quantize_onnx(source, tried, measuring, in_float=in_float, mean=mean):
                return
            model = load_onnx(tried).model
            given = [classes_of(found, model(image[None])) for image in judged]
            same = sum(int((a == b).sum()) for a, b in zip(expected, given, strict=True))
            share = same / sum(one.numel() for one in expected)
            if share > best:
                best = share
                path.write_bytes(tried.read_bytes())
            if share >= enough:
                return


def quantize_onnx(
    source: Path,
    path: Path,
    images: Sequence[Float[Tensor, "c H W"]],
    *,
    in_float: tuple[int, int] = (0, 0),
    mean: bool = False,
) -> bool:
    """Write an ONNX file whose convolutions and products take 8-bit integers (QDQ form, one scale a channel).

    Args:
        source: an ONNX file in float32.
        path: of the other one.
        images: that ranges are measured on.
        in_float: how many of the first layers stay in float32, and how many of the last, those with all that
            comes behind the first of them.
        mean: whether a range goes from the mean of the smallest values of the images to that of the largest,
            instead of holding all values.

    Returns:
        Whether the file was written: false where those are more than half of all layers.

    Raises:
        ValueError: if ONNX Runtime cannot do it.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image[None].float().numpy()}

    prepared = path.with_name("prepared.onnx")
    with _quiet():
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            nodes = onnx.load(prepared).graph.node  # each behind all that it needs
            layers = [place for place, node in enumerate(nodes) if node.op_type in _LAYERS]
            first, last = in_float
            if 2 * (first + last) > len(layers):
                return False
            kept = [nodes[place] for place in layers[:first]] + list(nodes[layers[-last] :] if last else [])
            quantization.quantize_static(
                str(prepared),
                str(path),
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                extra_options={"CalibMovingAverage": mean},
                op_types_to_quantize=list(_TYPES),
                nodes_to_exclude=[node.name for node in kept if node.name],
            )
        except Exception as error:  # its errors have no common base
            raise ValueError(
                f"ONNX Runtime cannot compute the model in 8-bit integers: {onnx_model.cause_of(error)}"
            ) from error
    written, told = onnx.load(path), onnx.load(source).metadata_props
    del written.metadata_props[:]
    written.metadata_props.extend(one for one in told if one.key == KEY)
    onnx.save(written, path)
    return True


def _agreement(found: Checkpoint, exported: Model, images: Sequence[Float[Tensor, "c H W"]]) -> Agreement:
    """The share of pixels whose label is the same, over all images.

    Raises:
        ValueError: if it is too small.
    """
    equal = pixels = 0
    for image in images:
        with torch.no_grad():
            expected, given = found.model(image[None]), exported(image[None])
        same = classes_of(found, expected) == classes_of(found, given)
        equal, pixels = equal + int(same.sum()), pixels + same.numel()
    if equal < LEAST * pixels:
        raise ValueError(
            f"in 8-bit integers only {equal / pixels:.1%} of the labels of {len(images)} images are those of "
            "the network: no file was written"
        )
    return Agreement(equal / pixels, len(images))


def classes_of(found: Checkpoint, output: Any) -> Tensor:
    """What is compared: the class of each pixel, or for several classes per pixel whether each is there."""
    if isinstance(output, PixelLabels) or found.classes.exclusive:
        return decode.labels(output).labels
    return output.logits > 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of ONNX Runtime's tools, which go to the root logger and to standard output."""
    import contextlib
    import io
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
