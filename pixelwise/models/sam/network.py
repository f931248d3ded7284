"""SAM put together, its published sizes, and its published weights."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ...encoders.timm import per_channel
from ...layers import IMAGENET_MEAN, IMAGENET_STD, LayerNorm2d, Normalize, size_of
from ...ops import pillow_resize
from ...types import BuiltBy, Embedding, Paper, PromptableModel, PromptMasks, Prompts
from ..lora import add_lora
from .image_encoder import ImageEncoder, SmallImageEncoder
from .mask_decoder import MaskDecoder
from .prompt_encoder import BOTTOM_RIGHT, NOTHING, TOP_LEFT, PromptEncoder

PAPER = Paper(
    title="Segment Anything",
    authors="Kirillov, Mintun, Ravi, Mao, Rolland, Gustafson, Xiao, Whitehead, Berg, Lo, Dollar, Girshick",
    venue="ICCV",
    year=2023,
    url="https://arxiv.org/abs/2304.02643",
)


PATCHES = 16  # of `sam`, in one unit of positions


class SAM(PromptableModel):
    """An image encoder, a prompt encoder, and a decoder that is cheap enough to answer every click.

    Args:
        image_encoder: square image -> map of `width` channels.
        image_size: side in pixels of the square that the encoder sees.
        patch: by how much smaller the map is.
        in_channels: of the image.
        width: channels of the map and of the tokens; a multiple of 32, one head of attention for each.
        side: of the square in units of positions, see `FourierPositions`.
    """

    encoder_parts = ("image_encoder",)
    minimum_size = 16

    def __init__(
        self,
        image_encoder: nn.Module,
        image_size: int,
        patch: int = 16,
        *,
        in_channels: int = 3,
        width: int = 256,
        side: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_size, self.patch, self.in_channels = image_size, patch, in_channels
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(width, side=side)
        self.mask_decoder = MaskDecoder(width, width // 32, 8 * width)

    def embed(self, image: Float[Tensor, "1 c H W"]) -> Embedding:
        """Look at an image.

        Raises:
            ValueError: if it is smaller than `minimum_size`.
        """
        return self.embed_all([image[0]])[0]

    def embed_all(self, images: Sequence[Float[Tensor, "c _ _"]]) -> tuple[Embedding, ...]:
        """Look at several images, which may differ in size, in one pass of the encoder.

        Raises:
            ValueError: if one is smaller than `minimum_size`.
        """
        sizes = [size_of(image[None], self.minimum_size) for image in images]
        squares = [self._square(image, size) for image, size in zip(images, sizes, strict=True)]
        maps = self.image_encoder(torch.stack(squares)).split(1)
        return tuple(Embedding((map,), size) for map, size in zip(maps, sizes, strict=True))

    def masks(self, embedding: Embedding, prompts: Prompts) -> PromptMasks:
        """Masks for each prompt (Sec. 3).

        There are three candidates for a single point, which may mean a part or the whole, and one where
        several points, a box or an earlier mask leave no doubt.
        """
        coarse, iou = self.decode(
            embedding.maps[0],
            *self.places(prompts, embedding.size),
            self.mask_prompts(prompts, embedding.size),
        )
        several = prompts.boxes is not None or prompts.masks is not None
        several = several or (prompts.points is not None and prompts.points.shape[1] > 1)
        taken = slice(0, 1) if several else slice(1, None)
        square = (self.image_size, self.image_size)
        return PromptMasks(coarse[:, taken], iou[:, taken], embedding.size, self.seen(embedding.size), square)

    def decode(
        self,
        map: Float[Tensor, "1 c h w"],
        places: Float[Tensor, "p n 2"],
        labels: Int64[Tensor, "p n"],
        masks: Float[Tensor, "p 1 _ _"] | None = None,
    ) -> tuple[Float[Tensor, "p 4 _ _"], Float[Tensor, "p 4"]]:
        """All four masks of each prompt, and the IoU expected of them; tensors only, so it can be exported.

        Args:
            map: of the image encoder.
            places: of points and corners as shares of the square's side; see `places`.
            labels: what they are.
            masks: scores of earlier masks at four times the resolution of the map.
        """
        return self.mask_decoder(
            map + self.prompt_encoder.masks(masks),
            self.prompt_encoder.positions(map.shape[-2], map.shape[-1]),
            self.prompt_encoder.points(places, labels),
        )

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image inside the square: its longer side fills it."""
        scale = self.image_size / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def places(
        self, prompts: Prompts, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "p n 2"], Int64[Tensor, "p n"]]:
        """Points, then corners of boxes, as shares of the square's side, and what each is.

        Points without a box end with one that is nothing, as in training.
        """
        device = self.normalize.mean.device
        places, labels = torch.zeros(len(prompts), 0, 2), torch.zeros(len(prompts), 0, dtype=torch.int64)
        places, labels = places.to(device), labels.to(device)
        if prompts.points is not None and prompts.point_labels is not None:
            places, labels = prompts.points, prompts.point_labels
            if prompts.boxes is None:
                places, labels = F.pad(places, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=NOTHING)
        if prompts.boxes is not None:
            corners = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=device).expand(len(prompts), -1)
            places = torch.cat([places, prompts.boxes.unflatten(1, (2, 2))], dim=1)
            labels = torch.cat([labels, corners], dim=1)
        height, width = self.seen(size)
        scale = torch.tensor([width / size[1], height / size[0]], device=device)
        return (places * scale + 0.5) / self.image_size, labels

    def mask_prompts(self, prompts: Prompts, size: tuple[int, int]) -> Float[Tensor, "p 1 _ _"] | None:
        """Earlier masks as the network reads them.

        Those that it gave itself (`PromptMasks.coarse`) stay as they are; others cover the image, and what
        lies beyond it is outside.
        """
        if prompts.masks is None:
            return None
        masks, cells = prompts.masks[:, None], 4 * self.image_size // self.patch
        if tuple(masks.shape[2:]) == (cells, cells):
            return masks
        height, width = self.seen(size)
        masks = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
        outside = float(masks.min())
        masks = F.pad(masks, (0, self.image_size - width, 0, self.image_size - height), value=outside)
        return F.interpolate(masks, (cells, cells), mode="bilinear", align_corners=False, antialias=True)

    def _square(self, image: Float[Tensor, "c H W"], size: tuple[int, int]) -> Float[Tensor, "c S S"]:
        """The image resized, normalised, and padded with zeros at its right and lower side.

        With 256 levels of brightness and resized as by Pillow: the published weights saw such images.
        """
        height, width = self.seen(size)
        levels = pillow_resize((image * 255).round(), (height, width))
        looked: Tensor = self.normalize(levels[None] / 255)
        return F.pad(looked, (0, self.image_size - width, 0, self.image_size - height))[0]


