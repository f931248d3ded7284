"""Plain vision transformers of timm, as encoders that give tokens: ViT, DeiT, BEiT, DINOv2, DINOv3 and EVA.

timm builds a ViT for images of one size. Here the image is padded to a multiple of the patch, and what ties
a network to its size is made anew for the grid of each image: learned position embeddings and tables of
relative positions (BEiT) are resized, rotations (EVA-02, DINOv3) computed.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, fit
from ..types import Tokens
from ..wording import brief
from .published import WeightsUnavailable, fetch
from .timm import StemPolicy, adapt_stem, per_channel

Interpolation = Literal["bicubic", "bilinear"]

Places = list[Tensor | None]  # for each block, what tells it where its tokens lie


class TokenEncoder(nn.Module):
    """A plain ViT of timm, cut behind its last used block.

    Keys of `body` are timm's own, but tables of relative positions, which are in `relative_positions`.

    A network that has more to say than the images of its tokens takes the steps of `forward` itself: `start`,
    then `block` after `block`, and `body.norm`.

    Args:
        body: of timm; it is taken apart.
        depths: how deep the layers lie that are given, as a part of all blocks; 1 is the last block.
        norm: whether the last layer passes the final norm.
        prefix: whether class tokens and registers take part.
        interpolation: how position embeddings are resized; bicubic as in timm, with a filter against
            aliasing, bilinear without one.
        mean: one number per channel of the image.
        std: likewise.

    Attributes:
        channels: d of the tokens.
        num_heads: of the attention.
        num_blocks: that are left.
        patch_size: height and width of a patch in pixels.
        map_channels: of the maps of convolutional stages before the first block.
        last: number of the block behind each given layer, from 0.

    Raises:
        ValueError: if the body is no plain ViT, its patches are not square, or larger than its images.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        depths: Sequence[float | int] = (1,),
        norm: bool = True,
        prefix: bool = True,
        interpolation: Interpolation = "bicubic",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        from timm.models.beit import Beit
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer

        vit: Any = body
        if not isinstance(body, VisionTransformer | Eva | Beit) or not _is_plain(vit):
            raise ValueError(f"the encoder must be a plain ViT, got {type(body).__name__}")
        height, width = vit.patch_embed.feat_ratio(as_scalar=False)
        if height != width:
            raise ValueError(f"patches must be square, got {height} x {width} pixels")
        self.body: Any = vit
        self.patch_size, self.channels = int(height), int(vit.embed_dim)
        self.in_channels, self.num_heads = len(mean), int(vit.blocks[0].attn.num_heads)
        self.normalize = Normalize(mean, std)
        self.interpolation = interpolation
        self.old_grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        if min(self.old_grid) < 1:
            raise ValueError(f"image_size must be at least a patch of {height} pixels")

        self.last = tuple(max(round(depth * len(vit.blocks)), 1) - 1 for depth in depths)
        del vit.blocks[max(self.last) + 1 :]
        self.num_blocks = len(vit.blocks)
        vit.reset_classifier(0)
        norms = [part for part in (vit.norm, vit.fc_norm) if not isinstance(part, nn.Identity)]
        vit.norm = norms[0] if norm and norms else nn.Identity()
        vit.fc_norm = nn.Identity()
        vit.attn_pool = None
        if isinstance(body, Beit):
            vit.norm_pre = nn.Identity()

        self.relative_positions = nn.ParameterList(_take_tables(vit) if isinstance(body, Beit) else [])
        if self._stages():
            _pad_by_fixed_amounts(vit.patch_embed.backbone)
        if not prefix:
            self._drop_prefix()
        self.num_class_tokens = len(_tokens(vit, "cls_token", "dist_token"))
        self.num_registers = sum(token.shape[1] for token in _tokens(vit, "reg_token"))
        self.map_channels = tuple(stage.blocks[-1].conv3.out_channels for stage in self._stages())

    def forward(self, image: Float[Tensor, "b c H W"]) -> Tokens:
        """The tokens behind the chosen blocks.

        Raises:
            ValueError: if the image is smaller than a patch.
        """
        x, grid, maps = self.start(image)
        places = self.places(grid)
        behind = []
        for i in range(self.num_blocks):
            x = self.block(i, x, places)
            behind.append(x)
        behind[-1] = self.body.norm(x)
        layers = tuple(behind[i] for i in self.last)
        return Tokens(layers, grid, self.num_class_tokens, self.num_registers, maps)

    def start(
        self, image: Float[Tensor, "b c H W"]
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, int], tuple[Tensor, ...]]:
        """The tokens before the first block, the grid, and the maps of convolutional stages.

        Raises:
            ValueError: if the image is smaller than a patch.
        """
        height, width = image.shape[-2:]
        if height < self.patch_size or width < self.patch_size:
            raise ValueError(
                f"the image must be at least as large as a patch of {self.patch_size} x {self.patch_size} "
                f"pixels, got {height} x {width}"
            )
        x = fit(self.normalize(image), self.padded((height, width)))
        maps = []
        stages = self._stages()
        if stages:
            x = self.body.patch_embed.backbone.stem(x)
            for stage in stages:
                x = stage(x)
                maps.append(x)
            x = self.body.patch_embed.backbone.norm(x)
        x = self.body.patch_embed.proj(x)
        grid = (x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        prefix = _tokens(self.body, "cls_token", "dist_token", "reg_token")
        if self.body.pos_embed is not None:
            own, of_patches = self._positions(grid)
            x = x + of_patches
            if own.shape[1]:
                prefix = [torch.cat(prefix, dim=1) + own]
        x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in prefix), x], dim=1)
        return self.body.norm_pre(self.body.pos_drop(x)), grid, tuple(maps)

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image of `size` when it is padded to whole patches."""
        p = self.patch_size
        return -(-size[0] // p) * p, -(-size[1] // p) * p

    def places(self, grid: tuple[int, int], more: int = 0) -> Places:
        """For each block, what tells it where its tokens lie: rotations, biases, or nothing.

        Args:
            grid: height and width in patches.
            more: number of tokens behind those of `start` that lie nowhere.
        """
        if self._rotations() is not None:
            turns = self._turns(grid)
            half = turns.shape[-1] // 2
            none = torch.cat([turns.new_zeros(half), turns.new_ones(half)])  # sine and cosine of no angle
            turns = torch.cat([turns, none.expand(*turns.shape[:-2], more, -1)], dim=-2)
            return list(turns) if self.body.rope_mixed else [turns] * self.num_blocks
        if len(self.relative_positions):
            biases = [self._biases(table, grid) for table in self.relative_positions]
            return [F.pad(bias, (0, more, 0, more)) for bias in biases]
        return [None] * self.num_blocks

    def block(
        self,
        i: int,
        x: Float[Tensor, "b n d"],
        places: Places,
        seen: Bool[Tensor, "b #heads n n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The tokens behind block `i`.

        Args:
            i: number of the block from 0.
            x: the tokens before it.
            places: see `places`.
            seen: which tokens each token attends to; None for all.
        """
        block, place = self.body.blocks[i], places[i]
        arguments: dict[str, Tensor | None] = {"attn_mask": seen, "rope": place}
        if place is not None and len(self.relative_positions):
            bias = place if seen is None else torch.where(seen, place, -torch.inf)
            arguments = {"shared_rel_pos_bias": bias}
        behind: Tensor = block(x, **{key: given for key, given in arguments.items() if given is not None})
        return behind

    def _stages(self) -> list[Any]:
        """The convolutional stages of a hybrid."""
        backbone: Any = dict(self.body.patch_embed.named_children()).get("backbone")
        return [] if backbone is None else list(backbone.stages)

    def _rotations(self) -> Any:
        """What computes the angles of EVA-02 and DINOv3, None in other networks."""
        return dict(self.body.named_children()).get("rope")

    def _positions(self, grid: tuple[int, int]) -> tuple[Float[Tensor, "1 _ d"], Float[Tensor, "1 p d"]]:
        """Position embeddings of the prefix, where it has them, and of patches."""
        rows, columns = self.old_grid
        embedding = self.body.pos_embed
        own, of_patches = embedding.split([embedding.shape[1] - rows * columns, rows * columns], dim=1)
        if torch.compiler.is_exporting() or grid != self.old_grid:
            map = of_patches.transpose(1, 2).unflatten(2, self.old_grid)
            antialias = self.interpolation == "bicubic"
            map = F.interpolate(map.float(), grid, mode=self.interpolation, antialias=antialias)
            of_patches = map.flatten(2).transpose(1, 2).to(of_patches)
        return own, of_patches

    def _turns(self, grid: tuple[int, int]) -> Float[Tensor, "*_ p d2"]:
        """Sine and cosine of the angles by which the features of each patch are turned."""
        from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3

        rope: Any = self._rotations()
        if not (torch.compiler.is_exporting() and isinstance(rope, RotaryEmbeddingDinoV3)):
            turns: Tensor = rope.get_embed(shape=list(grid))
            return turns
        # timm computes with the lengths as numbers, which would hold for the traced size only.
        axes = [2 * (torch.arange(n, device=self.normalize.mean.device) + 0.5) / n - 1 for n in grid]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
        return torch.cat(rope._get_pos_embed_from_coords(places), dim=-1)

    def _biases(self, table: Float[Tensor, "m heads"], grid: tuple[int, int]) -> Float[Tensor, "1 heads n n"]:
        """What a table of relative positions adds to the attention of each token to each.

        The last three rows of a table are for the class token: as it sees patches, as it is seen, as it sees
        itself. The others are resized bilinearly, as in transformers' BEiT.
        """
        rows, columns = grid
        old = (2 * self.old_grid[0] - 1, 2 * self.old_grid[1] - 1)
        map = table[:-3].T.unflatten(1, old)  # heads, distance down, distance to the right
        if torch.compiler.is_exporting() or grid != self.old_grid:
            map = F.interpolate(map[None], (2 * rows - 1, 2 * columns - 1), mode="bilinear")[0]
        cell = torch.arange(rows * columns, device=table.device)
        row, column = cell // columns, cell % columns
        down, right = row[:, None] - row + rows - 1, column[:, None] - column + columns - 1
        bias = map.flatten(1)[:, down * (2 * columns - 1) + right]  # heads, patch that sees, patch seen
        if self.num_class_tokens:
            count = rows * columns
            sees, is_seen, itself = (row.view(-1, 1, 1) for row in table[-3:])
            above = torch.cat([itself, sees.expand(-1, 1, count)], dim=2)
            bias = torch.cat([above, torch.cat([is_seen.expand(-1, count, 1), bias], dim=2)], dim=1)
        return bias[None]

    def _drop_prefix(self) -> None:
        """Leave class tokens and registers out, with their positions."""
        if self.body.pos_embed is not None:
            rows, columns = self.old_grid
            self.body.pos_embed = nn.Parameter(self.body.pos_embed.detach()[:, -rows * columns :])
        for name in ("cls_token", "dist_token", "reg_token"):
            if _tokens(self.body, name):
                setattr(self.body, name, None)
        if self._rotations() is not None:
            for block in self.body.blocks:
                block.attn.num_prefix_tokens = 0


