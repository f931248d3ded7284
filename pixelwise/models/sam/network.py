"""SAM put together, its published sizes, and its published weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ...encoders.timm import per_channel
from ...layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, size_of
from ...ops import pillow_resize
from ...types import BuiltBy, Embedding, Paper, PromptableModel, PromptMasks, Prompts
from ..lora import add_lora
from .image_encoder import ImageEncoder
from .mask_decoder import MaskDecoder
from .prompt_encoder import BOTTOM_RIGHT, NOTHING, TOP_LEFT, PromptEncoder

PAPER = Paper(
    title="Segment Anything",
    authors="Kirillov, Mintun, Ravi, Mao, Rolland, Gustafson, Xiao, Whitehead, Berg, Lo, Dollar, Girshick",
    venue="ICCV",
    year=2023,
    url="https://arxiv.org/abs/2304.02643",
)


class SAM(PromptableModel):
    """An image encoder, a prompt encoder, and a decoder that is cheap enough to answer every click.

    Args:
        image_encoder: square image -> map of `width` channels.
        image_size: side in pixels of the square that the encoder sees.
        patch: by how much smaller the map is.
        in_channels: of the image.
        width: channels of the map and of the tokens; a multiple of 32, one head of attention for each.
        prompt_encoder: prompts -> tokens and maps; None for the paper's.
        mask_decoder: tokens and maps -> masks; None for the paper's.
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
        prompt_encoder: nn.Module | None = None,
        mask_decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.image_size, self.patch, self.in_channels = image_size, patch, in_channels
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        self.image_encoder, self.map_channels = image_encoder, width
        self.prompt_encoder: Any = prompt_encoder or PromptEncoder(width)
        self.mask_decoder: Any = mask_decoder or MaskDecoder(width, width // 32, 8 * width)

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
        seen, covered = self.seen(embedding.size), self.covered(embedding.size)
        return PromptMasks(coarse[:, taken], iou[:, taken], embedding.size, seen, covered)

    def decode(
        self,
        map: Float[Tensor, "1 c h w"],
        places: Float[Tensor, "p n 2"],
        labels: Int64[Tensor, "p n"],
        masks: Float[Tensor, "p 1 _ _"] | None = None,
        given: Float[Tensor, " p"] | None = None,
    ) -> tuple[Float[Tensor, "p 4 _ _"], Float[Tensor, "p 4"]]:
        """All four masks of each prompt, and the IoU expected of them; tensors only, so it can be exported.

        Args:
            map: of the image encoder.
            places: of points and corners as shares of the square's side; see `places`.
            labels: what they are.
            masks: scores of earlier masks at four times the resolution of the map.
            given: 1 for prompts whose mask counts, 0 for others; None where all do.
        """
        dense = self.prompt_encoder.masks(masks)
        if given is not None:
            known = given[:, None, None, None]
            dense = known * dense + (1 - known) * self.prompt_encoder.masks(None)
        found: tuple[Tensor, Tensor] = self.mask_decoder(
            map + dense,
            self.prompt_encoder.positions(map.shape[-2], map.shape[-1]),
            self.prompt_encoder.points(places, labels),
        )
        return found

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image inside the square: its longer side fills it."""
        scale = self.image_size / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def covered(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the encoder sees, with its padding: the square."""
        return self.image_size, self.image_size

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
        masks, (rows, columns) = prompts.masks[:, None], self.covered(size)
        cells = 4 * rows // self.patch, 4 * columns // self.patch
        if tuple(masks.shape[2:]) == cells:
            return masks
        height, width = self.seen(size)
        masks = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
        outside = float(masks.min())
        masks = F.pad(masks, (0, columns - width, 0, rows - height), value=outside)
        return F.interpolate(masks, cells, mode="bilinear", align_corners=False, antialias=True)

    def _square(self, image: Float[Tensor, "c H W"], size: tuple[int, int]) -> Float[Tensor, "c S S"]:
        """The image resized, normalised, and padded with zeros at its right and lower side; see `covered`.

        With 256 levels of brightness and resized as by Pillow: the published weights saw such images.
        """
        (height, width), (rows, columns) = self.seen(size), self.covered(size)
        levels = pillow_resize((image * 255).round(), (height, width))
        looked: Tensor = self.normalize(levels[None] / 255)
        return F.pad(looked, (0, columns - width, 0, rows - height))[0]


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
