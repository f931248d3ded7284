"""U-Net and watershed: touching objects such as cells are separated by their borders and distance maps.

The best entries of the 2018 Data Science Bowl let a U-Net name objects, background and the borders where two
objects touch, and cut the foreground there (Caicedo et al., "Top-performing strategies"; Table 1). Here the
network gives for every pixel

- the scores of background and of the k classes of objects,
- the score of a border: an object, and another one within `BORDER` pixels,
- its distance to the border of its own object, 1 from `FAR` pixels on.

The middles of objects become markers: h-maxima (Soille, Morphological Image Analysis, section 6.3.4) of the
distance where no border is seen. A watershed floods the foreground from them (Meyer and Beucher 1990). The
class of an object is that of most of its pixels. Its score is the mean probability of foreground in it, times
how well its own distance map agrees with what the network tells of it, see `agreement`: parts of an object
that was cut, and objects that were joined, have another one.

Departures: the entries differ among each other; this is what they share, with one network and no second
classifier behind it. Objects do not overlap. Each image is brought to one mean, contrast and polarity, since
exposures differ more among microscopes than nuclei do: stained nuclei are dark on a bright ground,
fluorescent ones bright on a dark ground.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy
from ..layers import resize
from ..losses import loss_parts
from ..rle import RleMasks
from ..types import Annotation, Batch, DenseModel, MaskSet, Model, Paper, Value, value
from .unet import unet

PAPER = Paper(
    "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl",
    "Caicedo, Goodman, Karhohs, Cimini, Ackerman, Haghighi, Heng, Becker, Doan et al.",
    "Nature Methods",
    2019,
    "https://doi.org/10.1038/s41592-019-0612-7",
)

BORDER = 2  # pixels
INSIDE = 0.5  # least probability of foreground
FAR = 8.0  # pixels
DEPTH = 0.2  # by which a marker rises above the way to any other one, in units of `FAR`
BLUR = 1.0  # pixels, of the distance before that
MEAN, CONTRAST = 0.45, 0.225  # of the pixels that the network sees: those of photographs
SMALLEST = 10  # pixels of an object; fewer are noise
BORDER_WEIGHT = 2.0


@value
class WatershedLogits(Value):
    """Maps of which objects are made.

    Attributes:
        classes: scores of background and of the k classes of objects.
        border: score of a border between two objects.
        distance: to the border of the own object, in units of `FAR` pixels, at most 1 in targets.
        size: height and width of the image.
    """

    classes: Float[Tensor, "b k1 h w"]
    border: Float[Tensor, "b h w"]
    distance: Float[Tensor, "b h w"]
    size: tuple[int, int]


class UNetWatershed(Model):
    """A network that scores every pixel, whose maps are read as objects.

    Args:
        network: gives k + 3 maps.
    """

    tasks = ("instance",)
    output = WatershedLogits

    def __init__(self, network: DenseModel) -> None:
        super().__init__()
        assert network.num_classes is not None
        self.num_classes, self.in_channels = network.num_classes - 3, network.in_channels
        self.minimum_size = network.minimum_size
        self.encoder_parts = tuple(f"network.{part}" for part in network.encoder_parts)
        self.network = network

    def forward(self, image: Float[Tensor, "b c H W"]) -> WatershedLogits:
        """Look at every pixel."""
        output = self.network(standardized(image))
        maps = resize(output.coarse, output.size)
        return WatershedLogits(maps[:, :-2], maps[:, -2], maps[:, -1], output.size)


def standardized(image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
    """Every channel of every image with the same mean and standard deviation, and objects bright on dark.

    Objects are fewer than pixels of the ground, so they are the long tail of the brightness. Where it is that
    of the dark side, the skewness is negative and the image is inverted.
    """
    middle = image.mean((2, 3), keepdim=True)
    spread = ((image - middle) ** 2).mean((2, 3), keepdim=True).sqrt()
    image = (image - middle) / (spread + 1e-3)
    skewness = (image.mean(1, keepdim=True) ** 3).mean((2, 3), keepdim=True)
    return torch.where(skewness < 0, -image, image) * CONTRAST + MEAN


# --- loss -----------------------------------------------------------------------------------------


def number_map(objects: Annotation) -> Int64[np.ndarray, "H W"]:
    """Objects as numbers from 1 on a background of 0; the later one where two overlap, crowds are -1."""
    assert isinstance(objects, MaskSet)
    numbers = np.zeros(objects.size, np.int64)
    for number, (mask, crowd) in enumerate(zip(objects.dense, objects.is_crowd.tolist(), strict=True), 1):
        numbers[mask.cpu().numpy()] = -1 if crowd else number
    return numbers


def border_map(numbers: Int64[np.ndarray, "H W"], reach: int = BORDER) -> Float[np.ndarray, "H W"]:
    """1 on pixels of an object that have another object within `reach` pixels along rows or columns."""
    own = np.maximum(numbers, 0)
    largest = ndimage.maximum_filter(own, 2 * reach + 1)
    far = own.max(initial=0) + 1
    smallest = ndimage.minimum_filter(np.where(own > 0, own, far), 2 * reach + 1)
    return ((own > 0) & (largest != smallest)).astype(np.float32)


def distance_map(numbers: Int64[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Distance of each pixel to the border of its object over `FAR`, at most 1; 0 outside of objects."""
    found = np.zeros(numbers.shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(np.maximum(numbers, 0)), 1):
        if box is None:
            continue
        inside = numbers[box] == number
        distance = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        found[box][inside] = (distance / FAR).clip(max=1)[inside]
    return found


