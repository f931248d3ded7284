"""Models as ONNX files: written, checked, and run by ONNX Runtime behind the same interface.

A file takes images "b c H W" in [0, 1] of any size and batch and gives the fields of the model's output:
scores of `DenseLogits`, queries of `MaskLogits`, and so on. Its metadata tell class table, task and settings
of decoding, so that `Predictor("model.onnx")` needs nothing else, nor the code of the network. Resizing
scores to the image and decoding happen outside, as for every model, in the same memory.

A file that loads and computes nonsense must be impossible: before it appears, it is run on images of three
sizes that were not traced, and compared with the model.
"""

import json
import operator
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .. import decode
from ..checkpoint import Checkpoint, read_classes
from ..files import atomic_write
from ..models import FasterRCNN, MaskRCNN
from ..ops.pooling import adaptive_average_pool
from ..types import BuiltBy, ClassTable, Model, Value
from . import foreign, onnx_objects, onnx_regions
from .labels import OF_SCORES, PixelLabels, label_program
from .onnx_objects import ObjectProgram, OnnxObjects
from .onnx_regions import OnnxRegions
from .regions import RegionProgram

FORMAT = "pixelwise-onnx-1"
SUFFIX = ".onnx"
KEY = "pixelwise"  # of the metadata
CLOSE = 1e-3  # largest difference that is allowed, relative to the largest value of an output
_TRACED = (2, 130, 166)  # batch, height, width
_CHECKED = ((1, 96, 66), (3, 67, 97), (1, 203, 157))
_LARGEST = 2**31 - 2**20  # bytes of one file of protocol buffers


def _floor_divided(self: Any, other: Any) -> Any:
    """Division of sizes that rounds down, also of negative ones: -(-7 // 2) is 4.

    The exporter's own division rounds towards zero, and maps of odd sizes would come out too small.
    """
    from onnxscript import opset18

    return opset18.Div(opset18.Sub(self, opset18.Mod(self, other)), other)


def _remainder(self: Any, other: Any) -> Any:
    """What remains of a tensor divided by a number or by a size, with the sign of the divisor as in Python.

    The exporter's own translation takes no sizes.
    """
    from onnxscript import opset18

    other = opset18.CastLike(other, self)
    if self.dtype.is_integer():
        return opset18.Mod(self, other)
    return opset18.Sub(self, opset18.Mul(opset18.Floor(opset18.Div(self, other)), other))


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.floordiv: _floor_divided,
    torch.ops.aten.remainder.Scalar: _remainder,
}


class Difference(NamedTuple):
    """What the check found.

    Attributes:
        size: batch, height and width of the image.
        largest: difference from the model, over the largest value.
    """

    size: tuple[int, int, int]
    largest: float


