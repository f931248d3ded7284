"""Panoptic FPN: targets of its branches, merging, and whether it learns."""

import pytest
import torch

from pixelwise import build, decode, describe
from pixelwise.checkpoint import load, save
from pixelwise.losses import loss_parts
from pixelwise.metrics import panoptic_quality
from pixelwise.models.mask_rcnn import MaskRegionLogits
from pixelwise.models.panoptic_fpn import PanopticLogits, semantic_labels, things_of
from pixelwise.types import (
    AssignedBoxes,
    Batch,
    Boxes,
    ClassTable,
    DenseLogits,
    PanopticMap,
    RegionLogits,
    Sample,
    voc_palette,
)

THINGS = (1, 3)
TABLE = ClassTable(("sky", "car", "road", "dog"), voc_palette(4), things=THINGS)
TINY = {"encoder": "tiny", "width": 16, "min_size": None, "things": THINGS}


def scene(height: int = 96, width: int = 128) -> Sample:
    """Sky over road, a car and two dogs, some void."""
    id_map = torch.full((height, width), 10)
    id_map[height // 2 :] = 20
    id_map[30:70, 10:50], id_map[50:80, 60:90], id_map[12:44, 84:120] = 7, 8, 9
    id_map[:4] = 0
    target = PanopticMap.of(id_map, torch.tensor([9, 10, 20, 7, 8]), torch.tensor([3, 0, 2, 1, 3]))
    colors = {0: 0.5, 10: 0.3, 20: 0.1, 7: 0.9, 8: 0.7, 9: 0.7}
    image = torch.zeros(3, height, width)
    for number, value in colors.items():
        image[:, id_map == number] = value
    image[0] *= (id_map < 10) + 0.2
    return Sample((image + 0.02 * torch.rand(3, height, width)).clamp(0, 1), target, "scene")


def test_things_and_stuff_of_a_map_are_told_apart() -> None:
    id_map = torch.tensor([[0, 5, 5], [7, 7, 9]])
    target = PanopticMap.of(id_map, torch.tensor([7, 5, 9]), torch.tensor([2, 1, 3]))
    things = things_of(target, THINGS)
    assert things.classes.tolist() == [0, 1]
    assert things.masks.int().tolist() == [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]]
    # Stuff is sky (1) and road (2); things are 0, void is ignored.
    assert semantic_labels(target, THINGS, 4).tolist() == [[255, 0, 0], [2, 2, 0]]
    none = PanopticMap.of(torch.zeros(2, 3).long(), torch.zeros(0).long(), torch.zeros(0).long())
    assert (semantic_labels(none, THINGS, 4) == 255).all()
    assert len(things_of(none, THINGS)) == 0


def merged(scores: list[float], boxes: list[list[float]], stuff: torch.Tensor, area: int) -> PanopticMap:
    """Instances that fill their boxes, cars and dogs in turn, over a map of 16 x 16."""
    n = len(scores)
    found = Boxes.of(torch.tensor(boxes), torch.arange(n) % 2, torch.tensor(scores))
    none = AssignedBoxes(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long())
    size = ((16, 16),)
    regions = RegionLogits(none, torch.zeros(0, 3), torch.zeros(0, 3, 4), size, size, detections=(found,))
    semantic = DenseLogits(torch.nn.functional.one_hot(stuff, 3).permute(2, 0, 1)[None].float(), (16, 16))
    instances = MaskRegionLogits(regions, torch.full((n, 3, 28, 28), 9.0))
    output = PanopticLogits(instances, (semantic,), THINGS, 0.5, 0.5, area)
    return decode.panoptic(output, TABLE)[0]


def test_sure_instances_lie_over_others_and_stuff_is_what_they_leave() -> None:
    stuff = torch.ones(16, 16).long()  # sky
    stuff[14:] = 2  # road, 30 pixels of it
    stuff[:, 0] = 0  # something that is no stuff
    boxes = [[1.0, 1, 7, 7], [5, 1, 11, 7], [1, 2, 7, 8], [8, 8, 12, 12]]
    found = merged([0.9, 0.8, 0.7, 0.4], boxes, stuff, area=30)
    # The third lies under the first, the fourth is unsure.
    assert found.classes.tolist() == [1, 3, 0, 2]
    areas = [int((found.id_map == number).sum()) for number in found.ids]
    assert areas[0] > areas[1] > 0
    assert (found.id_map[8:, 0] == 0).all()
    assert found.id_map[15, 15] == found.ids[3]
    assert merged([], [], stuff, area=31).classes.tolist() == [0]


def test_a_table_with_other_things_is_refused() -> None:
    model = build("panoptic_fpn", 4, **TINY).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="knows the things"):
        decode.panoptic(output, ClassTable.of("sky", "car", "road", "dog"))
    with pytest.raises(ValueError, match=r"things must be labels in 0\.\.3, got 4"):
        build("panoptic_fpn", 4, **{**TINY, "things": (4,)})


def test_it_is_mask_rcnn_and_a_branch() -> None:
    with torch.device("meta"):
        whole = build("panoptic_fpn_resnet50", 133, things=range(80))
        instances, branch = build("mask_rcnn_resnet50_fpn", 80), build("fpn", 54)
    count = [sum(p.numel() for p in part.parameters()) for part in (whole, instances, branch.head)]
    assert count[0] == count[1] + count[2]
    assert describe("panoptic_fpn").tasks == ("panoptic",)


def test_images_of_different_sizes_and_without_things_train() -> None:
    model = build("panoptic_fpn", 4, **TINY).train()
    empty = PanopticMap.of(torch.full((50, 70), 3), torch.tensor([3]), torch.tensor([0]))
    batch = Batch.collate([scene(), Sample(torch.rand(3, 50, 70), empty, "sky")])
    output = model(*model.inputs(batch))
    assert [tuple(one.logits.shape) for one in output.semantic] == [(1, 3, 96, 128), (1, 3, 50, 70)]
    parts = loss_parts(output, batch)
    assert set(parts) == {"rpn_objectness", "rpn_box", "class", "box", "mask", "semantic"}
    torch.stack(list(parts.values())).sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.no_grad():
        maps = decode.panoptic(model.eval()(batch.image, sizes=batch.sizes), TABLE)
    assert [tuple(one.id_map.shape) for one in maps] == [(96, 128), (50, 70)]


def test_a_saved_model_comes_back_with_its_things(tmp_path) -> None:
    model = build("panoptic_fpn", 4, **TINY).eval()
    save(model, tmp_path / "model.safetensors", TABLE)
    again = load(tmp_path / "model.safetensors").model
    assert again.things == THINGS
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first, second = model(image).semantic[0].coarse, again(image).semantic[0].coarse
    assert torch.equal(first, second)


@pytest.mark.slow
def test_it_learns_one_image_by_heart() -> None:
    batch = Batch.collate([scene()])
    model = build("panoptic_fpn", 4, **{**TINY, "width": 32})
    model.min_stuff_area = 100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(200):
        loss = torch.stack(list(loss_parts(model(*model.inputs(batch)), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (found,) = decode.panoptic(model.eval()(batch.image), TABLE)
    assert sorted(found.classes.tolist()) == [0, 1, 2, 3, 3]
    scores = panoptic_quality([found], [batch.annotations[0]], TABLE)
    assert scores.overall.pq >= 0.8
