"""The mask decoder of SAM 2 (Fig. 9, App. D.1): that of SAM with finer maps, and a score of visibility."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...layers import LayerNorm2d
from ..sam.mask_decoder import CANDIDATES, Perceptron, TwoWayTransformer

DELTA, STABLE = 0.05, 0.98  # a mask is stable if raising and lowering its threshold hardly changes it


class MaskDecoder(nn.Module):
    """Image, where its places are, and prompts -> masks, how good they are, and whether the object is there.

    The first mask is for prompts that leave no doubt, the others are candidates for those that do.

    Args:
        width: channels of the image's coarsest map and of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        count = 1 + CANDIDATES
        self.transformer = TwoWayTransformer(width)
        self.obj_score_token, self.iou_token = nn.Embedding(1, width), nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(count, width)
        self.conv_s0, self.conv_s1 = nn.Conv2d(width, width // 8, 1), nn.Conv2d(width, width // 4, 1)
        self.upscale1 = nn.ConvTranspose2d(width, width // 4, 2, stride=2)
        self.upscale_norm = LayerNorm2d(width // 4, eps=1e-6)
        self.upscale2 = nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2)
        self.activation = nn.GELU()
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(width, width, width // 8) for _ in range(count)
        )
        self.iou_prediction_head = Perceptron(width, width, count)
        self.pred_obj_score_head = Perceptron(width, width, 1)

    def forward(
        self,
        maps: tuple[Float[Tensor, "#p c h w"], Float[Tensor, "1 _ h2 w2"], Float[Tensor, "1 _ h4 w4"]],
        positions: Float[Tensor, "1 c h w"],
        prompts: Float[Tensor, "p n c"],
    ) -> tuple[Float[Tensor, "p 4 h4 w4"], Float[Tensor, "p 4"], Float[Tensor, "p 4 c"], Float[Tensor, " p"]]:
        """Scores of each mask, the IoU expected of it, its token, and above 0 whether the object is visible.

        Args:
            maps: of the image, coarsest first; the finer ones have been through `conv_s1` and `conv_s0`.
            positions: where each place of the coarsest is.
            prompts: tokens of prompts.
        """
        own = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(prompts), -1, -1), prompts], 1)
        tokens, coarse = self.transformer(maps[0], positions, tokens)
        fine = self.activation(self.upscale_norm(self.upscale1(coarse) + maps[1]))
        fine = self.activation(self.upscale2(fine) + maps[2])
        of_masks = tokens[:, 2 : 2 + len(self.output_hypernetworks_mlps)]
        filters = [mlp(of_masks[:, number]) for number, mlp in enumerate(self.output_hypernetworks_mlps)]
        masks = (torch.stack(filters, 1) @ fine.flatten(2)).unflatten(2, fine.shape[2:])
        iou = self.iou_prediction_head(tokens[:, 1]).sigmoid()
        return masks, iou, of_masks, self.pred_obj_score_head(tokens[:, 0])[:, 0]


def stable(masks: Float[Tensor, "p h w"]) -> Bool[Tensor, " p"]:
    """Which masks hardly change between a threshold somewhat above 0 and one somewhat below."""
    above, below = ((masks > delta).flatten(1).sum(1) for delta in (DELTA, -DELTA))
    return (below == 0) | (above / below.clamp_min(1) >= STABLE)


def without_doubt(
    masks: Float[Tensor, "p 4 h w"], iou: Float[Tensor, "p 4"]
) -> tuple[Float[Tensor, "p 1 h w"], Float[Tensor, "p 1"]]:
    """One mask for each prompt: the first, or where that is not stable, the best of the candidates."""
    candidate = 1 + iou[:, 1:].argmax(1)
    chosen = torch.where(stable(masks[:, 0]), 0, candidate)
    rows = torch.arange(len(masks), device=masks.device)
    return masks[rows, chosen][:, None], iou[rows, chosen][:, None]
