"""Segmenter: a ViT encodes patches, a point-wise linear map or a mask transformer decodes them.

The linear decoder scores the tokens of patches (Sec. 3.2). The mask transformer appends one learned
embedding per class, lets patches and classes attend to each other through two blocks, and takes as score of a
class at a patch the product of their normalised vectors (Fig. 2, Eq. 4).

Numbers that the paper leaves open are those of the authors' code (github.com/rstrudel/segmenter): dropout of
0.1 in the decoder, a norm over the classes behind the products. `from_rstrudel` reads their weights,
`from_mmseg_segmenter` OpenMMLab's.

Departures: images are padded by repeating their border, where the authors pad with zeros. The layer norms of
the encoder have ViT's epsilon, 1e-6, and the authors' 1e-5.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import StemPolicy, TokenEncoder, make_token_encoder, read_mmseg_vit, rename_vit
from ..layers import size_of, without_padding
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Segmenter: Transformer for Semantic Segmentation",
    "Strudel, Garcia, Laptev, Schmid",
    "ICCV",
    2021,
    "https://arxiv.org/abs/2105.05633",
)

Decoder = Literal["mask", "linear"]


class MaskTransformer(nn.Module):
    """Patches and class embeddings -> scores of classes at patches (Sec. 3.2.2).

    Args:
        d: channels of the tokens.
        num_classes: number of classes k.
        num_heads: of the attention.
        num_blocks: of the transformer.
    """

    def __init__(self, d: int, num_classes: int, num_heads: int, num_blocks: int = 2) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.num_classes = num_classes
        self.project = nn.Linear(d, d)
        self.class_token = nn.Parameter(torch.empty(1, num_classes, d))
        self.blocks = nn.Sequential(
            *(
                Block(d, num_heads, qkv_bias=True, proj_drop=0.1, attn_drop=0.1, norm_layer=nn.LayerNorm)
                for _ in range(num_blocks)
            )
        )
        self.norm = nn.LayerNorm(d)
        self.project_patches = nn.Linear(d, d, bias=False)
        self.project_classes = nn.Linear(d, d, bias=False)
        self.mask_norm = nn.LayerNorm(num_classes)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.normal_(self.project_patches.weight, std=d**-0.5)
        nn.init.normal_(self.project_classes.weight, std=d**-0.5)

    def forward(self, patches: Float[Tensor, "b p d"]) -> Float[Tensor, "b p k"]:
        """Scores of the classes."""
        classes = self.class_token.expand(patches.shape[0], -1, -1)
        x = self.norm(self.blocks(torch.cat([self.project(patches), classes], dim=1)))
        count = patches.shape[1]
        patches = F.normalize(self.project_patches(x[:, :count]), dim=2)
        classes = F.normalize(self.project_classes(x[:, count:]), dim=2)
        scores: Tensor = self.mask_norm(patches @ classes.transpose(1, 2))  # Eq. 4
        return scores


class Segmenter(DenseModel):
    """Plain ViT and a decoder of its tokens.

    Args:
        encoder: its last layer is decoded.
        decoder: tokens of patches -> scores of the classes.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: TokenEncoder, decoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.minimum_size = max(self.minimum_size, encoder.patch_size)
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        tokens = self.encoder(image)
        coarse = self.decoder(tokens.patches()).transpose(1, 2).unflatten(2, tokens.grid)  # b k H/16 W/16
        return DenseLogits(without_padding(coarse, size, self.encoder.padded(size)), size)


def segmenter(
    num_classes: int,
    *,
    encoder: str | TokenEncoder = "vit_base_patch16_384",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int | None = None,
    decoder: Decoder = "mask",
    drop_path: float = 0.1,
) -> Segmenter:
    """Segmenter on any plain ViT, with a mask transformer or a linear decoder.

    In training the encoder drops branches, see `make_token_encoder`: up to 0.1 (Sec. 4.2).
    """
    made = make_token_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        interpolation="bilinear",
        image_size=image_size,
        drop_path=drop_path,
    )
    head: nn.Module = (
        MaskTransformer(made.channels, num_classes, made.num_heads)
        if decoder == "mask"
        else nn.Linear(made.channels, num_classes)
    )
    return Segmenter(made, head, num_classes)


