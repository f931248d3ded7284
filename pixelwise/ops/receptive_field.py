"""What one output sees of the image."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..types import DenseLogits, DenseModel


def receptive_field(layers: Iterable[tuple[int, int] | tuple[int, int, int]]) -> int:
    """Side in pixels of the square of the image that one output of a chain of layers depends on.

    It grows by dilation * (kernel - 1) steps at each layer, a step being the product of the strides before.

    Args:
        layers: from the image on: kernel, stride and, where it is not 1, dilation of each convolution or
            pooling.

    >>> receptive_field([(3, 1), (3, 1), (3, 1)])
    7
    >>> receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 4)])  # dilation doubles: exponential growth
    15
    """
    field, step = 1, 1
    for kernel, stride, *dilation in layers:
        field += step * (dilation[0] if dilation else 1) * (kernel - 1)
        step *= stride
    return field


def measured_receptive_field(
    model: nn.Module, size: tuple[int, int] = (512, 512), *, in_channels: int = 3
) -> tuple[int, int]:
    """Height and width of the part of an image that the middle pixel of the output depends on.

    The output is asked, by one backward pass, which pixels can reach it. In a network of stride s the answer
    differs by up to s from pixel to pixel. Global pooling, attention over all pixels and norms over the map
    make it the whole image. The model is left as it is.

    Args:
        model: gives `DenseLogits` (its scores at image size are asked) or one tensor "b c h w".
        size: height and width of the image that is tried.
        in_channels: of the image, where `model` is no `DenseModel`.

    Returns:
        Height and width in pixels. An axis that equals `size` was seen from end to end and may go further;
        (0, 0) means that the output does not depend on the image.

    >>> measured_receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 5)), (32, 32))
    (7, 7)
    """
    # The gradient that is sent back is not a number at one pixel and zero at all others. Sums and products
    # keep both facts whatever the weights are, so no path is lost to cancelling, underflow or a zero weight.
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    channels = model.in_channels if isinstance(model, DenseModel) else in_channels
    image = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.enable_grad(), _EveryPathOpen():
        output = model(image)
        scores: Tensor = output.logits if isinstance(output, DenseLogits) else output
    if not scores.requires_grad:
        return 0, 0
    asked = torch.zeros_like(scores)
    asked[..., scores.shape[-2] // 2, scores.shape[-1] // 2] = torch.nan
    (reached,) = torch.autograd.grad(scores, image, asked)
    seen = reached[0].isnan().any(0)
    return _extent(seen.any(1)), _extent(seen.any(0))


def _extent(seen: Tensor) -> int:
    """Length from the first to the last True."""
    (places,) = seen.nonzero(as_tuple=True)
    return int(places[-1] - places[0]) + 1 if len(places) else 0


class _EveryPathOpen(TorchFunctionMode):
    """Replaces operators that pass gradients to some of their inputs only by ones that pass them to all.

    Which inputs these are depends on the image; the receptive field is where they can be.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("relu", "relu_", "hardtanh", "hardtanh_", "hardswish", "hardsigmoid"):
            return args[0]
        if name == "max_pool2d":
            return _mean_pool(*args, **kwargs)
        if name == "max_pool2d_with_indices":
            return _mean_pool(*args, **kwargs), func(*args, **kwargs)[1]
        if name == "max_unpool2d":
            return _spread(*args, **kwargs)
        return func(*args, **kwargs)


def _mean_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode)


def _spread(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    size = output_size or [k * n for k, n in zip(kernel, input.shape[-2:], strict=True)]
    return F.interpolate(input, tuple(size[-2:]), mode="nearest")