def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    classes: ClassTable,
    *,
    task: str | None = None,
    decoding: Mapping[str, Any] | None = None,
    labels: bool = False,
) -> list[Difference]:
    """Write a model as an ONNX file, which appears only if it computes what the model computes.

    Args:
        model: of two-dimensional images.
        path: of the file, ending in .onnx.
        classes: what its labels mean.
        task: name of the task; None for the first that the model serves.
        decoding: settings of decoding that belong to the weights.
        labels: whether the file gives the class of every pixel instead of scores; mirror images and CRF of
            `decoding`, which need scores, are left out then.

    Returns:
        The largest difference at each of three sizes.

    Raises:
        ValueError: if the extra `pixelwise[export]` is missing, the model cannot be exported, the file would
            be too large, its results differ, or it cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"an ONNX file ends in {SUFFIX}, got {path}")
    installed()
    model = model.cpu().eval()
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    if size > _LARGEST:
        raise ValueError(f"{type(model).__name__} has {size >> 20} MiB of weights: an ONNX file holds 2,047")
    form, about = form_of(model, classes, task=task, decoding=decoding, labels=labels)
    # torch.onnx tries several ways to trace, which networks of objects need: the coarsest level of their
    # pyramid may have one cell, or many.
    source = form.program.eval() if isinstance(form.program, ObjectProgram) else traced(model, form)
    with atomic_write(path) as temporary:
        write_onnx(source, temporary, model, form, about)
        return checked(model, load_onnx(temporary).model, "ONNX", form)


def traced(model: Model, form: "_Form") -> ExportedProgram:
    """A program for images of any size, without the names of the files that it was traced from.

    Raises:
        ValueError: if it cannot be traced.
    """
    with quiet(), torch.no_grad(), _PoolingOfAnySize():
        try:
            program = torch.export.export(
                form.program.eval(), (_example(model, _TRACED),), dynamic_shapes=(form.sizes,)
            )
        except Exception as error:  # whatever the tracer raises
            raise ValueError(f"{type(model).__name__} cannot be exported: {cause_of(error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(
    source: ExportedProgram | nn.Module,
    path: str | os.PathLike[str],
    model: Model,
    form: "_Form",
    about: Mapping[str, Any],
) -> None:
    """Translate a program, or a network, and write it with what the file says of itself.

    Raises:
        ValueError: if an operator has no translation.
    """
    whole = isinstance(source, ExportedProgram)
    if isinstance(source, ExportedProgram) and (own := _operators_of_pixelwise(source)):
        raise ValueError(
            f"{type(model).__name__} cannot be exported to ONNX or OpenVINO: it computes "
            f"{', '.join(own)}, which only pixelwise can; --to torch writes a file that runs where "
            "pixelwise is installed"
        )
    with quiet(), torch.no_grad(), _PoolingOfAnySize():
        try:
            found = torch.onnx.export(
                source,
                () if whole else (_example(model, _TRACED),),
                dynamo=True,
                dynamic_shapes=None if whole else (form.sizes,),
                input_names=["image"],
                output_names=form.names,
                custom_translation_table=_TRANSLATIONS,
                verbose=False,
            )
        except Exception as error:  # whatever the tracer, the translation and the optimiser raise
            raise ValueError(
                f"{type(model).__name__} cannot be exported to ONNX: {cause_of(error)}"
            ) from error
    assert found is not None
    found.model.metadata_props[KEY] = json.dumps(about)
    found.save(os.fspath(path))


def _operators_of_pixelwise(program: ExportedProgram) -> list[str]:
    """Names of the operators that torch has from this package, and no other runtime has."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    names = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    return sorted({name.split(".")[1] for name in names if name.startswith("pixelwise.")})


def form_of(
    model: Model,
    classes: ClassTable,
    *,
    task: str | None,
    decoding: Mapping[str, Any] | None,
    labels: bool,
) -> tuple["_Form", dict[str, Any]]:
    """A model as a program, and what a file says of itself.

    Raises:
        ValueError: if the output of the model has no fixed fields, or tells no labels.
    """
    decoding = dict(decoding or {})
    form = _labels_of(model, classes, decoding) if labels else _form_of(model)
    about = {
        "format": FORMAT,
        "classes": asdict(classes),
        "task": task or model.tasks[0],
        "decoding": {name: one for name, one in decoding.items() if not (labels and name in OF_SCORES)},
        "tasks": list(model.tasks),
        "in_channels": model.in_channels,
        "minimum_size": model.minimum_size,
        "output": form.described,
    }
    return form, about


def checked(model: Model, exported: Model, what: str, form: "_Form") -> list[Difference]:
    """The largest difference of a file from the model at each of three sizes.

    Raises:
        ValueError: if it is too large.
    """
    found = [_compared(model, exported, size, form) for size in _CHECKED]
    worst = max(found, key=lambda one: one.largest)
    if not worst.largest <= CLOSE:
        raise ValueError(
            f"{type(model).__name__} exported to {what} differs from the model by {worst.largest:.1e} at "
            f"{worst.size[0]} x {worst.size[1]} x {worst.size[2]}: no file was written"
        )
    return found


