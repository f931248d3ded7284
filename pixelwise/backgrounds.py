"""Another background behind people, in photographs and live video.

    image -> network, small -> probability -> steadied in time -> alpha that follows edges -> composite

The network sees a small image; its probability of the foreground becomes alpha at full size by a guided
filter. A network of mattes (`gives_alpha`, such as MODNet) gives alpha itself, which is only enlarged. The
composite is alpha F + (1 - alpha) B: F, the colour of the foreground alone, is estimated, because
the colours of pixels at its edge are mixed with the old background (Germer et al. 2020; here by the blurred
fusion of Forte 2021).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional as F

from .data.formats.image import read_image
from .draw import background_classes
from .ops import box_mean, guided_coefficients
from .predict import Predictor
from .types import ClassTable, DenseModel
from .weights import list_weights, load_weights, name_of_file
from .wording import brief

Background = Float[Tensor, "3 _ _"] | Literal["blur", "transparent"]
PEOPLE = ("person", "people", "portrait", "human", "foreground")
# Colours and edges are looked for in an image of half the side of what the network sees: it is as good to the
# eye, and four times as fast.
_RADIUS, _EPSILON = 2, 1e-4  # of the guided filter, in pixels of that image and for colours in [0, 1]
_SIZE, _MATTE_SIZE = 256, 512  # what networks see by default: those of masks, and those of mattes
_HAZE = 0.04  # probabilities nearer to 0 or 1 than this are taken for certain
_SPREAD = 4  # pixels of that image over which colours of foreground and background are looked for
_BLUR = 5  # pixels of that image: radius of the boxes that blur a background, three times over


class BackgroundReplacer:
    """Image -> image with another background; of a movie, one frame after the other.

    Args:
        predictor: for a model that scores every pixel.
        background: an image in [0, 1], which is cut to the shape of the frames; "blur"; or "transparent",
            which gives images of four channels.
        keep: names of the classes that are foreground; None for people where there is such a class, and else
            for all classes but the background.
        size: longest side in pixels of what the network sees; None for 256, and 512 for mattes.
        smoothing: how much a frame's probabilities follow those of the frame before where they are in doubt,
            from 0 (for photographs) to below 1.

    Raises:
        ValueError: if the model does not score pixels, there is no such class, or a number is out of range.
    """

    def __init__(
        self,
        predictor: Predictor,
        background: Background,
        *,
        keep: Sequence[str] | None = None,
        size: int | None = None,
        smoothing: float = 0.0,
    ) -> None:
        self.matting = isinstance(predictor.model, DenseModel) and predictor.model.gives_alpha
        if size is None:
            size = _MATTE_SIZE if self.matting else _SIZE
        if size < 16:
            raise ValueError(f"size must be at least 16 pixels, got {size}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
        self.predictor, self.background, self.size, self.smoothing = predictor, background, size, smoothing
        self.keep = foreground_classes(predictor.classes, keep)
        self._before: Tensor | None = None
        self._fitted: Tensor | None = None

    def start(self) -> None:
        """Forget the frame before: another movie begins."""
        self._before = None

    def alpha(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "H W"]:
        """How much of each pixel is foreground, in [0, 1]. In a movie this is a step in time.

        Raises:
            ValueError: if the image is not RGB, or the model cannot take it.
        """
        return self._alpha(image, self._small(image))

    def __call__(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "c H W"]:
        """The image before the other background: three channels, or four with alpha where it is transparent.

        Raises:
            ValueError: as `alpha`.
        """
        small = self._small(image)
        alpha = self._alpha(image, small)
        size = (image.shape[1], image.shape[2])
        small = _halved(small)
        inside = F.interpolate(alpha[None, None], small.shape[-2:], mode="area")
        front = _enlarged(_mean_colors(small, inside, _SPREAD), size)
        behind = _enlarged(_mean_colors(small, 1 - inside, _SPREAD), size)
        # What the two colours do not explain of a pixel belongs to the foreground as far as alpha says.
        front = (front + alpha * (image - alpha * front - (1 - alpha) * behind)).clamp(0, 1)
        if self.background == "transparent":
            return torch.cat([front, alpha[None]])
        if isinstance(self.background, Tensor):
            back = self._filling(size)
        else:
            back = _enlarged(_blurred(small, 1 - inside), size)
        return alpha * front + (1 - alpha) * back

    def _small(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 3 h w"]:
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image must be 3 H W, got the shape {tuple(image.shape)}")
        sides = image.shape[1:]
        factor = min(1.0, max(self.size / max(sides), self.predictor.model.minimum_size / min(sides)))
        size = [max(1, round(side * factor)) for side in sides]
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)

    def _alpha(self, image: Float[Tensor, "3 H W"], small: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "H W"]:
        found = self.predictor.probabilities(small)[:, self.keep].cpu()
        exclusive = self.predictor.classes.exclusive
        probability = found.sum(1, keepdim=True) if exclusive else found.amax(1, keepdim=True)
        if self.smoothing and self._before is not None and self._before.shape == probability.shape:
            probability = steadied(probability, self._before, self.smoothing)
        self._before = probability
        if self.matting:
            return _enlarged(probability, (image.shape[1], image.shape[2]))[0].clamp(0, 1)
        slope, offset = guided_coefficients(_halved(small), _halved(probability), _RADIUS, _EPSILON)
        size = (image.shape[1], image.shape[2])
        alpha = (_enlarged(slope, size) * image).sum(0) + _enlarged(offset, size)[0]
        return ((alpha - _HAZE) / (1 - 2 * _HAZE)).clamp(0, 1)

    def _filling(self, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
        """The background at a size, which is mostly that of the frame before."""
        assert isinstance(self.background, Tensor)
        if self._fitted is None or tuple(self._fitted.shape[1:]) != size:
            self._fitted = filling(self.background, size)
        return self._fitted


def foreground_classes(classes: ClassTable, keep: Sequence[str] | None = None) -> list[int]:
    """Labels of the classes that are foreground; see `BackgroundReplacer`.

    Raises:
        ValueError: if there is no such class, or nobody can tell.

    >>> foreground_classes(ClassTable.of("background", "cat", "person"))
    [2]
    """
    names = classes.names
    if keep is not None:
        if not keep:
            raise ValueError("keep must name a class at least")
        if unknown := [name for name in keep if name not in names]:
            raise ValueError(f"keep names {brief(unknown[0])}, the classes are {', '.join(names)}")
        return [names.index(name) for name in keep]
    if people := [label for label, name in enumerate(names) if name.lower() in PEOPLE]:
        return people
    behind = background_classes(classes)
    if not behind or len(behind) == len(names):
        raise ValueError(
            f"which class is the foreground? Name it by keep; the classes are {', '.join(names)}"
        )
    return [label for label, name in enumerate(names) if name not in behind]


def steadied(
    probability: Float[Tensor, "*map"], before: Float[Tensor, "*map"], smoothing: float
) -> Float[Tensor, "*map"]:
    """Probabilities that do not flicker, and do not drag behind either.

    Where a frame is sure, near 0 or 1, it is taken as it is; where it is in doubt, it moves towards the frame
    before, by `smoothing` at 0.5.

    >>> steadied(torch.tensor([0.5, 1.0]), torch.tensor([0.9, 0.0]), 0.5)
    tensor([0.7000, 1.0000])
    """
    doubt = 4 * probability * (1 - probability)
    return probability + smoothing * doubt * (before - probability)


def filling(image: Float[Tensor, "3 _ _"], size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """The middle of an image, as large as it can be in the proportions of `size`, resized to it."""
    height, width = image.shape[1:]
    factor = max(size[0] / height, size[1] / width)
    cut = (min(height, max(1, round(size[0] / factor))), min(width, max(1, round(size[1] / factor))))
    top, left = (height - cut[0]) // 2, (width - cut[1]) // 2
    middle = image[None, :, top : top + cut[0], left : left + cut[1]]
    return F.interpolate(middle, size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def background_of(text: str) -> Background:
    """What --replace says: "blur", "transparent", a picture, or a colour such as white or #00ff00.

    Raises:
        ValueError: if it is none of them, or the picture cannot be read.
    """
    if text == "blur":
        return "blur"
    if text == "transparent":
        return "transparent"
    if Path(text).is_file():
        return read_image(text)
    try:
        color = ImageColor.getrgb(text)
    except ValueError as error:
        raise ValueError(
            f"a background is blur, transparent, a picture file or a colour such as white or #00ff00, got "
            f"{brief(text)}"
        ) from error
    return (torch.tensor(color[:3]) / 255).view(3, 1, 1)


def background_predictor(
    model: str | Path, *, device: str = "auto", allow_noncommercial: bool = False
) -> Predictor:
    """A predictor of a run, a checkpoint, the name of published weights, or their file.

    Raises:
        ValueError: if there is none of them, it does not score pixels, or the terms are not accepted.
    """
    name, source = str(model), None
    if name not in list_weights() and Path(name).suffix in (".pth", ".pt", ".ckpt"):
        found = name_of_file(name)
        if found is None:
            raise ValueError(f"{name} is not a file of published weights that pixelwise knows")
        name, source = found, Path(model)
    if name in list_weights():
        checkpoint = load_weights(name, source=source, allow_noncommercial=allow_noncommercial)
        return Predictor(checkpoint, device=device)
    return Predictor(name, device=device)


def _halved(image: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c _ _"]:
    return F.interpolate(image, [(side + 1) // 2 for side in image.shape[-2:]], mode="area")


def _enlarged(small: Float[Tensor, "1 c _ _"], size: tuple[int, int]) -> Float[Tensor, "c H W"]:
    return F.interpolate(small, size, mode="bilinear")[0]


def _mean_colors(
    image: Float[Tensor, "1 3 h w"], weights: Float[Tensor, "1 1 h w"], radius: int
) -> Float[Tensor, "1 3 h w"]:
    """The colours around every pixel, of what has weight; of all where nothing has."""
    weights = weights + 1e-3
    sums = box_mean(torch.cat([image * weights, weights], 1), radius)
    return sums[:, :3] / sums[:, 3:]


def _blurred(image: Float[Tensor, "1 3 h w"], weights: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 3 h w"]:
    """Nearly a Gaussian blur of what has weight: no light of the foreground leaks into it."""
    sums = torch.cat([image * weights, weights], 1)
    for _ in range(3):
        sums = box_mean(sums, _BLUR)
    return torch.where(sums[:, 3:] > 1e-4, sums[:, :3] / sums[:, 3:].clamp(min=1e-4), image)
