"""The core types: annotations in their several forms, batches with padding, reports."""

import numpy as np
import pytest
import torch

from pixelwise.rle import RleMasks
from pixelwise.types import (
    Batch,
    Boxes,
    ClassMasks,
    ClassTable,
    DenseLogits,
    LabelMap,
    MaskSet,
    PanopticMap,
    Report,
    Sample,
    Skeleton,
)


def masks() -> torch.Tensor:
    found = torch.zeros(3, 12, 16, dtype=torch.bool)
    found[0, 2:5, 3:9] = True
    found[1, 11, 15] = True  # the last one is empty
    return found


def test_masks_as_run_lengths_are_those_as_a_tensor() -> None:
    classes, scores = torch.tensor([0, 1, 0]), torch.tensor([0.9, 0.5, 0.1])
    dense = MaskSet.of(masks(), classes, scores)
    runs = MaskSet.of(RleMasks.encode(masks().numpy()), classes, scores)
    assert len(runs) == len(dense) == 3
    assert runs.size == dense.size == (12, 16)
    assert torch.equal(runs.dense, dense.dense)
    assert dense.boxes.boxes.tolist() == [[3, 2, 9, 5], [15, 11, 16, 12], [0, 0, 0, 0]]
    assert torch.equal(runs.boxes.boxes, dense.boxes.boxes)
    for index in (torch.tensor([2, 0]), torch.tensor([True, False, True])):
        assert torch.equal(runs.take(index).dense, dense.take(index).dense)
        assert runs.take(index).scores.tolist() == dense.take(index).scores.tolist()


def test_boxes_are_taken_with_all_that_belongs_to_them() -> None:
    boxes = Boxes.of(torch.arange(8.0).view(2, 4), torch.tensor([4, 5]), is_crowd=torch.tensor([False, True]))
    assert boxes.scores.tolist() == [1, 1]
    one = boxes.take(torch.tensor([1]))
    assert (len(one), one.boxes.tolist(), one.classes.tolist(), one.is_crowd.tolist()) == (
        1, [[4, 5, 6, 7]], [5], [True]
    )  # fmt: skip


@pytest.mark.parametrize("grid", [(4, 6), (3, 4, 6)])
def test_smaller_images_and_volumes_are_padded_and_come_back(grid: tuple[int, ...]) -> None:
    small = tuple(side - 1 for side in grid)
    samples = [
        Sample(torch.rand(2, *small), LabelMap(torch.ones(small, dtype=torch.long)), "a"),
        Sample(torch.rand(2, *grid), LabelMap(torch.zeros(grid, dtype=torch.long)), "b"),
    ]
    batch = Batch.collate(samples, ignore=9)
    assert batch.image.shape == (2, 2, *grid)
    assert torch.equal(batch.labels[0] == 9, ~batch.valid[0])
    assert batch.image[0][:, ~batch.valid[0]].eq(0).all()
    assert batch.valid[1].all()
    for given, back in zip(samples, batch.samples, strict=True):
        assert back.id == given.id
        assert torch.equal(back.image, given.image)
        assert torch.equal(back.target.labels, given.target.labels)


def test_masks_of_classes_are_padded_and_an_image_without_a_target_is_ignored() -> None:
    samples = [
        Sample(torch.rand(3, 2, 3), ClassMasks(torch.ones(2, 2, 3, dtype=torch.long)), "a"),
        Sample(torch.rand(3, 4, 3), None, "b"),
    ]
    batch = Batch.collate(samples, ignore=7)
    assert batch.labels.shape == (2, 2, 4, 3)
    assert batch.labels[0, :, :2].eq(1).all()
    assert batch.labels[0, :, 2:].eq(7).all()
    assert batch.labels[1].eq(7).all()
    assert batch.samples[0].target.masks.shape == (2, 2, 3)


def test_other_annotations_stay_one_per_image_and_must_be_there() -> None:
    image = torch.rand(3, 12, 16)
    batch = Batch.collate([Sample(image, MaskSet.of(masks(), torch.tensor([0, 1, 0])), "a")])
    assert isinstance(batch.target, tuple)
    with pytest.raises(ValueError, match="targets of this batch are not dense"):
        _ = batch.labels
    with pytest.raises(ValueError, match="b has no annotation"):
        Batch.collate([batch.samples[0], Sample(image, None, "b")])