def cause_of(error: BaseException) -> str:
    """The innermost reason in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


def load_onnx(path: str | os.PathLike[str], classes: ClassTable | None = None) -> Checkpoint:
    """Read what `export_onnx` wrote; `Predictor` and `evaluate` do this for a path that ends in .onnx.

    Args:
        path: of the file.
        classes: of a file that does not tell them, which another program wrote: images "b c H W" in [0, 1]
            are its only input, and one of its outputs is scores "b k h w" of the k classes, or labels
            "b H W". Files of `export_onnx` tell their own.

    Raises:
        ValueError: if the extra `pixelwise[export]` is missing, the file is damaged, or it does not tell its
            classes and its shapes do not fit those given.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    installed()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise ValueError(
            f"{path} cannot be read as an ONNX file: {str(error).splitlines()[0]:.200}"
        ) from error
    written = session.get_modelmeta().custom_metadata_map.get(KEY)
    if written is None and classes is None:
        raise ValueError(
            f"{path} does not tell its classes: it was not written by `pixelwise export`; give a class table "
            "(--classes)"
        )
    if written is None:
        assert classes is not None
        other, about = foreign.described(session, path, classes)
        return as_checkpoint(other, {**about, "classes": asdict(classes)}, "onnx")
    try:
        about = json.loads(written)
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r:.40}, not {FORMAT}")
        return as_checkpoint(session, about, "onnx")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def as_checkpoint(session: Any, about: Mapping[str, Any], runtime: str) -> Checkpoint:
    """A session behind the interface of a model, with what the file says of itself.

    Args:
        session: with `run(names, {"image": array}) -> arrays`, as those of ONNX Runtime.
        about: as `form_of` makes it.
        runtime: what computes it.
    """
    classes = read_classes(about["classes"])
    kinds = {onnx_regions.TYPE: OnnxRegions, onnx_objects.TYPE: OnnxObjects}
    model: Model = kinds.get(about["output"]["type"], OnnxModel)(session, about)
    model.num_classes = len(classes)
    return Checkpoint(model.eval(), classes, BuiltBy(runtime, {}), {}, about["task"], about["decoding"])


