"""Whatever is found in a view of an image is brought back exactly, and views are fused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import pixelwise as pw
from pixelwise.predict import Predictor, View, averaged
from pixelwise.predict.fusion import fused
from pixelwise.predict.tta import PRESETS, in_view, undone, views_of
from pixelwise.types import (
    Boxes,
    ClassMasks,
    ClassTable,
    DenseLogits,
    Keypoints,
    LabelMap,
    MaskSet,
    PanopticMap,
    Skeleton,
)

SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))
VIEWS = st.builds(View, st.booleans(), st.integers(0, 3))
SKELETON = Skeleton(("nose", "left", "right"), flip_pairs=((1, 2),))
TABLE = replace(ClassTable.of("a", "b", "c"), things=(1, 2))


def coordinates(size: tuple[int, int]) -> Tensor:
    """An image whose pixels say where they lie: centres x y."""
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    return torch.stack([x, y])[None]


def identity(image: Tensor) -> DenseLogits:
    return DenseLogits(image, tuple(image.shape[2:]))


@settings(max_examples=40, deadline=None)
@given(SIZES, VIEWS)
def test_scores_maps_and_points_of_a_view_lie_where_they_lay(size: tuple[int, int], view: View) -> None:
    image = coordinates(size)
    seen = view.seen(image)
    assert tuple(seen.shape[2:]) == view.size_of(size)
    assert in_view(identity, view)(image).logits.equal(image)
    for channel in seen[0]:
        assert undone(LabelMap(channel), view, size).labels.equal(view.turned_back(channel))
    assert undone(ClassMasks((seen[0] * 2).long()), view, size).masks.equal((image[0] * 2).long())
    # The point at the centre of every pixel of the view is the one that the pixel names.
    centres = coordinates(view.size_of(size))[0].permute(1, 2, 0)
    assert view.points_back(centres, size).equal(seen[0].permute(1, 2, 0))


@settings(max_examples=40, deadline=None)
@given(SIZES, VIEWS, st.integers(0, 99))
def test_objects_of_a_view_lie_where_they_lay(size: tuple[int, int], view: View, seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = torch.from_numpy(random.random((3, *size)) < 0.4)
    labels = torch.tensor([0, 1, 1])
    seen = MaskSet.of(view.turned(masks).contiguous(), labels)
    assert undone(seen, view, size).dense.equal(masks)
    there = masks.flatten(1).any(1)
    boxes = undone(seen.boxes, view, size).boxes
    assert boxes[there].equal(MaskSet.of(masks, labels).boxes.boxes[there])
    ids = torch.from_numpy(random.integers(0, 4, size))
    table = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 2])
    assert undone(PanopticMap.of(view.turned(ids), *table), view, size).id_map.equal(ids)


@settings(max_examples=30, deadline=None)
@given(SIZES, VIEWS, st.sampled_from([0.5, 1.5, 2.0]))
def test_coordinates_of_a_resized_view_are_those_of_the_image(
    size: tuple[int, int], view: View, scale: float
) -> None:
    view = replace(view, scale=scale)
    seen = view.size_of(size)
    corners = torch.tensor([[0.0, 0.0], [seen[1], seen[0]]])
    back = view.points_back(corners, size)
    assert back.amin(0).tolist() == [0, 0]
    assert back.amax(0).tolist() == pytest.approx([size[1], size[0]])
    assert undone(LabelMap(torch.zeros(seen, dtype=torch.long)), view, size).labels.shape == size


def test_joints_of_both_sides_change_places_in_the_mirror_and_only_there() -> None:
    size = (20, 30)
    found = Keypoints(
        torch.tensor([[[15.0, 2.0], [10.0, 8.0], [20.0, 8.0]]]),  # nose, left, right
        torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([0.9]), torch.tensor([600.0]),
        torch.tensor([[5.0, 0.0, 25.0, 20.0]]), torch.zeros(1, dtype=torch.bool),
    )  # fmt: skip
    mirrored = undone(found, View(mirror=True), size, SKELETON)
    assert mirrored.points[0].tolist() == [[15.0, 2.0], [10.0, 8.0], [20.0, 8.0]]
    assert mirrored.visible[0].tolist() == pytest.approx([0.9, 0.7, 0.8])
    turned = undone(found, View(turns=2), size, SKELETON)
    assert turned.points[0].tolist() == [[15.0, 18.0], [20.0, 12.0], [10.0, 12.0]]
    assert undone(found, View(scale=2.0), (10, 15), SKELETON).areas.item() == 150
    with pytest.raises(ValueError, match="need a skeleton"):
        undone(found, View(mirror=True), size)


# --- fusion ---------------------------------------------------------------------------------------


def masks_of(*boxes: tuple[int, int, int, int]) -> Tensor:
    masks = torch.zeros(len(boxes), 30, 40, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def test_the_same_object_in_all_views_is_one_and_what_one_view_shows_counts_less() -> None:
    one = MaskSet.of(
        masks_of((0, 0, 10, 10), (20, 20, 30, 30)), torch.tensor([0, 1]), torch.tensor([0.8, 0.6])
    )
    other = MaskSet.of(masks_of((0, 0, 10, 9)), torch.tensor([0]), torch.tensor([0.6]))
    found = fused(one, [one, other], TABLE)
    assert found.scores.tolist() == pytest.approx([0.7, 0.3])
    assert found.classes.tolist() == [0, 1]
    assert found.dense[0].equal(masks_of((0, 0, 10, 10))[0])  # the surer view decides on the last row
    same = fused(one, [one, one], TABLE)
    assert same.dense.equal(one.dense)
    assert same.scores.tolist() == pytest.approx([0.8, 0.6])


def test_boxes_are_means_by_their_scores_and_classes_stay_apart() -> None:
    one = Boxes.of(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1]), torch.tensor([0.9]))
    other = Boxes.of(torch.tensor([[0.0, 0, 10, 13]]), torch.tensor([1]), torch.tensor([0.3]))
    found = fused(one, [one, other], TABLE)
    assert found.boxes.tolist() == [pytest.approx([0, 0, 10, 10.75])]
    assert found.scores.tolist() == pytest.approx([0.6])
    assert len(fused(one, [one, replace(other, classes=torch.tensor([2]))], TABLE)) == 2
    none = one.take(torch.zeros(1, dtype=torch.bool))
    assert len(fused(none, [none, none], TABLE)) == 0


def test_panoptic_maps_and_key_points_of_equal_views_stay_as_they_are() -> None:
    things = MaskSet.of(masks_of((0, 0, 10, 10), (5, 12, 30, 30)), torch.tensor([1, 2]))
    panoptic = PanopticMap.of_things(LabelMap(torch.zeros(30, 40, dtype=torch.long)), things, TABLE)
    found = fused(panoptic, [panoptic] * 3, TABLE)
    assert sorted(found.classes.tolist()) == [0, 1, 2]
    for number, label in zip(panoptic.ids, panoptic.classes, strict=True):
        (same,) = found.ids[found.classes == label]
        assert (found.id_map == same).equal(panoptic.id_map == number)
    points = Keypoints(
        torch.rand(2, 3, 2), torch.rand(2, 3), torch.tensor([0.9, 0.4]), torch.tensor([9.0, 8.0]),
        torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]), torch.zeros(2, dtype=torch.bool),
    )  # fmt: skip
    found = fused(points, [points, points], TABLE)
    torch.testing.assert_close(found.points, points.points)
    torch.testing.assert_close(found.scores, points.scores)


# --- in the predictor -----------------------------------------------------------------------------


def test_presets_and_scales_multiply() -> None:
    assert {name: len(views) for name, views in PRESETS.items()} == {
        "none": 1, "mirror": 2, "mirrors": 4, "turns": 4, "all": 8
    }  # fmt: skip
    assert len(views_of("all", flip=True)) == 8
    assert len(views_of("turns", flip=True, scales=(0.5, 1.0))) == 16
    with pytest.raises(ValueError, match="views are none, mirror"):
        views_of("upside")
    with pytest.raises(ValueError, match="turns must be 0 to 3"):
        View(turns=4)


@pytest.mark.parametrize("exclusive", [True, False])
def test_all_views_of_a_predictor_are_the_mean_of_their_probabilities(exclusive: bool) -> None:
    classes = ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3, exclusive=exclusive)
    model = pw.build("fcn", 3, encoder="tiny").eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    image = torch.rand(3, 70, 91)
    predict = Predictor(model, classes, views="all")
    assert len(predict.views) == 8
    parts = []
    for view in predict.views:
        scores = model(view.seen(image[None])).logits.detach()
        parts.append(view.turned_back(scores.softmax(1) if exclusive else scores.sigmoid()))
    found = predict(image, probabilities=True)
    torch.testing.assert_close(found.probabilities, torch.stack(parts).mean(0)[0], atol=2e-6, rtol=1e-5)
    network = averaged(model, predict.views, exclusive)
    mean = network(image[None]).logits.detach()
    torch.testing.assert_close(
        mean.softmax(1) if exclusive else mean.sigmoid(), torch.stack(parts).mean(0), atol=2e-6, rtol=1e-5
    )
    whole = predict(image).annotation
    tiled = Predictor(model, classes, views="all", tile=(192, 192), overlap=32)(image).annotation
    for one, other in zip(vars(whole).values(), vars(tiled).values(), strict=True):
        assert one is None or torch.allclose(one.float(), other.float(), atol=1e-5)


@pytest.mark.parametrize("task, annotation", [("instance", MaskSet), ("panoptic", PanopticMap)])
def test_objects_of_all_views_are_fused(task: str, annotation: type) -> None:
    model = pw.build("maskformer", 3, encoder="tiny", width=8, num_queries=5, blocks=1).eval()
    settings = {"min_score": 0.0} if task == "instance" else {"min_score": 0.0, "max_overlap": 1.0}
    predict = Predictor(model, TABLE, task=task, views="mirrors", decoding=settings)
    found = predict(torch.rand(3, 64, 80)).annotation
    assert isinstance(found, annotation)
    size = found.size if isinstance(found, MaskSet) else tuple(found.id_map.shape)
    assert size == (64, 80)
    with pytest.raises(ValueError, match="refine is for models that score every pixel"):
        Predictor(model, TABLE, task=task, refine=lambda p, image: p)


def test_a_symmetric_scene_has_symmetric_objects_in_the_mean_of_its_mirror_images() -> None:
    model = pw.build("maskformer", 3, encoder="tiny", width=8, num_queries=5, blocks=1).eval()
    image = torch.rand(3, 64, 80)
    image = (image + image.flip(-1)) / 2
    predict = Predictor(model, TABLE, task="instance", views="mirror", decoding={"min_score": 0.0})
    found = predict(image).annotation
    whole = {mask.numpy().tobytes() for mask in found.dense}
    assert {mask.flip(-1).numpy().tobytes() for mask in found.dense} == whole
    assert math.isfinite(float(found.scores.sum()))


def test_views_of_volumes_mirror_and_turn_each_slice() -> None:
    model = pw.build("unet3d", 2, width=4, in_channels=1).eval()
    classes = ClassTable.of("air", "body")
    volume = torch.rand(1, 16, 24, 32)
    settings = {"tile": (16, 32, 32), "overlap": 0.0}
    predict = Predictor(model, classes, task="volume", views="all", decoding=settings)
    straight = predict(volume).label_map.labels
    mirrored = predict(volume.flip(-1)).label_map.labels.flip(-1)
    turned = predict(volume.rot90(1, (-2, -1))).label_map.labels.rot90(-1, (-2, -1))
    assert (straight == mirrored).float().mean() > 0.999
    assert (straight == turned).float().mean() > 0.999
    with pytest.raises(ValueError, match="scales is for models that score every pixel"):
        Predictor(model, classes, task="volume", scales=(0.5, 1.0))


def test_views_of_crops_around_objects_are_refused() -> None:
    classes = replace(ClassTable.of("person"), skeleton=SKELETON)
    model = pw.build("simplebaseline", encoder="tiny", num_joints=3, width=8).eval()
    with pytest.raises(ValueError, match="views is for models that score every pixel"):
        Predictor(model, classes, task="keypoints", views="turns")


@pytest.mark.slow
def test_an_exported_model_takes_views_like_any_other(tmp_path: Path) -> None:
    classes = ClassTable.of("a", "b", "c")
    model = pw.build("unet", 3, width=4).eval()
    pw.export.export_onnx(model, tmp_path / "unet.onnx", classes)
    image = torch.rand(3, 64, 80)
    options = {"views": "all", "scales": (1.0, 0.75)}
    ours = Predictor(model, classes, **options)(image, probabilities=True).probabilities
    theirs = Predictor(tmp_path / "unet.onnx", **options)(image, probabilities=True).probabilities
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-3)
