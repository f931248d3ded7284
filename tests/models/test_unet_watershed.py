"""U-Net and watershed: maps of objects, their way back, losses, and objects that touch."""

import numpy as np
import pytest
import torch

from pixelwise import build, decode
from pixelwise.losses import loss_parts
from pixelwise.models.unet_watershed import (
    BORDER,
    FAR,
    WatershedLogits,
    agreement,
    border_map,
    distance_map,
    number_map,
    separated,
    standardized,
)
from pixelwise.rle import RleMasks
from pixelwise.types import Batch, MaskSet, Sample


def discs(size: tuple[int, int], places: list[tuple[int, int, int]]) -> MaskSet:
    """Discs at (y, x) with a radius each; the classes are 0 and 1 in turn. A later one lies on top."""
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.array([np.hypot(y - a, x - b) < r for a, b, r in places]).reshape(-1, *size)
    for upper in range(1, len(masks)):
        masks[:upper] &= ~masks[upper]
    return MaskSet.of(torch.from_numpy(masks), torch.arange(len(places)) % 2)


TOUCHING = [(20, 20, 12), (20, 40, 12), (42, 30, 12), (60, 80, 10), (60, 12, 5)]


def perfect(target: MaskSet) -> WatershedLogits:
    """What a network says that has learnt everything."""
    numbers = number_map(target)
    labels = np.concatenate([[0], target.classes.numpy() + 1])[numbers]
    classes = torch.nn.functional.one_hot(torch.from_numpy(labels), 3).permute(2, 0, 1).float()
    border = torch.from_numpy(border_map(numbers))
    return WatershedLogits(
        10 * classes[None], 20 * border[None] - 10, torch.from_numpy(distance_map(numbers))[None], target.size
    )


def test_touching_objects_come_back_from_their_maps() -> None:
    target = discs((80, 97), TOUCHING)
    found = decode.instances(perfect(target))[0]
    assert len(found) == len(target)
    iou = torch.from_numpy(found.masks.iou(RleMasks.encode(target.dense)))
    assert iou.amax(0).min() > 0.9
    assert found.classes[iou.argmax(0)].tolist() == target.classes.tolist()
    assert (found.scores > 0.99).all()
    assert (found.dense.sum(0) <= 1).all()


def test_parts_of_an_object_and_joined_objects_agree_less_with_the_distance_than_whole_ones() -> None:
    whole = number_map(discs((80, 97), TOUCHING))
    told = distance_map(whole)
    assert agreement(whole, told).tolist() == pytest.approx([1] * len(TOUCHING))
    cut = whole.copy()
    cut[:20][cut[:20] == 1] = 6
    joined = np.where(whole == 2, 1, whole)
    joined[joined > 2] -= 1
    assert agreement(cut, told)[[0, 5]].max() < 0.8
    assert agreement(joined, told)[0] < 0.95
    assert agreement(np.zeros((4, 5), np.int64), np.zeros((4, 5))).shape == (0,)


def test_of_two_objects_that_were_cut_in_one_the_whole_one_is_surer() -> None:
    target = discs((80, 97), [(20, 20, 12), (55, 60, 12)])
    output = perfect(target)
    output.distance[0, 55, 48:73] = 0  # the second one is told to be two
    output.distance[0, 53:58, 48:73] = 0
    found = decode.instances(output)[0]
    assert len(found) == 3
    assert found.dense[0, 20, 20]
    assert found.scores[0] > found.scores[1] + 0.1


def test_without_borders_and_distances_touching_objects_are_one() -> None:
    inside = number_map(discs((80, 97), TOUCHING)) > 0
    nothing = np.zeros(inside.shape, np.float32)
    assert separated(inside, nothing, nothing).max() == 3


def test_a_border_is_where_another_object_is_near() -> None:
    numbers = np.zeros((5, 12), np.int64)
    numbers[:, :4], numbers[:, 4:8], numbers[2, 10] = 1, 2, -1
    expected = np.zeros((5, 12))
    expected[:, 4 - BORDER : 4 + BORDER] = 1
    assert border_map(numbers).tolist() == expected.tolist()
    apart = np.zeros((5, 12), np.int64)
    apart[:, :3], apart[:, 3 + BORDER :] = 1, 2
    assert not border_map(apart).any()


