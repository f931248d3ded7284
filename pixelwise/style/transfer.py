"""An image that has the content of one picture and the style of others, by optimising its pixels.

    total = content_weight * content + style_weight * style + smoothness * total variation

as Gatys, Ecker and Bethge have it (CVPR 2016, Eq. 7; the last term was added by later work). Each part is
relative: the content loss is divided by its value for a map of zeros, the style loss of each layer by its
value for a Gram matrix of zeros. That is a choice of the layers' weights, which the paper leaves open, and
makes the weights below mean the same for every network, image size and layer.

Large images are made from coarse to fine: strokes larger than what a filter sees come from the coarse scales
(Gatys et al., CVPR 2017, Sec. 6). Styles of regions weigh the places of the maps (the same, Sec. 4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from .losses import content_loss, gram_matrix, style_loss, total_variation
from .networks import StyleNetwork

Optimizer = Literal["lbfgs", "adam"]
Start = Literal["content", "noise"]
_MEMORY = 20  # pairs of steps and gradients that L-BFGS keeps
_ADAM_RATE = 0.02  # of pixels in [0, 1]


@dataclass(frozen=True)
class StyleRegion:
    """A style, and where it goes.

    Attributes:
        style: the picture, in [0, 1].
        where: the pixels of the content that take it; None for all. What no region takes stays as it is.
        style_where: the pixels of the picture that it is taken from; None for all.
    """

    style: Float[Tensor, "3 H W"]
    where: Bool[Tensor, "Hc Wc"] | None = None
    style_where: Bool[Tensor, "H W"] | None = None

    def __post_init__(self) -> None:
        """Reject masks that fit nothing."""
        if self.style.ndim != 3 or self.style.shape[0] != 3:
            raise ValueError(f"a style must be an image 3 H W, got the shape {tuple(self.style.shape)}")
        for name, mask in (("where", self.where), ("style_where", self.style_where)):
            if mask is not None and not mask.any():
                raise ValueError(f"{name} marks no pixel of the {'content' if name == 'where' else 'style'}")
        if self.style_where is not None and self.style_where.shape != self.style.shape[1:]:
            raise ValueError(
                f"style_where must have the size {tuple(self.style.shape[1:])} of the style, got "
                f"{tuple(self.style_where.shape)}"
            )


@dataclass(frozen=True)
class StyleSettings:
    """How to transfer style.

    Attributes:
        size: longest side of the result in pixels.
        scales: number of sizes from coarse to fine, each twice the last; fewer where the first would be too
            small for the network.
        steps: of the optimiser at each scale.
        content_weight: alpha of the paper, at least 0.
        style_weight: beta of the paper, at least 0.
        smoothness: weight of the total variation, at least 0.
        optimizer: "lbfgs" keeps all pixels in [0, 1] by bounds (L-BFGS-B), and its loss never rises; "adam"
            clamps them.
        start: "content", or "noise" for white noise, as in the paper.
        seed: of the noise.
    """

    size: int = 512
    scales: int = 3
    steps: int = 100
    content_weight: float = 1.0
    style_weight: float = 5.0
    smoothness: float = 0.2
    optimizer: Optimizer = "lbfgs"
    start: Start = "content"
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject numbers out of range."""
        for name in ("size", "scales", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("content_weight", "style_weight", "smoothness"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.content_weight + self.style_weight + self.smoothness > 0:
            raise ValueError("at least one of content_weight, style_weight and smoothness must be above 0")
        for name, kinds in (("optimizer", Optimizer), ("start", Start)):
            if getattr(self, name) not in get_args(kinds):
                known = " or ".join(get_args(kinds))
                raise ValueError(f"{name} must be {known}, got {getattr(self, name)!r}")


@dataclass(frozen=True, eq=False)
class StyleStep:
    """What happens at a step, for progress and previews.

    Attributes:
        done: steps so far, of all scales.
        total: steps of all scales.
        size: height and width of the present scale.
        loss: the total loss.
        image: as it is now.
    """

    done: int
    total: int
    size: tuple[int, int]
    loss: float
    image: Float[Tensor, "3 H W"]


@dataclass(frozen=True, eq=False)
class StyledImage:
    """A result.

    Attributes:
        image: in [0, 1].
        traces: the total loss at each scale, at its start and after each step.
    """

    image: Float[Tensor, "3 H W"]
    traces: tuple[tuple[float, ...], ...]


class Objective:
    """The total loss of an image of one size.

    Args:
        network: gives the maps.
        content: image of that size.
        regions: with masks of the content at any size.
        settings: give the weights.
    """

    def __init__(
        self,
        network: StyleNetwork,
        content: Float[Tensor, "3 H W"],
        regions: Sequence[StyleRegion],
        settings: StyleSettings,
    ) -> None:
        self.network, self.settings = network, settings
        with torch.no_grad():
            self._content = network(content[None])[network.content_layer]
            self._content_scale = float(content_loss(self._content, torch.zeros_like(self._content)))
            longest = max(content.shape[1:])
            self._grams = [self._grams_of(region, longest) for region in regions]
        self._weights = [None if region.where is None else region.where.to(content) for region in regions]
        self._shares = [1.0 if weights is None else float(weights.mean()) for weights in self._weights]

    def _grams_of(self, region: StyleRegion, longest: int) -> dict[str, Float[Tensor, "c c"]]:
        style = resized(region.style.to(self._content), longest, self.network.minimum_side)
        where = None if region.style_where is None else region.style_where.to(style)
        maps = self.network(style[None])
        return {
            layer: gram_matrix(maps[layer][0], None if where is None else _pooled(where, maps[layer]))
            for layer in self.network.style_layers
        }

    def __call__(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, ""]:
        """The total loss."""
        settings, maps = self.settings, self.network(image[None])
        total = settings.smoothness * total_variation(image) if settings.smoothness else image.new_zeros(())
        if settings.content_weight:
            content = content_loss(maps[self.network.content_layer], self._content) / self._content_scale
            total = total + settings.content_weight * content
        if settings.style_weight:
            total = total + settings.style_weight * self._style(maps)
        return total

    def _style(self, maps: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Mean over the layers, and over the regions by their areas."""
        losses = []
        for grams, weights, share in zip(self._grams, self._weights, self._shares, strict=True):
            for layer, target in grams.items():
                at_layer = None if weights is None else _pooled(weights, maps[layer])
                found = gram_matrix(maps[layer][0], at_layer)
                relative = style_loss(found, target) / style_loss(torch.zeros_like(target), target)
                losses.append(share * relative / len(grams))
        return torch.stack(losses).sum()


def transfer_style(
    content: Float[Tensor, "3 H W"],
    styles: Float[Tensor, "3 Hs Ws"] | Sequence[StyleRegion],
    network: StyleNetwork,
    settings: StyleSettings | None = None,
    *,
    watch: Callable[[StyleStep], None] | None = None,
) -> StyledImage:
    """Paint the content in a style, or each of its regions in one of its own.

    Args:
        content: in [0, 1].
        styles: a picture in [0, 1], or regions.
        network: see `make_network`; what device it is on decides where the work is done.
        settings: None for the default ones.
        watch: called after each step.

    Returns:
        The image, of `settings.size` at its longest side.

    Raises:
        ValueError: if an image is not 3 H W or too small for the network, or a mask does not fit.
    """
    settings = settings or StyleSettings()
    regions = (StyleRegion(styles),) if isinstance(styles, Tensor) else tuple(styles)
    if not regions:
        raise ValueError("style transfer needs at least one style")
    if content.ndim != 3 or content.shape[0] != 3:
        raise ValueError(f"the content must be an image 3 H W, got the shape {tuple(content.shape)}")
    for region in regions:
        if region.where is not None and region.where.shape != content.shape[1:]:
            raise ValueError(
                f"where must have the size {tuple(content.shape[1:])} of the content, got "
                f"{tuple(region.where.shape)}"
            )
    device = next(network.parameters()).device
    sizes = scales_of(content, settings, network.minimum_side)
    random = torch.Generator().manual_seed(settings.seed)
    image: Tensor | None = None
    traces = []
    for scale, size in enumerate(sizes):
        here = F.interpolate(content[None], size, mode="bilinear", antialias=True)[0].to(device)
        if image is not None:
            image = F.interpolate(image[None], size, mode="bicubic")[0].clamp(0, 1)
        else:
            image = here if settings.start == "content" else torch.rand(here.shape, generator=random).to(here)
        at_size = [_of_size(region, size, device) for region in regions]
        objective = Objective(network, here, at_size, settings)
        free = _union(at_size)
        if free is not None:
            image = torch.where(free, image, here)

        def report(
            done: int,
            loss: float,
            now: Tensor,
            before: int = scale * settings.steps,
            size: tuple[int, int] = size,
        ) -> None:
            if watch is not None:
                watch(StyleStep(before + done, len(sizes) * settings.steps, size, loss, now))

        optimise = _lbfgs if settings.optimizer == "lbfgs" else _adam
        image, trace = optimise(objective, image, free, settings.steps, report)
        traces.append(trace)
    assert image is not None
    return StyledImage(image.cpu(), tuple(traces))


def regions_of_masks(
    style: Float[Tensor, "3 Hs Ws"],
    labels: Integer[Tensor, "H W"],
    style_labels: Integer[Tensor, "Hs Ws"],
) -> tuple[StyleRegion, ...]:
    """Each label of the content takes the style of the part of the picture that has the same label.

    Labels that the picture lacks are left out.

    Raises:
        ValueError: if they have no label in common.
    """
    common = sorted(set(labels.unique().tolist()) & set(style_labels.unique().tolist()))
    if not common:
        raise ValueError("the masks of content and style have no label in common")
    return tuple(StyleRegion(style, labels == label, style_labels == label) for label in common)


def scales_of(
    content: Float[Tensor, "c H W"], settings: StyleSettings, minimum_side: int
) -> tuple[tuple[int, int], ...]:
    """Height and width at each scale, coarse to fine.

    Raises:
        ValueError: if the result itself would be too small for the network.

    >>> scales_of(torch.rand(3, 300, 400), StyleSettings(size=200, scales=3), 16)
    ((38, 50), (75, 100), (150, 200))
    """
    height, width = content.shape[1:]
    sizes = []
    for halvings in reversed(range(settings.scales)):
        factor = settings.size / 2**halvings / max(height, width)
        sizes.append((max(1, round(height * factor)), max(1, round(width * factor))))
    fitting = [size for size in sizes if min(size) >= minimum_side]
    if not fitting:
        raise ValueError(
            f"an image of {sizes[-1][1]} x {sizes[-1][0]} pixels is too small for the network, which "
            f"takes {minimum_side} pixels at least: choose a larger size"
        )
    return tuple(fitting)


def resized(image: Float[Tensor, "c _ _"], longest: int, shortest: int) -> Float[Tensor, "c _ _"]:
    """In its proportions, with the given longest side; no side is below `shortest`."""
    factor = longest / max(image.shape[1:])
    size = [max(shortest, round(side * factor)) for side in image.shape[1:]]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _pooled(mask: Float[Tensor, "H W"], like: Float[Tensor, "1 c h w"]) -> Float[Tensor, "h w"]:
    """How much of each place of a map lies in the mask."""
    pooled: Tensor = F.adaptive_avg_pool2d(mask[None], (like.shape[-2], like.shape[-1]))[0]
    return pooled


def _of_size(region: StyleRegion, size: tuple[int, int], device: torch.device) -> StyleRegion:
    """With the mask of the content at another size; a small region keeps its most covered pixel."""
    if region.where is None:
        return region
    cover = F.adaptive_avg_pool2d(region.where[None].float(), size)[0]
    where = cover >= min(0.5, float(cover.max()))
    return StyleRegion(region.style, where.to(device), region.style_where)


def _union(regions: Sequence[StyleRegion]) -> Bool[Tensor, "H W"] | None:
    """The pixels that any region takes; None for all."""
    masks = [region.where for region in regions if region.where is not None]
    return None if len(masks) < len(regions) else torch.stack(masks).any(0)


Optimised = tuple[Tensor, tuple[float, ...]]
Report = Callable[[int, float, Tensor], None]


def _lbfgs(objective: Objective, image: Tensor, free: Tensor | None, steps: int, report: Report) -> Optimised:
    """By L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995) with the bounds 0 and 1."""
    from scipy.optimize import Bounds, OptimizeResult, minimize

    def image_of(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(image).view_as(image)

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        now = image_of(values).requires_grad_()
        loss = objective(now)
        (gradient,) = torch.autograd.grad(loss, now)
        if free is not None:
            gradient = gradient * free
        return float(loss.detach()), gradient.double().flatten().cpu().numpy()

    first = image.detach().double().flatten().cpu().numpy()
    trace = [loss_and_gradient(first)[0]]

    def after_step(intermediate_result: OptimizeResult) -> None:
        trace.append(float(intermediate_result.fun))
        report(len(trace) - 1, trace[-1], image_of(intermediate_result.x))

    limits = {"maxiter": steps, "maxfun": 20 * steps, "maxcor": _MEMORY, "ftol": 0.0, "gtol": 0.0}
    found = minimize(
        loss_and_gradient,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(0, 1),
        callback=after_step,
        options=limits,
    )
    return image_of(found.x), tuple(trace)


def _adam(objective: Objective, image: Tensor, free: Tensor | None, steps: int, report: Report) -> Optimised:
    """By Adam on the pixels, which are clamped after each step."""
    image = image.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=_ADAM_RATE)
    trace = []
    for step in range(steps):
        loss = objective(image)
        trace.append(float(loss.detach()))
        (image.grad,) = torch.autograd.grad(loss, image)
        if free is not None:
            image.grad *= free
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        report(step + 1, trace[-1], image.detach())
    with torch.no_grad():
        trace.append(float(objective(image)))
    return image.detach(), tuple(trace)