class OnnxModel(Model):
    """A network that ONNX Runtime computes, on the CPU; it cannot be trained.

    Args:
        session: of ONNX Runtime.
        about: what the file says of itself.
    """

    encoder_parts = ()

    def __init__(self, session: Any, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.session, self.in_channels = session, int(about["in_channels"])
        self.minimum_size = int(about["minimum_size"])
        self.tasks = tuple(about["tasks"])  # type: ignore[misc]
        described = about["output"]
        self.output = _output_type(described["type"])  # type: ignore[misc]
        self.names, self.constants = list(described["tensors"]), _as_tuples(described["constants"])

    def forward(self, image: Float[Tensor, "b c H W"]) -> Any:
        """The output of the network."""
        if min(image.shape[2:]) < self.minimum_size:
            raise ValueError(
                f"the image must have at least {self.minimum_size} pixels on each side, got "
                f"{image.shape[2]} x {image.shape[3]}"
            )
        given = image.detach().float().cpu().contiguous().numpy()
        try:
            found = self.session.run(self.names, {"image": given})
        except Exception as error:  # the errors of ONNX Runtime have no common base
            raise ValueError(f"ONNX Runtime cannot run the model: {error!s:.300}") from error
        tensors = {name: torch.from_numpy(one) for name, one in zip(self.names, found, strict=True)}
        return self.output(**tensors, **self.constants, size=(image.shape[2], image.shape[3]))


class _PoolingOfAnySize(TorchFunctionMode):
    """Inside, adaptive pooling is done by matrices, which are right at sizes that are not traced."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            size = args[1] if len(args) > 1 else kwargs["output_size"]
            if size not in (1, (1, 1), [1, 1]):
                return adaptive_average_pool(args[0], size)
        return func(*args, **kwargs)


class _Form(NamedTuple):
    """How a model is written: as a program with named results.

    Attributes:
        program: takes images, gives a tuple of tensors.
        sizes: which axes of the images are not fixed.
        names: of the tensors.
        described: how they are put together again, as JSON knows it.
    """

    program: nn.Module
    sizes: dict[int, Any]
    names: list[str]
    described: dict[str, Any]


def _form_of(model: Model) -> _Form:
    if type(model) in (FasterRCNN, MaskRCNN):
        import torchvision.ops  # noqa: F401  (the exporter knows its operators if they are there before)

        sides = {2: Dim("H", min=65, max=2048), 3: Dim("W", min=65, max=2048)}
        names = ["boxes", "classes", "scores", "images", "masks"][: 5 if isinstance(model, MaskRCNN) else 4]
        program = RegionProgram(model)  # type: ignore[arg-type]
        described = onnx_regions.described(model)  # type: ignore[arg-type]
        return _Form(program, {0: Dim("b", min=1, max=64), **sides}, names, described)
    if isinstance(model, onnx_objects.KINDS):
        return _Form(ObjectProgram(model), onnx_objects.sides(), *onnx_objects.described(model))
    names, described = _described(model)
    return _Form(_Fields(model, names), dict.fromkeys((0, 2, 3), Dim.DYNAMIC), names, described)


def _labels_of(model: Model, classes: ClassTable, decoding: Mapping[str, Any]) -> _Form:
    program = label_program(model, classes, decoding.get("threshold"))
    place = f"{PixelLabels.__module__}:{PixelLabels.__qualname__}"
    described = {"type": place, "tensors": ["labels"], "constants": {}}
    return _Form(program, dict.fromkeys((0, 2, 3), Dim.DYNAMIC), ["labels"], described)


class _Fields(nn.Module):
    """A model whose output is the tuple of its tensors."""

    def __init__(self, model: Model, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, image: Float[Tensor, "b c H W"]) -> tuple[Tensor, ...]:
        output = self.model(image)
        return tuple(getattr(output, name) for name in self.names)


def _described(model: Model) -> tuple[list[str], dict[str, Any]]:
    """Names of the tensors of an output, and how it is put together again."""
    with torch.no_grad():
        output = model(_example(model, _CHECKED[1]))
    kind = type(output)
    tensors = [field.name for field in fields(output) if isinstance(getattr(output, field.name), Tensor)]
    names = [field.name for field in fields(output) if field.name not in (*tensors, "size")]
    constants = {name: getattr(output, name) for name in names}
    plain = all(isinstance(one, bool | int | float | str | tuple | None) for one in constants.values())
    if not isinstance(output, Value) or not tensors or not plain or "size" not in _names(kind):
        raise ValueError(f"the output of {type(model).__name__}, {kind.__name__}, cannot be exported to ONNX")
    try:
        json.dumps(constants)
    except TypeError as error:
        raise ValueError(
            f"the output of {type(model).__name__}, {kind.__name__}, cannot be exported to ONNX"
        ) from error
    place = f"{kind.__module__}:{kind.__qualname__}"
    return tensors, {"type": place, "tensors": tensors, "constants": constants}


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind)]


def _output_type(place: str) -> type[Any]:
    """The type of an output by module and name; only those of this package."""
    module, _, name = place.partition(":")
    if module.split(".")[0] != __name__.split(".")[0]:
        raise ValueError(f"it names the output {place!r:.80}, which is not of this package")
    found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Value)):
        raise ValueError(f"it names the output {place!r:.80}, which does not exist")
    return found


def _as_tuples(constants: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(one) if isinstance(one, list) else one for name, one in constants.items()}


def _example(model: Model, size: tuple[int, int, int]) -> Float[Tensor, "b c H W"]:
    batch, height, width = size
    generator = torch.Generator().manual_seed(height)
    # A program of torch may leave out sizes at which a map of the network is a single cell.
    sides = [max(side, 2 * model.minimum_size) for side in (height, width)]
    return torch.rand(batch, model.in_channels, *sides, generator=generator)


def _compared(model: Model, exported: Model, size: tuple[int, int, int], form: _Form) -> Difference:
    image = _example(model, size)
    if isinstance(exported, OnnxObjects):
        seen = (size[0], image.shape[2], image.shape[3])
        return Difference(seen, onnx_objects.difference(model, exported, image))
    with torch.no_grad():
        expected, found = model(image), exported(image)
        labels = form.program(image) if isinstance(found, PixelLabels) else None
    whole = (size[0], image.shape[2], image.shape[3])
    if labels is not None:  # the share of pixels that differ: ties are decided either way
        return Difference(whole, (found.labels != labels).float().mean().item())
    if isinstance(found, onnx_regions.Found):
        boxes = decode.boxes(expected), decode.boxes(found)
        return Difference(whole, onnx_regions.largest_difference(*boxes))
    largest = 0.0
    for field in fields(expected):
        ours = getattr(expected, field.name)
        if isinstance(ours, Tensor):
            theirs = getattr(found, field.name)
            if theirs.shape != ours.shape:
                return Difference(whole, float("inf"))
            scale = ours.abs().max().item() or 1.0
            largest = max(largest, (theirs - ours).abs().max().item() / scale)
    return Difference(whole, largest)


def installed() -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        ValueError: if one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX needs more packages: pip install 'pixelwise[export]' ({error})") from error


@contextmanager
def quiet() -> Any:
    """Without the remarks of the exporter."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
