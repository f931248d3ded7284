"""FCN-32s-fixed (Long et al., CVPR 2015, Table 2): only the last layer of the network is trained.

    python recipes/fcn32s_fixed.py path/to/VOC2012 runs/fcn32s-fixed

The classifier of ImageNet stays as it is; a 1x1 convolution learns to score its features. Momentum, weight
decay, batch size and constant learning rate are those of Sec. 4.3. Departures: images are mirrored at random,
and padded to one size, so that they fit into batches.
"""

import sys

from pixelwise.training import Recipe, run

CONVOLUTIONS = (2, 2, 3, 3, 3)  # per stage of VGG16


def fcn32s_fixed(
    data: str, out: str | None = None, *, epochs: int = 20, lr: float = 1e-4, pretrained: bool = True
) -> Recipe:
    """The recipe; with `pretrained` the weights of ImageNet are fetched."""
    stages = [f"conv{stage}_{i}" for stage, count in enumerate(CONVOLUTIONS, 1) for i in range(1, count + 1)]
    return Recipe(data).changed(
        model="fcn32s_vgg16",
        model_arguments={"pretrained": pretrained},
        freeze=[*stages, "fc6", "fc7", "upscore"],
        optimizer="sgd",
        momentum=0.9,
        weight_decay=5e-4,
        lr=lr,
        schedule="constant",
        epochs=epochs,
        batch_size=20,
        crop=(500, 500),
        scale=(1.0, 1.0),
        color=0.0,
        out=out,
        name="FCN-32s, only the last layer trained",
    )


if __name__ == "__main__":
    result = run(fcn32s_fixed(*sys.argv[1:3]))
    print(f"mean IoU {result.scores['mean_iou']:.4f} on validation, report: {result.report}")
