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
from .onnx_model import KEY, export_onnx, load_onnx
from .openvino_model import load_openvino, place, write_openvino

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
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        export_onnx(
            found.model, plain, found.classes, task=found.task, decoding=found.decoding, labels=labels
        )
        _quantize_enough(found, plain, quantized, images, tolerance)
        if path.suffix == openvino_model.SUFFIX:
            written = Path(folder) / "int8.xml"
            write_openvino(quantized, written)
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
    """The file in integers with as few layers in float32 as the tolerance allows, or the best one tried."""
    judged, tried = images[1::4][:_JUDGED], path.with_name("tried.onnx")
    quantizer = Quantizer(source, images[::2][:MOST])
    best, enough = -1.0, 1 - _MARGIN * (1 - tolerance) if tolerance else 0.0
    with torch.no_grad():
        expected = [classes_of(found, found.model(image[None])) for image in judged]
        for in_float, mean in _TRIED:
            if not quantizer.write(tried, in_float=in_float, mean=mean):
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


class Quantizer:
    """Writes ONNX files whose convolutions and products take 8-bit integers (QDQ form, one scale a channel).

    The network is prepared, and ranges of its values are measured, once for all of them.

    Args:
        source: an ONNX file in float32; files that are needed in between are written beside it.
        images: that ranges are measured on.

    Raises:
        ValueError: if ONNX Runtime cannot do it.
    """

    def __init__(self, source: Path, images: Sequence[Float[Tensor, "c H W"]]) -> None:
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self.images, self.prepared = images, source.with_name("prepared.onnx")
        self.ranges: dict[bool, Any] = {}
        with _tools_of_onnxruntime():
            quant_pre_process(str(source), str(self.prepared), skip_symbolic_shape=True)
        self.told = [one for one in onnx.load(source).metadata_props if one.key == KEY]

    def write(self, path: Path, *, in_float: tuple[int, int] = (0, 0), mean: bool = False) -> bool:
        """Write a file in integers.

        Args:
            path: of the file.
            in_float: how many of the first layers stay in float32, and how many of the last, those with all
                that comes behind the first of them.
            mean: whether a range goes from the mean of the smallest values of the images to that of the
                largest, instead of holding all values.

        Returns:
            Whether the file was written: false where those are more than half of all layers.

        Raises:
            ValueError: if ONNX Runtime cannot do it.
        """
        from onnxruntime.quantization import QDQQuantizer, QuantType
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        network = load_model_with_shape_infer(self.prepared)
        nodes = network.graph.node  # each behind all that it needs
        layers = [place for place, node in enumerate(nodes) if node.op_type in _LAYERS]
        first, last = in_float
        if 2 * (first + last) > len(layers):
            return False
        kept = [nodes[place] for place in layers[:first]] + list(nodes[layers[-last] :] if last else [])
        with _tools_of_onnxruntime():
            if mean not in self.ranges:
                self.ranges[mean] = self._measured(mean)
            quantizer = QDQQuantizer(
                network,
                True,  # a scale for each channel
                True,  # weights of 7 bits
                QuantType.QInt8,
                QuantType.QUInt8,
                self.ranges[mean],
                [],
                [node.name for node in kept if node.name],
                list(_TYPES),
                {},
            )
            quantizer.quantize_model()
            written = quantizer.model.model
            del written.metadata_props[:]
            written.metadata_props.extend(self.told)
            quantizer.model.save_model_to_file(str(path))
        return True

    def _measured(self, mean: bool) -> Any:
        """Between which values each tensor lies."""
        from onnxruntime.quantization import CalibrationDataReader, create_calibrator

        class Images(CalibrationDataReader):
            def __init__(self, images: Sequence[Float[Tensor, "c H W"]]) -> None:
                self.left = iter(images)

            def get_next(self) -> dict[str, np.ndarray] | None:
                image = next(self.left, None)
                return None if image is None else {"image": image[None].float().numpy()}

        watched = str(self.prepared.with_name("watched.onnx"))
        calibrator = create_calibrator(self.prepared, _TYPES, watched, extra_options={"moving_average": mean})
        calibrator.collect_data(Images(self.images))
        return calibrator.compute_data()


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
def _tools_of_onnxruntime() -> Iterator[None]:
    """Without their remarks, which go to the root logger and to standard output.

    Raises:
        ValueError: in place of whatever they raise.
    """
    import contextlib
    import io
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # their errors have no common base
        raise ValueError(
            f"ONNX Runtime cannot compute the model in 8-bit integers: {onnx_model.cause_of(error)}"
        ) from error
    finally:
        logging.disable(before)
