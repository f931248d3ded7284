"""SharpMask: DeepMask whose masks are refined from coarse to fine with the maps of the trunk (Fig. 2c).

The vector of a patch gives a coarse encoding of the mask. Refinement modules, one per stage of the trunk,
join it with the map of the same size and double its size, until the mask is as large as the patch (Sec. 3.1).
The maps get few channels before they are joined (Sec. 3.2). Training goes in two stages: first DeepMask, then
the refinement with everything else frozen (Sec. 3.3), see `SharpMask.take_trunk`.

Departures from the paper's Fig. 2c, as in the released model: mask and map are convolved apart and added,
which is one convolution of both, refactored; sizes are doubled by repetition. The others are DeepMask's.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..types import Paper
from .deepmask import DeepMask

PAPER = Paper(
    "Learning to Refine Object Segments",
    "Pinheiro, Lin, Collobert, Dollár",
    "ECCV",
    2016,
    "https://arxiv.org/abs/1603.08695",
)

COARSE = 32  # channels of the first encoding of a mask; each refinement halves them
SKIPS = (64, 64, 64, 32)  # channels of the maps on their way to the mask, coarsest first


class Refinement(nn.Module):
    """Join the encoding of a mask with a map of the trunk, and double its size (Fig. 2c, 3).

    Args:
        c_skip: channels of the map.
        hidden: channels that they become first.
        n: channels of the encoding; the result has half of them.
    """

    def __init__(self, c_skip: int, hidden: int, n: int) -> None:
        super().__init__()
        self.vertical = nn.Sequential(_convolution(n, n), nn.ReLU(), _convolution(n, n // 2))
        self.horizontal = nn.Sequential(
            _convolution(c_skip, hidden),
            nn.ReLU(),
            _convolution(hidden, n),
            nn.ReLU(),
            _convolution(n, n // 2),
        )

    def forward(self, mask: Float[Tensor, "p n h w"], skip: Float[Tensor, "p _ h w"]) -> Tensor:
        """The finer encoding, p n/2 2h 2w."""
        return F.interpolate(
            F.relu(self.vertical(mask) + self.horizontal(skip)), scale_factor=2, mode="nearest"
        )


def _convolution(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect")


class SharpMask(DeepMask):
    """DeepMask with refinement.

    Args:
        encoder: gives c1 to c4.
        num_classes: see `DeepMask`.
        width: see `DeepMask`.
        patch: see `DeepMask`; at least 32.
    """

    stages = ("c1", "c2", "c3", "c4")

    def __init__(self, encoder: Encoder, num_classes: int = 1, width: int = 512, patch: int = 160) -> None:
        super().__init__(encoder, num_classes, width, patch)
        self.learned_size = patch
        channels = [getattr(encoder.channels, stage) for stage in self.stages[::-1]]
        sizes = [COARSE // 2**step for step in range(len(channels))]
        self.refinements = nn.ModuleList(
            Refinement(c, hidden, n) for c, hidden, n in zip(channels, SKIPS, sizes, strict=True)
        )
        self.last = _convolution(sizes[-1] // 2, 1)

    def make_mask_head(self, width: int, mask_size: int) -> nn.Module:
        """The coarse encoding of a mask, of the size of c4."""
        del mask_size
        coarse = nn.Linear(width, COARSE * self.cells**2)
        return nn.Sequential(coarse, nn.Unflatten(1, (COARSE, self.cells, self.cells)))

    def draw(
        self, vectors: Float[Tensor, "p c"], windows: Sequence[Float[Tensor, "p _ _ _"]]
    ) -> Float[Tensor, "p s s"]:
        """The mask of each patch at its full size."""
        x = self.mask(vectors)
        for refine, window in zip(self.refinements, windows[::-1], strict=True):
            x = refine(x, window)
        masks: Tensor = self.last(x)[:, 0]
        return masks

    def take_trunk(self, trained: DeepMask) -> None:
        """Take trunk, vector and scores of a trained DeepMask, and freeze them: the second stage of training.

        Raises:
            ValueError: if its sizes are others.
        """
        own = self.state_dict()
        taken = {key: x for key, x in trained.state_dict().items() if not key.startswith("mask.")}
        if wrong := [key for key, x in taken.items() if key not in own or own[key].shape != x.shape]:
            raise ValueError(f"the DeepMask has other sizes than this SharpMask: {wrong[0]} does not fit")
        self.load_state_dict(own | taken)
        for part in (self.encoder, self.squeeze, self.vector, self.objectness):
            part.requires_grad_(False)


def sharpmask(
    num_classes: int = 1,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 512,
    patch: int = 160,
) -> SharpMask:
    """SharpMask on any encoder, by default the released model on ResNet-50; arguments as for `deepmask`."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=SharpMask.stages
    )
    return SharpMask(made, num_classes, width, patch)
