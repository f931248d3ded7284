"""U-Net's weight map against its formula, with one full distance transform of SciPy per object."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from pixelwise.losses.cross_entropy import cross_entropy
from pixelwise.losses.weight_map import BorderCrossEntropy, border_cross_entropy, unet_weight_map

IGNORE = 255


def numpy_border(
    objects: np.ndarray, w0: float, sigma: float, spacing: tuple[float, ...] | None = None
) -> np.ndarray:
    known = [number for number in np.unique(objects) if number]
    if len(known) < 2:
        return np.zeros(objects.shape)
    distances = [ndimage.distance_transform_edt(objects != number, sampling=spacing) for number in known]
    nearest, second = np.sort(distances, 0)[:2]
    return np.where(objects == 0, w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2)), 0)


def cells(*grid: int, seed: int = 0) -> Tensor:
    """Blobs of the classes 1 and 2 on background 0, with an ignored corner."""
    rng = np.random.default_rng(seed)
    height = ndimage.gaussian_filter(rng.standard_normal((2, *grid)), (0, *[1.5] * len(grid)))
    labels = (height > 0.1).astype(np.int64) + (height > 0.25)
    labels[(1, *[slice(0, 3)] * len(grid))] = IGNORE
    return torch.from_numpy(labels)


@pytest.mark.parametrize("grid", [(40, 33), (12, 14, 10)])
@pytest.mark.parametrize("sigma", [2.0, 5.0])
@pytest.mark.parametrize("millimetres", [False, True])
def test_the_map_of_labels_is_its_formula(grid: tuple[int, ...], sigma: float, millimetres: bool) -> None:
    labels = cells(*grid)
    spacing = (0.8, 1.0, 2.5)[: len(grid)] if millimetres else None
    ours = unet_weight_map(labels, 3, sigma=sigma, spacing=spacing)
    for image, weights in zip(labels.numpy(), ours.numpy(), strict=True):
        objects, count = np.zeros(grid, int), 0
        for c in (1, 2):
            regions, found = ndimage.label(image == c)  # cells that share faces
            objects = np.where(regions > 0, regions + count, objects)
            count += found
        valid = image != IGNORE
        counts = np.bincount(image[valid], minlength=3)
        balance = valid.sum() / (counts * (counts > 0).sum()).clip(1)
        expected = balance[np.where(valid, image, 0)] + numpy_border(objects, 10, sigma, spacing)
        np.testing.assert_allclose(weights, np.where(valid, expected, 0), rtol=1e-5, atol=1e-6)


def test_the_map_of_instances_tells_touching_cells_apart() -> None:
    instances = torch.zeros(1, 9, 12, dtype=torch.int32)
    instances[:, 2:5, 1:6], instances[:, 2:5, 6:11] = 70000, -3
    instances[:, 7:, 4:8] = 5
    labels = (instances != 0).long()
    weights = unet_weight_map(labels, 2, instances=instances, balance=False)
    expected = 1 + numpy_border(instances[0].numpy(), 10, 5)
    np.testing.assert_allclose(weights[0], expected, rtol=1e-5)
    merged = unet_weight_map(labels, 2, balance=False)
    assert merged.sum() < weights.sum()


def test_a_gap_of_one_pixel_between_two_cells() -> None:
    # d1 = d2 = 1: 10 exp(-4 / 50) = 9.231
    labels = torch.tensor([[[1, 1, 0, 1, 1]]])
    weights = unet_weight_map(labels, 2, balance=False)
    assert weights[0, 0, 2].item() == pytest.approx(1 + 10 * np.exp(-0.08))
    assert weights[0, 0, [0, 1, 3, 4]].tolist() == [1, 1, 1, 1]


def test_class_weights_are_factors_of_the_whole_map() -> None:
    labels = cells(20, 18)
    factors = torch.tensor([2.0, 0.5, 3.0])
    plain = unet_weight_map(labels, 3)
    weighted = unet_weight_map(labels, 3, weight=factors)
    torch.testing.assert_close(weighted, plain * factors[labels.where(labels != IGNORE, 0)])


def test_one_cell_has_no_second_border_and_the_balance_alone_is_left() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.long)
    labels[0, :2, :5] = 1
    weights = unet_weight_map(labels, 2)
    assert weights[labels == 1].unique().tolist() == [5]  # 100 / (2 * 10)
    assert weights[labels == 0].unique().item() == pytest.approx(100 / 180)
    assert weights.mean().item() == pytest.approx(1)


def test_classes_that_are_not_exclusive_have_maps_of_their_own() -> None:
    labels = cells(30, 20)
    both = torch.stack([torch.where(labels == IGNORE, IGNORE, (labels == c).long()) for c in (1, 2)], 1)
    ours = unet_weight_map(both, 2, exclusive=False)
    for c in range(2):
        torch.testing.assert_close(ours[:, c], unet_weight_map(both[:, c], 2))


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_loss_is_cross_entropy_with_the_map(exclusive: bool) -> None:
    labels = cells(20, 18)
    logits = torch.randn(2, 3, 20, 18, dtype=torch.float64)
    if not exclusive:
        labels = torch.stack(
            [torch.where(labels == IGNORE, IGNORE, (labels == c).long()) for c in range(3)], 1
        )
    weights = unet_weight_map(labels, 3, exclusive=exclusive)
    per_label = cross_entropy(logits, labels, exclusive=exclusive, reduction="none") * weights
    loss = {how: BorderCrossEntropy(exclusive=exclusive, reduction=how)(logits, labels) for how in
            ("mean", "sum", "none")}  # fmt: skip
    torch.testing.assert_close(loss["none"], per_label)
    torch.testing.assert_close(loss["sum"], per_label.sum())
    torch.testing.assert_close(loss["mean"], per_label.sum() / weights.double().sum())
    if exclusive:
        torch.testing.assert_close(loss["mean"], cross_entropy(logits, labels, pixel_weight=weights))


def test_gradients_are_those_of_finite_differences() -> None:
    labels = cells(6, 5)
    logits = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: border_cross_entropy(x, labels), logits)


@pytest.mark.compile
def test_a_weight_map_does_not_break_the_graph() -> None:
    labels, logits = cells(12, 10), torch.randn(2, 3, 12, 10)
    torch._dynamo.reset()
    compiled = torch.compile(BorderCrossEntropy(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, labels), BorderCrossEntropy()(logits, labels))


def test_real_nuclei_have_the_map_of_the_formula(shared_data: Callable[..., Path]) -> None:
    from skimage.io import imread

    instances = imread(shared_data("data", "stardist_samples") / "mask2d.tif")[:200, :220].astype(np.int32)
    assert len(np.unique(instances)) > 10
    whole = torch.from_numpy(instances)[None]
    ours = unet_weight_map((whole != 0).long(), 2, instances=whole, balance=False)
    np.testing.assert_allclose(ours[0], 1 + numpy_border(instances, 10, 5), rtol=1e-5)


def test_bad_arguments_are_named() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"sigma must be above 0 and w0 at least 0, got 0\.0 and 10\.0"):
        BorderCrossEntropy(sigma=0.0)
    with pytest.raises(ValueError, match="instances need exclusive labels of their shape"):
        unet_weight_map(labels, 2, instances=labels[:, :3])
    with pytest.raises(ValueError, match="spacing must be 2 positive numbers"):
        unet_weight_map(labels, 2, spacing=(1.0,))
