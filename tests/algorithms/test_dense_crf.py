"""The dense CRF beside pydensecrf's numbers, beside exact mean field, and what must hold of any."""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.algorithms.dense_crf import (
    DenseCrf,
    dense_crf,
    free_energy,
    mean_field_marginals,
    mean_field_reference,
)
from pixelwise.algorithms.dense_crf_energy import (
    APPEARANCE,
    SMOOTHNESS,
    Normalization,
    PairwiseKernel,
    PairwiseTerm,
    bilateral_features,
    in_steps,
    position_features,
    unary_from_labels,
    unary_from_probabilities,
)


def example() -> tuple[np.ndarray, np.ndarray]:
    """An image 24x32 and probabilities of 4 classes, made without random numbers."""
    y, x = np.mgrid[:24, :32]
    image = np.stack(
        [(x * 37 + y * 11) % 23 + 120 * (x > 15), (y * 29) % 19 + 90 * (y > 11), (x * y) % 31 + 40], 2
    )
    scores = np.stack(
        [
            np.sin(x * (label + 1) * 0.7 + y * 0.3 * label) + (label == (x > 15) + 2 * (y > 11))
            for label in range(4)
        ]
    )
    odds = np.exp(2 * scores)
    return image.astype(np.uint8), (odds / odds.sum(0)).astype(np.float32)


def small_kernels(weight: float, normalization: Normalization = "symmetric") -> tuple[PairwiseKernel, ...]:
    return (
        PairwiseKernel(weight, 2.0, normalization=normalization),
        PairwiseKernel(weight, (9.0, 12.0), (13.0, 20.0, 30.0), normalization=normalization),
    )


PER_CLASS = np.array([3.0, 1, 2, 4])
MATRIX = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))

# pydensecrf 2723c7f (built with Cython 3 and g++ 12 -O3), DenseCRF2D: unary_from_softmax,
# addPairwiseGaussian(sxy=2), addPairwiseBilateral(sxy=(12, 9), srgb=(13, 20, 30)), inference(4), with
# compat 2, -PER_CLASS or MATRIX (a twentieth of them without normalization). Marginals of labels
# 0, 1, 2, 3 at four pixels, pixels of each label, and the sum of all marginals times (label + 1).
OFFICIAL = [
    ("symmetric", "potts", [0.98666, 0.01327, 0.076258, 0.996761], [193, 192, 191, 192], 1914.19),
    ("symmetric", "per class", [0.998618, 0.003, 0.004895, 0.999962], [227, 94, 186, 261], 2008.038),
    ("symmetric", "matrix", [0.974664, 0.070813, 0.244775, 0.997066], [198, 187, 204, 179], 1908.157),
    ("before", "potts", [0.988248, 0.013861, 0.081827, 0.996786], [193, 192, 191, 192], 1914.621),
    ("before", "per class", [0.998871, 0.003297, 0.00615, 0.999965], [226, 94, 187, 261], 2009.504),
    ("before", "matrix", [0.976263, 0.070478, 0.243495, 0.997042], [196, 190, 204, 178], 1908.777),
    ("after", "potts", [0.985349, 0.012616, 0.070191, 0.996855], [192, 192, 192, 192], 1914.035),
    ("after", "per class", [0.998402, 0.002687, 0.00378, 0.999962], [229, 95, 186, 258], 2007.381),
    ("after", "matrix", [0.973378, 0.071002, 0.245606, 0.997161], [198, 185, 207, 178], 1907.85),
    ("none", "potts", [0.999667, 0.000836, 0.005129, 0.999882], [192, 192, 192, 192], 1919.843),
    ("none", "per class", [0.999992, 2.8e-05, 1.2e-05, 1.0], [192, 4, 192, 380], 2276.357),
    ("none", "matrix", [0.997081, 0.021052, 0.107362, 0.999629], [192, 192, 192, 192], 1917.566),
]


