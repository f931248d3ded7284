"""Random changes for training, on torchvision's v2 transforms: image and annotation always move together.

Images are resampled bilinearly, masks by nearest neighbour. What comes from outside the image is 0 in the
image and the ignore label in a label map (0 in masks of instances and panoptic maps). Instances and boxes
that leave the image are dropped, joints that leave it count as not annotated. Clips are images with a further
axis, "c T H W": all their frames move alike. All random numbers are PyTorch's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from ..kernels.images.resampling import (
    Taps,
    fill_nearest,
    moved_bilinearly,
    moved_nearest,
    resampled,
    resampled_bytes,
    triangle_taps,
)
from ..kernels.images.values import recolour
from ..types import (
    VOID,
    Annotation,
    Boxes,
    ClassMasks,
    Keypoints,
    LabelMap,
    MaskSet,
    PanopticMap,
    Sample,
    Skeleton,
)

BILINEAR = v2.InterpolationMode.BILINEAR
_LUMA = (0.299, 0.587, 0.114)  # grey of RGB, ITU-R BT.601


def training_transform(
    crop: tuple[int, int] | None,
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    scale_to: Literal["image", "crop"] = "image",
    flip: float = 0.5,
    color: float = 0.4,
    rotation: float = 0.0,
    elastic: float = 0.0,
    flip_vertical: float = 0.0,
    rotate90: float = 0.0,
    rare_crops: float = 0.0,
    ignore: int = 255,
    flip_pairs: Sequence[tuple[int, int]] = (),
    skeleton: Skeleton | None = None,
    places: Mapping[str, float] = MappingProxyType({}),
) -> Callable[[Sample], Sample]:
    """The usual changes: scale and crop, mirror, turn, rotate, slant, move, deform, recolour.

    In this order; samples whose classes or joints have sides are mirrored first.

    Args:
        crop: height and width in pixels of what comes out; None keeps the size of each image.
        scale: range of the random scale (log-uniform).
        scale_to: what a scale of 1 is, see `ScaleAndCrop`.
        flip: probability of mirroring left and right.
        color: brightness, contrast and saturation change by factors of up to 1 - color to 1 + color. 0: off.
        rotation: largest angle in degrees. 0: off.
        elastic: standard deviation in pixels of U-Net's elastic deformation. 0: off.
        flip_vertical: probability of mirroring upside down.
        rotate90: probability of a quarter turn; the images or crops of a batch must then be square.
        rare_crops: share of crops that hold a pixel of a class drawn by 1 / sqrt(its pixels in the image).
        ignore: label of pixels that come from outside the image.
        flip_pairs: labels that change places in the mirror, such as left and right arm.
        skeleton: of key points; says which joints change places in the mirror.
        places: `shear`, the largest angle in degrees; `translate`, the largest share of the size;
            `balanced_crops`, share of crops that hold a pixel of a class drawn evenly. See `augmentations`.

    Raises:
        ValueError: on a range or size that makes no sense.
    """
    low, high = scale
    if not 0 < low <= high or not math.isfinite(high):
        raise ValueError(f"scale must be a range of positive numbers, got {scale}")
    if crop is not None and (len(crop) != 2 or min(crop) < 1):
        raise ValueError(f"crop must be a height and a width in pixels, got {crop}")
    for name, number, highest in (
        ("flip", flip, 1.0),
        ("flip_vertical", flip_vertical, 1.0),
        ("rotate90", rotate90, 1.0),
        ("rare_crops", rare_crops, 1.0),
        ("color", color, 1.0),
        ("rotation", rotation, 180.0),
    ):
        if not 0 <= number <= highest:
            raise ValueError(f"{name} must be between 0 and {highest:g}, got {number}")
    if not 0 <= elastic < math.inf:
        raise ValueError(f"elastic must be a number of pixels, at least 0, got {elastic}")
    steps: list[v2.Transform] = []
    if scale_to == "crop" and crop is None:
        raise ValueError("scale_to crop needs the size of a crop, got None")
    sides = bool(flip_pairs) or skeleton is not None
    if crop is not None or (low, high) != (1, 1):
        steps.append(
            ScaleAndCrop(
                crop,
                scale,
                scale_to=scale_to,
                rare=rare_crops,
                balanced=places.get("balanced_crops", 0.0),
                mirror=0.0 if sides else flip,
                ignore=ignore,
            )
        )
    elif flip and not sides:
        steps.append(MirrorAcross(flip))
    if flip_vertical and not sides:
        steps.append(MirrorDown(flip_vertical))
    if rotate90:
        steps.append(QuarterTurn(rotate90))
    if rotation:
        steps.append(Rotation(rotation, ignore))
    shear, far = places.get("shear", 0.0), places.get("translate", 0.0)
    if shear or far:
        steps.append(Slant(shear, far, ignore))
    if elastic:
        steps.append(ElasticDeformation(elastic, ignore=ignore))
    if color:
        # What was cut, turned or deformed is new.
        steps.append(ColorChange(color, in_place=any(not isinstance(step, MirrorAcross) for step in steps)))
    if sides:
        pairs = flip_pairs if skeleton is None else skeleton.flip_pairs
        return MirrorSides(flip, flip_vertical, pairs, OnSample(steps))
    return OnSample(steps)


class Compose:
    """One change after the other.

    Args:
        transforms: in their order.
    """

    def __init__(self, transforms: Sequence[Callable[[Sample], Sample]]) -> None:
        self.transforms = tuple(transforms)
        self.takes_bytes = bool(transforms) and getattr(transforms[0], "takes_bytes", False)
        self.draws_from_torch = all(getattr(one, "draws_from_torch", False) for one in transforms)

    def __call__(self, sample: Sample) -> Sample:
        """The changed sample."""
        for transform in self.transforms:
            sample = transform(sample)
        return sample


class MirrorSides:
    """Mirror a sample whose classes or joints have sides: what was a left arm is a right arm afterwards.

    Args:
        flip: probability of mirroring left and right.
        flip_vertical: probability of mirroring upside down, which exchanges the sides as well.
        flip_pairs: labels that change places; of key points, joints.
        then: what happens to the sample afterwards.
    """

    def __init__(
        self,
        flip: float,
        flip_vertical: float,
        flip_pairs: Sequence[tuple[int, int]],
        then: Callable[[Sample], Sample],
    ) -> None:
        self.flip, self.flip_vertical, self.then = flip, flip_vertical, then
        self.flip_pairs = tuple(flip_pairs)
        self.takes_bytes = getattr(then, "takes_bytes", False)
        self.draws_from_torch = getattr(then, "draws_from_torch", False)

    def __call__(self, sample: Sample) -> Sample:
        """The changed sample."""
        for chance, mirror in (
            (self.flip, MirrorAcross(1.0)),
            (self.flip_vertical, MirrorDown(1.0)),
        ):
            if torch.rand(()) < chance:
                sample = OnSample([mirror])(sample)
                if sample.target is not None:
                    sample = replace(sample, target=_other_sides(sample.target, self.flip_pairs))
        return self.then(sample)


def _other_sides(target: Annotation, flip_pairs: Sequence[tuple[int, int]]) -> Annotation:
    """The annotation with the labels of each pair exchanged."""
    if isinstance(target, LabelMap):
        return replace(target, labels=_exchanged(target.labels, flip_pairs))
    if isinstance(target, ClassMasks):
        order = _exchanged(torch.arange(len(target.masks)), flip_pairs)
        return replace(target, masks=target.masks[order])
    if isinstance(target, Keypoints):
        order = _exchanged(torch.arange(target.points.shape[1]), flip_pairs)
        return replace(target, points=target.points[:, order], visible=target.visible[:, order])
    assert isinstance(target, MaskSet | PanopticMap | Boxes)  # what `OnSample` moves
    return replace(target, classes=_exchanged(target.classes, flip_pairs))


def _exchanged(
    labels: Integer[Tensor, "*any"], flip_pairs: Sequence[tuple[int, int]]
) -> Integer[Tensor, "*any"]:
    changed = labels.clone()
    for first, second in flip_pairs:
        changed[labels == first], changed[labels == second] = second, first
    return changed


class Change(v2.Transform):
    """A transform of torchvision without its search for tensors in nested inputs, which takes long."""

    def forward(self, *inputs: Any) -> Any:
        """The changed image and all that moves with it."""
        if not all(isinstance(one, Tensor) for one in inputs):
            return super().forward(*inputs)
        params = self.make_params(list(inputs))
        moved = [
            self.transform(one, params) if isinstance(one, self._transformed_types) else one for one in inputs
        ]
        return tuple(moved) if len(moved) > 1 else moved[0]


class MirrorAcross(Change):
    """Left and right change places; key points count from the corner of the image, as boxes do.

    Args:
        share: how often.
    """

    axis = -1

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether it is mirrored (called by torchvision)."""
        return {"mirrored": torch.rand(()).item() < self.share}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Mirror an image, a mask, boxes or key points (called by torchvision)."""
        if not params["mirrored"]:
            return inpt
        if isinstance(inpt, tv_tensors.BoundingBoxes | tv_tensors.KeyPoints):
            return _mirrored_places(inpt, self.axis)
        return tv_tensors.wrap(inpt.as_subclass(Tensor).flip(self.axis), like=inpt)


class MirrorDown(MirrorAcross):
    """Top and bottom change places; see `MirrorAcross`."""

    axis = -2


def _mirrored_places(inpt: Any, axis: int) -> Any:
    """Boxes or key points of a mirrored image; the axis is -1 for left and right, -2 for top and bottom."""
    places = inpt.as_subclass(Tensor).unflatten(-1, (-1, 2)).clone()  # x, y; of boxes two of them
    along = -1 - axis
    places[..., along] = inpt.canvas_size[axis] - places[..., along].flip(-1)
    return tv_tensors.wrap(places.flatten(-2), like=inpt)


class OnSample:
    """Apply v2 transforms to the image and the annotation of a sample.

    Args:
        transforms: each takes an image and a mask or boxes (`tv_tensors`), one after the other.
    """

    takes_bytes = True

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        self.transforms = tuple(transforms)
        self.scales_bytes = bool(self.transforms) and isinstance(self.transforms[0], ScaleAndCrop)
        self.draws_from_torch = all(isinstance(one, Change) for one in self.transforms)
        # Pixels from outside the image may get a label that has no room in 8 bits.
        self.keeps_bytes = all(0 <= getattr(one, "ignore", 0) <= 255 for one in self.transforms)

    def __call__(self, sample: Sample) -> Sample:
        """The changed sample. Image values stay in [0, 1], or come there if they have 8 bits."""
        if sample.image.dtype == torch.uint8 and not self.scales_bytes:
            sample = replace(sample, image=sample.image / 255)
        inputs: tuple[Tensor, ...] = (tv_tensors.Image(sample.image),)
        target = sample.target
        if isinstance(target, LabelMap) and not self.keeps_bytes:
            target = replace(target, labels=target.labels.long())
        if target is not None:
            inputs = (*inputs, *_as_tv_tensors(target, sample.image))
        for transform in self.transforms:
            outputs = transform(*inputs)
            inputs = outputs if isinstance(outputs, tuple) else (outputs,)
        image = inputs[0].as_subclass(Tensor).contiguous()
        if sample.target is None:
            return replace(sample, image=image)
        changed = [one.as_subclass(Tensor).contiguous() for one in inputs[1:]]
        target = _from_tensors(sample.target, changed, image, sample.image.shape[-2:].numel())
        return replace(sample, image=image, target=target)


_SMALLEST_BOX = 1.0  # pixels: a box that keeps less along one side is dropped
# Corners of the image, as shares of its sides, move with key points and tell how areas change.
_CORNER = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
# Corners of a box, as x and y.
_AROUND = [0, 1, 2, 1, 0, 3, 2, 3]
_ITERATIONS = 25  # of a fixed point: 0.6 of an error is left by each where a field is steep


def _as_tv_tensors(target: Annotation, image: Float[Tensor, "c *t H W"]) -> tuple[Tensor, ...]:
    """What moves with the image: a map, a stack of masks, boxes, or key points and boxes.

    Raises:
        ValueError: if the annotation is of a kind that these transforms do not move.
    """
    if isinstance(target, LabelMap):
        return (tv_tensors.Mask(target.labels),)
    if isinstance(target, ClassMasks):
        return (tv_tensors.Mask(target.masks),)
    if isinstance(target, MaskSet):
        return (tv_tensors.Mask(_with_outside(target.dense.to(torch.uint8))),)
    if isinstance(target, PanopticMap):
        return (tv_tensors.Mask(_with_outside(target.id_map[None])),)
    canvas = (image.shape[-2], image.shape[-1])
    if isinstance(target, Boxes | Keypoints):
        boxes = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=canvas)
        if isinstance(target, Boxes):
            return (boxes,)
        corner = target.points.new_tensor(_CORNER) * target.points.new_tensor(canvas[::-1])
        places = torch.cat([target.points.reshape(-1, 2), corner])
        return boxes, tv_tensors.KeyPoints(places, canvas_size=canvas)
    raise ValueError(f"these transforms do not move {type(target).__name__}")


def _with_outside(planes: Integer[Tensor, "n H W"]) -> Integer[Tensor, "n1 H W"]:
    """The planes and one of zeros, which tells afterwards what came from outside the image: no id or mask."""
    return torch.cat([planes, planes.new_zeros(1, *planes.shape[1:])])


def _from_tensors(
    target: Annotation, moved: Sequence[Tensor], image: Float[Tensor, "c *t H W"], pixels: int
) -> Annotation:
    """The annotation with what has moved; objects that have left the image are dropped.

    Args:
        target: before.
        moved: what became of `_as_tv_tensors`.
        image: after.
        pixels: of the image before.
    """
    changed = moved[0]
    if isinstance(target, LabelMap):
        return LabelMap(changed.to(torch.int64))
    if isinstance(target, ClassMasks):
        return ClassMasks(changed.to(torch.int64))
    if isinstance(target, MaskSet):
        masks = (changed[:-1] > 0) & (changed[-1] == 0)
        return replace(target, masks=masks).take(masks.flatten(1).any(1))
    if isinstance(target, PanopticMap):
        id_map = torch.where(changed[1] == 0, changed[0], VOID)
        kept = torch.isin(target.ids, id_map)
        return PanopticMap(id_map, target.ids[kept], target.classes[kept], target.is_crowd[kept])
    assert isinstance(target, Boxes | Keypoints)
    sides = changed[:, 2:] - changed[:, :2]
    seen = (sides >= _SMALLEST_BOX).all(1)
    if isinstance(target, Boxes):
        return replace(target, boxes=changed.float()).take(seen)
    points, corner = moved[1][: -len(_CORNER)].view_as(target.points), moved[1][-len(_CORNER) :]
    inside = ((points >= 0) & (points <= points.new_tensor([image.shape[-1], image.shape[-2]]))).all(-1)
    zoom = (torch.linalg.det((corner[1:] - corner[0]).double()).abs() / pixels).float()
    return Keypoints(
        points[seen],
        torch.where(inside, target.visible, 0)[seen],
        target.scores[seen],
        (target.areas * zoom)[seen],
        changed.float()[seen],
        target.is_crowd[seen],
    )


class ScaleAndCrop(Change):
    """Scale by a random factor and cut a window at a random place, in one step: only the window is resampled.

    An image that is smaller than the window after scaling lies at a random place within it.

    Args:
        crop: height and width in pixels of the window; None takes the size of the image.
        scale: range of the factor (log-uniform).
        scale_to: what a factor of 1 is: "image", the image as it is, or "crop", as large as it fits into the
            window. The latter with a range of 0.1 to 2 is the large-scale jitter of Ghiasi et al. (Simple
            Copy-Paste, CVPR 2021, Sec. 3), who draw the factor evenly.
        rare: share of windows that hold a pixel of a class that is drawn first; see `drawn_pixel`.
        balanced: share of the other windows that hold a pixel of a class that is drawn evenly.
        mirror: share of the windows in which left and right change places.
        ignore: label of the pixels outside the image.
    """

    def __init__(
        self,
        crop: tuple[int, int] | None,
        scale: tuple[float, float] = (1.0, 1.0),
        *,
        scale_to: Literal["image", "crop"] = "image",
        rare: float = 0.0,
        balanced: float = 0.0,
        mirror: float = 0.0,
        ignore: int = 255,
    ) -> None:
        super().__init__()
        self.crop, self.scale, self.rare, self.ignore = crop, scale, rare, ignore
        self.balanced, self.scale_to, self.mirror = balanced, scale_to, mirror

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window (called by torchvision)."""
        size = tuple(flat_inputs[0].shape[-2:])
        window = self.crop or size
        low, high = (math.log(bound) for bound in self.scale)
        factor = math.exp(low + (high - low) * torch.rand(()).item())
        if self.scale_to == "crop":
            factor *= min(out / n for n, out in zip(size, window, strict=True))
        masks = [one for one in flat_inputs if isinstance(one, tv_tensors.Mask)]
        pixel = None
        if self.rare and masks and torch.rand(()).item() < self.rare:
            pixel = drawn_pixel(masks[0].as_subclass(Tensor), self.ignore)
        elif self.balanced and masks and torch.rand(()).item() < self.balanced:
            pixel = drawn_pixel(masks[0].as_subclass(Tensor), self.ignore, evenly=True)
        spans = [
            _Span.draw(n, out, factor, held)
            for n, out, held in zip(size, window, pixel or (None, None), strict=True)
        ]
        mirrored = torch.rand(()).item() < self.mirror if self.mirror else False
        return {"rows": spans[0], "columns": spans[1], "mirrored": mirrored}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut and resample an image or a mask (called by torchvision)."""
        rows, columns = params["rows"], params["columns"]
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            x1, y1, x2, y2 = inpt.as_subclass(Tensor).unbind(-1)
            moved = torch.stack([columns.moved(x1), rows.moved(y1), columns.moved(x2), rows.moved(y2)], -1)
            moved = moved.clamp(
                moved.new_tensor([columns.before, rows.before] * 2),
                moved.new_tensor([columns.before + columns.length, rows.before + rows.length] * 2),
            )
            boxes = tv_tensors.BoundingBoxes(moved, format="XYXY", canvas_size=(rows.total, columns.total))
            return _mirrored_places(boxes, -1) if params["mirrored"] else boxes
        if isinstance(inpt, tv_tensors.KeyPoints):
            x, y = inpt.as_subclass(Tensor).unbind(-1)
            places = torch.stack([columns.moved(x), rows.moved(y)], -1)
            points = tv_tensors.KeyPoints(places, canvas_size=(rows.total, columns.total))
            return _mirrored_places(points, -1) if params["mirrored"] else points
        if params["mirrored"]:
            columns = columns.mirrored()
        if inpt.dtype == torch.uint8 and isinstance(inpt, tv_tensors.Image):
            pixels = inpt.as_subclass(Tensor).permute(1, 2, 0).numpy()
            channels = pixels.shape[2]
            window = _window(channels, rows, columns, np.float32, 0)
            # Channels lie side by side, as in files, or one behind the other, as in a cache.
            size = channels if pixels.flags.c_contiguous else 1
            for c in range(0, channels, size):
                part, into = np.ascontiguousarray(pixels[..., c : c + size]), window[c : c + size]
                resampled_bytes(part, rows.taps(), columns.taps(), into, rows.before, columns.before)
            return _like(inpt, window)
        is_mask = isinstance(inpt, tv_tensors.Mask)
        planes = _planes(inpt)
        out = _window(len(planes), rows, columns, planes.dtype, self.ignore if is_mask else 0)
        if is_mask:
            fill_nearest(planes, rows.nearest(), columns.nearest(), out, rows.before, columns.before)
        else:
            resampled(planes, rows.taps(), columns.taps(), out, rows.before, columns.before)
        return _like(inpt, out)


class _Span:
    """One side of a window: the pixels from `first` to `stop` become `length` pixels, with padding."""

    def __init__(self, first: int, stop: int, before: int, length: int, after: int, step: int = 1) -> None:
        self.first, self.stop, self.before, self.length, self.after = first, stop, before, length, after
        self.step = step  # -1 where the pixels come in the other order

    @classmethod
    def draw(cls, size: int, window: int, factor: float, held: int | None = None) -> "_Span":
        """Place a window of `window` pixels in an image of `size` that is scaled by `factor`.

        Where `held` is given, that pixel of the image lies somewhere in the window.
        """
        wanted = max(1, round(window / factor))  # pixels of the image that the window covers
        low, high = 0, abs(size - wanted)
        if held is not None and wanted < size:
            low, high = max(0, held - wanted + 1), min(size - wanted, held)
        place = torch.randint(low, high + 1, ()).item()
        if wanted <= size:
            return cls(int(place), int(place) + wanted, 0, window, 0)
        length = min(window, max(1, round(size * window / wanted)))
        before = round(int(place) / (wanted - size) * (window - length))
        return cls(0, size, before, length, window - length - before)

    @property
    def total(self) -> int:
        """Pixels that come out, with the padding."""
        return self.before + self.length + self.after

    def moved(self, place: Tensor) -> Tensor:
        """Where coordinates along this side come to lie, also outside of the window."""
        return (place - self.first) * self.length / (self.stop - self.first) + self.before

    def mirrored(self) -> "_Span":
        """The same pixels in the other order."""
        return _Span(self.first, self.stop, self.after, self.length, self.before, -self.step)

    def nearest(self) -> Int64[np.ndarray, " length"]:
        """For every pixel that comes out, the one whose centre is nearest."""
        count = self.stop - self.first
        place = ((np.arange(self.length) + 0.5) * count / self.length).astype(np.int64)
        return (np.minimum(place, count - 1) + self.first)[:: self.step].copy()

    def taps(self) -> Taps:
        """For every pixel that comes out, from which ones it is made."""
        taps = triangle_taps(self.first, self.stop, self.length)
        return Taps(*(np.ascontiguousarray(part[:: self.step]) for part in taps))


def _window(count: int, rows: _Span, columns: _Span, dtype: Any, fill: int) -> Shaped[np.ndarray, "n H W"]:
    """Room for a window, with `fill` outside the image if some of it lies there."""
    out = np.empty((count, rows.total, columns.total), dtype)
    if (rows.length, columns.length) != (rows.total, columns.total):
        out.fill(fill)
    return out


def _planes(inpt: Tensor) -> Shaped[np.ndarray, "n H W"]:
    """The pixels of an image, as float32, or of a mask."""
    pixels = inpt.as_subclass(Tensor)
    pixels = pixels if isinstance(inpt, tv_tensors.Mask) else pixels.float()
    return pixels.contiguous().view(-1, *pixels.shape[-2:]).numpy()


def _like(inpt: Tensor, planes: Shaped[np.ndarray, "n H W"]) -> Tensor:
    """The pixels with the leading axes and the type of `inpt`, an image or a mask."""
    return torch.from_numpy(planes).view(*inpt.shape[:-2], *planes.shape[1:]).as_subclass(type(inpt))


def drawn_pixel(
    labels: Integer[Tensor, "*_ H W"], ignore: int = 255, *, evenly: bool = False
) -> tuple[int, int] | None:
    """Row and column of a pixel of a class that is drawn by 1 / sqrt(its pixels): rare classes come often.

    Args:
        labels: a label map, or masks with 1 where something is.
        ignore: label that is never drawn.
        evenly: whether each class that is there is drawn as often as the others instead.
    """
    if labels.ndim > 2:  # any of the masks, by their numbers
        numbers = torch.arange(1, len(labels) + 1)[:, None, None]
        labels = ((labels == 1) * numbers).amax(0)
    known = labels[labels != ignore]
    if not known.numel():
        return None
    present, counts = known.unique(return_counts=True)
    weights = torch.ones(len(counts)) if evenly else counts.float().rsqrt()
    chosen = present[torch.multinomial(weights, 1)]
    places = (labels == chosen).flatten().nonzero()
    place = int(places[torch.randint(len(places), ())])
    return place // labels.shape[-1], place % labels.shape[-1]


class QuarterTurn(Change):
    """Turn by 90 degrees, half of the times that it turns to the left; with both mirrors, all 8 positions.

    Args:
        probability: of turning at all.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = probability

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the direction (called by torchvision)."""
        drawn = torch.rand(()).item()
        return {"turns": 0 if drawn >= self.probability else 1 if drawn < self.probability / 2 else 3}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn an image, a mask, boxes or key points (called by torchvision)."""
        if not params["turns"]:
            return inpt
        if isinstance(inpt, tv_tensors.KeyPoints):
            (height, width), (x, y) = inpt.canvas_size, inpt.as_subclass(Tensor).unbind(-1)
            places = torch.stack((y, width - x) if params["turns"] == 1 else (height - y, x), -1)
            return tv_tensors.KeyPoints(places, canvas_size=(width, height))
        if not isinstance(inpt, tv_tensors.BoundingBoxes):
            turned = torch.rot90(inpt.as_subclass(Tensor), params["turns"], (-2, -1)).contiguous()
            return tv_tensors.wrap(turned, like=inpt)
        height, width = inpt.canvas_size
        x1, y1, x2, y2 = inpt.as_subclass(Tensor).unbind(-1)
        corners = (
            (y1, width - x2, y2, width - x1) if params["turns"] == 1 else (height - y2, x1, height - y1, x2)
        )
        turned = torch.stack(corners, -1)
        return tv_tensors.BoundingBoxes(turned, format="XYXY", canvas_size=(width, height))