@loss_parts.register
def watershed_losses(output: WatershedLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of the classes and of the borders, and the squared error of the distance on objects.

    Crowds, and what was padded, do not count. A border weighs twice as much as other pixels of objects.
    """
    targets = [_maps_of(one, output.size) for one in batch.annotations]
    device = output.border.device
    labels, border, distance = (torch.stack(maps).to(device) for maps in zip(*targets, strict=True))
    known, objects = labels >= 0, labels > 0
    classes = F.cross_entropy(output.classes.float(), labels, ignore_index=-1, reduction="sum")
    borders = F.binary_cross_entropy_with_logits(
        output.border.float(), border, pos_weight=border.new_tensor(BORDER_WEIGHT), reduction="none"
    )
    errors = (output.distance.float() - distance) ** 2
    return {
        "classes": classes / known.sum().clamp(min=1),
        "border": (borders * objects).sum() / objects.sum().clamp(min=1),
        "distance": (errors * objects).sum() / objects.sum().clamp(min=1),
    }


def _maps_of(objects: Annotation, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (-1 where they do not count), borders and distances of an image, padded to `size`."""
    assert isinstance(objects, MaskSet)
    numbers = number_map(objects)
    label_of = np.concatenate([[0], objects.classes.cpu().numpy() + 1, [-1]])  # the last is that of crowds
    down, right = size[0] - numbers.shape[0], size[1] - numbers.shape[1]
    maps = ((label_of[numbers], -1), (border_map(numbers), 0), (distance_map(numbers), 0))
    labels, border, distance = (
        torch.from_numpy(np.pad(one, ((0, down), (0, right)), constant_values=outside))
        for one, outside in maps
    )
    return labels, border, distance


# --- decoding -------------------------------------------------------------------------------------


@decode.instances.register
def objects_of_maps(output: WatershedLogits) -> tuple[MaskSet, ...]:
    """The objects of each image, the surest first."""
    foreground = 1 - output.classes.float().softmax(1)[:, 0]
    labels = output.classes[:, 1:].argmax(1)
    border = output.border.float().sigmoid()
    maps = (foreground, labels, border, output.distance.float())
    images = zip(*(one.detach().cpu().numpy() for one in maps), strict=True)
    return tuple(_objects(*image) for image in images)


def _objects(
    foreground: Float[np.ndarray, "H W"],
    labels: Int64[np.ndarray, "H W"],
    border: Float[np.ndarray, "H W"],
    distance: Float[np.ndarray, "H W"],
) -> MaskSet:
    numbers = separated(foreground > INSIDE, border, distance)
    boxes = ndimage.find_objects(numbers)
    classes, sure = [], []
    for number, box in enumerate(boxes, 1):
        inside = numbers[box] == number
        classes.append(np.bincount(labels[box][inside]).argmax())
        sure.append(foreground[box][inside].mean())
    scores = np.array(sure) * agreement(numbers, distance)
    order = np.argsort(-scores, kind="stable")
    return MaskSet.of(
        RleMasks.from_map(numbers, (order + 1).tolist()),
        torch.tensor([classes[place] for place in order], dtype=torch.int64),
        torch.tensor([scores[place] for place in order], dtype=torch.float32),
    )


def separated(
    inside: Bool[np.ndarray, "H W"], border: Float[np.ndarray, "H W"], distance: Float[np.ndarray, "H W"]
) -> Int64[np.ndarray, "H W"]:
    """Foreground as objects 1, 2, ... on a background of 0.

    A connected part without a marker is an object of its own. Objects below `SMALLEST` pixels are dropped.

    Args:
        inside: True on foreground.
        border: probability of a border.
        distance: to the border of the object, in units of `FAR` pixels.
    """
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    height = np.where(inside, ndimage.gaussian_filter(distance * (1 - border), BLUR), 0)
    parts, _ = ndimage.label(inside)
    markers, count = ndimage.label(h_maxima(height, DEPTH) * inside)
    marked = np.unique(parts[markers > 0])
    markers = np.where(inside & ~np.isin(parts, marked), parts + count, markers)
    numbers = watershed(-height, markers, mask=inside)
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= SMALLEST)
    place = np.zeros(len(sizes), np.int64)
    place[kept] = np.arange(1, len(kept) + 1)
    return place[numbers]


def agreement(
    numbers: Int64[np.ndarray, "H W"], distance: Float[np.ndarray, "H W"]
) -> Float[np.ndarray, " n"]:
    """For each object 1, 2, ..., the overlap of its own distance map and of another one, in [0, 1].

    It is the sum of the lower of both over the sum of the higher, as the IoU of two masks is.

    Args:
        numbers: of the objects, 0 on background.
        distance: to the border of the object, in units of `FAR` pixels.
    """
    own, told = distance_map(numbers), distance.clip(0, 1)
    objects = np.arange(1, numbers.max(initial=0) + 1)
    lower, higher = (ndimage.sum(f(own, told), numbers, objects) for f in (np.minimum, np.maximum))
    return np.asarray(lower) / np.asarray(higher)


# --- builder --------------------------------------------------------------------------------------


def unet_watershed(
    num_classes: int,
    *,
    encoder: str | Encoder | None = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int | None = None,
) -> UNetWatershed:
    """U-Net on any encoder (None for its own), with borders and distances behind it."""
    maps = unet(
        num_classes + 3,
        encoder=encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        width=width,
    )
    return UNetWatershed(maps)