@pytest.mark.parametrize(
    ("normalization", "compatibility", "marginals", "counts", "mass"),
    OFFICIAL,
    ids=[f"{row[0]}-{row[1]}" for row in OFFICIAL],
)
def test_marginals_are_those_of_pydensecrf(
    normalization: Normalization, compatibility: str, marginals: list[float], counts: list[int], mass: float
) -> None:
    image, probabilities = example()
    weight = (2.0 if compatibility == "potts" else 1.0) * (0.05 if normalization == "none" else 1.0)
    mu = {"potts": None, "per class": PER_CLASS, "matrix": MATRIX}[compatibility]
    terms = [
        PairwiseTerm(kernel.term(in_steps(image, 2)).features, weight, mu, normalization)
        for kernel in small_kernels(weight)
    ]
    found = mean_field_marginals(unary_from_probabilities(probabilities), terms, iterations=4).marginals
    at = [found[0, 3, 4], found[1, 11, 15], found[2, 12, 16], found[3, 20, 30]]
    np.testing.assert_allclose(at, marginals, atol=5e-6)
    assert np.bincount(found.argmax(0).ravel(), minlength=4).tolist() == counts
    assert (found.astype(np.float64).sum((1, 2)) * [1, 2, 3, 4]).sum() == pytest.approx(mass, abs=2e-3)


Colors = tuple[np.ndarray, np.ndarray, np.ndarray]


def annotated(folder: Path, name: str) -> Colors:
    """The labels of a picture, -1 for black, and their colours."""
    picture = np.asarray(Image.open(folder / name).convert("RGB")).astype(np.int64)
    codes = picture @ [1, 256, 65536]
    colors = np.unique(codes)
    colors = colors[colors > 0] if 0 in colors else colors
    labels = np.searchsorted(colors, codes)
    return np.where(codes == 0, -1, labels), colors, codes


# pydensecrf 2723c7f, DenseCRF2D with the settings of its example (5 iterations): pixels of each label, and
# the marginals of some pixels that are not sure.
EXAMPLES = [
    ("1", [10965, 65835], {(183, 244): [0.7062, 0.2938], (203, 253): [0.28325, 0.71675]}),
    ("2", [52647, 15513], {(89, 205): [0.29262, 0.70738], (137, 42): [0.66969, 0.33031]}),
    (
        "3",
        [9001, 65558, 2241],
        {(141, 141): [0.73887, 0.00026, 0.26087], (199, 95): [0.79096, 0.19455, 0.01448]},
    ),
]


@pytest.mark.parametrize(("name", "counts", "marginals"), EXAMPLES, ids=[row[0] for row in EXAMPLES])
def test_the_examples_of_pydensecrf_get_its_marginals(
    shared_data: Callable[..., Path],
    name: str,
    counts: list[int],
    marginals: dict[tuple[int, int], list[float]],
) -> None:
    folder = shared_data("data", "densecrf_examples")
    image = np.asarray(Image.open(folder / f"im{name}.png").convert("RGB"))
    labels, colors, _ = annotated(folder, f"anno{name}.png")
    unary = unary_from_labels(labels, len(colors), certainty=0.7, unknown=-1)
    terms = [kernel.term(in_steps(image, 2)) for kernel in (SMOOTHNESS, APPEARANCE)]
    found = mean_field_marginals(unary, terms, iterations=5).marginals
    counted = np.bincount(found.argmax(0).ravel(), minlength=len(colors))
    assert np.abs(counted - counts).sum() <= 4
    for (row, column), expected in marginals.items():
        np.testing.assert_allclose(found[:, row, column], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["1", "1-b", "2", "3"])
def test_the_examples_of_pydensecrf_get_the_labels_that_it_published(
    shared_data: Callable[..., Path], name: str
) -> None:
    folder = shared_data("data", "densecrf_examples")
    image = np.asarray(Image.open(folder / f"im{name[0]}.png").convert("RGB"))
    labels, colors, _ = annotated(folder, f"anno{name}.png")
    published = annotated(folder, f"out{name}.png")[2]
    unary = unary_from_labels(labels, len(colors), certainty=0.7, unknown=-1)
    terms = [kernel.term(in_steps(image, 2)) for kernel in (SMOOTHNESS, APPEARANCE)]
    # The example's own features have rows before columns, which turns the lattice a little.
    swapped = [
        PairwiseTerm(np.concatenate([term.features[1::-1], term.features[2:]]), term.weight) for term in terms
    ]
    found = mean_field_marginals(unary, swapped, iterations=5).marginals
    assert (colors[found.argmax(0)] == published).mean() >= 0.999


