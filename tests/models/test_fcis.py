"""FCIS: maps of parts are read where the part is, and many regions vote for one mask."""

import pytest
import torch

from pixelwise import build, decode
from pixelwise.losses import loss_parts
from pixelwise.models.fcis import NUM_HARDEST, fits, hardest, parts_in, voted
from pixelwise.ops import sample_bilinear
from pixelwise.types import AssignedBoxes, Batch, Boxes, MaskSet, Sample

TINY = {"encoder": "tiny", "width": 32, "min_size": None}


def test_parameters_are_those_of_the_parts() -> None:
    with torch.device("meta"):
        model = build("fcis_resnet101", 80)
    proposals = 1024 * 512 * 9 + 512 + 513 * 12 * 5
    heads = 2048 * 1024 + 1024 + 1025 * 2 * 81 * 49 + 1025 * 4 * 49
    trunk = 42_500_160  # ResNet-101 without its classifier
    assert sum(p.numel() for p in model.parameters()) == trunk + proposals + heads


def test_each_pixel_of_a_region_is_read_from_the_map_of_its_part() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 2 * 49, 9, 12)
    boxes = torch.tensor([[20.0, 8.0, 150.0, 100.0], [64.0, 30.0, 100.0, 120.0]])
    image = torch.tensor([1, 0])
    found = parts_in(maps, AssignedBoxes(boxes, image, torch.full((2,), -1)))
    assert found.shape == (2, 2, 21, 21)
    for number in range(2):
        x1, y1, x2, y2 = (boxes[number] / 16).tolist()
        for row, column in ((0, 0), (2, 20), (10, 9), (20, 4)):
            part = (row // 3) * 7 + column // 3
            own = maps[image[number]].unflatten(0, (2, 49))[:, part]
            along, down = x1 + (column + 0.5) * (x2 - x1) / 21, y1 + (row + 0.5) * (y2 - y1) / 21
            expected = sample_bilinear(own, along, down)
            torch.testing.assert_close(found[number, :, row, column], expected, atol=1e-4, rtol=1e-4)


def test_a_region_fits_where_inside_or_outside_is_large() -> None:
    parts = torch.tensor([1.0, -2.0, 0.0, 4.0]).view(1, 2, 1, 1, 2)  # inside 1 -2, outside 0 4
    assert fits(parts).tolist() == [[2.5]]


def test_the_mask_of_a_detection_is_the_weighted_mean_of_what_overlaps_it() -> None:
    regions = torch.tensor([[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 40.0, 20.0], [60.0, 60.0, 90.0, 90.0]])
    scores = torch.tensor([[0.1, 0.6], [0.1, 0.2], [0.1, 0.9]])
    inside = torch.tensor([0.5, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 2, 8, 8)
    found = voted(Boxes.of(regions[:1], torch.tensor([0])), regions, scores, inside)
    assert found.shape == (1, 8, 8)
    # The lower half lies beside the second region, which therefore says 0 there.
    assert found[0, 1, 4].item() == pytest.approx((0.6 * 0.5 + 0.2 * 1.0) / 0.8, abs=1e-5)
    assert found[0, 6, 4].item() == pytest.approx(0.6 * 0.5 / 0.8, abs=1e-5)
    none = Boxes.of(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert voted(none, regions, scores, inside).shape == (0, 8, 8)


def test_the_hardest_regions_of_each_image_are_learned() -> None:
    image = torch.arange(2).repeat_interleave(200)
    losses = torch.rand(400)
    regions = AssignedBoxes(torch.zeros(400, 4), image, torch.zeros(400, dtype=torch.int64))
    chosen = hardest(losses, regions, 2)
    for number in range(2):
        own, others = losses[chosen & (image == number)], losses[~chosen & (image == number)]
        assert len(own) == NUM_HARDEST
        assert own.min() > others.max()


def scene() -> Sample:
    image, masks = 0.2 + 0.05 * torch.rand(3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.bool)
    for i, (top, left) in enumerate([(8, 10), (30, 70)]):
        masks[i, top : top + 50, left : left + 48] = True
        image[i, masks[i]] = 0.9
    return Sample(image, MaskSet.of(masks, torch.arange(2)), "scene")


def test_detections_are_few_and_have_masks_or_there_are_none() -> None:
    torch.manual_seed(0)
    model = build("fcis", 2, **TINY).eval()
    with torch.no_grad():
        output = model(torch.rand(2, 3, 97, 131))
    for masks in decode.instances(output):
        assert 0 < len(masks) <= 100
        assert masks.size == (97, 131)
    model.masks.bias.data.unflatten(0, (2, 3, 49))[:, 0] = 50.0  # all is background
    with torch.no_grad():
        assert [len(one) for one in decode.instances(model(torch.rand(2, 3, 97, 131)))] == [0, 0]


@pytest.mark.slow
def test_fcis_learns_one_image_by_heart() -> None:
    torch.manual_seed(0)
    batch = Batch.collate([scene()])
    model = build("fcis", 2, **TINY).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = torch.stack(list(loss_parts(model(*model.inputs(batch)), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.no_grad():
        (found,) = decode.instances(model.eval()(batch.image))
    sure = found.take(found.scores > 0.5)
    assert sorted(set(sure.classes.tolist())) == [0, 1]
    for mask, label in zip(sure.dense, sure.classes, strict=True):
        wanted = batch.annotations[0].masks[label]
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.7
