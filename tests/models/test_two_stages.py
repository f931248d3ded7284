"""What every network of regions promises: it learns from no, one and two hundred objects."""

import pytest
import torch
from torch import Tensor

from pixelwise import build, decode
from pixelwise.losses import loss_parts
from pixelwise.types import Annotation, Batch, Keypoints, MaskSet, Model

CLASSES = 3
TINY = {"encoder": "tiny", "width": 16, "min_size": None}
NAMES = [
    "faster_rcnn",
    "mask_rcnn",
    "keypoint_rcnn",
    "retinanet",
    "retinamask",
    "shapemask",
    "panet",
    "fcis",
    "fast_rcnn",
    "rcnn",
]


def built(name: str) -> Model:
    if name == "rcnn":
        return build(name, CLASSES, width=2)
    return build(name, *(() if name == "keypoint_rcnn" else (CLASSES,)), **TINY)


def objects(count: int, keypoints: bool) -> Annotation:
    """Rectangles of all sizes, for key points with joints at their corners."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([90.0, 60.0])
    boxes = torch.cat([corner, corner + 4 + 30 * torch.rand(count, 2, generator=generator)], 1).round()
    none = torch.zeros(count, dtype=torch.bool)
    if keypoints:
        points = boxes.view(-1, 2, 2).repeat(1, 9, 1)[:, :17]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return Keypoints(points, torch.full((count, 17), 2.0), torch.ones(count), areas, boxes, none)
    x, y = torch.arange(128), torch.arange(96)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    rows, columns = (y >= y1) & (y < y2), (x >= x1) & (x < x2)
    return MaskSet.of(rows[:, :, None] & columns[:, None], torch.arange(count) % CLASSES)


def image() -> Tensor:
    return torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_finite_gradient(name: str, count: int) -> None:
    torch.manual_seed(0)
    model = built(name).train()
    target = objects(count, name == "keypoint_rcnn")
    if model.tasks == ("detection",):
        target = target.boxes
    batch = Batch.of(image(), [target])
    parts = loss_parts(model(*model.inputs(batch)), batch)
    assert all(part.isfinite() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    wanted = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert not [key for key, grad in wanted.items() if grad is None or not grad.isfinite().all()]
    if count:
        assert not [key for key, grad in wanted.items() if not grad.any()]


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_do_not_see_each_other_whatever_their_size(name: str) -> None:
    torch.manual_seed(0)
    model = built(name).eval()
    images = torch.rand(2, 3, 97, 131)
    images[1, :, :, 101:] = 0
    with torch.no_grad():  # both are padded to the same multiple of the stride
        together = decode.boxes(model(images[..., :128], sizes=[(97, 128), (97, 101)]))
        alone = decode.boxes(model(images[1:, :, :, :101]))
    (expected,), found = alone, together[1]
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*NAMES[:-1], "panoptic_fpn", "upsnet"])
def test_the_encoder_learns_at_a_rate_of_its_own(name: str) -> None:
    arguments = TINY | ({"things": (1, 2)} if name in ("panoptic_fpn", "upsnet") else {})
    roles = build(name, *(() if name == "keypoint_rcnn" else (CLASSES,)), **arguments).parameter_roles()
    of_encoder = {key for key, role in roles.items() if role.of_encoder}
    assert of_encoder
    assert of_encoder == {key for key in roles if "encoder.body." in key}
