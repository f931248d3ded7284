"""CRF-RNN: mean field of a fully connected CRF, unrolled, is the last layer of the network.

FCN-8s gives the scores of the pixels; each iteration of mean field filters the probabilities with a spatial
and a bilateral Gaussian kernel, weighs them, applies the compatibilities of the classes, and adds the scores
(Sec. 4, Algorithm 1, Fig. 1 and 2). All of it is differentiable, so that network, kernel weights and
compatibilities learn together. Five iterations in training, ten afterwards (Sec. 5).

As in the authors' release, the weights of a kernel are a matrix over the classes that begins with 3 (spatial)
and 5 (bilateral) on its diagonal, and the bandwidths are fixed: 3 pixels; 160 pixels and 3 steps of colour.
The FCN is trained first: give it with `load_state_dict` into `unary`, or train on from `pretrained`.

Departures: the filters run on a lattice of our own with symmetric normalisation, the release divides by the
sums of the rows (`normalization="after"`, as `from_crfasrnn` has it, which reads the release). On other
encoders the scores come from a dilated FCN.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..algorithms import DenseCrfLayer, Normalization, PairwiseKernel
from ..encoders import Encoder, StemPolicy
from ..layers import resize, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .fcn import FCN8s, fcn, fcn8s_vgg16, from_caffe_fcn

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
        normalization: of the filters, see `PairwiseKernel`.
    """

    encoder_parts = ("unary",)

    def __init__(self, unary: DenseModel, *, normalization: Normalization = "symmetric") -> None:
        super().__init__()
        self.num_classes, self.in_channels = unary.num_classes, unary.in_channels
        self.minimum_size = unary.minimum_size
        self.unary = unary
        kernels = tuple(replace(kernel, normalization=normalization) for kernel in KERNELS)
        self.crf = DenseCrfLayer(unary.num_classes, kernels, kernel_weights="matrix")

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
    normalization: Normalization = "symmetric",
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
    return CRFRNN(unary, normalization=normalization)


# Red, green and blue in 0..255, as the release subtracts it.
RELEASE_MEAN = (123.68, 116.779, 103.939)


def from_crfasrnn(state_dict: Mapping[str, Tensor]) -> CRFRNN:
    """The authors' trained network (github.com/sadeepj/crfasrnn_pytorch) in our model, in eval mode.

    Its images are BGR in 0..255 less a mean colour; ours is RGB in [0, 1], with the first filters turned
    round. Its first transposed convolution has a bias; here it is part of the bias of the scores of pool4,
    which are added. Its compatibilities are rewards where ours are costs.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    weights = {key.removeprefix("module."): tensor for key, tensor in state_dict.items()}
    try:
        learned = [weights.pop(f"crfrnn.{name}_ker_weights") for name in ("spatial", "bilateral")]
        compatibility = -weights.pop("crfrnn.compatibility_matrix")
        weights["score_pool4.bias"] = weights["score_pool4.bias"] + weights.pop("upscore2.bias")
        unary = from_caffe_fcn(weights)
        if not isinstance(unary, FCN8s):
            raise ValueError("the scores must be those of an FCN-8s")
        arguments: dict[str, Any] = {"num_classes": unary.num_classes, "normalization": "after"}
        model = CRFRNN(unary, normalization="after")
        state = {"compatibility": compatibility, **{f"weights.{i}": x for i, x in enumerate(learned)}}
        model.crf.load_state_dict(model.crf.state_dict() | state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"state_dict is not that of the released CRF-RNN: {error}") from error
    unary.normalize.mean.copy_(torch.tensor(RELEASE_MEAN).view(1, 3, 1, 1) / 255)
    model.built_by = BuiltBy("crf_rnn", arguments)
    return model.eval()