def make_token_encoder(
    encoder: str | TokenEncoder,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    depths: Sequence[float | int] = (1,),
    norm: bool = True,
    prefix: bool = True,
    interpolation: Interpolation = "bicubic",
    image_size: int | None = None,
    patch_size: int | None = None,
    drop_path: float = 0.0,
) -> TokenEncoder:
    """A plain ViT by name, or `encoder` itself if it fits.

    Names are those of timm's ViT, DeiT, BEiT, DINOv2, DINOv3 and EVA, and "tiny" for tests.

    Args:
        encoder: a name, or a ready-made encoder, which keeps its own settings.
        in_channels: of the image; how pretrained filters are carried over is `stem`.
        pretrained: whether to load timm's weights.
        stem: see `adapt_stem`.
        depths: see `TokenEncoder`, as are `norm`, `prefix` and `interpolation`.
        norm: whether the last layer passes the final norm.
        prefix: whether class tokens and registers take part.
        interpolation: of position embeddings.
        image_size: side in pixels of the images that the learned positions are stored for; None for the
            backbone's own.
        patch_size: in pixels; None for the backbone's own. Pretrained filters are resized.
        drop_path: probability in training to drop a branch of the last block for an image; it grows from 0
            in the first block (stochastic depth, Huang et al. 2016).

    Raises:
        ValueError: if there is no such plain ViT, its patches are not square, its weights cannot be had, or
            a given encoder has other channels or fewer layers.
    """
    if isinstance(encoder, TokenEncoder):
        if encoder.in_channels != in_channels:
            raise ValueError(f"the encoder takes {encoder.in_channels} channels, not {in_channels}")
        if len(encoder.last) != len(depths):
            raise ValueError(f"the encoder must give {len(depths)} layers, it gives {len(encoder.last)}")
        return encoder
    import timm

    if stem not in get_args(StemPolicy):
        raise ValueError(f"stem must be one of {', '.join(get_args(StemPolicy))}, got {stem!r}")
    sizes = {"img_size": image_size, "patch_size": patch_size}
    options: dict[str, Any] = {key: size for key, size in sizes.items() if size is not None}
    config = None
    if encoder == "tiny":
        if pretrained:
            raise WeightsUnavailable("no pretrained weights are published for 'tiny'")
        body = _tiny(in_channels, drop_path, **options)
    else:
        if not timm.is_model(encoder):
            near = get_close_matches(encoder, timm.list_models(), n=3)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"timm has no backbone {brief(encoder)}{hint}")
        options["num_classes"] = 0
        if not encoder.startswith("beit"):
            options["dynamic_img_size"] = True
        try:
            body = timm.create_model(encoder, in_chans=in_channels, drop_path_rate=drop_path, **options)
        except TypeError as error:
            raise ValueError(f"backbone {encoder!r} is no plain ViT") from error
        config = timm.get_pretrained_cfg(encoder)
        if pretrained:
            colour = fetch(encoder, **options)
            body.load_state_dict(adapt_stem(colour, body.state_dict(), stem))
    try:
        return TokenEncoder(
            body,
            depths=depths,
            norm=norm,
            prefix=prefix,
            interpolation=interpolation,
            mean=per_channel(config.mean if config else (0.5, 0.5, 0.5), in_channels),
            std=per_channel(config.std if config else (0.5, 0.5, 0.5), in_channels),
        )
    except ValueError as error:
        raise ValueError(f"backbone {encoder!r} does not fit: {error}") from error


