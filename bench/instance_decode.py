"""From what YOLACT says of an image to masks, beside plain steps in PyTorch as its authors take them.

Theirs: softmax of all anchors, those above the threshold in any class, one matrix of IoUs for each of 80
classes at once, the best 100, sums of prototypes, cropped, resized to the image, and compared with a half;
for run lengths pycocotools' `encode` comes after. Ours: `decode.instances`, whose masks are run lengths. The
steps are written from the paper and a description of the code. Both find the same masks, which is checked.

    python bench/instance_decode.py --size 550x550 --objects 40 --rounds 7
"""

import argparse
import platform

import numpy as np
import torch
from side_by_side import compare, peer
from torch import Tensor
from torch.nn import functional as F

import pixelwise as pw
from pixelwise import decode
from pixelwise.models.fcos import Scales
from pixelwise.models.yolact import PrototypeLogits
from pixelwise.models.yolact.network import anchors_of
from pixelwise.training.environment import cpu_name

CLASSES, SIDE = 80, 550
UNITS = torch.tensor([0.1, 0.1, 0.2, 0.2])


def answers(objects: int, size: tuple[int, int]) -> PrototypeLogits:
    """Objects of many sizes, each told by several anchors, on smooth prototypes."""
    levels = [torch.empty(1, 1, n, n) for n in (69, 35, 18, 9, 5)]
    anchors = anchors_of(levels, (SIDE, SIDE), [[24], [48], [96], [192], [384]])
    logits = torch.randn(1, len(anchors), CLASSES + 1) - 1
    logits[..., 0] += 10
    for chosen in torch.randperm(len(anchors))[:objects]:
        label = int(torch.randint(1, CLASSES + 1, ()))
        away = (anchors - anchors[chosen]).abs().amax(1)
        near = (away < 0.25 * (anchors[chosen, 2] - anchors[chosen, 0])).nonzero()[:, 0]
        logits[0, near, label] += 12 * torch.rand(len(near))
    prototypes = F.interpolate(torch.rand(1, 32, 12, 12), (138, 138), mode="bicubic").relu()
    square = ((SIDE, SIDE),)
    return PrototypeLogits(
        logits,
        0.5 * torch.randn(1, len(anchors), 4),
        torch.randn(1, len(anchors), 32).tanh(),
        prototypes,
        anchors,
        Scales(square[0], (size,), square),
    )


def plain_iou(boxes: Tensor) -> Tensor:
    """IoU within each class: "c n 4" to "c n n"."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return shared / (area[:, :, None] + area[:, None] - shared)


def plain_steps(output: PrototypeLogits, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Masks, classes and scores, of all that is above the threshold."""
    scores = output.class_logits[0].softmax(1).T[1:]
    anchors, deltas = output.anchors, output.box_deltas[0] * UNITS
    sides = anchors[:, 2:] - anchors[:, :2]
    middle = anchors[:, :2] + sides / 2 + deltas[:, :2] * sides
    half = sides * deltas[:, 2:].exp() / 2
    boxes = torch.cat([middle - half, middle + half], 1).clamp(0, SIDE)
    kept = scores.amax(0) > 0.05
    scores, boxes, factors = scores[:, kept], boxes[kept], output.coefficients[0][kept]
    scores, order = scores.sort(1, descending=True)
    scores, order = scores[:, :200], order[:, :200]
    overlap = plain_iou(boxes[order]).triu(1).amax(1)
    stays = overlap <= 0.5
    classes = torch.arange(CLASSES)[:, None].expand_as(order)[stays]
    scores, order = scores[stays], order[stays]
    scores, best = scores.sort(descending=True)
    scores, best = scores[:100], best[:100]
    classes, order = classes[best], order[best]
    drawn = (output.prototypes[0].permute(1, 2, 0) @ factors[order].T).sigmoid()
    cells = boxes[order] * (138 / SIDE)
    x, y = torch.arange(138.0)[None, :, None], torch.arange(138.0)[:, None, None]
    drawn = drawn * ((x >= cells[:, 0] - 1) & (x < cells[:, 2] + 1))
    drawn = drawn * ((y >= cells[:, 1] - 1) & (y < cells[:, 3] + 1))
    masks = F.interpolate(drawn.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)[0] > 0.5
    return masks, classes, scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), default=(550, 550))
    parser.add_argument("--objects", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    output, coco = answers(options.objects, options.size), peer("pycocotools.mask")
    print(
        f"{cpu_name()}, Python {platform.python_version()}, torch {torch.__version__}, pixelwise "
        f"{pw.__version__}; {len(output.anchors)} anchors, image of {options.size}"
    )
    (found,) = decode.instances(output)
    masks, classes, scores = plain_steps(output, options.size)
    there = (scores > 0.05) & masks.flatten(1).any(1)
    alike = len(found) == there.sum() and torch.equal(found.classes, classes[there])
    differ = int((found.dense != masks[there]).sum()) if alike else None
    print(f"{len(found)} masks; pixels that differ from those of the plain steps: {differ}")

    def encoded() -> list[dict[str, object]]:
        plain = plain_steps(output, options.size)[0].numpy().astype(np.uint8)
        return coco.encode(np.asfortranarray(plain.transpose(1, 2, 0)))

    compare(
        "YOLACT's answers to masks",
        {
            "pixelwise, run lengths": lambda: decode.instances(output),
            "plain steps, Boolean masks": lambda: plain_steps(output, options.size),
            "plain steps, pycocotools": encoded if coco else None,
        },
        target="the plain steps take at least 10 times as long",
        rounds=options.rounds,
        threads=options.threads,
    )


if __name__ == "__main__":
    main()
