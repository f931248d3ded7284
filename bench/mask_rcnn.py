"""Mask R-CNN on ResNet-50 beside torchvision's: a training step, and an image to COCO RLE.

One process, in turn, the same weights and images. A step is forward, losses, backward and SGD on one image.
To RLE: theirs is the model, `masks > 0.5` and pycocotools' `encode`; ours the model, `decode.instances` and
`to_coco`. Weights are random, norms measured, and the score threshold is such that there are many detections.

    python bench/mask_rcnn.py --size 480x640 --objects 8 --rounds 5
"""

import argparse
import platform
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from side_by_side import compare, peer
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import maskrcnn_resnet50_fpn

import pixelwise as pw
from pixelwise import decode
from pixelwise.losses import loss_parts
from pixelwise.models import from_torchvision_mask_rcnn
from pixelwise.training.environment import cpu_name
from pixelwise.types import MaskSet


def targets(count: int, height: int, width: int) -> MaskSet:
    """Discs of all sizes."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = torch.linspace(10, height / 4, count).int().tolist()
    center = [(torch.randint(r, height - r, ()), torch.randint(r, width - r, ())) for r in radius]
    discs = [(y - cy) ** 2 + (x - cx) ** 2 <= r**2 for r, (cy, cx) in zip(radius, center, strict=True)]
    return MaskSet.of(torch.stack(discs), torch.randint(0, 90, (count,)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), default=(480, 640))
    parser.add_argument("--min-size", type=int, default=800, help="shorter side that the networks see")
    parser.add_argument("--objects", type=int, default=8, help="in the image of the training step")
    parser.add_argument("--detections", type=int, default=100, help="about how many are found")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=options.min_size)
    with torch.no_grad():
        for lateral in theirs.backbone.fpn.inner_blocks:
            lateral[0].weight.mul_(0.01)  # random ones give features, and so boxes, that are far too large
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(20)
    image = torch.rand(3, *options.size)
    _measure_norms(theirs, image, options.min_size)
    ours = from_torchvision_mask_rcnn(theirs.state_dict())
    ours.detector.min_size = options.min_size
    _settle(ours, image, options.detections)
    theirs.roi_heads.score_thresh = ours.detector.head.score_threshold
    print(
        f"{cpu_name()}, Python {platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, pixelwise {pw.__version__}; image of {options.size}, seen with its "
        f"shorter side at {options.min_size}"
    )
    coco = peer("pycocotools.mask")

    def our_masks() -> list[dict[str, object]]:
        with torch.inference_mode():
            (found,) = decode.instances(ours(image[None]))
        return found.masks.to_coco()

    def their_masks() -> list[dict[str, object]]:
        with torch.inference_mode():
            (found,) = theirs([image])
        masks = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
        return coco.encode(np.asfortranarray(masks.transpose(1, 2, 0)))

    theirs.eval()
    ours.eval()
    print(f"{len(our_masks())} masks, {len(their_masks())} of torchvision")
    compare(
        "one image to COCO RLE",
        {"pixelwise": our_masks, "torchvision, pycocotools": their_masks if coco else None},
        target="torchvision takes at least 1.3 times as long",
        rounds=options.rounds,
        threads=options.threads,
    )

    # As `pixelwise train` holds them: pixel by pixel.
    ours.to(memory_format=torch.channels_last)
    pixels = image[None].contiguous(memory_format=torch.channels_last)
    batch = pw.Batch.of(pixels, [targets(options.objects, *options.size)])
    (target,) = batch.annotations
    as_theirs = {
        "boxes": target.boxes.boxes,
        "labels": target.classes + 1,
        "masks": target.dense.to(torch.uint8),
    }

    def our_loss() -> Tensor:
        return torch.stack(list(loss_parts(ours(*ours.inputs(batch)), batch).values())).sum()

    def their_loss() -> Tensor:
        return torch.stack(list(theirs([image], [as_theirs]).values())).sum()

    def stepping(model: torch.nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step

    theirs.train()
    ours.train()
    compare(
        "one training step",
        {"pixelwise": stepping(ours, our_loss), "torchvision": stepping(theirs, their_loss)},
        target="at most as long as torchvision",
        rounds=options.rounds,
        threads=options.threads,
    )


def _measure_norms(model: torch.nn.Module, image: Tensor, side: int) -> None:
    """Let the statistics of the batch norms be those of the image."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.backbone.train()(F.interpolate(image[None], (side, side), mode="bilinear"))
    for norm in norms:
        norm.momentum = 0.1


def _settle(model: torch.nn.Module, image: Tensor, count: int) -> None:
    """Set the score threshold so that about `count` objects are found."""
    head = model.eval().detector.head
    with torch.inference_mode():
        scores = model(image[None]).regions.class_logits.softmax(1)[:, 1:].flatten()
    head.score_threshold = float(scores.sort(descending=True).values[min(8 * count, len(scores) - 1)])


if __name__ == "__main__":
    main()