def sam(
    image_size: int = 256,
    patch: int = 8,
    width: int = 64,
    heads: int = 4,
    depth: int = 2,
    window: int = 8,
    decoder_width: int = 64,
    in_channels: int = 3,
    lora: int | None = None,
) -> SAM:
    """SAM of any size, to be trained from random weights on few images and without a GPU.

    It differs from the published sizes in three points. A convolutional stem takes the place of patches.
    Positions are finer: two places that are three patches apart have little in common. And what is random
    in the beginning is so that clicks are seen where they are (`_begin`). No weight depends on
    `image_size`: what was learned at one serves as a beginning at another.

    Args:
        image_size: side in pixels of the square that the encoder sees; a multiple of `patch`.
        patch: by how much smaller the map of the encoder is, a power of two; masks have four times the
            resolution of the map.
        width: channels of the encoder.
        heads: of its attention.
        depth: its blocks.
        window: side of the windows in patches.
        decoder_width: channels of the decoder, a multiple of 32.
        in_channels: of the image.
        lora: rank of the changes that a frozen encoder learns, see `add_lora`; None for all of its weights.

    Raises:
        ValueError: if a size is no multiple of what it is divided by.
    """
    if patch < 2 or patch & (patch - 1):
        raise ValueError(f"patch must be a power of two, got {patch}")
    if image_size % patch:
        raise ValueError(f"image_size must be a multiple of the patch of {patch} pixels, got {image_size}")
    if width % heads:
        raise ValueError(f"width must be a multiple of the {heads} heads, got {width}")
    if decoder_width % 32:
        raise ValueError(f"decoder_width must be a multiple of 32, got {decoder_width}")
    encoder = SmallImageEncoder(
        patch, width, heads, depth, window, in_channels=in_channels, c_out=decoder_width
    )
    side = image_size / (PATCHES * patch)
    model = SAM(encoder, image_size, patch, in_channels=in_channels, width=decoder_width, side=side)
    _begin(model)
    return _changed(model, lora)


