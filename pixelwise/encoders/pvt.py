"""Pyramid Vision Transformer, PVT (Wang et al. 2021): a transformer whose map shrinks like that of a ResNet.

    image --- stage 1 --- stage 2 --- stage 3 --- stage 4
              c2, 1/4     c3, 1/8     c4, 1/16    c5, 1/32

Each stage cuts the map into patches that do not overlap, adds learned positions, and runs transformer blocks
(Fig. 3). Attention over all h w tokens of a fine map would cost (h w)^2: here keys and values are read from
a map R times smaller along each side, R = 8, 4, 2, 1 (spatial-reduction attention, Fig. 4, Eq. 1-3).

As in the authors' networks for segmentation there is no class token and no norm behind the last stage.
Positions, learned for images of 224 pixels, are interpolated bilinearly to the map. Patches at the end of an
axis that are not complete are left out, as published.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, resize
from ..types import STAGES, Features, PerStage
from .base import Encoder
from .published import fetch_file
from .timm import StemPolicy, adapt_stem, per_channel
from .transformer import Block, Mlp, attend, drop_path_rates, initialize

LEVELS = STAGES[1:]  # c2 to c5
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
RATIOS = (8, 8, 4, 4)  # of the widths within the feed-forward networks
PATCHES = (4, 2, 2, 2)
TRAINED_AT = 224  # pixels
PVT_DEPTHS = {"tiny": (2, 2, 2, 2), "small": (3, 4, 6, 3), "medium": (3, 4, 18, 3), "large": (3, 8, 27, 3)}
RELEASE = "https://github.com/whai362/PVT/releases/download/v2/pvt_{}.pth"


class SpatialReductionAttention(nn.Module):
    """Every token attends to a map that is `reduction` times smaller along each side (Fig. 4).

    Args:
        channels: of the map.
        heads: of the attention.
        reduction: R; 1 for plain attention.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """What each token gathers."""
        source = x
        if self.reduction > 1:
            source = self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # b h/R w/R c
        key, value = self.kv(source.flatten(1, 2)).chunk(2, dim=2)
        gathered = self.proj(attend(self.q(x.flatten(1, 2)), key, value, self.heads))
        return gathered.unflatten(1, x.shape[1:3])