class Rotation(Change, v2.RandomRotation):
    """Rotate around the middle.

    Args:
        degrees: largest angle.
        ignore: label of the pixels outside the image.
    """

    def __init__(self, degrees: float, ignore: int = 255) -> None:
        super().__init__(degrees)
        self.ignore = ignore

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Rotate an image, a mask, boxes or key points (called by torchvision)."""
        if isinstance(inpt, tv_tensors.BoundingBoxes | tv_tensors.KeyPoints):
            return super().transform(inpt, params)
        cos, sin = (function(math.radians(params["angle"])) for function in (math.cos, math.sin))
        return _moved(inpt, np.array([[cos, -sin], [sin, cos]]), (0, 0), self.ignore)


class Slant(Change, v2.RandomAffine):
    """Slant and move.

    Args:
        shear: largest angle in degrees, along both axes.
        far: largest share of the size.
        ignore: label of the pixels outside the image.
    """

    def __init__(self, shear: float, far: float, ignore: int = 255) -> None:
        super().__init__(0, (far, far), shear=[-shear, shear, -shear, shear])
        self.ignore = ignore

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Move an image, a mask, boxes or key points (called by torchvision)."""
        if isinstance(inpt, tv_tensors.BoundingBoxes | tv_tensors.KeyPoints):
            return super().transform(inpt, params)
        along_x, along_y = (math.tan(math.radians(angle)) for angle in params["shear"])
        back = np.array([[1 + along_x * along_y, along_x], [along_y, 1.0]])
        return _moved(inpt, back, params["translate"], self.ignore)


