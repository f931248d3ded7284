"""Mask R-CNN on ResNet-50 beside torchvision's: image to COCO RLE, memory, training step, scoring.

One process, in turn, the same weights and images. Weights are random, norms measured, and the score threshold
is such that there are many detections. Four things are measured:

- one image to COCO RLE: theirs is the model, `masks > 0.5` and pycocotools' `encode`; ours the model,
  `decode.instances` and `to_coco`; and by how much the process grows at most meanwhile;
- the same without the model, from the scores within boxes on;
- one training step on one image: forward, losses, backward, SGD;
- scoring: from what the models return for some images to AP of masks and boxes. Theirs is the way of
  torchvision's reference scripts (references/detection/coco_eval.py): `encode` mask by mask, then
  pycocotools' COCOeval; ours is `tasks.instance`'s metrics.

    python bench/instance.py --size 800x1333 --rounds 5
    python bench/instance.py --size 480x640 --rounds 2 --only decoding scoring
"""

import argparse
import contextlib
import io
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from side_by_side import compare, peer
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import maskrcnn_inference, paste_masks_in_image

import pixelwise as pw
from pixelwise import decode
from pixelwise.losses import loss_parts
from pixelwise.models import MaskRegionLogits, from_torchvision_mask_rcnn
from pixelwise.tasks import get_task
from pixelwise.training.environment import cpu_name
from pixelwise.types import Boxes, ClassTable, MaskSet, RegionLogits

PARTS = ("image", "decoding", "step", "scoring")
CLASSES = 90


