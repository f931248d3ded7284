"""DIS: image and labels explain each other: labels are predicted from the image, the image from the labels.

Three small networks share a ResNet (paper Fig. 3, Sec. 2.1): the first predicts the class of every pixel, the
second tells which classes (tags) the image holds, and the third reconstructs the image from the predicted
labels and tags, the dual task. All three are trained together. What the image still asks for after that is
asked at inference: the features behind labels and tags are changed until the reconstruction fits the image
(Sec. 2.2, "iterative inference"), with known tags held fixed where there are some; so labels are found for
training images that have tags only. `DIS.refine` does that; `forward` is the first guess.

The authors gave no code and few numbers. Settled here: features of 512 channels for labels and for tags; the
tags join the features of every pixel before labels are predicted for the second time; the reconstruction is
three 3x3 convolutions of 128 channels and compares colours averaged over the cells of the map; the three
losses have the same weight.

Departures: refinement is a plain gradient descent; images without labels take part in training if all their
pixels carry the ignore label, and are labelled by `refine`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, size_of
from ..losses import loss_parts, semantic_encoding_loss
from ..types import Batch, DenseLogits, DenseModel, Paper, value

PAPER = Paper(
    "Deep Dual Learning for Semantic Image Segmentation",
    "Luo, Wang, Lin, Wang",
    "ICCV",
    2017,
    "https://openaccess.thecvf.com/content_iccv_2017/html/Luo_Deep_Dual_Learning_ICCV_2017_paper.html",
)

C_RECONSTRUCTION = 128
TAG_WEIGHT, IMAGE_WEIGHT = 1.0, 1.0


@value
class DualLogits(DenseLogits):
    """Scores of every pixel, and while training what the dual task needs.

    Attributes:
        tags: score of each class to be in the image.
        reconstruction: the image as the labels tell it.
        colors: the image itself at that size.
    """

    tags: Float[Tensor, "b k"] | None = None
    reconstruction: Float[Tensor, "b c h w"] | None = None
    colors: Float[Tensor, "b c h w"] | None = None


class Reconstruction(nn.Sequential):
    """The dual task: colours of the image from probabilities of labels and of tags.

    Args:
        num_classes: k; the input has twice as many channels.
        in_channels: of the image.
        width: channels inside.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__(
            ConvNormAct(2 * num_classes, width),
            ConvNormAct(width, width),
            nn.Conv2d(width, in_channels, 3, padding=1),
        )


class DIS(DenseModel):
    """Dilated encoder, labels, tags, and the image again.

    Args:
        encoder: gives c5; the paper's has output stride 8.
        num_classes: number of channels k of the logits.
        width: channels of the features of labels and of tags.
    """

    output = DualLogits

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 512) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.label_features = ConvNormAct(encoder.channels.c5, width)
        self.tag_features = nn.Sequential(nn.Linear(encoder.channels.c5, width), nn.ReLU())
        self.first_head = nn.Conv2d(width, num_classes, 1)
        self.tag_head = nn.Linear(width, num_classes)
        self.head = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))
        self.reconstruct = Reconstruction(num_classes, encoder.in_channels, min(width, C_RECONSTRUCTION))

    def features(
        self, image: Float[Tensor, "b c H W"]
    ) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d"]]:
        """What labels and what tags are predicted from: u and v in the paper."""
        c5 = self.encoder(image).c5
        return self.label_features(c5), self.tag_features(c5.mean((2, 3)))

    def predict(
        self, u: Float[Tensor, "b d h w"], v: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k"], Float[Tensor, "b c h w"]]:
        """Labels, tags, and the image that both describe."""
        everywhere = v[:, :, None, None].expand_as(u)
        labels, tags = self.head(torch.cat([u, everywhere], dim=1)), self.tag_head(v)
        described = torch.cat([labels.softmax(1), tags.sigmoid()[:, :, None, None].expand_as(labels)], dim=1)
        return labels, tags, self.reconstruct(described)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DualLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        u, v = self.features(image)
        labels, tags, reconstruction = self.predict(u, v)
        if not self.training:
            return DualLogits(labels, size, align_corners=True)  # b k H/8 W/8
        return DualLogits(
            labels,
            size,
            (self.first_head(u),),
            align_corners=True,
            tags=tags,
            reconstruction=reconstruction,
            colors=cells_of(image, reconstruction),
        )

    def refine(
        self,
        image: Float[Tensor, "b c H W"],
        *,
        tags: Bool[Tensor, "b k"] | None = None,
        steps: int = 10,
        rate: float = 0.1,
    ) -> DualLogits:
        """Labels that also explain the image: iterative inference (Sec. 2.2). Weights stay as they are.

        Args:
            image: any images.
            tags: which classes they hold, where that is known.
            steps: how often the features are changed; 0 gives what `forward` does in evaluation.
            rate: how far, in terms of the gradient.

        Raises:
            ValueError: if an image is too small, or the model is in training.
        """
        if self.training:
            raise ValueError("refine needs the model in eval mode, got one in training")
        size = size_of(image, self.minimum_size)
        with torch.no_grad():
            u, v = self.features(image)
        for _ in range(steps):
            with torch.enable_grad():
                u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
                loss = _disagreement(*self.predict(u, v)[1:], image, tags)
                by_u, by_v = torch.autograd.grad(loss, (u, v))
            # The loss is a mean over cells: so each cell follows its own error, tags the mean of all.
            u, v = u - rate * u.shape[2] * u.shape[3] * by_u, v - rate * by_v
        with torch.no_grad():
            return DualLogits(self.predict(u, v)[0], size, align_corners=True)


def cells_of(image: Float[Tensor, "b c H W"], like: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b c h w"]:
    """Mean colour of the image in each cell of a map."""
    return F.adaptive_avg_pool2d(image, (like.shape[-2], like.shape[-1]))


def _disagreement(
    scores: Float[Tensor, "b k"],
    reconstruction: Float[Tensor, "b c h w"],
    image: Float[Tensor, "b c H W"],
    tags: Bool[Tensor, "b k"] | None,
) -> Float[Tensor, ""]:
    """How far an image is from what its labels and tags describe, summed over images."""
    loss = F.mse_loss(reconstruction, cells_of(image, reconstruction))
    if tags is not None:
        loss = loss + F.binary_cross_entropy_with_logits(scores, tags.to(scores))
    return len(image) * loss


@loss_parts.register
def _(output: DualLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Tags and reconstruction; that of the labels is chosen as for any network."""
    if output.tags is None or output.reconstruction is None or output.colors is None:
        return {}
    labels = batch.labels
    tags = semantic_encoding_loss(output.tags, labels, exclusive=labels.ndim == 3, factor=TAG_WEIGHT)
    return {"tags": tags, "image": IMAGE_WEIGHT * F.mse_loss(output.reconstruction, output.colors)}


# --- builders -------------------------------------------------------------------------------------


def dis(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    width: int = 512,
) -> DIS:
    """DIS on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    return DIS(made, num_classes, width=width)


def dis_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> DIS:
    """The paper's network on ResNet-101 at output stride 8."""
    return dis(num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem)
