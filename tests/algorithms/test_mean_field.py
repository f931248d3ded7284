"""The mean-field layer beside the plain dense CRF, and its gradients beside finite differences."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.algorithms.dense_crf import mean_field_marginals
from pixelwise.algorithms.dense_crf_energy import (
    APPEARANCE,
    SMOOTHNESS,
    Normalization,
    PairwiseKernel,
    PairwiseTerm,
    in_steps,
)
from pixelwise.algorithms.mean_field import (
    DenseCrfLayer,
    GaussianFilter,
    KernelWeights,
    mean_field,
    torch_lattice,
)
from pixelwise.kernels.classical.lattice import build_lattice
from pixelwise.kernels.classical.lattice_filter import lattice_filter

KERNELS = (PairwiseKernel(2.0, 2.0), PairwiseKernel(3.0, (9.0, 12.0), (13.0, 20.0, 30.0)))


def batch(b: int = 2, k: int = 3, size: tuple[int, ...] = (9, 12)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(b, k, *size, generator=generator)
    return scores, torch.rand(b, 3, *size, generator=generator)


def plain(scores: Tensor, image: Tensor, kernels: tuple[PairwiseKernel, ...], iterations: int) -> Tensor:
    """Marginals of one image by `mean_field_marginals`."""
    terms = [kernel.term(in_steps(image, image.ndim - 1)) for kernel in kernels]
    found = mean_field_marginals(-scores.double().numpy(), terms, iterations=iterations)
    return torch.from_numpy(found.marginals)


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
@pytest.mark.parametrize("way", ["compiled", "float64", "torch"])
def test_the_layer_starts_as_the_plain_dense_crf(normalization: Normalization, way: str) -> None:
    factor = 0.05 if normalization == "none" else 1.0
    kernels = tuple(
        PairwiseKernel(factor * kernel.weight, kernel.position, kernel.color, None, normalization)
        for kernel in KERNELS
    )
    scores, image = batch()
    layer = DenseCrfLayer(3, kernels, num_iterations=4, learn_bandwidths=way == "torch")
    if way == "float64":
        scores, image = scores.double(), image.double()
    marginals = layer(scores, image).softmax(1)
    assert marginals.dtype == scores.dtype
    for one, own_scores, own_image in zip(marginals, scores, image, strict=True):
        expected = plain(own_scores, own_image, kernels, 4)
        torch.testing.assert_close(one.float(), expected, atol=5e-4, rtol=0)


def test_a_volume_goes_through_the_layer() -> None:
    scores, image = batch(1, 2, (3, 6, 5))
    kernels = (PairwiseKernel(1.0, 2.0), PairwiseKernel(2.0, 9.0, 30.0))
    found = DenseCrfLayer(2, kernels, num_iterations=3)(scores, image).softmax(1)[0]
    torch.testing.assert_close(found, plain(scores[0], image[0], kernels, 3), atol=5e-4, rtol=0)


@pytest.mark.parametrize("d", [1, 2, 5, 12])
def test_the_lattice_of_torch_filters_as_the_compiled_one(d: int) -> None:
    random = np.random.default_rng(d)
    features = random.normal(size=(d, 120)).astype(np.float32) * 2
    values = random.normal(size=(120, 5)).astype(np.float32)
    lattice = torch_lattice(torch.from_numpy(features), groups=2)
    expected = build_lattice(features, groups=2)
    np.testing.assert_allclose(lattice.weights.T, expected.weights, atol=1e-5)
    assert lattice.neighbours.shape[2] == expected.num_vertices
    learned = torch.from_numpy(features).requires_grad_()  # which takes the lattice of torch
    gaussian = GaussianFilter(learned, groups=2, normalization="none")
    found = gaussian(torch.from_numpy(values)).detach()
    np.testing.assert_allclose(found, lattice_filter(expected, values), atol=1e-5, rtol=1e-4)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    scores, image = batch()
    for layer in (DenseCrfLayer(3, KERNELS), DenseCrfLayer(3, KERNELS, learn_bandwidths=True)):
        together = layer(scores, image)
        apart = torch.cat([layer(scores[i : i + 1], image[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def called(layer: DenseCrfLayer, scores: Tensor, image: Tensor, *parameters: Tensor) -> Tensor:
    names = [name for name, _ in layer.named_parameters()]
    given = dict(zip(names, parameters, strict=True))
    result: Tensor = torch.func.functional_call(layer, given, (scores, image))
    return result


@pytest.mark.parametrize(
    ("normalization", "kernel_weights"),
    [("none", "matrix"), ("before", "scalar"), ("after", "class"), ("symmetric", "matrix")],
)
def test_gradients_of_scores_weights_compatibilities_and_bandwidths_are_exact(
    normalization: Normalization, kernel_weights: KernelWeights
) -> None:
    kernels = (
        PairwiseKernel(0.4, 1.3, None, None, normalization),
        PairwiseKernel(0.6, 3.1, 90.0, None, normalization),
    )
    layer = DenseCrfLayer(
        3, kernels, num_iterations=2, kernel_weights=kernel_weights, learn_bandwidths=True
    ).double()
    with torch.no_grad():
        layer.compatibility.add_(0.1 * torch.randn(3, 3))
        for bandwidths in layer.bandwidths:  # away from the edges of the simplices
            bandwidths.add_(0.05 * torch.rand_like(bandwidths))
    scores, image = (x.double() for x in batch(2, 3, (3, 4)))
    parameters = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    inputs = (scores.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(
        lambda own, *rest: called(layer, own, image, *rest),
        inputs,
        eps=1e-7,
        atol=1e-5,
        rtol=1e-4,
        fast_mode=True,
    )


def test_gradients_of_the_compiled_lattice_are_those_of_torch() -> None:
    scores, image = batch()
    layer = DenseCrfLayer(3, KERNELS, num_iterations=3, kernel_weights="matrix")
    double = copy.deepcopy(layer).double()
    gradients: list[list[Tensor | None]] = []
    for network, own, picture in ((layer, scores, image), (double, scores.double(), image.double())):
        own = own.clone().requires_grad_()
        F.cross_entropy(network(own, picture), own.argmax(1).flip(1)).backward()
        gradients.append([own.grad, *(p.grad for p in network.parameters() if p.requires_grad)])
    for found, expected in zip(*gradients, strict=True):
        assert found is not None
        assert found.abs().max() > 0
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-3)


def test_every_parameter_that_learns_gets_a_finite_gradient() -> None:
    scores, image = batch()
    layer = DenseCrfLayer(3, KERNELS, learn_bandwidths=True)
    F.cross_entropy(layer(scores, image), scores.argmax(1).flip(1)).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert [p.requires_grad for p in DenseCrfLayer(3, KERNELS).bandwidths] == [False, False]


def test_a_layer_behind_a_network_learns_to_trust_the_image() -> None:
    image = torch.zeros(1, 3, 12, 16)
    image[..., 8:] = 0.8
    target = (image[:, 0] > 0.4).long()
    generator = torch.Generator().manual_seed(1)
    clues = F.one_hot(target, 2).permute(0, 3, 1, 2) + 1.5 * torch.randn(1, 2, 12, 16, generator=generator)
    head = nn.Conv2d(2, 2, 1)
    kernels = (PairwiseKernel(0.1, 2.0), PairwiseKernel(0.1, 20.0, 13.0))
    crf = DenseCrfLayer(2, kernels, num_iterations=3, kernel_weights="class")
    optimizer = torch.optim.Adam([*head.parameters(), *crf.parameters()], lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(crf(head(clues), image), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 < losses[0]
    assert torch.equal(crf(head(clues), image).argmax(1), target)


def test_bandwidths_learn_what_tells_the_labels_apart() -> None:
    """A far too wide colour scale becomes narrower, as in Kraehenbuehl and Koltun (2013)."""
    image = torch.zeros(1, 1, 10, 14)
    image[..., 7:] = 0.1
    target = (image[:, 0] > 0.05).long()
    scores = torch.zeros(1, 2, 10, 14)
    scores[0, :, 5, 3], scores[0, :, 5, 10] = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0])
    layer = DenseCrfLayer(2, (PairwiseKernel(4.0, 30.0, 60.0),), num_iterations=3, learn_bandwidths=True)
    optimizer = torch.optim.Adam(layer.bandwidths.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(scores, image), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert layer.bandwidths[0][1] < -0.3


def test_matrices_of_weights_and_compatibilities_do_what_the_plain_crf_does_with_its_matrix() -> None:
    scores, image = batch(1)
    mu = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.5], [2.0, 1.5, 0.0]])
    layer = DenseCrfLayer(3, KERNELS, num_iterations=4, kernel_weights="matrix")
    with torch.no_grad():
        layer.compatibility.copy_(mu)
    terms = [
        PairwiseTerm(kernel.term(in_steps(image[0], 2)).features, kernel.weight, mu.numpy())
        for kernel in KERNELS
    ]
    expected = mean_field_marginals(-scores[0].numpy(), terms, iterations=4).marginals
    np.testing.assert_allclose(layer(scores, image).softmax(1)[0].detach(), expected, atol=5e-4)


def test_no_iteration_gives_the_scores_and_half_precision_is_raised() -> None:
    scores, image = batch()
    assert torch.equal(DenseCrfLayer(3, KERNELS, num_iterations=0)(scores, image), scores)
    found = DenseCrfLayer(3, (SMOOTHNESS, APPEARANCE))(scores.bfloat16(), image)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert torch.equal(mean_field(scores[0, :, 0].T, [], [], torch.eye(3), 3), scores[0, :, 0].T)


def test_what_cannot_be_is_named() -> None:
    scores, image = batch()
    with pytest.raises(ValueError, match="has 4 classes, the scores have 3"):
        DenseCrfLayer(4)(scores, image)
    with pytest.raises(ValueError, match="choose larger scales"):
        DenseCrfLayer(3)(scores, image * float("nan"))
    with pytest.raises(ValueError, match="2 scales of colour need as many channels, got 3"):
        DenseCrfLayer(3, (PairwiseKernel(1.0, 3.0, (1.0, 2.0)),))(scores, image)
    with pytest.raises(ValueError, match="at least 1 class"):
        DenseCrfLayer(0)
    with pytest.raises(ValueError, match="one compatibility for all kernels"):
        DenseCrfLayer(2, (PairwiseKernel(1.0, 3.0, compatibility=(1.0, 2.0)),))


@pytest.mark.compile
def test_an_unknown_kind_of_weights_and_an_image_of_another_size_are_named() -> None:
    scores, image = batch()
    with pytest.raises(ValueError, match="need images of their size"):
        DenseCrfLayer(3)(scores, image[..., 1:])
    with pytest.raises(ValueError, match="must be one of scalar, class, matrix, got 'vector'"):
        DenseCrfLayer(2, kernel_weights="vector")  # type: ignore[arg-type]