def _moved(inpt: Tensor, back: np.ndarray, far: Sequence[float], ignore: int) -> Tensor:
    """An image or a mask under an affine map around its middle.

    Args:
        inpt: image or mask.
        back: matrix 2 x 2 that undoes the map, of x and y.
        far: how far it moves in the end, x and y in pixels.
        ignore: label of the pixels outside of a mask.
    """
    planes = _planes(inpt)
    middle = (np.array(planes.shape[:0:-1]) - 1) / 2
    whole = np.column_stack([back, middle - back @ (middle + np.array(far))])
    if isinstance(inpt, tv_tensors.Mask):
        return _like(inpt, moved_nearest(planes, whole, ignore))
    return _like(inpt, moved_bilinearly(planes, whole))


class ElasticDeformation(Change):
    """U-Net's deformation: random displacements on a coarse 3 x 3 grid, smooth in between.

    Displacements are normal with a standard deviation in pixels, and interpolated bicubically to every pixel
    (Ronneberger et al., U-Net, Sec. 3.1: 3 x 3, 10 pixels).

    Args:
        std: standard deviation of the displacements in pixels.
        grid: points of the coarse grid along each side.
        ignore: label of the pixels outside the image.
    """

    def __init__(self, std: float = 10.0, grid: int = 3, *, ignore: int = 255) -> None:
        super().__init__()
        self.std, self.grid, self.ignore = std, grid, ignore

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the displacements (called by torchvision)."""
        height, width = flat_inputs[0].shape[-2:]
        coarse = torch.randn(1, 2, self.grid, self.grid) * self.std
        return {"displacement": displacement_field(coarse, height, width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Deform an image, a mask, key points or boxes (called by torchvision)."""
        if isinstance(inpt, tv_tensors.KeyPoints):
            return tv_tensors.wrap(
                deformed_points(inpt.as_subclass(Tensor), params["displacement"]), like=inpt
            )
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            corners = inpt.as_subclass(Tensor)[:, _AROUND].reshape(-1, 2)
            moved = deformed_points(corners, params["displacement"]).view(len(inpt), -1, 2)
            return tv_tensors.wrap(torch.cat([moved.amin(1), moved.amax(1)], 1), like=inpt)
        fill = self.ignore if isinstance(inpt, tv_tensors.Mask) else 0.0
        return tvf.elastic(inpt, params["displacement"], interpolation=BILINEAR, fill=fill)


