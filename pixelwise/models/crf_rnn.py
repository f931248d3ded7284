"""CRF-RNN: mean field of a fully connected CRF, unrolled, is the last layer of the network.

FCN-8s gives the scores of the pixels; each iteration of mean field filters the probabilities with a spatial
and a bilateral Gaussian kernel, weighs them, applies the compatibilities of the classes, and adds the scores
(Sec. 4, Algorithm 1, Fig. 1 and 2). All of it is differentiable, so that network, kernel weights and
compatibilities learn together. Five iterations in training, ten afterwards (Sec. 5).

As in the authors' release, the weights of a kernel are a matrix over the classes that begins with 3 (spatial)
and 5 (bilateral) on its diagonal, and the bandwidths are fixed: 3 pixels; 160 pixels and 3 steps of colour.
The FCN is trained first: give it with `load_state_dict` into `unary`, or train on from `pretrained`.

Departures: the filters run on a lattice of our own with symmetric normalisation, the release divides by the
sums of the rows. On other encoders the scores come from a dilated FCN.
"""

from jaxtyping import Float
from torch import Tensor

from ..algorithms import DenseCrfLayer, PairwiseKernel
from ..encoders import Encoder, StemPolicy
from ..layers import resize, size_of
from ..types import DenseLogits, DenseModel, Paper
from .fcn import fcn, fcn8s_vgg16

PAPER = Paper(
    "Conditional Random Fields as Recurrent Neural Networks",
    "Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr",
    "ICCV",
    2015,
    "https://arxiv.org/abs/1502.03240",
)

KERNELS = (PairwiseKernel(weight=3.0, position=3.0), PairwiseKernel(weight=5.0, position=160.0, color=3.0))
TRAINING_ITERATIONS, TEST_ITERATIONS = 5, 10


class CRFRNN(DenseModel):
    """A network that scores every pixel, and a fully connected CRF.

    Args:
        unary: gives the scores.
    """

    encoder_parts = ("unary",)

    def __init__(self, unary: DenseModel) -> None:
        super().__init__()
        self.num_classes, self.in_channels = unary.num_classes, unary.in_channels
        self.minimum_size = unary.minimum_size
        self.unary = unary
        self.crf = DenseCrfLayer(unary.num_classes, KERNELS, kernel_weights="matrix")

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        output = self.unary(image)
        scores = resize(output.coarse, size, align_corners=output.align_corners)
        iterations = TRAINING_ITERATIONS if self.training else TEST_ITERATIONS
        return DenseLogits(self.crf(scores, image, num_iterations=iterations), size)


def crf_rnn(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> CRFRNN:
    """The paper's CRF-RNN over FCN-8s on VGG16, or over an FCN on any encoder that can be dilated."""
    if encoder == "vgg16":
        unary: DenseModel = fcn8s_vgg16(
            num_classes, in_channels=in_channels, pretrained=pretrained, stem=stem
        )
    else:
        unary = fcn(
            num_classes,
            encoder=encoder,
            in_channels=in_channels,
            pretrained=pretrained,
            stem=stem,
            aux=False,
        )
    return CRFRNN(unary)
