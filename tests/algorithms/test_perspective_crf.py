"""The random field of FoveaNet: a plain dense CRF where nothing is far, and gentle to what is."""

import numpy as np
import pytest

from pixelwise.algorithms import SMOOTHNESS, PairwiseKernel, dense_crf_energy, perspective_crf
from pixelwise.algorithms.dense_crf import USUAL_KERNELS, mean_field_marginals
from pixelwise.algorithms.perspective_crf import perspective_features

RANDOM = np.random.default_rng(3)
IMAGE = (255 * RANDOM.random((3, 14, 18))).astype(np.float32)
PROBABILITIES = RANDOM.dirichlet(np.ones(3), (14, 18)).transpose(2, 0, 1).astype(np.float32)


def test_without_distance_it_is_the_dense_crf() -> None:
    plain = mean_field_marginals(
        dense_crf_energy.unary_from_probabilities(PROBABILITIES), [one.term(IMAGE) for one in USUAL_KERNELS]
    )
    found = perspective_crf(PROBABILITIES, IMAGE, np.zeros((14, 18)))
    np.testing.assert_allclose(found.marginals, plain.marginals, atol=1e-4)


def test_distance_stretches_the_coordinates() -> None:
    remoteness = np.repeat(np.linspace(0.9, 0, 10)[:, None], 6, 1)
    x, y = perspective_features(remoteness, 4.0)
    np.testing.assert_allclose(np.diff(x, axis=1), (1 / (4 * (1 - remoteness)))[:, 1:], rtol=1e-5)
    steps = np.diff(y[:, 0])
    assert (np.diff(steps) < 0).all()
    assert perspective_features(np.ones((1, 3)), 4.0, least=0.5)[0].tolist() == [[0, 0.5, 1]]


def test_a_small_thing_survives_only_where_it_may_be_far_away() -> None:
    probabilities = np.full((2, 21, 21), 0.2, np.float32)
    probabilities[0] = 0.8
    probabilities[:, 9:12, 9:12] = np.array([0.35, 0.65])[:, None, None]
    grey = np.full((3, 21, 21), 90, np.float32)
    smooth = (PairwiseKernel(weight=3.0, position=3.0),)
    near = perspective_crf(probabilities, grey, np.zeros((21, 21)), kernels=smooth).marginals.argmax(0)
    far = perspective_crf(probabilities, grey, np.full((21, 21), 0.9), kernels=smooth).marginals.argmax(0)
    assert near[10, 10] == 0
    assert far[10, 10] == 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        perspective_crf(PROBABILITIES, IMAGE, np.zeros((14, 17)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        perspective_crf(PROBABILITIES, IMAGE, np.full((14, 18), 1.5))
    with pytest.raises(ValueError, match="one width for both axes"):
        perspective_crf(PROBABILITIES, IMAGE, np.zeros((14, 18)), kernels=(PairwiseKernel(1.0, (2.0, 3.0)),))
    with pytest.raises(ValueError, match=r"least in \(0, 1\]"):
        perspective_features(np.zeros((2, 2)), SMOOTHNESS.position, least=0.0)
