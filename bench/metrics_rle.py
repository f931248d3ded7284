"""Run lengths beside pycocotools, faster-coco-eval, hotcoco and torchvision: 100 masks of 800 x 1333.

python bench/metrics_rle.py [rounds]
"""

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from side_by_side import compare, peer
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from pixelwise.rle import RleMasks, paste_masks

HEIGHT, WIDTH, COUNT, SIDE, RADIUS = 800, 1333, 100, 28, 31
Rles = list[dict[str, Any]]


def regions() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and boxes as of Mask R-CNN: sides of 16 to 500 pixels, all scales alike."""
    random = torch.Generator().manual_seed(0)
    sides = torch.exp(torch.rand(COUNT, 2, generator=random) * math.log(500 / 16) + math.log(16))
    centers = torch.rand(COUNT, 2, generator=random) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], 1)
    boxes = boxes.clamp(torch.zeros(4), torch.tensor([WIDTH - 2, HEIGHT - 2, WIDTH, HEIGHT]))
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    coarse = 2 * torch.randn(COUNT, 1, 5, 5, generator=random)
    line = torch.linspace(-1, 1, SIDE)
    blob = 3 - 4.8 * (line[:, None] ** 2 + line**2)
    scores = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic") + blob
    return scores[:, 0].sigmoid(), boxes


def stars() -> list[list[list[float]]]:
    """One polygon of 64 corners per mask."""
    random = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    polygons = []
    for _ in range(COUNT):
        radius = np.exp(random.uniform(np.log(8), np.log(250))) * random.uniform(0.6, 1, 64)
        center = random.uniform(0, 1, 2) * (WIDTH, HEIGHT)
        points = center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        polygons.append([points.clip(0, (WIDTH, HEIGHT)).ravel().tolist()])
    return polygons


def strings(rles: Rles) -> list[str]:
    """Counts as `str`: peers give bytes."""
    return [c.decode() if isinstance(c := rle["counts"], bytes) else c for rle in rles]


def same(ours: RleMasks, theirs: Rles) -> None:
    assert strings(ours.to_coco()) == strings(theirs)


def pasted_as_detectron2(masks: torch.Tensor, boxes: torch.Tensor) -> list[torch.Tensor]:
    """One mask at a time, sampled within its box, in an image of its own, as detectron2 does on a CPU."""
    out = []
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        left, top = max(math.floor(x0) - 1, 0), max(math.floor(y0) - 1, 0)
        right, bottom = min(math.ceil(x1) + 1, WIDTH), min(math.ceil(y1) + 1, HEIGHT)
        x = (torch.arange(left, right) + 0.5 - x0) / (x1 - x0) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([x.expand(len(y), len(x)), y[:, None].expand(len(y), len(x))], 2)
        image = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        image[top:bottom, left:right] = (
            F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5
        )
        out.append(image)
    return out


def boundary_of_peer(pycocotools: ModuleType, cv2: ModuleType, rle: dict[str, Any]) -> dict[str, Any]:
    """Decode, erode 3 x 3 as often as the radius says, subtract, encode: what boundary-iou-api does."""
    mask = pycocotools.decode(rle)
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=RADIUS)[1:-1, 1:-1]
    return pycocotools.encode(np.asfortranarray(mask - eroded))


def main(rounds: int = 7) -> None:
    torch.set_num_threads(1)
    pycocotools, hotcoco = peer("pycocotools.mask"), peer("hotcoco.mask")
    faster, cv2 = peer("faster_coco_eval.mask_api_new_cpp"), peer("cv2")
    scores, boxes = regions()
    masks = paste_masks(scores, boxes, HEIGHT, WIDTH)
    dense = masks.decode().view(np.uint8)
    rles, other = masks.to_coco(), masks[::-1]
    as_bytes = [{**rle, "counts": rle["counts"].encode()} for rle in rles]
    polygons, drawn = stars(), RleMasks.from_polygons(stars(), HEIGHT, WIDTH)
    no_crowd = [0] * COUNT

    def with_peers(ours: Callable[[], Any], **peers: Callable[[ModuleType], Any]) -> dict[str, Any]:
        modules = {"pycocotools": pycocotools, "hotcoco": hotcoco, "faster_coco_eval": faster}
        ways: dict[str, Any] = {"pixelwise": ours}
        for name, way in peers.items():
            module = modules[name]
            ways[name] = None if module is None else lambda way=way, module=module: way(module)
        return ways

    ways = with_peers(
        lambda: RleMasks.encode(dense).to_coco(),
        hotcoco=lambda m: m.encode(dense.transpose(1, 2, 0)),
        pycocotools=lambda m: m.encode(np.asfortranarray(dense.transpose(1, 2, 0))),
    )
    ways["pixelwise, 2 threads"] = lambda: RleMasks.encode(dense, threads=2).to_coco()
    for name, way in ways.items():
        assert way is None or strings(way()) == strings(rles), name
    compare("encode C-order", ways, target="8x hotcoco, 30x pycocotools", rounds=rounds)

    ways = with_peers(
        lambda: RleMasks.from_coco(rles).decode(),
        pycocotools=lambda m: np.ascontiguousarray(m.decode(as_bytes).transpose(2, 0, 1)),
        hotcoco=lambda m: np.ascontiguousarray(np.asarray(m.decode(rles)).transpose(2, 0, 1)),
    )
    ways["pixelwise, 2 threads"] = lambda: RleMasks.from_coco(rles).decode(threads=2)
    for name, way in ways.items():
        assert way is None or np.array_equal(way(), dense), name
    compare("decode to (n, H, W)", ways, target="8x pycocotools", rounds=rounds)

    ways = with_peers(
        lambda: RleMasks.from_coco(rles).iou(RleMasks.from_coco(rles[::-1])),
        faster_coco_eval=lambda m: m.iou(as_bytes, as_bytes[::-1], no_crowd),
        pycocotools=lambda m: m.iou(as_bytes, as_bytes[::-1], no_crowd),
        hotcoco=lambda m: m.iou(rles, rles[::-1], no_crowd),
    )
    for name, way in ways.items():
        assert way is None or np.array_equal(np.asarray(way()), masks.iou(other)), name
    ways["pixelwise, already in runs"] = lambda: masks.iou(other)
    compare("IoU 100 x 100", ways, target="1.7x the best", rounds=rounds)

    merged = masks.merge()
    ways = with_peers(
        lambda: RleMasks.from_coco(rles).merge().to_coco(),
        pycocotools=lambda m: [m.merge(as_bytes)],
        hotcoco=lambda m: [m.merge(rles)],
    )
    for name, way in ways.items():
        assert way is None or strings(way()) == strings(merged.to_coco()), name
    compare("merge 100", ways, target="1.5x", rounds=rounds)

    ways = with_peers(
        lambda: RleMasks.from_polygons(polygons, HEIGHT, WIDTH).to_coco(),
        pycocotools=lambda m: m.frPyObjects([ring for parts in polygons for ring in parts], HEIGHT, WIDTH),
        hotcoco=lambda m: m.frPyObjects([ring for parts in polygons for ring in parts], HEIGHT, WIDTH),
    )
    for name, way in ways.items():
        assert way is None or strings(way()) == strings(drawn.to_coco()), name
    compare("polygons 100 x 64", ways, target="1.5x", rounds=rounds)

    ways = {"pixelwise": lambda: paste_masks(scores, boxes, HEIGHT, WIDTH).to_coco()}
    if pycocotools is not None:
        encode = pycocotools.encode
        ways["torchvision and pycocotools"] = lambda: [
            encode(np.asfortranarray((image[0] > 0.5).numpy().astype(np.uint8)))
            for image in paste_masks_in_image(scores[:, None], boxes, (HEIGHT, WIDTH), padding=1)
        ]
        ways["as detectron2"] = lambda: [
            encode(np.asfortranarray(image.numpy().astype(np.uint8)))
            for image in pasted_as_detectron2(scores, boxes)
        ]
        same(masks, ways["torchvision and pycocotools"]())
    compare("paste 100 masks of 28 x 28", ways, target="100x torchvision, 40x detectron2", rounds=rounds)

    band = masks.boundary(radius=RADIUS)
    ways = {"pixelwise": lambda: RleMasks.from_coco(rles).boundary(radius=RADIUS).to_coco()}
    if pycocotools is not None and cv2 is not None:
        ways["boundary-iou-api"] = lambda: [boundary_of_peer(pycocotools, cv2, rle) for rle in as_bytes]
        same(band, ways["boundary-iou-api"]())
    if faster is not None:
        ratio = RADIUS / math.hypot(HEIGHT, WIDTH)
        ways["faster_coco_eval"] = lambda: faster.toBoundary(as_bytes, ratio)
        same(band, ways["faster_coco_eval"]())
    compare(f"boundary of radius {RADIUS}", ways, target="40x", rounds=rounds)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
