"""DeepMask: from a patch of an image, the mask of the object in its middle, and whether there is one.

A convolutional trunk of stride 16 sees the patch. Its map is squeezed to one vector, from which one linear
layer draws the mask, and two tell the score (Sec. 3.1): objects are wanted that lie in the middle of the
patch and fill about 128 of 224 pixels of it. On an image the same layers run densely, at every sixteenth
pixel and at several scales, as convolutions (Sec. 3.4); no box is ever proposed.

The numbers are those of the released model: ResNet up to stride 16, patches of 160 pixels with a border of 16
around them for context, which is cut off the map, masks of 56 x 56.
Departures: the network has a score per class; with one class it is the paper's. As instances, masks are freed
of those that a better one overlaps by more than a half; the output itself holds all. Border cells are padded
with zeros within the trunk, not by reflection.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize, size_of
from ..losses import NoLoss, loss_parts
from ..ops import mask_nms
from ..rle import paste_masks
from ..types import Annotation, AssignedBoxes, Batch, Features, MaskSet, Model, Paper, Value, value

PAPER = Paper(
    "Learning to Segment Object Candidates",
    "Pinheiro, Collobert, Dollár",
    "NIPS",
    2015,
    "https://arxiv.org/abs/1506.06204",
)

STRIDE = 16  # of the map that patches are seen in, and so of the places that are looked at
CANONICAL = 128 / 224  # longer side of an object over that of its patch (Sec. 3.2)
SHIFT, GROWTH = 0.1, 0.25  # of patches with an object: share of the patch (16 of 160 pixels), and octaves
FAR_SHIFT, FAR_GROWTH = 0.2, 1.0  # from which on a patch has none
NUM_PATCHES = 32  # per image in training, half of them with an object if there is one
SCORE_WEIGHT = 1 / 32
SCALES = tuple(2 ** (octave / 2) for octave in range(-5, 2))  # of the image (Sec. 3.4)
NUM_PROPOSALS = 100
INSIDE, MAX_IOU = 0.2, 0.5  # least probability of a pixel, largest IoU of two instances


@value
class PatchMasks(Value):
    """What DeepMask says of p patches of a batch of images.

    Attributes:
        patches: where they lie in pixels of their image, beyond which they may reach; in training they know
            the object at their centre, or -1.
        mask_logits: of the object at the centre of the patch.
        scores: of each of k classes, that such an object is at the centre; above 0 is likely.
        image_sizes: height and width of each image.
        learned_size: side at which masks are compared with true ones in training; 0 in evaluation.
    """

    patches: AssignedBoxes
    mask_logits: Float[Tensor, "p s s"]
    scores: Float[Tensor, "p k"]
    image_sizes: tuple[tuple[int, int], ...]
    learned_size: int = 0


class DeepMask(Model):
    """Trunk, squeezed vector, mask and scores.

    Args:
        encoder: gives c4 at stride 16.
        num_classes: number of classes k; 1 to tell objects from everything else.
        width: length of the vector.
        patch: side of a patch in pixels, a multiple of 16.
        mask_size: side of the mask that is drawn.

    Raises:
        ValueError: if `patch` is no multiple of 16.
    """

    tasks = ("instance",)
    output = PatchMasks
    stages: tuple[str, ...] = ("c4",)

    def __init__(
        self, encoder: Encoder, num_classes: int = 1, width: int = 512, patch: int = 160, mask_size: int = 56
    ) -> None:
        super().__init__()
        if patch % STRIDE or patch < STRIDE:
            raise ValueError(f"patch must be a multiple of {STRIDE}, got {patch}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.patch, self.cells = patch, patch // STRIDE
        self.learned_size = 2 * mask_size
        self.encoder = encoder
        narrow = max(width // 4, 1)
        self.squeeze = nn.Sequential(nn.Conv2d(encoder.channels.c4, narrow, 1), nn.ReLU())
        self.vector = nn.Conv2d(narrow, width, self.cells)  # a linear layer, which may also run densely
        self.mask = self.make_mask_head(width, mask_size)
        hidden, scores = nn.Linear(width, 2 * width), nn.Linear(2 * width, num_classes)
        self.objectness = nn.Sequential(nn.Dropout(0.5), hidden, nn.ReLU(), nn.Dropout(0.5), scores)

    def make_mask_head(self, width: int, mask_size: int) -> nn.Module:
        """What draws a mask from the vector."""
        return nn.Sequential(nn.Linear(width, mask_size**2), nn.Unflatten(1, (mask_size, mask_size)))

    def draw(
        self, vectors: Float[Tensor, "p c"], windows: Sequence[Float[Tensor, "p _ _ _"]]
    ) -> Float[Tensor, "p s s"]:
        """The mask of each patch; `windows` are its parts of the maps of `stages`."""
        del windows
        masks: Tensor = self.mask(vectors)
        return masks

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return batch.image, batch.target, batch.sizes

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> PatchMasks:
        """Look at patches: at some that are chosen by the targets in training, at all in evaluation.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            targets: `MaskSet` of each image; in evaluation they are not looked at.
            sizes: height and width of each image; all of `image` without it.

        Raises:
            ValueError: in training without targets, or if the image is smaller than `minimum_size`.
        """
        own = list(sizes) if sizes is not None else [size_of(image, self.minimum_size)] * len(image)
        if self.training:
            patches = sample_patches(targets, own, self.patch)
            masks, scores = self.look(cut_out(image, patches, own, self.patch, border=STRIDE))
            return PatchMasks(patches, masks, scores, tuple(own), self.learned_size)
        each = [
            self.propose(one[None, :, :height, :width])
            for one, (height, width) in zip(image, own, strict=True)
        ]
        boxes, masks, scores = (torch.cat(parts) for parts in zip(*each, strict=True))
        number = torch.arange(len(each), device=boxes.device).repeat_interleave(
            torch.tensor([len(one[0]) for one in each], device=boxes.device)
        )
        patches = AssignedBoxes(boxes, number, torch.full_like(number, -1))
        return PatchMasks(patches, masks, scores, tuple(own))

    def look(
        self, patches: Float[Tensor, "p c side side"]
    ) -> tuple[Float[Tensor, "p s s"], Float[Tensor, "p k"]]:
        """Mask and scores of patches, which have a border of 16 pixels on each side."""
        features = self.encoder(patches)
        windows = [self.window(features, stage) for stage in self.stages]
        vectors = self.vector(self.squeeze(windows[-1])).flatten(1)
        return self.draw(vectors, windows), self.objectness(vectors)

    def window(
        self, features: Features, stage: str, row: int = 0, column: int = 0
    ) -> Float[Tensor, "b _ _ _"]:
        """What a map holds of the patch at a place, counted in steps of 16 pixels; without the border."""
        stride = getattr(self.encoder.strides, stage)
        side, top, left = (n // stride for n in (self.patch, STRIDE * (row + 1), STRIDE * (column + 1)))
        return features[stage][:, :, top : top + side, left : left + side]

    def propose(
        self, image: Float[Tensor, "1 c h w"]
    ) -> tuple[Float[Tensor, "p 4"], Float[Tensor, "p s s"], Float[Tensor, "p k"]]:
        """The best patches of an image at all scales: where they are, mask, scores."""
        height, width = image.shape[-2:]
        maps: list[tuple[Features, float, float]] = []
        vectors, places = [], []
        for scale in SCALES:
            size = (round(scale * height), round(scale * width))
            if min(size) < STRIDE:
                continue
            border = self.patch // 2 + STRIDE  # so that patches are centred at the very first pixel
            rest = [-side % STRIDE for side in size]
            padding = (border, border + rest[1], border, border + rest[0])
            features = self.encoder(F.pad(resize(image, size), padding, mode="replicate"))
            found = self.vector(self.squeeze(features.c4[:, :, 1:-1, 1:-1]))[0]  # c rows columns
            rows, columns = found.shape[1:]
            at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
            places.append(torch.cat([torch.full((len(at), 1), len(maps)), at], 1))
            vectors.append(found.flatten(1).T)
            maps.append((features, height / size[0], width / size[1]))
        vector, place = torch.cat(vectors), torch.cat(places)
        scores = self.objectness(vector)
        best = scores.amax(1).topk(min(NUM_PROPOSALS, len(scores))).indices
        boxes, windows = [], []
        for number, row, column in place[best.cpu()].tolist():
            features, down, along = maps[number]
            windows.append([self.window(features, stage, row, column) for stage in self.stages])
            x, y, half = STRIDE * column, STRIDE * row, self.patch / 2
            boxes.append([(x - half) * along, (y - half) * down, (x + half) * along, (y + half) * down])
        stacked = [torch.cat(parts) for parts in zip(*windows, strict=True)]
        return scores.new_tensor(boxes), self.draw(vector[best], stacked), scores[best]


# --- patches --------------------------------------------------------------------------------------


def sample_patches(
    targets: Sequence[Annotation] | None, sizes: Sequence[tuple[int, int]], patch: int
) -> AssignedBoxes:
    """Patches of each image to learn from (Sec. 3.2).

    A patch has an object if that lies in its middle and fills as much of it as is wanted, up to a small shift
    and growth. Others are anywhere, but with no object near their middle of about that size.

    Args:
        targets: `MaskSet` of each image.
        sizes: height and width of each image.
        patch: side of a patch in pixels at the scale of the network.

    Raises:
        ValueError: without targets, or if they have no masks.
    """
    if targets is None:
        raise ValueError("training needs targets: call model(*model.inputs(batch))")
    found, images, objects = [], [], []
    for number, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        if not isinstance(target, MaskSet):
            raise ValueError(f"DeepMask learns from MaskSet, got {type(target).__name__}")
        corners = target.boxes.boxes.to(target.classes.device)
        center, extent = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        side = extent.amax(1) / CANONICAL
        real = ((extent > 0).all(1) & ~target.is_crowd).nonzero()[:, 0]
        center, side = center[real], side[real]
        squares = [_background(center, side, size, patch)]
        which = [torch.full((len(squares[0]),), -1, device=real.device)]
        if len(real):
            chosen = torch.randint(len(real), (NUM_PATCHES // 2,), device=real.device)
            own = side[chosen] * 2 ** (GROWTH * _uniform(len(chosen), like=side))
            moved = center[chosen] + SHIFT * own[:, None] * _uniform(len(chosen), 2, like=side)
            squares.append(torch.cat([moved, own[:, None]], 1))
            which.append(real[chosen])
        square = torch.cat(squares)
        half = square[:, 2:] / 2
        found.append(torch.cat([square[:, :2] - half, square[:, :2] + half], 1))
        objects.append(torch.cat(which))
        images.append(torch.full_like(objects[-1], number))
    return AssignedBoxes(torch.cat(found), torch.cat(images), torch.cat(objects))


def _background(
    center: Float[Tensor, "n 2"], side: Float[Tensor, " n"], size: tuple[int, int], patch: int
) -> Float[Tensor, "m 3"]:
    """Centre x y and side of patches without an object."""
    count = NUM_PATCHES - (NUM_PATCHES // 2 if len(side) else 0)
    tries = 8 * count
    octave = torch.rand(tries, device=side.device) * math.log2(SCALES[-1] / SCALES[0])
    own = patch / SCALES[-1] * 2**octave
    extent = side.new_tensor([size[1], size[0]])
    places = torch.rand(tries, 2, device=side.device) * extent
    near = ((places[:, None] - center).abs().amax(2) < FAR_SHIFT * own[:, None]) & (
        (own[:, None] / side).log2().abs() < FAR_GROWTH
    )
    free = ~near.any(1)
    return torch.cat([places, own[:, None]], 1)[free][:count]


def _uniform(*shape: int, like: Tensor) -> Tensor:
    return 2 * torch.rand(*shape, device=like.device) - 1


def cut_out(
    images: Float[Tensor, "b c H W"],
    patches: AssignedBoxes,
    sizes: Sequence[tuple[int, int]],
    side: int,
    border: int = 0,
) -> Float[Tensor, "p c _ _"]:
    """Parts of images, bilinear; beyond an image its last pixels are repeated.

    Args:
        images: that may be padded.
        patches: where to look.
        sizes: height and width of each image without its padding.
        side: of a patch in the result.
        border: pixels around a patch that are added to the result on each side.
    """
    at = (torch.arange(-border, side + border, device=images.device) + 0.5) / side
    found = images.new_empty(len(patches), images.shape[1], len(at), len(at))
    for number, (height, width) in enumerate(sizes):
        here = (patches.image == number).nonzero()[:, 0]
        x1, y1, x2, y2 = patches.boxes[here].to(images)[:, :, None].unbind(1)
        along = 2 * (x1 + at * (x2 - x1)) / width - 1
        down = 2 * (y1 + at * (y2 - y1)) / height - 1
        grid = torch.stack(
            [along[:, None].expand(-1, len(at), -1), down[:, :, None].expand(-1, -1, len(at))], 3
        )
        own = images[number, :, :height, :width].expand(len(here), -1, -1, -1)
        found[here] = F.grid_sample(own, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def patch_losses(output: PatchMasks, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Logistic loss of the pixels of masks, where there is an object, and of the scores (Eq. 1).

    Raises:
        NoLoss: if the output is one of evaluation.
    """
    if not output.learned_size:
        raise NoLoss
    patches, k = output.patches, output.scores.shape[1]
    positive = (patches.target >= 0).nonzero()[:, 0]
    wanted, likely = [], torch.zeros_like(output.scores)
    for index in positive.tolist():
        target = batch.annotations[int(patches.image[index])]
        assert isinstance(target, MaskSet)
        one = target.take(patches.target[index : index + 1].to(target.classes.device))
        likely[index, int(one.classes) if k > 1 else 0] = 1
        place = AssignedBoxes(patches.boxes[index : index + 1], patches.image[:1] * 0, patches.target[:1])
        mask = one.dense[None].to(output.scores)
        wanted.append(cut_out(mask, place, [target.size], output.learned_size)[0])
    score = F.binary_cross_entropy_with_logits(output.scores.float(), likely, reduction="sum")
    mask_loss = output.mask_logits.sum() * 0
    if wanted:
        side = (output.learned_size, output.learned_size)
        drawn = resize(output.mask_logits[positive][:, None].float(), side)
        inside = (torch.cat(wanted)[:, None] > 0.5).to(drawn)
        mask_loss = F.binary_cross_entropy_with_logits(drawn, inside) * len(positive)
    return {"mask": mask_loss / len(patches), "score": SCORE_WEIGHT * score / len(patches)}


