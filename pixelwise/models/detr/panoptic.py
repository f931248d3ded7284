"""DETR for masks: where each query looks, made finer with the maps of the encoder (Sec. 4.4, Fig. 8)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ... import decode
from ...encoders import Encoder, StemPolicy, make_encoder
from ...layers import resize, without_padding
from ...losses import loss_parts, mask_losses, mask_set_of
from ...merging import share_pixels
from ...types import Batch, ClassTable, MaskSet, PanopticMap, Value, value
from .network import DETR, PAPER as PAPER, SetOfBoxes
from .set_loss import objects_of, set_losses
from .transformer import HEADS

MASK_WEIGHT, DICE_WEIGHT = 1.0, 1.0
STAGES = ("c2", "c3", "c4", "c5")
MIN_SCORE, MIN_AREA = 0.85, 5  # of a segment, its pixels; as the authors' code has them


@value
class SetOfMasks(Value):
    """What each of q queries says, and draws.

    Attributes:
        found: classes and boxes.
        mask_logits: scores of the mask of each query in the padded image; above 0 is inside.
        seen: height and width of that image, as the network sees it.
        seen_sizes: the same of each image without its padding; empty where nothing is padded.
    """

    found: SetOfBoxes
    mask_logits: Float[Tensor, "b q h w"]
    seen: tuple[int, int]
    seen_sizes: tuple[tuple[int, int], ...] = ()

    def masks_of(self, image: int) -> Float[Tensor, "q h w"]:
        """Mask scores that cover one image of the batch, without its padding."""
        logits = self.mask_logits[image : image + 1]
        return without_padding(logits, self.seen_sizes[image], self.seen)[0] if self.seen_sizes else logits[0]


class AttentionMaps(nn.Module):
    """Where each query looks, by several heads; all maps of a query sum to 1 together.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.query, self.key):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        queries: Float[Tensor, "b q c"],
        memory: Float[Tensor, "b n c"],
        seen: Bool[Tensor, "b h w"] | None,
        size: tuple[int, int],
    ) -> Float[Tensor, "b q heads h w"]:
        """Maps of height and width `size`, which has n pixels; 0 on padding."""
        q = self.query(queries).unflatten(2, (self.heads, -1)) / (memory.shape[2] / self.heads) ** 0.5
        k = self.key(memory).unflatten(2, (self.heads, -1))
        scores = torch.einsum("bqed,bned->bqen", q, k)
        if seen is not None:
            scores = scores.masked_fill(~seen.flatten(1)[:, None, None], -math.inf)
        return scores.flatten(2).softmax(-1).unflatten(2, (self.heads, *size))


