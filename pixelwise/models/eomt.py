"""EoMT: a plain vision transformer is an image segmenter when queries join its tokens (Fig. 1).

Before the last blocks, learned queries are appended to the tokens; from then on the blocks of the encoder
let queries, patches and themselves attend to each other, and are all the decoder there is (Sec. 3.2). A
query's class is a linear map of it, its mask the product of its embedding with upscaled patches, as in
MaskFormer. While training, masks are also predicted before each of these blocks, and each query attends to
patches inside of its mask only. That is annealed away (Sec. 3.3): block after block, the part of the queries
that are masked falls from all to none, so a trained network needs no masks of its own to attend.

`from_transformers_eomt` reads the weights of transformers' `EomtForUniversalSegmentation`, in which the
authors (github.com/tue-mps/eomt) publish theirs. Losses and weights are those of Mask2Former.

Departures: queries stand behind the tokens of the image, which changes nothing; in evaluation nothing is ever
masked, as at the end of training, while the authors mask until the annealing is over.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import StemPolicy, TokenEncoder, make_token_encoder
from ..layers import size_of, without_padding
from ..types import BuiltBy, MaskLogits, MaskModel, Paper

PAPER = Paper(
    "Your ViT is Secretly an Image Segmentation Model",
    "Kerssies, Cavagnero, Hermans, Norouzi, Averta, Leibe, Dubbelman, de Geus",
    "CVPR",
    2025,
    "https://arxiv.org/abs/2503.19108",
)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of a map."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Upscale(nn.Sequential):
    """Twice the resolution: transposed convolution, depth-wise 3x3 convolution, norm (Sec. 3.2)."""

    def __init__(self, d: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(d, d, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(d, d, 3, padding=1, groups=d, bias=False),
            ChannelNorm(d, eps=1e-6),
        )


class EoMT(MaskModel):
    """Plain ViT whose last blocks see queries, and three small heads.

    Args:
        encoder: gives its last layer, with the final norm.
        num_classes: number of classes k, without "no object".
        num_queries: most segments of an image.
        blocks: number of last blocks that see the queries.

    Attributes:
        attn_mask_probs: which part of the queries is masked before each of the last blocks in training.

    Raises:
        ValueError: if the encoder has fewer blocks.
    """

    attn_mask_probs: Tensor

    def __init__(
        self, encoder: TokenEncoder, num_classes: int, num_queries: int = 200, blocks: int = 4
    ) -> None:
        super().__init__()
        if blocks > encoder.num_blocks:
            raise ValueError(f"blocks must be at most {encoder.num_blocks}, as the encoder has, got {blocks}")
        d = encoder.channels
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.minimum_size = max(self.minimum_size, encoder.patch_size)
        self.encoder, self.blocks = encoder, blocks
        self.queries = nn.Parameter(torch.randn(num_queries, d))
        self.class_head = nn.Linear(d, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(d, d), nn.GELU(), nn.Linear(d, d), nn.GELU(), nn.Linear(d, d)
        )
        # To stride 4, or as near to it as doubling leads.
        steps = max(1, encoder.patch_size.bit_length() - 3)
        self.upscale = nn.Sequential(*(Upscale(d) for _ in range(steps)))
        self.register_buffer("attn_mask_probs", torch.ones(blocks))

    def forward(self, image: Float[Tensor, "b c H W"]) -> MaskLogits:
        """See `MaskModel.forward`; in training the queries give masks before each last block as well."""
        size = size_of(image, self.minimum_size)
        x, grid, _ = self.encoder.start(image)
        places = self.encoder.places(grid)
        earlier = []
        first = self.encoder.num_blocks - self.blocks
        for i in range(self.encoder.num_blocks):
            seen = None
            if i == first:
                x = torch.cat([x, self.queries.expand(x.shape[0], -1, -1)], dim=1)
                places = self.encoder.places(grid, more=len(self.queries))
            if i >= first and self.training:
                classes, masks = self.predict(x, grid)
                earlier.append(self._output(classes, masks, size))
                seen = self.seen(masks, grid, x.shape[1], self.attn_mask_probs[i - first])
            x = self.encoder.block(i, x, places, seen)
        classes, masks = self.predict(x, grid)
        return self._output(classes, masks, size, tuple(earlier))

    def predict(
        self, x: Float[Tensor, "b n d"], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "b q k1"], Float[Tensor, "b q _ _"]]:
        """Scores of classes and masks of the queries (Fig. 2)."""
        x = self.encoder.body.norm(x)
        count = len(self.queries)
        queries, patches = x[:, -count:], x[:, self._prefix : -count]
        maps = self.upscale(patches.transpose(1, 2).contiguous().unflatten(2, grid))
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), maps)
        return self.class_head(queries), masks

    def seen(
        self, masks: Float[Tensor, "b q _ _"], grid: tuple[int, int], n: int, share: Float[Tensor, ""]
    ) -> Bool[Tensor, "b 1 n n"]:
        """Which of the n tokens each attends to: all, but masked queries see patches of their mask only.

        Args:
            masks: of the queries.
            grid: height and width in patches.
            n: number of tokens.
            share: of the queries that are masked.
        """
        count = len(self.queries)
        inside = F.interpolate(masks, grid, mode="bilinear").flatten(2) > 0
        free = torch.rand(len(masks), count, 1, device=masks.device) > share
        seen = torch.ones(len(masks), 1, n, n, dtype=torch.bool, device=masks.device)
        seen[:, 0, -count:, self._prefix : -count] = inside | free
        return seen

    def progress(self, share: float) -> None:
        """Anneal the masks of attention (Sec. 3.3): one block after the other, polynomially with power 0.9.

        Each block falls from 1 to 0 within a sixth of the training. The first one begins after the first
        sixth, the last one ends before the last, and the others lie evenly between, as in the authors' code:
        four blocks follow on each other, three have half of a sixth between them.

        Args:
            share: of the training steps that are done.
        """
        start = torch.linspace(1, 4, self.blocks) / 6
        done = ((share - start) * 6).clamp(0, 1)
        self.attn_mask_probs.copy_((1 - done) ** 0.9)

    @property
    def _prefix(self) -> int:
        """Number of class tokens and registers, which stand before the patches."""
        return self.encoder.num_class_tokens + self.encoder.num_registers

    def _output(
        self,
        classes: Float[Tensor, "b q k1"],
        masks: Float[Tensor, "b q _ _"],
        size: tuple[int, int],
        earlier: tuple[MaskLogits, ...] = (),
    ) -> MaskLogits:
        return MaskLogits(classes, without_padding(masks, size, self.encoder.padded(size)), size, earlier)


# --- builders -------------------------------------------------------------------------------------


def eomt(
    num_classes: int,
    *,
    encoder: str | TokenEncoder = "vit_large_patch14_reg4_dinov2",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int = 640,
    num_queries: int = 200,
    blocks: int = 4,
) -> EoMT:
    """EoMT on any plain ViT, with patches of 16 pixels.

    Args:
        num_classes: number of classes k, without "no object".
        encoder: name, see `make_token_encoder`, or a ready-made encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        image_size: side in pixels of the images that positions are stored for.
        num_queries: most segments of an image.
        blocks: number of last blocks that see the queries.
    """
    made = make_token_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        image_size=image_size,
        patch_size=16,
    )
    return EoMT(made, num_classes, num_queries, blocks)


def eomt_small(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int = 640,
    num_queries: int = 200,
) -> EoMT:
    """EoMT on DINOv2 ViT-S with registers, whose last three blocks see the queries."""
    return eomt(
        num_classes,
        encoder="vit_small_patch14_reg4_dinov2",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        image_size=image_size,
        num_queries=num_queries,
        blocks=3,
    )


def eomt_base(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int = 640,
    num_queries: int = 200,
) -> EoMT:
    """EoMT on DINOv2 ViT-B with registers, whose last three blocks see the queries."""
    return eomt(
        num_classes,
        encoder="vit_base_patch14_reg4_dinov2",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        image_size=image_size,
        num_queries=num_queries,
        blocks=3,
    )


def eomt_large(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int = 640,
    num_queries: int = 200,
) -> EoMT:
    """EoMT on DINOv2 ViT-L with registers, whose last four blocks see the queries."""
    return eomt(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        image_size=image_size,
        num_queries=num_queries,
    )


# --- weights of the authors and of transformers -----------------------------------------------------

_ENCODERS = {  # by channels and number of blocks
    (384, 12): "vit_small_patch14_reg4_dinov2",
    (768, 12): "vit_base_patch14_reg4_dinov2",
    (1024, 24): "vit_large_patch14_reg4_dinov2",
}
_BLOCKS = {384: 3, 768: 3, 1024: 4}  # that see the queries, where the weights do not tell
_AUTHORS = (
    (r"^network\.", ""),
    (r"^encoder\.backbone\.", "encoder.body."),
    (r"^q\.weight", "queries"),
    (r"^upscale\.(\d)\.conv1\.", r"upscale.\1.0."),
    (r"^upscale\.(\d)\.conv2\.", r"upscale.\1.2."),
    (r"^upscale\.(\d)\.norm\.", r"upscale.\1.3."),
)
_NAMES = (  # theirs, as regular expressions, and ours
    (r"^embeddings\.cls_token", "encoder.body.cls_token"),
    (r"^embeddings\.register_tokens", "encoder.body.reg_token"),
    (r"^embeddings\.position_embeddings\.weight", "encoder.body.pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "encoder.body.patch_embed.proj."),
    (r"^layernorm\.", "encoder.body.norm."),
    (r"^layers\.", "encoder.body.blocks."),
    (r"\.attention\.out_proj\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
    (r"^query\.weight", "queries"),
    (r"^class_predictor\.", "class_head."),
    (r"^mask_head\.fc1\.", "mask_head.0."),
    (r"^mask_head\.fc2\.", "mask_head.2."),
    (r"^mask_head\.fc3\.", "mask_head.4."),
    (r"^upscale_block\.block\.(\d)\.conv1\.", r"upscale.\1.0."),
    (r"^upscale_block\.block\.(\d)\.conv2\.", r"upscale.\1.2."),
    (r"^upscale_block\.block\.(\d)\.layernorm2d\.", r"upscale.\1.3."),
)


def from_eomt(state_dict: Mapping[str, Tensor]) -> EoMT:
    """Weights of the authors (github.com/tue-mps/eomt) or of transformers in our model, in eval mode.

    Args:
        state_dict: of a training of theirs, where all names begin with `network.`, or what
            `from_transformers_eomt` takes.

    Raises:
        ValueError: if it is not a state dict of that network in one of the published sizes.
    """
    if "network.q.weight" not in state_dict:
        return from_transformers_eomt(state_dict)
    weights: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if not key.startswith("network.") or ".pixel_" in key:  # the loss; mean and deviation of the images
            continue
        for theirs, ours in _AUTHORS:
            key = re.sub(theirs, ours, key)
        weights[key] = tensor
    return _loaded(weights)


def from_transformers_eomt(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> EoMT:
    """Weights of transformers' `EomtForUniversalSegmentation` in our model, in eval mode.

    Args:
        state_dict: of a model, or of a file of the hub, such as tue-mps/coco_panoptic_eomt_large_640.
        config: not needed; sizes are read from the weights.

    Raises:
        ValueError: if it is not a state dict of that network in one of the published sizes.
    """
    weights: dict[str, Tensor] = {}
    try:
        for key, tensor in state_dict.items():
            if key.startswith("criterion.") or ".attention.k_proj." in key or ".attention.v_proj." in key:
                continue
            if ".attention.q_proj." in key:
                parts = [state_dict[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
                key, tensor = key.replace(".attention.q_proj.", ".attn.qkv."), torch.cat(parts)
            for theirs, ours in _NAMES:
                key = re.sub(theirs, ours, key)
            weights[key] = tensor[None] if key == "encoder.body.pos_embed" else tensor
    except KeyError as error:
        raise ValueError(f"state_dict is not that of an EoMT: {error} is missing") from error
    return _loaded(weights)


def _loaded(weights: dict[str, Tensor]) -> EoMT:
    """The network with weights under our names.

    Raises:
        ValueError: if they do not fit.
    """
    try:
        num_queries, d = weights["queries"].shape
        num_blocks = sum(key.endswith(".attn.qkv.weight") for key in weights)
        weights.setdefault("attn_mask_probs", torch.zeros(_BLOCKS.get(d, 4)))
        arguments: dict[str, Any] = {
            "num_classes": len(weights["class_head.bias"]) - 1,
            "encoder": _ENCODERS[d, num_blocks],
            "in_channels": weights["encoder.body.patch_embed.proj.weight"].shape[1],
            "image_size": 16 * round(weights["encoder.body.pos_embed"].shape[1] ** 0.5),
            "num_queries": num_queries,
            "blocks": len(weights["attn_mask_probs"]),
        }
        model = eomt(**arguments)
        own = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"state_dict is not that of an EoMT: {problem}") from error
    model.built_by = BuiltBy("eomt", arguments)
    return model.eval()