@decode.instances.register
def instances(output: PatchMasks) -> tuple[MaskSet, ...]:
    """Masks drawn into their patches, best first."""
    found = []
    for number, (height, width) in enumerate(output.image_sizes):
        here = output.patches.image == number
        scores, classes = output.scores[here].detach().float().sigmoid().max(1)
        drawn = output.mask_logits[here].detach().float().sigmoid()
        masks = paste_masks(drawn, output.patches.boxes[here], height, width, INSIDE)
        drawn_ones = torch.from_numpy(masks.area > 0).to(scores.device).nonzero()[:, 0]
        one = MaskSet.of(masks, classes, scores).take(drawn_ones)
        assert not isinstance(one.masks, Tensor)
        kept = mask_nms(masks[drawn_ones.cpu().numpy()], one.scores, one.classes, threshold=MAX_IOU)
        found.append(one.take(kept))
    return tuple(found)


# --- builder --------------------------------------------------------------------------------------


def deepmask(
    num_classes: int = 1,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 512,
    patch: int = 160,
) -> DeepMask:
    """DeepMask on any encoder, by default the released model on ResNet-50.

    Args:
        num_classes: number of classes k; 1, as in the paper, to tell objects from everything else.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: length of the vector that a patch is squeezed to.
        patch: side of a patch in pixels, a multiple of 16.
    """
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=DeepMask.stages
    )
    return DeepMask(made, num_classes, width, patch)