def test_a_sample_moves_with_its_spacing() -> None:
    sample = Sample(torch.zeros(1, 2, 3, 4), None, "a", (2.5, 0.7, 0.7))
    assert sample.to(torch.float64).spacing == (2.5, 0.7, 0.7)
    assert sample.to(torch.float64).image.dtype == torch.float64
    assert Sample(torch.zeros(1, 2, 3), None, "a").spacing is None


def test_coco_colours_and_ids_are_the_same_panoptic_map() -> None:
    ids = np.array([[1, 256 * 256], [0, 300]])
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    info = [{"id": i, "category_id": 18, "area": 1} for i in (1, 65536, 300)]
    for pixels in (ids, colors):
        found = PanopticMap.of_coco(pixels, info, {18: 2})
        assert found.id_map.tolist() == ids.tolist()
        assert found.classes.tolist() == [2, 2, 2]
        assert found.areas.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"segment 1 in image a\.png has the unknown category 18"):
        PanopticMap.of_coco(ids, info, {}, "a.png")
    with pytest.raises(ValueError, match="needs an id and a category_id"):
        PanopticMap.of_coco(ids, [{"id": 1}], {})


def test_things_lie_over_stuff_and_may_not_overlap() -> None:
    table = ClassTable(("sky", "road", "car"), ((0, 0, 0),) * 3, things=(2,))
    stuff = LabelMap(torch.tensor([[0, 1, 2, 255]]))
    car = MaskSet.of(torch.tensor([[[False, True, False, False]]]), torch.tensor([2]))
    found = PanopticMap.of_things(stuff, car, table)
    assert found.id_map.tolist() == [[1, 4, 0, 0]]  # a car that lies in no mask is void
    assert (found.ids.tolist(), found.classes.tolist()) == ([1, 4], [0, 2])
    with pytest.raises(ValueError, match="must not overlap"):
        PanopticMap.of_things(stuff, car.take(torch.tensor([0, 0])), table)
    with pytest.raises(ValueError, match="outside the table of 3 classes"):
        PanopticMap.of_things(LabelMap(torch.tensor([[0, 1, 7, 255]])), car, table)


def test_a_skeleton_has_only_joints_that_exist() -> None:
    with pytest.raises(ValueError, match=r"a skeleton of 2 joints has no pair \(0, 2\)"):
        Skeleton(("a", "b"), edges=((0, 2),))
    with pytest.raises(ValueError, match=r"has no pair \(-1, 0\)"):
        Skeleton(("a", "b"), flip_pairs=((-1, 0),))
    with pytest.raises(ValueError, match="2 joints need as many sigmas, got 1"):
        Skeleton(("a", "b"), sigmas=(0.1,))
    assert len(Skeleton(("a", "b"))) == 2


@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_of_a_volume_are_interpolated_along_three_axes(align_corners: bool) -> None:
    coarse = torch.rand(1, 2, 3, 4, 5)
    output = DenseLogits(coarse, (6, 8, 10), (coarse,), align_corners)
    expected = torch.nn.functional.interpolate(
        coarse, (6, 8, 10), mode="trilinear", align_corners=align_corners
    )
    assert torch.equal(output.logits, expected)
    assert torch.equal(output.aux_logits[0], expected)
    assert DenseLogits(coarse, (3, 4, 5)).logits is coarse


def test_a_report_names_the_scores_that_there_are() -> None:
    report = Report({"mean_iou": 0.5, "mean_dice": 0.6}, {"sky": {"IoU": 0.5, "Dice": 0.6}})
    assert report.columns == ("IoU", "Dice")
    assert repr(report) == "Report(mean_iou 0.5000, mean_dice 0.6000; 1 classes)"
    with pytest.raises(KeyError, match="there is no score 'iou': there are mean_iou, mean_dice"):
        _ = report["iou"]
    assert Report({}, {}).columns == ()