def _tiny(in_channels: int, drop_path: float, img_size: int = 64, patch_size: int = 16) -> nn.Module:
    """A ViT of four blocks for tests and documentation."""
    from timm.models.vision_transformer import VisionTransformer

    body: nn.Module = VisionTransformer(
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=0,
        embed_dim=32,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        drop_path_rate=drop_path,
        dynamic_img_size=True,
    )
    return body


def _is_plain(body: Any) -> bool:
    """Whether a transformer of timm has nothing that `TokenEncoder` would leave out."""
    from timm.layers.hybrid_embed import HybridEmbed
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.resnetv2 import ResNetV2

    embed, children = body.patch_embed, dict(body.named_children())
    if children.get("rel_pos_bias") is not None or not isinstance(embed, PatchEmbed | HybridEmbed):
        return False
    if isinstance(embed, HybridEmbed):
        return isinstance(embed.backbone, ResNetV2) and len(embed.backbone.stages) > 0
    return isinstance(embed.norm, nn.Identity)


def _tokens(body: nn.Module, *names: str) -> list[Float[Tensor, "1 _ d"]]:
    """Those of the learned tokens that a ViT has."""
    own = dict(body.named_parameters(recurse=False))
    return [own[name] for name in names if name in own]


def _take_tables(body: Any) -> list[nn.Parameter]:
    """The tables of relative positions of BEiT, one per block, taken out of the blocks.

    A block of timm without a table adds the biases that it is given.
    """
    tables = [block.attn.relative_position_bias_table for block in body.blocks]
    for block in body.blocks:
        block.attn.relative_position_bias_table = block.attn.relative_position_index = None
    return [table for table in tables if table is not None]


def _pad_by_fixed_amounts(backbone: Any) -> None:
    """Give the strided layers of a hybrid's ResNet the padding that timm computes from the size of the map.

    Where every map has an even size, as behind padding to whole patches, it is always the same, and an
    exported program can tell.
    """
    from timm.layers.std_conv import StdConv2dSame

    for module in backbone.modules():
        if isinstance(module, StdConv2dSame) and module.same_pad:
            module.same_pad = False
            if module.kernel_size > module.stride:
                module.register_forward_pre_hook(_pad)
    if isinstance(backbone.stem.pool, nn.MaxPool2d) and backbone.stem.pool.padding in (0, (0, 0)):
        backbone.stem.pool = nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), -torch.inf), nn.MaxPool2d(3, 2))


def _pad(convolution: nn.Module, given: tuple[Tensor]) -> Tensor:
    """TensorFlow's padding for a map of even size: the larger half at the end."""
    layer: Any = convolution
    whole = layer.kernel_size[0] - layer.stride[0]
    before, behind = whole // 2, whole - whole // 2
    return F.pad(given[0], (before, behind, before, behind))
