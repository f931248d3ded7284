"""Laws of augmentation, by images whose pixels hold their coordinates: every annotation moves with them."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from pixelwise.data import training_transform
from pixelwise.data.mixing import classmix, cutmix, mosaic
from pixelwise.types import Boxes, ClassMasks, Keypoints, LabelMap, MaskSet, PanopticMap, Sample, Skeleton

SIDE, BLOCK = 64, 16
BLOCKS = (SIDE // BLOCK) ** 2
PAIR = Skeleton(("left", "right", "middle"), flip_pairs=((0, 1),))


def coordinates() -> torch.Tensor:
    """x and y of the centre of each pixel over 100, and 1: 0 there shows what comes from outside."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    return torch.stack([x / 100, y / 100, torch.ones(SIDE, SIDE)])


def blocks() -> torch.Tensor:
    """The number of the block that each pixel lies in."""
    place = torch.arange(SIDE) // BLOCK
    return place + SIDE // BLOCK * place[:, None]


def annotated(kind: str) -> Sample:
    """The image of coordinates with blocks as labels, masks, segments or boxes, or joints in its blocks."""
    labels, numbers = blocks(), torch.arange(BLOCKS)
    masks = labels == numbers[:, None, None]
    target = {
        "labels": LabelMap(labels),
        "class masks": ClassMasks(masks.long()),
        "masks": MaskSet.of(masks, numbers),
        "segments": PanopticMap.of(labels + 1, numbers + 1, numbers),
        "boxes": MaskSet.of(masks, numbers).boxes,
    }[kind]
    return Sample(coordinates(), target, kind)


def parting(image: torch.Tensor, labels: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """How far in pixels the image says that pixels lie outside the block that their label names."""
    inside = inside & (image[2] > 0.999)  # bilinear interpolation is exact there
    block, side = labels[inside], SIDE // BLOCK
    distances = []
    for position, number in ((image[0], block % side), (image[1], block // side)):
        low = number * BLOCK
        place = position[inside] * 100
        distances += [low - place, place - low - BLOCK]
    return torch.stack(distances).amax(0)


def in_labels(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """The annotation as labels, and where it says anything."""
    target = sample.target
    if isinstance(target, LabelMap):
        return target.labels, target.labels != 255
    if isinstance(target, PanopticMap):
        labels = torch.zeros_like(target.id_map)
        for number, label in zip(target.ids, target.classes, strict=True):
            labels[target.id_map == number] = label
        return labels, target.id_map != 0
    masks = target.masks == 1 if isinstance(target, ClassMasks) else target.dense
    classes = torch.arange(BLOCKS) if isinstance(target, ClassMasks) else target.classes
    assert isinstance(target, ClassMasks) or masks.flatten(1).any(1).all()
    return (masks * classes[:, None, None]).sum(0), masks.any(0)


dense = st.sampled_from(["labels", "class masks", "masks", "segments"])
changes = st.fixed_dictionaries(
    {
        "crop": st.one_of(st.none(), st.integers(24, 90).map(lambda side: (side, side))),
        "scale": st.tuples(st.floats(0.5, 1.0), st.floats(1.0, 2.0)),
        "flip": st.sampled_from([0.0, 0.5]),
        "flip_vertical": st.sampled_from([0.0, 0.5]),
        "rotate90": st.sampled_from([0.0, 0.5]),
        "rotation": st.sampled_from([0.0, 40.0]),
        "places": st.fixed_dictionaries(
            {"shear": st.sampled_from([0.0, 20.0]), "translate": st.sampled_from([0.0, 0.2])}
        ),
    }
)


def allowed(change: dict) -> float:
    """Half a pixel of each picture that is resampled, in pixels of the original."""
    steps = 1 + 2 * (change["rotation"] > 0) + 2 * any(change["places"].values())
    return 0.5 + 0.5 * steps / change["scale"][0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=dense, change=changes)
def test_annotations_of_pixels_move_with_the_image(seed: int, kind: str, change: dict) -> None:
    torch.manual_seed(seed)
    moved = training_transform(color=0.0, **change)(annotated(kind))
    wrong = parting(moved.image, *in_labels(moved))
    assert not wrong.numel() or wrong.max() <= allowed(change)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=dense, mix=st.sampled_from(["mosaic", "cutmix", "classmix"]))
def test_annotations_of_pixels_move_with_images_that_are_mixed(seed: int, kind: str, mix: str) -> None:
    torch.manual_seed(seed)
    kind = "labels" if mix == "classmix" else kind
    crop = training_transform((48, 40), scale=(0.8, 1.5), color=0.0)
    count, mixed = {"mosaic": (4, mosaic), "cutmix": (2, cutmix), "classmix": (2, classmix)}[mix]
    made = mixed(*[crop(annotated(kind)) for _ in range(count)])
    wrong = parting(made.image, *in_labels(made))
    assert wrong.numel()
    assert wrong.max() <= 1.2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), change=changes)
def test_boxes_hold_the_masks_of_their_objects(seed: int, change: dict) -> None:
    moved = []
    for kind in ("masks", "boxes"):
        torch.manual_seed(seed)
        moved.append(training_transform(color=0.0, **change)(annotated(kind)).target)
    masks, boxes = moved
    assert isinstance(boxes, Boxes)
    known = dict(zip(boxes.classes.tolist(), boxes.boxes, strict=True))
    for label, box in zip(masks.classes.tolist(), masks.boxes.boxes, strict=True):
        if label in known:
            assert (box[:2] - known[label][:2]).min() >= -1.6
            assert (known[label][2:] - box[2:]).min() >= -1.6


def jointed() -> Sample:
    """Objects of three joints in the image of coordinates, each with the block around it as its box."""
    places = torch.tensor([[6.5, 20.5], [22.5, 10.5], [20.5, 24.5]])
    shift = torch.tensor([[0.0, 0.0], [30.0, 8.0], [2.0, 30.0]])
    points = places + shift[:, None]
    boxes = torch.cat([points.amin(1) - 4, points.amax(1) + 4], 1)
    some = torch.ones(3)
    target = Keypoints(points, torch.full((3, 3), 2.0), some, some * 256, boxes, torch.zeros(3).bool())
    return Sample(coordinates(), target, "jointed")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), change=changes)