@torch.no_grad()
def _begin(model: SAM) -> None:
    """Random weights with which the map already tells where a click is; the authors' hardly do.

    Attention looks for what is alike, and what images add to places and clicks is small.
    """
    model.mask_decoder.begin_with_likeness(1.2)
    encoder, prompts = model.image_encoder, model.prompt_encoder
    assert isinstance(encoder, SmallImageEncoder)
    norm = encoder.neck[-1]
    assert isinstance(norm, LayerNorm2d)
    nn.init.constant_(norm.weight, 0.3)
    prompts.no_mask_embed.weight.mul_(0.1)
    for kind in (*prompts.point_embeddings, prompts.not_a_point_embed):
        kind.weight.mul_(0.5)


def sam_vit_b(in_channels: int = 3, lora: int | None = None) -> SAM:
    """SAM on ViT-B: 94 M parameters; `lora` as in `sam`."""
    return _changed(_published(768, 12, 12, in_channels), lora)


def sam_vit_l(in_channels: int = 3, lora: int | None = None) -> SAM:
    """SAM on ViT-L: 312 M parameters; `lora` as in `sam`."""
    return _changed(_published(1024, 16, 24, in_channels), lora)


def sam_vit_h(in_channels: int = 3, lora: int | None = None) -> SAM:
    """SAM on ViT-H, the paper's: 641 M parameters; `lora` as in `sam`."""
    return _changed(_published(1280, 16, 32, in_channels), lora)


def _changed(model: SAM, lora: int | None) -> SAM:
    """The network, with a frozen encoder and changes of that rank where there is one."""
    if lora is not None:
        add_lora(model.image_encoder, lora)
    return model


def _published(width: int, heads: int, depth: int, in_channels: int) -> SAM:
    """Every fourth of the depth one block looks at the whole image."""
    windows = [0 if (i + 1) % (depth // 4) == 0 else 14 for i in range(depth)]
    encoder = ImageEncoder(1024, 16, width, heads, windows, in_channels=in_channels)
    return SAM(encoder, 1024, in_channels=in_channels)


def from_segment_anything(state_dict: Mapping[str, Tensor]) -> SAM:
    """The network with the weights of the authors' `segment_anything`, in eval mode.

    Sizes are read off the shapes, so encoders of any width and depth are taken, with heads of 64 or, from a
    width of 1280 on, of 80 channels.

    Args:
        state_dict: what a file of theirs holds.

    Raises:
        ValueError: if it is of another network.
    """
    try:
        patch, position = (
            state_dict[f"image_encoder.{name}"] for name in ("patch_embed.proj.weight", "pos_embed")
        )
        width, in_channels, side = patch.shape[:3]
        grid = position.shape[1]
        tables: list[Tensor] = []
        while (table := state_dict.get(f"image_encoder.blocks.{len(tables)}.attn.rel_pos_h")) is not None:
            tables.append(table)
        rows = [(len(table) + 1) // 2 for table in tables]
        heads = width // tables[0].shape[1]
        windows = [0 if size == grid else size for size in rows]
        with torch.device("meta"):
            encoder = ImageEncoder(side * grid, side, width, heads, windows, in_channels=in_channels)
            model = SAM(encoder, side * grid, side, in_channels=in_channels)
        own = Normalize(per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels))
        weights = dict(state_dict) | {f"normalize.{key}": x for key, x in own.state_dict().items()}
        model.load_state_dict(weights, assign=True)
    except (KeyError, IndexError, RuntimeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"these are not the weights of a SAM: {reason}") from error
    sizes = {768: "sam_vit_b", 1024: "sam_vit_l", 1280: "sam_vit_h"}
    if width in sizes and len(tables) == {768: 12, 1024: 24, 1280: 32}[width]:
        model.built_by = BuiltBy(sizes[width], {"in_channels": in_channels})
    return model.eval()