@pytest.mark.parametrize("kernels", [small_kernels(2.0), (SMOOTHNESS, APPEARANCE)], ids=["weak", "usual"])
def test_the_lattice_is_close_to_exact_filtering(kernels: tuple[PairwiseKernel, ...]) -> None:
    image, probabilities = example()
    unary = unary_from_probabilities(probabilities)
    terms = [kernel.term(in_steps(image, 2)) for kernel in kernels]
    exact = mean_field_reference(unary, terms, 5)
    found = mean_field_marginals(unary, terms, iterations=5).marginals
    assert np.abs(exact - found).mean() < 0.003
    assert np.abs(exact - found).max() < 0.05
    assert (exact.argmax(0) == found.argmax(0)).mean() > 0.995


def test_without_pairwise_weight_the_labels_are_those_of_the_unary() -> None:
    image, probabilities = example()
    expected = torch.from_numpy(probabilities).argmax(0)
    assert torch.equal(dense_crf(probabilities, image, kernels=()).label_map.labels, expected)
    weightless = dense_crf(probabilities, image, kernels=small_kernels(0.0)).label_map.labels
    assert torch.equal(weightless, expected)
    none = mean_field_marginals(unary_from_probabilities(probabilities), [], iterations=0).marginals
    np.testing.assert_allclose(none, probabilities / probabilities.sum(0), atol=2e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing_but_rounding_and_runs_repeat_exactly(threads: int) -> None:
    image, probabilities = example()
    unary = unary_from_probabilities(probabilities)
    terms = [
        PairwiseTerm(kernel.term(in_steps(image, 2)).features, 1.0, MATRIX) for kernel in small_kernels(1.0)
    ]
    alone = mean_field_marginals(unary, terms).marginals
    together = [mean_field_marginals(unary, terms, threads=threads).marginals for _ in range(2)]
    np.testing.assert_allclose(together[0], alone, atol=2e-6)
    np.testing.assert_array_equal(together[0], together[1])
    np.testing.assert_array_equal(alone, mean_field_marginals(unary, terms).marginals)


def test_the_trace_is_the_free_energy_and_falls() -> None:
    image, probabilities = example()
    unary = unary_from_probabilities(probabilities)
    terms = [kernel.term(in_steps(image, 2)) for kernel in small_kernels(0.5)]
    found = mean_field_marginals(unary, terms, iterations=6, keep_trace=True, threads=2)
    assert len(found.trace) == 6
    assert found.trace[-1] == pytest.approx(free_energy(unary, terms, found.marginals), rel=1e-6)
    assert all(later <= before + 1e-3 for before, later in zip(found.trace, found.trace[1:], strict=False))
    start = mean_field_marginals(unary, terms, iterations=0).marginals
    assert free_energy(unary, terms, start) > found.trace[0]
    again = dense_crf(probabilities, image, iterations=6, kernels=small_kernels(0.5), keep_trace=True)
    assert again.objective == "free energy"
    assert again.trace == pytest.approx(found.trace, rel=1e-6)


def test_a_stationary_point_of_mean_field_has_the_smallest_free_energy_around_it() -> None:
    image, probabilities = example()
    unary = unary_from_probabilities(probabilities)
    for mu in (None, PER_CLASS, MATRIX):
        terms = [
            PairwiseTerm(kernel.term(in_steps(image, 2)).features, 0.3, mu) for kernel in small_kernels(1.0)
        ]
        found = mean_field_marginals(unary, terms, iterations=60).marginals
        least = free_energy(unary, terms, found)
        for label in range(4):
            other = 0.99 * found
            other[label] += 0.01
            assert free_energy(unary, terms, other) > least


def test_a_constant_image_smooths_and_one_class_or_one_pixel_stay() -> None:
    _, probabilities = example()
    plain = dense_crf(probabilities, np.zeros((24, 32, 3), np.uint8)).label_map.labels
    assert len(plain.unique()) <= 4
    one_class = dense_crf(np.ones((1, 5, 7), np.float32), np.zeros((5, 7, 3), np.uint8))
    assert torch.equal(one_class.label_map.labels, torch.zeros(5, 7, dtype=torch.int64))
    one_pixel = dense_crf(np.array([[[0.4]], [[0.6]]]), np.array([[[9, 8, 7]]], np.uint8))
    assert one_pixel.label_map.labels.tolist() == [[1]]


def test_a_16_bit_image_and_floats_give_what_8_bits_give() -> None:
    image, probabilities = example()
    kernels = small_kernels(2.0)
    expected = dense_crf(probabilities, image, iterations=4, kernels=kernels).label_map.labels
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    for same in (image.astype(np.uint16) * 257, image / 255, (tensor / 255).double(), tensor):
        found = dense_crf(probabilities, same, iterations=4, kernels=kernels).label_map.labels
        assert torch.equal(found, expected)
    assert in_steps(image, 2).tolist() == image.transpose(2, 0, 1).tolist()
    assert in_steps(np.ones((2, 2), bool), 2).tolist() == [[[255, 255], [255, 255]]]


def test_any_number_of_channels_and_further_features_follow_edges() -> None:
    probabilities = np.full((2, 12, 20), 0.5, np.float32)
    probabilities[:, 6, 3], probabilities[:, 6, 16] = [0.9, 0.1], [0.1, 0.9]
    expected = torch.arange(20).expand(12, 20) >= 10
    image = np.zeros((12, 20, 5), np.uint8)
    image[:, 10:, 4] = 200
    labels = dense_crf(probabilities, image).label_map.labels
    assert torch.equal(labels, expected.long())
    grey = dense_crf(probabilities, image[..., 4], kernels=(APPEARANCE,)).label_map.labels
    assert torch.equal(grey, expected.long())
    extra = PairwiseTerm(bilateral_features(in_steps(image, 2), 80.0, 13.0), 10.0)
    black = np.zeros((12, 20, 3), np.uint8)
    added = dense_crf(probabilities, black, kernels=(), extra=[extra]).label_map.labels
    assert torch.equal(added, expected.long())


def test_a_volume_is_a_grid_like_any_other() -> None:
    image, probabilities = example()
    volume = np.repeat(image[None], 3, axis=0)
    stacked = np.repeat(probabilities[:, None], 3, axis=1)
    kernels = (PairwiseKernel(2.0, (1e4, 2.0, 2.0)), PairwiseKernel(2.0, (1e4, 9.0, 12.0), 20.0))
    found = dense_crf(stacked, volume, kernels=kernels).label_map.labels
    assert found.shape == (3, 24, 32)
    flat = (PairwiseKernel(2.0, 2.0), PairwiseKernel(2.0, (9.0, 12.0), 20.0))
    assert (found == dense_crf(probabilities, image, kernels=flat).label_map.labels).float().mean() > 0.97
    tensor = torch.from_numpy(volume.transpose(3, 0, 1, 2).copy())
    assert torch.equal(dense_crf(stacked, tensor, kernels=kernels).label_map.labels, found)
    assert position_features((2, 1, 1), 1.0)[:, 1, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("weight", [1e6, 1e30])
def test_huge_weights_and_energies_do_not_overflow(weight: float) -> None:
    image, probabilities = example()
    unary = unary_from_probabilities(probabilities) * 1e6
    unary[0, 0, 0] = np.inf
    terms = [kernel.term(in_steps(image, 2)) for kernel in small_kernels(weight)]
    found = mean_field_marginals(unary, terms).marginals
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found[0, 0, 0] == 0


@pytest.mark.parametrize("k", [7, 8, 9, 24, 25, 50])
def test_any_number_of_classes_fits_the_lanes(k: int) -> None:
    image, _ = example()
    odds = np.random.default_rng(k).random((k, 24, 32)) ** 4
    unary = unary_from_probabilities(odds / odds.sum(0))
    terms = [kernel.term(in_steps(image, 2)) for kernel in small_kernels(2.0)]
    found = mean_field_marginals(unary, terms, iterations=3).marginals
    assert np.abs(found - mean_field_reference(unary, terms, 3)).mean() < 0.1 / k
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_settings_refine_batches_as_the_function_does() -> None:
    image, probabilities = example()
    images = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255
    refine = DenseCrf(iterations=4, kernels=small_kernels(2.0), threads=2)
    batch = torch.from_numpy(probabilities)[None].repeat(2, 1, 1, 1)
    batch[1] = batch[1].flip(0)
    refined = refine(batch, torch.stack([images, images]))
    assert refined.dtype == torch.float32
    expected = dense_crf(probabilities, image, iterations=4, kernels=small_kernels(2.0)).label_map.labels
    assert torch.equal(refined[0].argmax(0), expected)
    torch.testing.assert_close(refined[1], refined[0].flip(0), atol=1e-4, rtol=0)


@pytest.mark.compile
def test_fewer_images_than_maps_are_named() -> None:
    with pytest.raises(ValueError, match="2 maps of probabilities need as many images, got 1"):
        DenseCrf()(torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4))


def test_bad_numbers_are_named() -> None:
    image, probabilities = example()
    wrong = probabilities.copy()
    wrong[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\], got nan"):
        dense_crf(wrong, image)
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\], got -3"):
        dense_crf(np.where(probabilities > 0.9, -3, probabilities), image)
    with pytest.raises(ValueError, match=r"need an image of that size, got \(24, 31\)"):
        dense_crf(probabilities, image[:, :31])
    with pytest.raises(ValueError, match="with 2 axes or 3, got uint8 of shape"):
        dense_crf(probabilities, image[None])
    with pytest.raises(ValueError, match="not finite"):
        dense_crf(probabilities, np.full((24, 32, 3), np.nan))
    with pytest.raises(ValueError, match="one scale per channel of the image, 3 in all, got 2"):
        dense_crf(probabilities, image, kernels=(PairwiseKernel(1.0, 3.0, (1.0, 2.0)),))
    with pytest.raises(ValueError, match="choose larger scales"):
        dense_crf(probabilities, image, kernels=(PairwiseKernel(1.0, 1e-9),))
    with pytest.raises(ValueError, match="at least 0 iterations and 1 thread"):
        dense_crf(probabilities, image, iterations=-1)
    with pytest.raises(ValueError, match=r"4 classes need compatibilities \(4,\) or \(4, 4\)"):
        dense_crf(probabilities, image, kernels=(PairwiseKernel(1.0, 3.0, compatibility=(1.0, 2.0)),))
    unary = unary_from_probabilities(probabilities)
    for bad in (np.nan, -np.inf):
        unary[1, 2, 3] = bad
        with pytest.raises(ValueError, match="must not be nan"):
            mean_field_marginals(unary, [])
    unary[:, 2, 3] = np.inf
    with pytest.raises(ValueError, match="infinity for all classes"):
        mean_field_marginals(unary, [])
    with pytest.raises(ValueError, match=r"features must have the grid \(24, 32\)"):
        mean_field_marginals(unary_from_probabilities(probabilities), [PairwiseTerm(np.zeros((2, 3, 3)))])
    with pytest.raises(ValueError, match="weight of a kernel"):
        PairwiseTerm(np.zeros((2, 3, 3)), float("nan"))
    with pytest.raises(ValueError, match="scale of the color must be above 0"):
        PairwiseKernel(1.0, 3.0, 0.0)