class MaskHead(nn.Module):
    """Convolutions from the attention maps up to stride 4, with a map of the encoder at each step (Fig. 8).

    Args:
        width: channels of the transformer; the steps have a half, a quarter, ... of it.
        heads: of the attention maps.
        channels: of the encoder's maps, coarsest first.
    """

    def __init__(self, width: int, heads: int, channels: Sequence[int]) -> None:
        super().__init__()
        steps = [width + heads, *(max(width // 2**i, 1) for i in range(1, 5))]
        self.blocks = nn.ModuleList(
            _block(c_in, c_out) for c_in, c_out in zip([steps[0], *steps], steps, strict=False)
        )
        self.adapters = nn.ModuleList(
            nn.Conv2d(c, step, 1) for c, step in zip(channels, steps[1:], strict=False)
        )
        self.out = nn.Conv2d(steps[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        attention: Float[Tensor, "b q heads h w"],
        maps: Sequence[Float[Tensor, "b _ _ _"]],
    ) -> Float[Tensor, "b q h4 w4"]:
        """Scores of the mask of each query; maps are given coarsest first."""
        b, q = attention.shape[:2]
        x = torch.cat([x[:, None].expand(-1, q, -1, -1, -1), attention], 2).flatten(0, 1)
        x = self.blocks[1](self.blocks[0](x))
        for adapter, block, map in zip(self.adapters, self.blocks[2:], maps, strict=True):
            fine = adapter(map)  # once per image, not once per query
            x = F.interpolate(x, fine.shape[-2:], mode="nearest").unflatten(0, (b, q)) + fine[:, None]
            x = block(x.flatten(0, 1))
        scores: Tensor = self.out(x)[:, 0].unflatten(0, (b, q))
        return scores


def _block(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1), nn.GroupNorm(math.gcd(8, c_out), c_out), nn.ReLU(inplace=True)
    )


class DETRPanoptic(DETR):
    """DETR whose queries stand for things and stuff alike, and draw.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of all classes, things and stuff.
        width: see `DETR`.
        num_queries: most segments of an image.
        layers: see `DETR`.
        min_size: see `DETR`.
        max_size: see `DETR`.
    """

    tasks = ("panoptic", "instance")
    output = SetOfMasks

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        width: int = 256,
        num_queries: int = 100,
        layers: int = 6,
        *,
        min_size: int | None = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__(
            encoder, num_classes, width, num_queries, layers, min_size=min_size, max_size=max_size
        )
        self.attention_maps = AttentionMaps(width)
        channels = [getattr(encoder.channels, stage) for stage in STAGES[-2::-1]]
        self.mask_head = MaskHead(width, self.attention_maps.heads, channels)

    def forward(  # type: ignore[override]
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> SetOfMasks:
        """Look for segments; see `DETR.forward`."""
        seen = self.prepare(image, sizes)
        between = self.run_transformer(seen)
        found = self.predict(between, (image.shape[-2], image.shape[-1]), sizes)
        coarse = (between.input.shape[-2], between.input.shape[-1])
        attention = self.attention_maps(between.queries[-1], between.memory, between.seen, coarse)
        maps = [between.features[stage] for stage in STAGES[-2::-1]]
        logits = self.mask_head(between.input, attention, maps)
        return SetOfMasks(found, logits, (seen.images.shape[-2], seen.images.shape[-1]), seen.sizes)


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def detr_mask_losses(output: SetOfMasks, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """DETR's, and "mask" and "dice": focal loss and Dice loss of whole masks of matched queries."""
    k, size = output.found.class_logits.shape[-1] - 1, output.found.size
    segments = [mask_set_of(target, k, size)[0] for target in batch.annotations]
    segments = [one.take(~one.is_crowd & one.dense.flatten(1).any(1)) for one in segments]
    sizes = output.found.image_sizes
    targets = [objects_of(one, own) for one, own in zip(segments, sizes, strict=True)]
    parts, matches, count = set_losses(output.found, targets)
    pixel = dice = output.mask_logits.sum() * 0
    for image, (one, match) in enumerate(zip(segments, matches, strict=True)):
        if len(one):
            height, width = sizes[image]
            drawn = resize(output.masks_of(image)[match.queries][None], (height, width))[0]
            wanted = one.dense[match.objects][:, :height, :width].to(drawn.device)
            losses = mask_losses(drawn.flatten(1), wanted.flatten(1).float(), pixel_loss="focal")
            pixel, dice = pixel + losses[0].sum(), dice + losses[1].sum()
    return parts | {"mask": MASK_WEIGHT * pixel / count, "dice": DICE_WEIGHT * dice / count}


@decode.instances.register
def instances_of(output: SetOfMasks) -> tuple[MaskSet, ...]:
    """The most probable class of each query and where its mask has more than a half, best first."""
    found = []
    for image, (logits, size) in enumerate(
        zip(output.found.class_logits.detach(), output.found.image_sizes, strict=True)
    ):
        scores, labels = logits.float().softmax(-1)[:, :-1].max(-1)
        masks = resize(output.masks_of(image).detach()[None].float(), size)[0] > 0
        order = scores.argsort(descending=True, stable=True)
        order = order[masks.flatten(1).any(1)[order]]
        found.append(MaskSet.of(masks[order], labels[order], scores[order]))
    return tuple(found)


@decode.panoptic.register
def segments_of(
    output: SetOfMasks, classes: ClassTable, merging: decode.Merging = decode.PAPERS_OWN
) -> tuple[PanopticMap, ...]:
    """Sure queries share all pixels, see `merging.share_pixels`.

    Args:
        output: of DETR.
        classes: say which labels are things.
        merging: `min_score`, and as `min_stuff_area` the fewest pixels of any segment; masks never overlap.
    """
    limits = merging.over(decode.Thresholds(MIN_SCORE, 1.0, MIN_AREA))
    found = []
    for image, (logits, size) in enumerate(
        zip(output.found.class_logits.detach(), output.found.image_sizes, strict=True)
    ):
        scores, labels = logits.float().softmax(-1).max(-1)
        sure = (labels < logits.shape[-1] - 1) & (scores > limits.min_score)
        drawn, names = output.masks_of(image)[sure], labels[sure].tolist()
        found.append(share_pixels(drawn, names, classes.things, size, min_area=limits.min_stuff_area))
    return tuple(found)


# --- builders -------------------------------------------------------------------------------------


def detr_panoptic(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    num_queries: int = 100,
    blocks: int = 6,
    min_size: int | None = 800,
) -> DETRPanoptic:
    """DETR for things and stuff on any encoder; the arguments are those of `detr`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return DETRPanoptic(made, num_classes, width, num_queries, blocks, min_size=min_size)


def detr_panoptic_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
) -> DETRPanoptic:
    """The paper's DETR for panoptic segmentation on ResNet-50."""
    return detr_panoptic(
        num_classes, in_channels=in_channels, pretrained=pretrained, stem=stem, min_size=min_size
    )


def detr_panoptic_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
) -> DETRPanoptic:
    """The paper's DETR for panoptic segmentation on ResNet-101."""
    made = make_encoder("resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return DETRPanoptic(made, num_classes, min_size=min_size)