def segmenter_vit_tiny(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    decoder: Decoder = "mask",
) -> Segmenter:
    """Seg-Ti/16, with a mask transformer or a linear decoder."""
    return segmenter(
        num_classes,
        encoder="vit_tiny_patch16_384",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        decoder=decoder,
    )


def segmenter_vit_small(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    decoder: Decoder = "mask",
) -> Segmenter:
    """Seg-S/16, with a mask transformer or a linear decoder."""
    return segmenter(
        num_classes,
        encoder="vit_small_patch16_384",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        decoder=decoder,
    )


def segmenter_vit_base(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    decoder: Decoder = "mask",
) -> Segmenter:
    """Seg-B/16, with a mask transformer or a linear decoder."""
    return segmenter(
        num_classes,
        encoder="vit_base_patch16_384",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        decoder=decoder,
    )


def segmenter_vit_large(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    decoder: Decoder = "mask",
) -> Segmenter:
    """Seg-L/16, with a mask transformer or a linear decoder."""
    return segmenter(
        num_classes,
        encoder="vit_large_patch16_384",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        decoder=decoder,
    )


# --- weights --------------------------------------------------------------------------------------

# Their names, as regular expressions, and ours.
_MMSEG = (
    (r"^decode_head\.dec_proj\.", "decoder.project."),
    (r"^decode_head\.cls_emb$", "decoder.class_token"),
    (r"^decode_head\.patch_proj\.", "decoder.project_patches."),
    (r"^decode_head\.classes_proj\.", "decoder.project_classes."),
    (r"^decode_head\.decoder_norm\.", "decoder.norm."),
    (r"^decode_head\.mask_norm\.", "decoder.mask_norm."),
    (r"^decode_head\.layers\.", "decoder.blocks."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_AUTHORS = (
    (r"^decoder\.proj_dec\.", "decoder.project."),
    (r"^decoder\.cls_emb$", "decoder.class_token"),
    (r"^decoder\.proj_patch$", "decoder.project_patches.weight"),
    (r"^decoder\.proj_classes$", "decoder.project_classes.weight"),
    (r"^decoder\.decoder_norm\.", "decoder.norm."),
    (r"^decoder\.head\.", "decoder."),
)


def from_mmseg_segmenter(state_dict: Mapping[str, Tensor]) -> Segmenter:
    """Weights of OpenMMLab's Segmenter (github.com/open-mmlab/mmsegmentation), in eval mode.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network in one of the sizes of ViT.
    """
    arguments, weights = read_mmseg_vit(state_dict)
    for key, tensor in state_dict.items():
        if key.startswith("decode_head.conv_seg."):
            if "decode_head.cls_emb" not in state_dict:  # the mask transformer has one that it does not use
                weights[key.replace("decode_head.conv_seg.", "decoder.")] = (
                    tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
                )
        elif not key.startswith("backbone."):
            weights[_renamed(key, _MMSEG)] = tensor
    return _loaded(weights, arguments)


def from_rstrudel(state_dict: Mapping[str, Tensor]) -> Segmenter:
    """Weights of the authors' Segmenter (github.com/rstrudel/segmenter), in eval mode.

    Args:
        state_dict: what a file of theirs holds under `model`; on a ViT or a distilled DeiT.

    Raises:
        ValueError: if it is not a state dict of that network with patches of 16 pixels.
    """
    arguments, weights = rename_vit((), state_dict, "encoder.")
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith("encoder.body.head")}
    for key, tensor in state_dict.items():
        if not key.startswith("encoder."):  # they multiply by these two from the right
            turned = key in ("decoder.proj_patch", "decoder.proj_classes")
            weights[_renamed(key, _AUTHORS)] = tensor.T if turned else tensor
    return _loaded(weights, arguments)


def _renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in names:
        key = re.sub(theirs, ours, key)
    return key


def _loaded(weights: dict[str, Tensor], arguments: dict[str, Any]) -> Segmenter:
    try:
        classes = weights.get("decoder.class_token")
        arguments["decoder"] = "linear" if classes is None else "mask"
        arguments["num_classes"] = len(weights["decoder.bias"]) if classes is None else classes.shape[1]
        model = segmenter(**arguments)
        own = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
        model.load_state_dict(own | weights)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"state_dict is not that of a Segmenter: {reason}") from error
    model.built_by = BuiltBy("segmenter", arguments)
    return model.eval()