def displacement_field(coarse: Float[Tensor, "1 2 _ _"], height: int, width: int) -> Float[Tensor, "1 H W 2"]:
    """Displacements of a coarse grid (x, y, in pixels) for every pixel, in the units that torchvision takes.

    The corners of the grid lie on the corners of the image; a size of 2 is the whole image.
    """
    fine = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return fine.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])


def deformed_points(
    points: Float[Tensor, "n 2"], displacement: Float[Tensor, "1 H W 2"]
) -> Float[Tensor, "n 2"]:
    """Where points of an image lie after it was deformed.

    The pixel at q comes from q + d(q); what lay at p is found at q = p - d(q), by a fixed point, which a
    field without folds has. Outside the image the field goes on as at its border.

    Args:
        points: x, y in pixels; (0, 0) is the upper left corner of the image.
        displacement: of `displacement_field`.
    """
    height, width = displacement.shape[1:3]
    size = points.new_tensor([width, height], dtype=torch.float64)
    field = displacement.permute(0, 3, 1, 2).double()
    start = points.double() / size * 2 - 1
    found = start
    for _ in range(_ITERATIONS):
        here = F.grid_sample(field, found[None, None], padding_mode="border", align_corners=False)
        found = start - here[0, :, 0].T
    return ((found + 1) / 2 * size).to(points.dtype)


