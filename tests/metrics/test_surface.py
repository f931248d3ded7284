"""Surface distances: a search over all pairs, MONAI and DeepMind's surface-distance say the same."""

import gzip
import itertools
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import surface_distance
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from surface_distance import lookup_tables
from torch import Tensor

from pixelwise.metrics.surface.areas import element_areas
from pixelwise.metrics.surface.distances import (
    average_surface_distance,
    hausdorff_distance,
    surface_dice,
    surface_distances,
    volumetric_dice,
)
from pixelwise.metrics.surface.scores import SurfaceMetrics
from pixelwise.types import ClassTable, LabelMap

Pair = tuple[np.ndarray, np.ndarray]
GRIDS = [(9, 12), (1, 7), (7, 1), (3, 150), (5, 6, 7), (4, 1, 6), (11, 13, 12)]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning"),  # MONAI of its own argument
    pytest.mark.filterwarnings("ignore:.*namespace is deprecated:DeprecationWarning"),  # surface-distance
]


def random_pair(grid: tuple[int, ...], seed: int, density: float = 0.4) -> Pair:
    rng = np.random.default_rng(seed)
    one, other = rng.random((2, *grid)) < density
    one.flat[seed % one.size] = other.flat[-1 - seed % one.size] = True
    return one, other


def blobs(grid: tuple[int, ...], seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.standard_normal(grid), 3) for _ in range(2)]
    return noise[0] > 0.02, noise[0] + 0.5 * noise[1] > 0.03


def tensors(masks: Pair) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(masks[0]), torch.from_numpy(masks[1])


