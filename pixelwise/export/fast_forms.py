"""Forms of a network that compute the same faster: memory layout, folded norms, bfloat16, other runtimes."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_map

from ..checkpoint import Checkpoint
from ..types import Model
from .int8 import export_int8
from .onnx_model import _as_tuples, _output_type, export_onnx, form_of, load_onnx, traced
from .openvino_model import load_openvino, write_openvino

Images = Sequence[Float[Tensor, "c H W"]]
Run = Callable[[Float[Tensor, "b c H W"]], Any]
_BATCH_NORM, _CONVOLUTIONS = torch.ops.aten.batch_norm.default, (torch.ops.aten.conv2d.default,)


class FastModel(Model):
    """A network in another form: the same images, the same outputs; it cannot be trained.

    Args:
        like: the network.
        run: what computes its output.
        network: with which torch computes it, where several threads may do so at the same time.
    """

    encoder_parts = ()

    def __init__(self, like: Model, run: Run, network: nn.Module | None = None) -> None:
        super().__init__()
        self.tasks, self.output = like.tasks, like.output  # type: ignore[misc]
        self.num_classes, self.in_channels = like.num_classes, like.in_channels
        self.minimum_size, self._run, self.network = like.minimum_size, run, network

    def forward(self, image: Float[Tensor, "b c H W"]) -> Any:
        """The output of the network, with scores in float32."""
        return tree_map(
            lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, self._run(image)
        )


def _last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


def _in_last(model: Model) -> Model:
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


def channels_last(found: Checkpoint, images: Images, file: Path) -> Model:
    """The network with the channels of a pixel beside each other in memory."""
    model = _in_last(found.model)
    return FastModel(found.model, lambda image: model(_last(image)), model)


def bfloat16(found: Checkpoint, images: Images, file: Path) -> Model:
    """Likewise, in mixed precision."""
    model = _in_last(found.model)

    def run(image: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(_last(image))

    return FastModel(found.model, run, model)


def folded(found: Checkpoint, images: Images, file: Path) -> Model:
    """A program in which batch norms are part of the convolutions before them."""
    return _folded(found, torch.float32)


def folded_bfloat16(found: Checkpoint, images: Images, file: Path) -> Model:
    """Likewise, with weights in bfloat16."""
    return _folded(found, torch.bfloat16)


def _folded(found: Checkpoint, dtype: torch.dtype) -> Model:
    model = copy.deepcopy(found.model)  # the program shares its weights, which are changed
    form, about = form_of(model, found.classes, task=found.task, decoding=None, labels=False)
    module = traced(model, form).module()
    assert isinstance(module, fx.GraphModule)
    fold(module)
    module.to(dtype)
    module.to(memory_format=torch.channels_last)
    described = about["output"]
    kind, constants = _output_type(described["type"]), _as_tuples(described["constants"])

    def run(image: Tensor) -> Any:
        given = module(_last(image.to(dtype)))
        tensors = dict(zip(form.names, given, strict=True))
        return kind(**tensors, **constants, size=(image.shape[2], image.shape[3]))

    return FastModel(found.model, run, module)


def fold(module: fx.GraphModule) -> int:
    """Make every batch norm that follows a convolution alone a part of it; how many there were.

    Checks of types are taken out as well: they hold for the type that was traced.
    """
    count = 0
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        if node.target is not _BATCH_NORM or node.args[0].target not in _CONVOLUTIONS:
            continue
        convolution, scale, shift, mean, variance = node.args[:5]
        if len(convolution.users) > 1:
            continue
        bias = convolution.args[2] if len(convolution.args) > 2 else None
        new = fuse_conv_bn_weights(
            _value(module, convolution.args[1]),
            None if bias is None else _value(module, bias),
            _value(module, mean),
            _value(module, variance),
            node.args[7],
            None if scale is None else _value(module, scale),
            None if shift is None else _value(module, shift),
        )
        with module.graph.inserting_before(convolution):
            for name, parameter in zip(("weight", "bias"), new, strict=True):
                module.register_parameter(f"folded_{count}_{name}", parameter)
            nodes = [module.graph.get_attr(f"folded_{count}_{name}") for name in ("weight", "bias")]
            convolution.args = (convolution.args[0], *nodes, *convolution.args[3:])
        node.replace_all_uses_with(convolution)
        module.graph.erase_node(node)
        count += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return count


def _value(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """What a node that names a weight stands for."""
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found


def compiled(found: Checkpoint, images: Images, file: Path) -> Model:
    """The network as torch.compile makes it for the size of the images; others run in channels-last form."""
    return _compiled(found, images, low=False)


def compiled_bfloat16(found: Checkpoint, images: Images, file: Path) -> Model:
    """Likewise, in mixed precision."""
    return _compiled(found, images, low=True)


def _compiled(found: Checkpoint, images: Images, low: bool) -> Model:
    model, size = _in_last(found.model), (1, *images[0].shape)
    fast = torch.compile(model, dynamic=False, options={"freezing": True})

    def run(image: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=low), torch.no_grad():
            return (fast if tuple(image.shape) == size else model)(_last(image))

    return FastModel(found.model, run)


def onnx(found: Checkpoint, images: Images, file: Path) -> Model:
    """ONNX Runtime."""
    path = file.with_suffix(".onnx")
    if not path.exists():
        export_onnx(found.model, path, found.classes, task=found.task)
    return load_onnx(path).model


def onnx_int8(found: Checkpoint, images: Images, file: Path, tolerance: float = 0.995) -> Model:
    """ONNX Runtime, in 8-bit integers."""
    path = file.with_suffix(".onnx")
    if not path.exists():
        export_int8(_plain(found), path, images, tolerance=tolerance)
    return load_onnx(path).model


def openvino(found: Checkpoint, images: Images, file: Path) -> Model:
    """OpenVINO."""
    return _openvino(file, lambda source: onnx(found, images, source))


def openvino_bfloat16(found: Checkpoint, images: Images, file: Path) -> Model:
    """OpenVINO, in bfloat16."""
    model = openvino(found, images, file)

    def run(image: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(image)

    return FastModel(found.model, run)


def openvino_int8(found: Checkpoint, images: Images, file: Path, tolerance: float = 0.995) -> Model:
    """OpenVINO, in 8-bit integers."""
    return _openvino(file, lambda source: onnx_int8(found, images, source, tolerance))


def _openvino(file: Path, made: Callable[[Path], object]) -> Model:
    """The network of a pair of files, which is made of the ONNX file of the same kind beside it."""
    path = file.with_suffix(".xml")
    if not path.exists():
        source = file.with_name(file.name.replace("openvino", "onnx"))
        made(source)
        write_openvino(source.with_suffix(".onnx"), path)
    return load_openvino(path).model


def _plain(found: Checkpoint) -> Checkpoint:
    return Checkpoint(found.model, found.classes, found.built_by, {}, found.task, {})


# How tables and files call them, with what makes them: of a network, images of one size, and the name of a
# file without suffix, which is read if it exists and written otherwise. Those in `NEED_IMAGES` also take the
# share of labels that must stay what they are.
FORMS: dict[str, Callable[..., Model]] = {
    "channels-last": channels_last,
    "channels-last, bf16": bfloat16,
    "folded": folded,
    "folded, bf16": folded_bfloat16,
    "torch.compile": compiled,
    "torch.compile, bf16": compiled_bfloat16,
    "onnx": onnx,
    "onnx, int8": onnx_int8,
    "openvino": openvino,
    "openvino, bf16": openvino_bfloat16,
    "openvino, int8": openvino_int8,
}
NEED_IMAGES = ("onnx, int8", "openvino, int8")
EAGER = "eager"
