"""RetinaNet and RetinaMask: sizes, what they do without objects, the loss that adjusts itself."""

import pytest
import torch

from pixelwise import build, decode
from pixelwise.losses import loss_parts
from pixelwise.models.retinamask import SelfAdjustment, smooth_l1_with
from pixelwise.models.retinanet import ANCHOR_SIZES
from pixelwise.ops import make_anchors
from pixelwise.types import Batch, MaskSet, Sample

TINY = {"encoder": "tiny", "width": 16, "min_size": None}
# torchvision counts those of COCO with background, which its networks never name: 91 classes. It leaves out
# the 53 120 of the first version's frozen norms.
PUBLISHED = {"retinanet_resnet50_fpn": 34_014_999 + 53_120, "retinanet_resnet50_fpn_v2": 38_198_935}


def scene() -> Sample:
    """Three bright boxes on a dark wall."""
    image, masks = 0.2 + 0.05 * torch.rand(3, 96, 128), torch.zeros(3, 96, 128, dtype=torch.bool)
    for i, (top, left) in enumerate([(8, 10), (40, 70), (50, 12)]):
        masks[i, top : top + 36, left : left + 44] = True
        image[i, masks[i]] = 0.9
    return Sample(image, MaskSet.of(masks, torch.arange(3)), "scene")


@pytest.mark.parametrize("name, count", PUBLISHED.items())
def test_parameters_are_those_of_torchvision(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(name, 91)
    assert sum(p.numel() for p in model.parameters()) == count


def test_retinamask_is_retinanet_and_a_mask_head() -> None:
    with torch.device("meta"):
        boxes, masks = build("retinanet_resnet50_fpn", 80), build("retinamask_resnet50", 80)
    head = 4 * (256 * 256 * 9 + 256) + 256 * 256 * 4 + 256 + 81 * 257
    assert sum(p.numel() for p in masks.parameters()) == sum(p.numel() for p in boxes.parameters()) + head


def test_a_place_has_nine_anchors_of_three_sizes_and_shapes() -> None:
    (anchors,) = make_anchors([(2, 3)], (16, 24), ANCHOR_SIZES[:1], (0.5, 1.0, 2.0), torch.zeros(()))
    assert ANCHOR_SIZES[0] == (32, 40, 50)
    assert anchors.shape == (54, 4)
    sides = anchors[:9, 2:] - anchors[:9, :2]
    wanted = torch.tensor([32.0, 40.0, 50.0]).repeat(3)
    torch.testing.assert_close(sides.prod(1).sqrt(), wanted, rtol=0.03, atol=0)
    ratios = sides[:, 1] / sides[:, 0]
    torch.testing.assert_close(ratios, torch.tensor([0.5, 1.0, 2.0]).repeat_interleave(3), rtol=0.06, atol=0)


def test_an_output_of_training_has_no_detections_and_none_decode_to_nothing() -> None:
    model = build("retinanet", 3, **TINY)
    with pytest.raises(ValueError, match="has no detections"):
        decode.boxes(model.train()(torch.rand(1, 3, 64, 64)))
    mask = build("retinamask", 3, **TINY).eval()
    mask.detector.score_threshold = 1.0
    with torch.no_grad():
        output = mask(torch.rand(2, 3, 65, 97))
    assert [len(one) for one in decode.boxes(output)] == [0, 0]
    assert [(len(one), one.size) for one in decode.instances(output)] == [(0, (65, 97))] * 2


def test_masks_are_learned_in_the_boxes_of_objects_and_found_in_at_most_fifty() -> None:
    model = build("retinamask", 3, **TINY).train()
    batch = Batch.collate([scene()])
    output = model(*model.inputs(batch))
    assert {0, 1, 2} <= set(output.places.target.tolist())
    assert set(loss_parts(output, batch)) == {"class", "box", "mask"}
    model.eval().detector.score_threshold = 0.0
    with torch.no_grad():
        (found,) = decode.instances(model(batch.image))
    assert len(found) == 50


def test_the_corner_follows_mean_less_variance_of_the_errors() -> None:
    adjustment = SelfAdjustment()
    assert adjustment.corner().tolist() == pytest.approx([0.11] * 4)
    errors = torch.tensor([[0.1, -0.02, 3.0, 0.0], [0.3, 0.02, -1.0, 0.0]])
    adjustment.see(errors)
    mean = 0.9 * 0.11 + 0.1 * errors.abs().mean(0)
    variance = 0.1 * errors.abs().var(0)
    expected = (mean - variance).clamp(1e-3, 0.11)
    torch.testing.assert_close(adjustment.corner(), expected)
    assert expected[1] < 0.11
    adjustment.see(torch.zeros(1, 4))
    torch.testing.assert_close(adjustment.corner(), expected)


def test_the_adjusted_loss_is_smooth_l1_at_the_corner_of_each_column() -> None:
    corner = torch.tensor([0.11, 0.05, 0.01, 0.001])
    deltas, wanted = torch.randn(7, 4) * 0.1, torch.zeros(7, 4)
    expected = sum(
        torch.nn.functional.smooth_l1_loss(deltas[:, i], wanted[:, i], beta=corner[i].item(), reduction="sum")
        for i in range(4)
    )
    torch.testing.assert_close(smooth_l1_with(corner, deltas, wanted), expected)


@pytest.mark.slow
def test_retinamask_learns_one_image_by_heart() -> None:
    batch = Batch.collate([scene()])
    model = build("retinamask", 3, **{**TINY, "width": 32}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = torch.stack(list(loss_parts(model(*model.inputs(batch)), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.no_grad():
        (found,) = decode.instances(model.eval()(batch.image))
    sure = found.take(found.scores > 0.5)
    assert sorted(set(sure.classes.tolist())) == [0, 1, 2]
    for mask, label in zip(sure.dense, sure.classes, strict=True):
        wanted = batch.annotations[0].masks[label]
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.7