def border(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def by_pairs(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Plain reference: the least distance of each border cell of the one to those of the other."""
    apart = (np.argwhere(border(one))[:, None] - np.argwhere(border(other))[None]) * np.array(spacing)
    return np.sort(np.sqrt((apart**2).sum(-1)).min(1))


def by_surface_distance(
    one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = surface_distance.compute_surface_distances(other, one, spacing)
    return found


# --- the rule "voxels" ------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("density", [0.002, 0.05, 0.4, 0.95])
def test_distances_of_voxels_are_those_over_all_pairs(grid: tuple[int, ...], density: float) -> None:
    for seed, spacing in enumerate([(1.0, 1.0, 1.0), (0.7, 1.9, 0.3), (5.0, 0.2, 1.0)]):
        masks, steps = random_pair(grid, seed, density), spacing[: len(grid)]
        found = surface_distances(*tensors(masks), spacing=steps)
        np.testing.assert_allclose(found.to_target, by_pairs(*masks, steps), rtol=1e-13)
        np.testing.assert_allclose(found.to_prediction, by_pairs(*masks[::-1], steps), rtol=1e-13)


@pytest.mark.parametrize(
    ("grid", "spacing"), [((60, 70), (1.0, 1.0)), ((60, 70), (0.8, 2.5)), ((20, 24, 28), (3.0, 1.0, 0.9))]
)
def test_scores_of_voxels_are_those_of_monai(grid: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    masks = tensors(blobs(grid))
    found = surface_distances(*masks, spacing=spacing)
    batch = [mask[None, None] for mask in masks]
    for percentile in (50.0, 90.0, 95.0, 100.0):
        theirs = compute_hausdorff_distance(*batch, percentile=percentile, spacing=spacing)
        assert found.hausdorff(percentile) == pytest.approx(theirs.item(), rel=1e-5)  # it has 32 bits
    one_way = compute_average_surface_distance(*batch, spacing=spacing)
    symmetric = compute_average_surface_distance(*batch, symmetric=True, spacing=spacing)
    assert found.averages[0] == pytest.approx(one_way.item(), rel=1e-5)
    assert found.average == pytest.approx(symmetric.item(), rel=1e-5)
    for tolerance in (0.0, 1.0, 2.6):
        theirs = compute_surface_dice(*batch, [tolerance], spacing=spacing)
        assert found.surface_dice(tolerance) == pytest.approx(theirs.item(), rel=1e-5)


def test_percentiles_between_two_distances_are_interpolated() -> None:
    prediction, target = torch.zeros(2, 1, 40, dtype=torch.bool)
    prediction[0, [1, 5, 12]], target[0, [1, 6]] = True, True
    found = surface_distances(prediction, target)
    assert found.to_target.tolist() == [0, 1, 6]
    assert found.hausdorff(75.0) == 3.5
    assert found.hausdorff(0.0) == 0


# --- the rule "areas" -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spacing", [(1.0, 1.0), (0.3, 1.7), (1.0, 1.0, 1.0), (1.0, 0.7, 2.3), (5.0, 0.2, 0.9)]
)
def test_areas_of_all_codes_are_those_of_surface_distance(spacing: tuple[float, ...]) -> None:
    if len(spacing) == 2:
        theirs = lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    else:
        theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(element_areas(spacing), theirs, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("density", [0.02, 0.4, 0.95])
def test_scores_of_areas_are_those_of_surface_distance(grid: tuple[int, ...], density: float) -> None:
    for seed, spacing in enumerate([(1.0, 1.0, 1.0), (0.7, 1.9, 0.3)]):
        masks, steps = random_pair(grid, seed, density), spacing[: len(grid)]
        theirs = by_surface_distance(*masks, steps)
        found = surface_distances(*tensors(masks), spacing=steps, elements="areas")
        np.testing.assert_allclose(found.to_target, theirs["distances_pred_to_gt"], rtol=1e-13)
        np.testing.assert_allclose(found.to_prediction, theirs["distances_gt_to_pred"], rtol=1e-13)
        np.testing.assert_allclose(found.target_sizes.sum(), theirs["surfel_areas_gt"].sum(), rtol=1e-12)
        for percentile in (10.0, 50.0, 95.0, 100.0):
            expected = surface_distance.compute_robust_hausdorff(theirs, percentile)
            assert found.hausdorff(percentile) == pytest.approx(expected, rel=1e-12)
        expected = surface_distance.compute_average_surface_distance(theirs)
        assert found.averages[::-1] == pytest.approx(expected, rel=1e-12)
        for tolerance in (0.0, 0.5, 2.0):
            expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert found.surface_dice(tolerance) == pytest.approx(expected, rel=1e-12)


def read_nifti(path: Path) -> np.ndarray:
    """Labels of an uncompressed or gzipped NIfTI-1 file of bytes or floats."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, "<i2", 3, 42)
    dtype = {2: "<u1", 16: "<f4", 512: "<u2", 4: "<i2"}[int(np.frombuffer(content, "<i2", 1, 70)[0])]
    offset = int(np.frombuffer(content, "<f4", 1, 108)[0])
    return np.frombuffer(content, dtype, int(np.prod(shape)), offset).reshape(shape[::-1]).T


def test_scores_of_real_volumes_are_those_of_surface_distance(shared_data: Callable[..., Path]) -> None:
    paths = sorted(shared_data("data", "hippocampus_mri", "labels").glob("*.nii.gz"))[:6]
    volumes = [read_nifti(path) for path in paths]
    for one, other in itertools.pairwise(volumes):
        window = tuple(slice(min(n, m)) for n, m in zip(one.shape, other.shape, strict=True))
        for label in (1, 2):
            masks = np.ascontiguousarray(one[window] == label), np.ascontiguousarray(other[window] == label)
            theirs = by_surface_distance(*masks, (1.0, 1.0, 1.0))
            found = surface_distances(*tensors(masks), elements="areas")
            expected = surface_distance.compute_robust_hausdorff(theirs, 95)
            assert found.hausdorff(95.0) == pytest.approx(expected, rel=1e-12)
            expected = surface_distance.compute_surface_dice_at_tolerance(theirs, 2.0)
            assert found.surface_dice(2.0) == pytest.approx(expected, rel=1e-12)
            dice = surface_distance.compute_dice_coefficient(masks[1], masks[0])
            assert volumetric_dice(*tensors(masks)) == pytest.approx(dice, rel=1e-12)


# --- both rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", ["voxels", "areas"])
@pytest.mark.parametrize("grid", [(30, 40), (14, 16, 18)])
def test_a_perfect_prediction_is_at_no_distance(elements: str, grid: tuple[int, ...]) -> None:
    mask = torch.from_numpy(blobs(grid)[0])
    found = surface_distances(mask, mask, elements=elements)
    assert (found.hausdorff(), found.average, found.surface_dice(0.0)) == (0, 0, 1)
    assert volumetric_dice(mask, mask) == 1


@pytest.mark.parametrize("elements", ["voxels", "areas"])
@pytest.mark.parametrize("grid", [(30, 40), (14, 16, 18)])
def test_scores_are_symmetric_scale_with_spacing_and_do_not_see_the_margin(
    elements: str, grid: tuple[int, ...]
) -> None:
    prediction, target = (np.pad(mask, 2) for mask in blobs(grid))
    steps = (0.5, 1.25, 2.0)[: len(grid)]

    def scores(one: np.ndarray, other: np.ndarray, unit: float = 1.0) -> tuple[float, ...]:
        spacing = tuple(unit * step for step in steps)
        found = surface_distances(*tensors((one, other)), spacing=spacing, elements=elements)
        return found.hausdorff(), found.hausdorff(95.0), found.average, found.surface_dice(unit)

    expected = scores(prediction, target)
    assert scores(target, prediction) == pytest.approx(expected, rel=1e-14)
    assert scores(np.pad(prediction, 9), np.pad(target, 9)) == expected
    flipped = np.flip(prediction).copy(), np.flip(target).copy()
    assert scores(*flipped)[:2] == pytest.approx(expected[:2], rel=1e-12)
    scaled = scores(prediction, target, 8.0)
    assert scaled[:3] == tuple(8 * score for score in expected[:3])
    assert scaled[3] == pytest.approx(expected[3], rel=1e-14)


@pytest.mark.parametrize("grid", [(1, 400), (400, 1), (40, 300), (30, 32, 34)])
def test_surfaces_that_lie_far_apart_are_found(grid: tuple[int, ...]) -> None:
    for corner, fraction in ((0, 1.0), (-1, 0.5)):
        one, other = random_pair(grid, 0, 0.0)
        one[:], other[:] = True, False
        other.flat[corner] = True
        one[tuple(slice(int(n * fraction / 2)) for n in grid if n > 1)] &= False
        one.flat[one.size // 2] = True
        found = surface_distances(*tensors((one, other)))
        np.testing.assert_allclose(found.to_target, by_pairs(one, other, (1.0,) * len(grid)), rtol=1e-13)


@pytest.mark.parametrize("elements", ["voxels", "areas"])
@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 5)])
def test_empty_masks_have_no_near_surface(elements: str, grid: tuple[int, ...]) -> None:
    empty, some = torch.zeros(grid, dtype=torch.bool), torch.ones(grid, dtype=torch.bool)
    for pair in ((empty, some), (some, empty)):
        found = surface_distances(*pair, elements=elements)
        assert found.hausdorff() == found.hausdorff(5.0) == found.average == math.inf
        assert found.averages == (math.inf, math.inf)
        assert found.surface_dice(3.0) == found.surface_dice(math.inf) == volumetric_dice(*pair) == 0
    found = surface_distances(empty, empty, elements=elements)
    nothing = (
        found.hausdorff(),
        found.average,
        *found.averages,
        found.surface_dice(1.0),
        volumetric_dice(empty, empty),
    )
    assert all(math.isnan(score) for score in nothing)