class PVTStage(nn.Module):
    """Patches, positions, transformer blocks.

    Args:
        c_in: channels of the input.
        number: of the stage, from 0.
        heads: of the attention.
        width: channels of a head.
        drop_paths: probability to drop a branch, for each block.
        side: rows and columns of the map that positions are learned for.
    """

    def __init__(
        self, c_in: int, number: int, *, heads: int, width: int, drop_paths: Sequence[float], side: int
    ) -> None:
        super().__init__()
        c, patch = heads * width, PATCHES[number]
        self.embed = nn.Conv2d(c_in, c, patch, patch)
        self.embed_norm = nn.LayerNorm(c)
        self.pos_embed = nn.Parameter(torch.zeros(1, c, side, side))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(
            *(
                Block(
                    c,
                    SpatialReductionAttention(c, heads, REDUCTIONS[number]),
                    Mlp(c, RATIOS[number]),
                    drop_path=rate,
                )
                for rate in drop_paths
            )
        )

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b c h w"]:
        """The map of the stage."""
        x = self.embed_norm(self.embed(x).permute(0, 2, 3, 1))
        positions = resize(self.pos_embed, (x.shape[1], x.shape[2]))
        return self.blocks(x + positions.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PVT(Encoder):
    """PVT: four stages of widths w, 2w, 5w and 8w.

    Args:
        depths: blocks of each stage.
        width: w, the channels of a head; 64 was published.
        in_channels: of the image.
        stages: the stages to give, "c2" to "c5"; those behind the last are cut off.
        drop_path: probability to drop a branch of the last block; it grows from 0 in the first.

    Raises:
        ValueError: on another stage.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        width: int = 64,
        in_channels: int = 3,
        stages: Sequence[str] = LEVELS,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.stages = chosen_stages("PVT", stages)
        self.in_channels = in_channels
        widths = [width * heads for heads in HEADS]
        self.channels, self.strides = pyramid_of(widths, self.stages)
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        rates = drop_path_rates(drop_path, depths)
        self.body = nn.ModuleDict()
        for i, stage in enumerate(LEVELS[: LEVELS.index(self.stages[-1]) + 1]):
            self.body[stage] = PVTStage(
                widths[i - 1] if i else in_channels,
                i,
                heads=HEADS[i],
                width=width,
                drop_paths=rates[i],
                side=TRAINED_AT // (4 * 2**i),
            )
        self.apply(initialize)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        return run_stages(self.body, self.normalize(image), self.stages)


def chosen_stages(name: str, stages: Sequence[str]) -> tuple[str, ...]:
    """`stages`, finest first.

    Raises:
        ValueError: if there are none, or one is not of c2 to c5.
    """
    if missing := [stage for stage in stages if stage not in LEVELS]:
        raise ValueError(f"{name} gives {', '.join(LEVELS)}: it has no {missing[0]}")
    if not stages:
        raise ValueError(f"{name} must give at least one stage")
    return tuple(stage for stage in LEVELS if stage in stages)


def pyramid_of(widths: Sequence[int], stages: Sequence[str]) -> tuple[PerStage, PerStage]:
    """Channels and strides of an encoder whose stages c2 to c5 have `widths` and strides 4 to 32."""
    there = [stage in stages for stage in LEVELS]
    channels = [c if given else 0 for c, given in zip(widths, there, strict=True)]
    strides = [4 * 2**i if given else 0 for i, given in enumerate(there)]
    return PerStage(0, *channels), PerStage(0, *strides)


def run_stages(body: nn.ModuleDict, x: Float[Tensor, "b c H W"], stages: Sequence[str]) -> Features:
    """One stage after the other, and the maps of those in `stages`."""
    maps = {}
    for stage, part in body.items():
        x = part(x)
        if stage in stages:
            maps[stage] = x
    return Features(maps)


# --- weights --------------------------------------------------------------------------------------


def pretrained_pvt(size: str, encoder: PVT, stem: StemPolicy) -> None:
    """Load the authors' ImageNet weights of one of `PVT_DEPTHS` into `encoder`."""
    published = fetch_file(f"pvt_{size}", RELEASE.format(size))
    own, colour = encoder.state_dict(), PVT(PVT_DEPTHS[size]).state_dict()
    weights = fit_pvt_weights(published, colour) | {key: own[key] for key in own if "normalize." in key}
    encoder.load_state_dict(adapt_stem({key: weights[key] for key in own}, own, stem))


def fit_pvt_weights(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the authors' PVT under the names of `target`, a state dict of `PVT`.

    Args:
        source: the authors' state dict of a classifier or a backbone.
        target: tells which weights are wanted; its mean and standard deviation are kept.

    Raises:
        ValueError: if weights are missing or have another shape.
    """
    weights = {}
    for key, own in target.items():
        weights[key] = own if key.startswith("normalize.") else _theirs(source, key, own)
        if weights[key].shape != own.shape:
            shapes = f"{tuple(weights[key].shape)}, expected {tuple(own.shape)}"
            raise ValueError(f"the weights are not those of this PVT: {key} has the shape {shapes}")
    return weights


def _theirs(source: Mapping[str, Tensor], key: str, own: Tensor) -> Tensor:
    _, stage, part, *rest = key.split(".")
    number = LEVELS.index(stage) + 1
    names = {
        "embed": f"patch_embed{number}.proj",
        "embed_norm": f"patch_embed{number}.norm",
        "pos_embed": f"pos_embed{number}",
        "blocks": f"block{number}",
    }
    tail = ".".join(rest).replace("attention.", "attn.").replace("ffn.", "mlp.")
    name = f"{names[part]}.{tail}" if tail else names[part]
    if name not in source:
        raise ValueError(f"the weights are not those of this PVT: {name} is missing")
    if part == "pos_embed":  # 1 n c, in classifiers after a class token in the last stage
        positions = source[name][:, -own.shape[2] * own.shape[3] :]
        return positions.transpose(1, 2).reshape(1, -1, *own.shape[2:])
    return source[name]