def test_joints_stay_on_their_pixels_and_sides_change_in_the_mirror(seed: int, change: dict) -> None:
    torch.manual_seed(seed)
    given_points = jointed().target.points
    moved = training_transform(color=0.0, skeleton=PAIR, **change)(jointed())
    height, width = moved.image.shape[1:]
    for points, visible in zip(moved.target.points, moved.target.visible, strict=True):
        told = []
        for (x, y), seen in zip(points.tolist(), visible.tolist(), strict=True):
            if not seen or not (1 <= x < width - 1 and 1 <= y < height - 1):
                told.append(None)
                continue
            assert 0 <= x <= width
            assert 0 <= y <= height
            pixel = moved.image[:, int(y), int(x)]
            told.append(pixel[:2] * 100 if pixel[2] > 0.999 else None)
        if any(place is None for place in told):
            continue
        # Whether the picture shows the object mirrored tells which of its joints must be where.
        places = torch.stack(told)
        order = [0, 1, 2] if _turn(points) * _turn(places) > 0 else [1, 0, 2]
        errors = (places - given_points[:, order]).abs().amax((1, 2))
        assert errors.min() <= allowed(change) + 0.5


def _turn(points: torch.Tensor) -> float:
    """Which way round three points lie."""
    first, second = points[1] - points[0], points[2] - points[0]
    return float(first[0] * second[1] - first[1] * second[0])


@pytest.mark.parametrize("across, down", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)])
def test_left_is_right_in_a_mirror_and_left_again_in_two(across: float, down: float) -> None:
    moved = training_transform(
        None, scale=(1.0, 1.0), flip=across, flip_vertical=down, color=0.0, skeleton=PAIR
    )(jointed())
    order = [1, 0, 2] if across + down == 1 else [0, 1, 2]
    expected = jointed().target.points[:, order].clone()
    if across:
        expected[..., 0] = SIDE - expected[..., 0]
    if down:
        expected[..., 1] = SIDE - expected[..., 1]
    assert torch.allclose(moved.target.points, expected)
    boxes = moved.target.boxes
    assert torch.allclose(boxes[:, :2] + 4, expected.amin(1))
    assert torch.allclose(boxes[:, 2:] - 4, expected.amax(1))
    for x, y in expected.reshape(-1, 2).tolist():
        told = moved.image[:2, int(y), int(x)] * 100
        back = torch.tensor([SIDE - x if across else x, SIDE - y if down else y])
        assert torch.allclose(told, back, atol=1e-3)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_areas_of_objects_grow_with_the_image(scale: float) -> None:
    moved = training_transform((200, 200), scale=(scale, scale), flip=0.0, color=0.0, skeleton=PAIR)(
        jointed()
    )
    assert torch.allclose(moved.target.areas, torch.full((3,), 256 * scale**2), rtol=1e-3)
    assert len(moved.target) == 3


def test_joints_that_leave_the_image_are_not_annotated_any_more_and_objects_are_dropped() -> None:
    lost, hidden = 0, 0
    for seed in range(20):
        torch.manual_seed(seed)
        target = training_transform((24, 24), scale=(1.0, 1.0), color=0.0, skeleton=PAIR)(jointed()).target
        outside = ((target.points < 0) | (target.points > 24)).any(-1)
        assert torch.equal(target.visible == 0, outside)
        assert (target.boxes >= 0).all()
        assert (target.boxes <= 24).all()
        lost, hidden = lost + 3 - len(target), hidden + int(outside.sum())
    assert lost
    assert hidden


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), change=changes, elastic=st.sampled_from([0.0, 3.0]))
def test_the_frames_of_a_clip_move_together(seed: int, change: dict, elastic: float) -> None:
    torch.manual_seed(seed)
    still = annotated("labels")
    image = still.image[:, None].repeat(1, 3, 1, 1)
    clip = Sample(image, LabelMap(still.target.labels.repeat(3, 1, 1)), "clip")
    moved = training_transform(color=0.2, elastic=elastic, **change)(clip)
    for frame in range(3):
        assert torch.allclose(moved.image[:, frame], moved.image[:, 0], atol=1e-6)
        assert torch.equal(moved.target.labels[frame], moved.target.labels[0])
    torch.manual_seed(seed)
    alone = training_transform(color=0.2, elastic=elastic, **change)(still)
    assert torch.equal(alone.target.labels, moved.target.labels[0])
