"""Distances, connected components and surface metrics against their peers: values first, then times."""

import warnings

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree
from side_by_side import compare, peer
from skimage.measure import label

from pixelwise.kernels.boundaries.distance import distance_to
from pixelwise.kernels.masks.components import label_components
from pixelwise.metrics.surface.distances import hausdorff_distance, surface_distances


def smooth(shape: tuple[int, ...], sigma: float, seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma, mode="wrap")
    return noise / noise.std()


def blobs(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A wobbly ball, and a prediction of it that is some cells off."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    ball = np.sqrt((grid**2).sum(0)) + 0.05 * smooth(shape, 8, 1)
    prediction = ball + 0.03 * smooth(shape, 8, 2) < 0.62
    return np.ascontiguousarray(np.roll(prediction, 1, 0)), np.ascontiguousarray(ball < 0.6)


def border(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def hausdorff_by_tree(prediction: np.ndarray, target: np.ndarray, percentile: float) -> float:
    one, other = np.argwhere(border(prediction)), np.argwhere(border(target))
    there, back = KDTree(other).query(one)[0], KDTree(one).query(other)[0]
    return max(float(np.percentile(there, percentile)), float(np.percentile(back, percentile)))


def main(rounds: int = 7) -> None:
    warnings.simplefilter("ignore")
    edt, cc3d, surface, itk = (peer(name) for name in ("edt", "cc3d", "surface_distance", "SimpleITK"))
    monai = peer("monai.metrics")

    labels = np.argmax([smooth((1024, 2048), 24, seed) for seed in range(19)], axis=0).astype(np.uint8)
    edges = np.zeros(labels.shape, bool)
    edges[1:] |= labels[1:] != labels[:-1]
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    for name, mask in (("borders of a label map", edges), ("one class of a label map", labels < 5)):
        outside = ~mask
        exact = ndimage.distance_transform_edt(outside)
        assert np.array_equal(distance_to(mask), exact)
        ways = {
            "ours, float64": lambda mask=mask: distance_to(mask),
            "edt, float32": edt and (lambda outside=outside: edt.edt(outside, parallel=1)),
            "scipy": lambda outside=outside: ndimage.distance_transform_edt(outside),
        }
        target = "1.2x the edt package"
        compare(f"exact EDT, 1024x2048, {name}", ways, target=target, rounds=rounds)

    numbers, _ = label_components(labels, background=None)
    assert np.array_equal(numbers, label(labels.astype(np.int16), background=-1, connectivity=1))
    compare(
        "connected components of a label map, 1024x2048, 19 classes",
        {
            "ours": lambda: label_components(labels),
            "cc3d": cc3d and (lambda: cc3d.connected_components(labels, connectivity=4)),
            "skimage": lambda: label(labels, connectivity=1),
        },
        target="1.3x cc3d, 5x skimage",
        rounds=rounds,
    )

    for shape, percentile, target in (
        ((512, 512), 100, "6x the best peer"),
        ((128, 128, 128), 95, "4x the best peer"),
    ):
        arrays = blobs(shape)
        masks = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
        batched = masks[0][None, None], masks[1][None, None]
        ours = hausdorff_distance(*masks, percentile=percentile)
        assert np.isclose(ours, hausdorff_by_tree(*arrays, percentile), rtol=1e-12)

        def by_monai(batched=batched, percentile=percentile) -> float:
            assert monai is not None
            return float(monai.compute_hausdorff_distance(*batched, percentile=percentile))

        def by_surface_distance(arrays=arrays, shape=shape, percentile=percentile) -> float:
            assert surface is not None
            found = surface.compute_surface_distances(arrays[1], arrays[0], (1.0,) * len(shape))
            return float(surface.compute_robust_hausdorff(found, percentile))

        def by_itk(arrays=arrays) -> float:
            assert itk is not None
            images = [itk.GetImageFromArray(mask.astype(np.uint8)) for mask in arrays]
            itk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
            one_way = itk.HausdorffDistanceImageFilter()
            one_way.Execute(*images)
            return float(one_way.GetHausdorffDistance())

        if monai is not None:
            assert np.isclose(ours, by_monai(), rtol=1e-6)
        ways = {
            "ours": lambda masks=masks, percentile=percentile: hausdorff_distance(
                *masks, percentile=percentile
            ),
            "MONAI": monai and by_monai,
            "scipy KD-tree": lambda arrays=arrays, p=percentile: hausdorff_by_tree(*arrays, percentile=p),
            "surface-distance": surface and by_surface_distance,
        }
        if percentile == 100:  # it has no other
            ways["SimpleITK"] = itk and by_itk
        title = f"Hausdorff distance, percentile {percentile}, {'x'.join(map(str, shape))}"
        compare(title, ways, target=target, rounds=rounds)

    arrays = blobs((512, 512))
    masks = tuple(torch.from_numpy(mask) for mask in arrays)

    def three(elements: str) -> tuple[float, float, float]:
        found = surface_distances(*masks, elements=elements)
        return found.hausdorff(95), found.surface_dice(1.0), found.average

    def three_by_surface_distance() -> tuple[float, float, float]:
        assert surface is not None
        found = surface.compute_surface_distances(arrays[1], arrays[0], (1.0, 1.0))
        averages = surface.compute_average_surface_distance(found)
        dice = surface.compute_surface_dice_at_tolerance(found, 1.0)
        return surface.compute_robust_hausdorff(found, 95), dice, sum(averages) / 2

    if surface is not None:
        ours, theirs = three("areas"), three_by_surface_distance()
        assert np.allclose(ours[:2], theirs[:2], rtol=1e-12)
        found = surface_distances(*masks, elements="areas")
        assert np.isclose(sum(found.averages) / 2, theirs[2], rtol=1e-12)
    compare(
        "HD95 + surface Dice + ASSD, 512x512",
        {
            "ours, areas": lambda: three("areas"),
            "ours, voxels": lambda: three("voxels"),
            "surface-distance": surface and three_by_surface_distance,
        },
        target="8x surface-distance",
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