def test_a_failure_in_one_thread_does_not_leave_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probabilities = example()

    def broken(*arguments: object) -> float:
        raise RuntimeError("broken")

    module = importlib.import_module("pixelwise.algorithms.dense_crf")  # the package shows its function
    monkeypatch.setattr(module, "_free_energy", broken)
    with pytest.raises(RuntimeError, match="broken"):
        dense_crf(probabilities, image, keep_trace=True, threads=2)


def test_unary_energies_are_those_of_pydensecrf() -> None:
    labels = np.array([[0, 1, 255]])
    found = unary_from_labels(labels, 3, certainty=0.7, unknown=255)
    right, wrong, unsure = -np.log(0.7), -np.log(0.15), np.log(3)
    np.testing.assert_allclose(found[:, 0, 0], [right, wrong, wrong], rtol=1e-6)
    np.testing.assert_allclose(found[:, 0, 1], [wrong, right, wrong], rtol=1e-6)
    np.testing.assert_allclose(found[:, 0, 2], [unsure] * 3, rtol=1e-6)
    soft = unary_from_probabilities(torch.tensor([[1.0], [0.0]]), certainty=0.8)
    np.testing.assert_allclose(soft[:, 0], [-np.log(0.9), -np.log(0.1)], rtol=1e-6)
    assert unary_from_probabilities(np.array([[1.0], [0.0]]))[1, 0] == pytest.approx(-np.log(1e-5))
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, got 0 to 255"):
        unary_from_labels(labels, 3, certainty=0.7)
    with pytest.raises(ValueError, match="certainty must be between 0 and 1"):
        unary_from_labels(labels, 3, certainty=1.0)
