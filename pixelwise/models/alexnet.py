"""AlexNet: five convolutions and three fully connected layers.

Not built by itself: FCN-32s starts from it (`fcn32s.py`). Here are the names of its layers. The weights that
can be had are torchvision's, of the network in one column (Krizhevsky, "One weird trick for parallelizing
convolutional neural networks", 2014): 64, 192, 384, 256, 256 filters, without groups or local response
normalisation.
"""

from collections.abc import Mapping

from torch import Tensor

from ..types import Paper

PAPER = Paper(
    "ImageNet Classification with Deep Convolutional Neural Networks",
    "Krizhevsky, Sutskever, Hinton",
    "NIPS",
    2012,
    "https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks",
)

# Position of each layer in torchvision's network.
_PLACES = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}


def alexnet_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An AlexNet of torchvision under Caffe's names of its layers: conv1 to conv5, fc6 to fc8.

    Args:
        state_dict: keys "features.0.weight", "classifier.1.weight" ...

    Raises:
        ValueError: if these are not the layers of an AlexNet.
    """
    names = {place: name for name, place in _PLACES.items()}
    renamed = {}
    for key, tensor in state_dict.items():
        layer, _, parameter = key.rpartition(".")
        if layer not in names:
            raise ValueError(f"state_dict is not that of an AlexNet: {key} has no place in it")
        renamed[f"{names[layer]}.{parameter}"] = tensor
    return renamed