class ColorChange(Change):
    """Change brightness, contrast and saturation by random factors around 1, the latter of RGB images only.

    Three factors are drawn from 1 - strength to 1 + strength. Masks stay as they are. This is torchvision's
    `ColorJitter` in one pass and for any number of channels; the hue is left alone, which costs more time
    than everything else together.

    Args:
        strength: in [0, 1].
        in_place: whether images of 32 bits are changed where they lie, because nobody else holds them.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, strength: float = 0.4, *, in_place: bool = False) -> None:
        super().__init__()
        self.strength, self.in_place = strength, in_place

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factors (called by torchvision)."""
        brightness, contrast, saturation = (1 + self.strength * (2 * torch.rand(3) - 1)).tolist()
        return {"brightness": brightness, "contrast": contrast, "saturation": saturation}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Recolour an image (called by torchvision)."""
        planes = inpt.as_subclass(Tensor).flatten(1).float().contiguous().numpy()  # c H*W
        channels = len(planes)
        luma = np.array(_LUMA if channels == 3 else [1 / channels] * channels, np.float32)
        saturation = params["saturation"] if channels == 3 else 1.0
        planes = planes if self.in_place else planes.copy()
        recolour(planes, luma, saturation, params["contrast"], params["brightness"])
        return torch.from_numpy(planes).view(inpt.shape).as_subclass(type(inpt))