def test_distances_are_to_the_border_of_the_own_object() -> None:
    numbers = np.zeros((40, 44), np.int64)
    numbers[1:39, 1:4], numbers[1:39, 4:43] = 1, 5
    found = distance_map(numbers)
    assert (found[20] * FAR).tolist() == pytest.approx(
        [0, 1, 2, 1, *range(1, 9), *[8] * 23, *range(8, 0, -1), 0]
    )
    assert found[numbers == 0].tolist() == [0] * int((numbers == 0).sum())


def test_exposure_and_contrast_do_not_matter() -> None:
    model = build("unet_watershed", 1, encoder="tiny", width=8).eval()
    image = torch.rand(1, 3, 64, 80)
    with torch.no_grad():
        bright, dark, flat = (model(one).classes for one in (image, image * 0.3 + 0.1, image * 0))
    torch.testing.assert_close(bright, dark, atol=0.05, rtol=0.05)
    assert flat.isfinite().all()


def test_polarity_does_not_matter() -> None:
    model = build("unet_watershed", 1, encoder="tiny", width=8).eval()
    image = 0.1 + 0.05 * torch.rand(2, 3, 64, 80)
    image[:, :, 10:25, 20:40] += 0.7  # few bright objects, or dark ones on a bright ground
    image[1] = 1 - image[1]
    image[1, 0] *= 0.5  # a stain
    seen = standardized(image)
    assert (seen[:, :, 10:25, 20:40].mean((2, 3)) > seen.mean((2, 3)) + 0.2).all()
    with torch.no_grad():
        bright, dark = model(image[:1]).classes, model(1 - image[:1]).classes
    torch.testing.assert_close(bright, dark, atol=0.02, rtol=0.02)


def test_small_objects_are_noise_and_parts_without_a_middle_stay() -> None:
    inside = np.zeros((20, 20), bool)
    inside[:3, :3], inside[10:14, 5:15] = True, True
    found = separated(inside, np.zeros((20, 20)), np.zeros((20, 20)))
    assert found.max() == 1
    assert (found[10:14, 5:15] == 1).all()


@pytest.mark.parametrize("encoder", [None, "tiny"])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_gradients_are_finite_and_reach_every_weight_however_many_objects(encoder, count) -> None:
    torch.manual_seed(count)
    model = build("unet_watershed", 2, encoder=encoder, width=8).train()
    some = np.random.default_rng(count).integers(3, 60, (count, 2))
    target = discs((65, 97), [(int(y), int(x), 4) for y, x in some])
    batch = Batch.collate(
        [Sample(torch.rand(3, 65, 97), target, "a"), Sample(torch.rand(3, 50, 64), discs((50, 64), []), "b")]
    )
    output = model(*model.inputs(batch))
    parts = loss_parts(output, batch)
    assert set(parts) == {"classes", "border", "distance"}
    torch.stack(list(parts.values())).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert not [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()]
    assert (grads["network.head.weight"].flatten(1).abs().sum(1) > 0).sum() == (5 if count else 3)
    assert {name.split(".")[1] for name, role in model.parameter_roles().items() if role.of_encoder} == {
        "encoder" if encoder else "down"
    }


def test_crowds_and_padding_do_not_count() -> None:
    target = discs((64, 64), [(20, 20, 10), (44, 44, 10)])
    crowd = MaskSet.of(target.masks, target.classes, is_crowd=torch.tensor([False, True]))
    output = perfect(target)
    wrong = output.classes.clone()
    wrong[:, :, target.dense[1]] = 0
    without = loss_parts(
        WatershedLogits(wrong, output.border, output.distance, output.size),
        Batch.collate([Sample(torch.rand(3, 64, 64), crowd, "a")]),
    )
    assert without["classes"] < 1e-3
    with_it = loss_parts(
        WatershedLogits(wrong, output.border, output.distance, output.size),
        Batch.collate([Sample(torch.rand(3, 64, 64), target, "a")]),
    )
    assert with_it["classes"] > 0.05
