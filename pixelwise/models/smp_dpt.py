"""SMP's DPT: as `dpt`, but for a further residual unit on the coarsest map.

Positions are resized as timm does it, and the reassembled maps have 256, 512, 1024 and 1024 channels on
every ViT. There is no auxiliary classifier.

Departures: any image size works, with equal results where SMP accepts the size; images are normalised
inside, as SMP's preprocessing does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..encoders import StemPolicy, TokenEncoder, make_token_encoder
from ..types import BuiltBy, Paper
from .dpt import DPT, QUARTERS, ResidualConvUnit
from .smp import load_smp_weights

PAPER = Paper(
    "Segmentation Models PyTorch: DPT",
    "Iakubovskii",
    "GitHub",
    2025,
    "https://github.com/qubvel-org/segmentation_models.pytorch",
)


class SMPDPT(DPT):
    """SMP's DPT.

    Args:
        encoder: gives four layers and a class token.
        num_classes: number of channels k of the logits.
        channels: of the reassembled maps, finest first.
        width: channels of the fusion.
    """

    def __init__(
        self, encoder: TokenEncoder, num_classes: int, *, channels: Sequence[int], width: int = 256
    ) -> None:
        super().__init__(encoder, num_classes, channels=channels, width=width, aux=False)
        self.laterals[3] = nn.Sequential(self.laterals[3], ResidualConvUnit(width))


def smp_dpt(
    num_classes: int,
    *,
    encoder: str | TokenEncoder = "vit_base_patch16_224",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    channels: Sequence[int] = (256, 512, 1024, 1024),
    width: int = 256,
) -> SMPDPT:
    """SMP's DPT on any plain ViT that has a class token."""
    made = make_token_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, depths=QUARTERS, norm=False
    )
    return SMPDPT(made, num_classes, channels=channels, width=width)


_NAMES = (  # theirs, as regular expressions, and ours
    (r"^segmentation_head\.head\.([01])\.", r"head.0.\1."),
    (r"^segmentation_head\.head\.4\.", "head.2."),
    (r"^decoder\.projection_blocks\.(\d)\.project\.", r"reassemble.\1.readout."),
    (r"^decoder\.reassemble_blocks\.(\d)\.project_to_out_channel\.", r"reassemble.\1.project."),
    (r"^decoder\.reassemble_blocks\.(\d)\.upsample\.", r"reassemble.\1.resample."),
    (r"^decoder\.reassemble_blocks\.(\d)\.project_to_feature_dim\.", r"laterals.\1."),
    (r"^laterals\.3\.", "laterals.3.0."),
    (r"^decoder\.fusion_blocks\.0\.residual_conv_block1\.", "laterals.3.1."),
    (r"^decoder\.fusion_blocks\.", "fusions."),
    (r"\.residual_conv_block1\.", ".adapt."),
    (r"\.residual_conv_block2\.", ".refine."),
    (r"\.conv_([12])\.", r".conv\1."),
    (r"\.batch_norm_([12])\.", r".norm\1."),
)


def from_smp_dpt(state_dict: Mapping[str, Tensor], *, encoder: str) -> SMPDPT:
    """A DPT trained with SMP, with equal logits, in eval mode.

    Args:
        state_dict: `smp_model.state_dict()` of one with the readout "cat".
        encoder: `encoder_name` as given to SMP: "tu-" and the name of a plain ViT of timm with a class token
            and patches of 16 pixels.

    Raises:
        ValueError: if the encoder is no such ViT, or the weights do not fit.
    """
    if not encoder.startswith("tu-"):
        raise ValueError(f"the encoder of SMP's DPT must be 'tu-' and the name of a ViT, got {encoder!r}")
    # SMP stores the classifier and the last norm of the backbone, but never uses them.
    idle = ("encoder.model.head.", "encoder.model.norm.", "encoder.model.fc_norm.")
    weights = {key: tensor for key, tensor in state_dict.items() if not key.startswith(idle)}
    try:
        channels = [
            len(weights[f"decoder.reassemble_blocks.{i}.project_to_out_channel.bias"]) for i in range(4)
        ]
        arguments: dict[str, Any] = {
            "num_classes": len(weights["segmentation_head.head.4.bias"]),
            "encoder": encoder.removeprefix("tu-"),
            "in_channels": weights["encoder.model.patch_embed.proj.weight"].shape[1],
            "channels": channels,
            "width": len(weights["segmentation_head.head.0.weight"]),
        }
    except KeyError as error:
        raise ValueError(f"state_dict is not that of a DPT of SMP: it has no {error}") from None
    model = smp_dpt(**arguments)
    load_smp_weights(model, weights, _NAMES, f"DPT with {encoder!r}")
    model.built_by = BuiltBy("smp_dpt", arguments)
    return model