def test_the_short_forms_agree_with_the_long_one() -> None:
    masks = tensors(blobs((40, 50)))
    for elements in ("voxels", "areas"):
        found = surface_distances(*masks, spacing=(1.0, 2.0), elements=elements)
        options = {"spacing": (1.0, 2.0), "elements": elements}
        assert hausdorff_distance(*masks, 95.0, **options) == found.hausdorff(95.0)
        assert average_surface_distance(*masks, **options) == found.average
        assert surface_dice(*masks, 1.5, **options) == found.surface_dice(1.5)


def test_views_and_masks_that_need_gradients_elsewhere_work() -> None:
    prediction, target = tensors(blobs((30, 40)))
    expected = hausdorff_distance(prediction, target)
    assert hausdorff_distance(prediction.T, target.T) == expected
    assert hausdorff_distance(prediction.flip(0), target.flip(0)) == expected


@pytest.mark.parametrize("grid", [(1000, 1100), (90, 100, 110)])
def test_no_more_memory_than_twice_the_input_is_taken(grid: tuple[int, ...]) -> None:
    masks = np.zeros((2, *grid), bool)
    middle = tuple(slice(2, n - 2) for n in grid)
    masks[0][middle] = masks[1][middle] = True
    prediction, target = tensors((masks[0], masks[1]))
    hausdorff_distance(prediction, target)
    tracemalloc.start()
    hausdorff_distance(prediction, target, 95.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.0 * masks.nbytes + 3_000_000  # the distances themselves, and sorting them


def test_arguments_that_do_not_fit_are_refused() -> None:
    mask = torch.ones(4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="spacing must be 2 positive numbers"):
        surface_distances(mask, mask, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="two or three axes"):
        surface_distances(mask[0], mask[0])
    with pytest.raises(ValueError, match=r"percentile in 0\.\.100"):
        hausdorff_distance(mask, mask, 101.0)
    for tolerance in (-1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance of at least 0"):
            surface_dice(mask, mask, tolerance)


@pytest.mark.compile
def test_unknown_rules_and_different_shapes_are_refused() -> None:
    mask = torch.ones(4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="elements must be voxels or areas, got 'points'"):
        surface_distances(mask, mask, elements="points")
    for measure in (surface_distances, volumetric_dice):
        with pytest.raises(ValueError, match="one shape"):
            measure(mask, mask[1:])


# --- over images ------------------------------------------------------------------------------------

TABLE = ClassTable.of("background", "left", "right")


def label_maps(*grid: int) -> tuple[Tensor, Tensor]:
    prediction, target = (torch.from_numpy(mask).long() for mask in blobs(grid))
    target[..., target.shape[-1] // 2 :] *= 2
    prediction[..., target.shape[-1] // 2 + 1 :] *= 2
    return prediction, target


@pytest.mark.parametrize(("grid", "spacing"), [((30, 34), (1.0, 0.5)), ((12, 14, 16), (1.0, 2.0, 0.5))])
def test_scores_over_images_are_means_of_those_of_the_images(
    grid: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    prediction, target = label_maps(3, *grid)
    metrics = SurfaceMetrics(TABLE, spacing, tolerance=(0.5, 1.0, 2.0), elements="areas")
    metrics.update(prediction[:2], target[:2])
    metrics.update(LabelMap(prediction[2]), LabelMap(target[2]))
    scores = metrics.compute()
    for label, tolerance in enumerate((0.5, 1.0, 2.0)):
        masks = [(one == label, other == label) for one, other in zip(prediction, target, strict=True)]
        each = [surface_distances(*pair, spacing=spacing, elements="areas") for pair in masks]
        assert scores.hausdorff[label] == pytest.approx(np.mean([one.hausdorff() for one in each]))
        assert scores.hausdorff_percentile[label] == pytest.approx(
            np.mean([one.hausdorff(95.0) for one in each])
        )
        assert scores.average_distance[label] == pytest.approx(np.mean([one.average for one in each]))
        assert scores.surface_dice[label] == pytest.approx(
            np.mean([one.surface_dice(tolerance) for one in each])
        )
        assert scores.volumetric_dice[label] == pytest.approx(
            np.mean([volumetric_dice(*pair) for pair in masks])
        )
    assert scores.images.tolist() == [3, 3, 3]
    assert scores.as_dict()["hausdorff"] == pytest.approx(float(scores.hausdorff.mean()))
    assert "3 images, 3 classes" in repr(scores)


def test_a_class_that_one_of_both_lacks_counts_as_told() -> None:
    prediction, target = torch.zeros(2, 3, 6, 8, dtype=torch.long)
    target[0, 2:4, 2:5] = prediction[0, 2:4, 3:6] = 1  # found, one to the right
    target[1, 2:4, 2:5] = 1  # missed
    for missed, expected in ((math.inf, math.inf), (math.nan, 1.0), (10.0, 5.5)):
        metrics = SurfaceMetrics(TABLE, missed=missed)
        metrics.update(prediction, target)
        scores = metrics.compute()
        assert scores.hausdorff[1] == expected
        assert scores.volumetric_dice[1] == pytest.approx((2 / 3 + 0) / 2)
        assert scores.images.tolist() == [3, 2, 0]
        assert scores.one_empty.tolist() == [0, 1, 0]
        assert scores.hausdorff[2].isnan()


def test_ignored_cells_belong_to_no_class() -> None:
    prediction, target = label_maps(30, 34)
    target[:, 20:] = 255
    expected, metrics = SurfaceMetrics(TABLE), SurfaceMetrics(TABLE)
    expected.update(prediction[:, :20], target[:, :20])
    prediction[:, 20:] = 17  # whatever is predicted there
    metrics.update(prediction, target)
    assert torch.equal(metrics.compute().values, expected.compute().values)


def test_without_an_image_the_scores_are_nan() -> None:
    metrics = SurfaceMetrics(TABLE)
    with pytest.warns(UserWarning, match="compute"):  # of torchmetrics
        scores = metrics.compute()
    with pytest.warns(UserWarning, match="no class was in any image"):
        assert all(math.isnan(score) for score in scores.as_dict().values())


def test_what_does_not_fit_is_told() -> None:
    prediction, target = label_maps(2, 12, 14)
    metrics = SurfaceMetrics(TABLE)
    prediction[1, 3, 3] = 7
    with pytest.raises(ValueError, match=r"prediction holds the label 7 in b.png, outside the table of 3"):
        metrics.update(prediction, target, ids=("a.png", "b.png"))
    with pytest.raises(ValueError, match="one shape"):
        metrics.update(prediction[:1], target)
    with pytest.raises(ValueError, match=r"must have 2 axes \(as spacing has\) or be a batch"):
        metrics.update(prediction[None], target[None])
    with pytest.raises(ValueError, match="exclusive=False"):
        SurfaceMetrics(ClassTable(("a", "b"), TABLE.colors[:2], exclusive=False))
    for options, message in (
        ({"spacing": (1.0,)}, "spacing must be two or three numbers"),
        ({"spacing": (1.0, 0.0)}, "spacing must be 2 positive numbers"),
        ({"tolerance": (1.0, 2.0)}, "one for each of 3 classes"),
        ({"tolerance": -1.0}, "tolerance must be"),
        ({"percentile": 950.0}, "percentile in 0..100"),
    ):
        with pytest.raises(ValueError, match=message):
            SurfaceMetrics(TABLE, **options)