def discs(count: int, height: int, width: int) -> MaskSet:
    """Discs of all sizes."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = torch.linspace(10, height / 4, count).int().tolist()
    center = [(torch.randint(r, height - r, ()), torch.randint(r, width - r, ())) for r in radius]
    masks = [(y - cy) ** 2 + (x - cx) ** 2 <= r**2 for r, (cy, cx) in zip(radius, center, strict=True)]
    return MaskSet.of(torch.stack(masks), torch.randint(0, CLASSES, (count,)))


def most_memory(work: Callable[[], Any]) -> float:
    """By how many MiB the process grows at most while it works (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is the present size again
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def coded_by_peer(masks: Tensor) -> list[dict[str, Any]]:
    """As a user of torchvision writes results."""
    array = (masks[:, 0] > 0.5).numpy().astype(np.uint8)
    found: list[dict[str, Any]] = peer("pycocotools.mask").encode(  # type: ignore[union-attr]
        np.asfortranarray(array.transpose(1, 2, 0))
    )
    return found


# --- the four parts -------------------------------------------------------------------------------


def image_to_rle(ours: Any, theirs: Any, image: Tensor, options: argparse.Namespace) -> None:
    def our_masks() -> list[dict[str, Any]]:
        with torch.inference_mode():
            (found,) = decode.instances(ours(image[None]))
        coded: list[dict[str, Any]] = found.masks.to_coco()  # type: ignore[union-attr]
        return coded

    def their_masks() -> list[dict[str, Any]]:
        with torch.inference_mode():
            (found,) = theirs([image])
        return coded_by_peer(found["masks"])

    theirs.eval()
    ours.eval()
    print(f"\n{len(our_masks())} masks, {len(their_masks())} of torchvision")
    compare(
        "one image to COCO RLE",
        {"pixelwise": our_masks, "torchvision, pycocotools": their_masks},
        target="torchvision takes at least 1.5 times as long",
        rounds=options.rounds,
        threads=options.threads,
    )
    grown = {name: most_memory(work) for name, work in (("ours", our_masks), ("theirs", their_masks))}
    print(
        f"\nmemory beyond that of the models: pixelwise {grown['ours']:.0f} MiB, torchvision "
        f"{grown['theirs']:.0f} MiB, {grown['ours'] / max(grown['theirs'], 1):.2f} of it; target: at most 0.5"
    )


def decoding(options: argparse.Namespace) -> None:
    """From scores within boxes to COCO RLE."""
    height, width = options.size
    count = options.detections
    corner = torch.rand(count, 2) * torch.tensor([width * 0.7, height * 0.7])
    sides = torch.tensor([width, height]) * (0.03 + 0.27 * torch.rand(count, 2))
    boxes = torch.cat([corner, corner + sides], 1)
    logits = 4 * F.interpolate(torch.randn(count, CLASSES + 1, 7, 7), (28, 28), mode="bicubic") + 1
    found = Boxes.of(
        boxes, torch.randint(0, CLASSES, (count,)), torch.rand(count).sort(descending=True).values
    )
    number = torch.zeros(count, dtype=torch.int64)
    places = pw.types.AssignedBoxes(boxes, number, number - 1)
    sizes = ((height, width),)
    empty = torch.zeros(count, CLASSES + 1)
    regions = RegionLogits(
        places, empty, empty[..., None].expand(-1, -1, 4), sizes, sizes, detections=(found,)
    )
    output = MaskRegionLogits(regions, logits)

    def our_masks() -> Any:
        (one,) = decode.instances(output)
        return one.masks.to_coco()  # type: ignore[union-attr]

    def their_masks() -> Any:
        (inside,) = maskrcnn_inference(logits, [found.classes + 1])
        return coded_by_peer(paste_masks_in_image(inside, boxes, (height, width)))

    pairs = list(zip(our_masks(), their_masks(), strict=True))
    equal = sum(a["counts"] == b["counts"].decode() for a, b in pairs)
    print(f"\n{equal} of {len(pairs)} masks are equal")
    compare(
        f"{count} masks within boxes to COCO RLE",
        {"pixelwise": our_masks, "torchvision, pycocotools": their_masks},
        target="torchvision takes at least 40 times as long",
        rounds=options.rounds,
        threads=options.threads,
    )


def training_step(ours: Any, theirs: Any, image: Tensor, options: argparse.Namespace) -> None:
    # As `pixelwise train` holds them: pixel by pixel.
    ours.to(memory_format=torch.channels_last)
    pixels = image[None].contiguous(memory_format=torch.channels_last)
    target = discs(options.objects, *options.size)
    batch = pw.Batch.of(pixels, [target])
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


def scoring(options: argparse.Namespace) -> None:
    """From what the models return for some images to AP of masks and boxes."""
    height, width = options.size
    truth, shapes = discs(options.objects, height, width), discs(options.detections, height, width)
    scores = torch.rand(options.detections).sort(descending=True).values
    shapes = MaskSet(shapes.masks, shapes.classes % 5, scores, shapes.is_crowd)
    truth = MaskSet.of(truth.masks, truth.classes % 5)
    shapes.masks[: options.objects] = truth.dense.roll(3, 2)[: options.detections]
    coded = MaskSet(pw.rle.RleMasks.encode(shapes.dense), shapes.classes, scores, shapes.is_crowd)
    # What torchvision's model returns: probabilities at the size of the image.
    dense = shapes.dense[:, None].float()
    boxes = shapes.boxes.boxes
    classes = ClassTable.of(*(str(number) for number in range(CLASSES)))
    coco, evaluation, mask = (peer(f"pycocotools.{name}") for name in ("coco", "cocoeval", "mask"))
    assert coco is not None
    assert evaluation is not None
    assert mask is not None
    gt = coco.COCO()
    gt.dataset = _as_coco(truth, options.images, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
    metric = get_task("instance").metrics(classes, {})

    def ours() -> float:
        metric.reset()
        for number in range(options.images):
            metric.update([coded], [truth], [str(number)])
        return metric.compute()["mask_ap"]

    def theirs() -> float:
        results: dict[str, list[dict[str, Any]]] = {"segm": [], "bbox": []}
        for number in range(options.images):
            binary = dense > 0.5
            rles = [mask.encode(np.array(one[0, :, :, None], np.uint8, order="F"))[0] for one in binary]
            for rle, (x1, y1, x2, y2), label, score in zip(
                rles, boxes.tolist(), shapes.classes.tolist(), scores.tolist(), strict=True
            ):
                common = {"image_id": number + 1, "category_id": label + 1, "score": score}
                rle["counts"] = rle["counts"].decode()
                results["segm"].append({**common, "segmentation": rle})
                results["bbox"].append({**common, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        found = []
        for kind, rows in results.items():
            e = evaluation.COCOeval(gt, gt.loadRes(rows), kind)
            e.evaluate()
            e.accumulate()
            e.summarize()
            found.append(float(e.stats[0]))
        return found[0]

    def quiet() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return theirs()

    print(f"\nmask AP: pixelwise {ours():.6f}, pycocotools {quiet():.6f}")
    compare(
        f"{options.images} images of {options.detections} detections to AP of masks and boxes",
        {"pixelwise": ours, "torchvision's reference script": quiet},
        target="the script takes at least 3 times as long",
        rounds=options.rounds,
        threads=options.threads,
    )


def _as_coco(truth: MaskSet, images: int, classes: ClassTable) -> dict[str, Any]:
    """Ground truth of equal images."""
    coded = pw.rle.RleMasks.encode(truth.dense)
    rows = list(
        zip(coded.to_coco(), coded.area.tolist(), coded.boxes.tolist(), truth.classes.tolist(), strict=True)
    )
    height, width = truth.size
    return {
        "images": [{"id": n + 1, "height": height, "width": width} for n in range(images)],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(classes.names)],
        "annotations": [
            {
                "id": n * len(rows) + i + 1,
                "image_id": n + 1,
                "category_id": label + 1,
                "segmentation": rle,
                "area": area,
                "bbox": box,
                "iscrowd": 0,
            }
            for n in range(images)
            for i, (rle, area, box, label) in enumerate(rows)
        ],
    }


# --- two networks with the same weights -----------------------------------------------------------


def networks(options: argparse.Namespace) -> tuple[Any, Any, Tensor]:
    """Ours, torchvision's, and an image in which both find about as many objects as asked for."""
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
    return ours, theirs, image


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), default=(800, 1333))
    parser.add_argument("--min-size", type=int, default=800, help="shorter side that the networks see")
    parser.add_argument("--objects", type=int, default=8, help="in the image of the training step")
    parser.add_argument("--detections", type=int, default=100, help="about how many are found")
    parser.add_argument("--images", type=int, default=4, help="that are scored")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    print(
        f"{cpu_name()}, Python {platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, pixelwise {pw.__version__}; image of {options.size}, seen with its "
        f"shorter side at {options.min_size}"
    )
    if "decoding" in options.only:
        decoding(options)
    if "scoring" in options.only:
        scoring(options)
    if {"image", "step"} & set(options.only):
        ours, theirs, image = networks(options)
        if "image" in options.only:
            image_to_rle(ours, theirs, image, options)
        if "step" in options.only:
            training_step(ours, theirs, image, options)


if __name__ == "__main__":
    main()
