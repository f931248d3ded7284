"""V-Rand and V-Info beside numbers that are worked out by hand."""

import math

import pytest
import torch

from pixelwise.metrics import membrane_scores

# Two cells of nine pixels, and a membrane of one column between them.
TRUTH = torch.ones(3, 7, dtype=torch.bool)
TRUTH[:, 3] = False


def cells(*membrane: int) -> torch.Tensor:
    """All cells but these columns."""
    found = torch.ones(3, 7, dtype=torch.bool)
    found[:, list(membrane)] = False
    return found


@pytest.mark.parametrize("columns", [(3,), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_the_width_of_a_membrane_does_not_count(columns: tuple[int, ...]) -> None:
    assert membrane_scores(cells(*columns), TRUTH) == pytest.approx((1.0, 1.0))


def test_two_cells_as_one() -> None:
    # p = 1/2, 1/2; s = 1; t = 1/2, 1/2: V-Rand = (1/4 + 1/4) / (1/2 + 1/4). One region tells nothing.
    assert membrane_scores(cells(), TRUTH) == pytest.approx((2 / 3, 0.0))


def test_a_cell_in_two() -> None:
    # Of 18 pixels, regions of 3, 3 and 9 and a line of three pixels, each of them a region of its own.
    squares = (3**2 + 3**2 + 9**2 + 3 * 1**2) / 18**2
    own = 2 * 3 / 18 * math.log2(18 / 3) + 1 / 2 + 3 * 1 / 18 * math.log2(18)
    expected = squares / (squares / 2 + (9**2 + 9**2) / 18**2 / 2), 1 / ((own + 1) / 2)
    assert membrane_scores(cells(1, 3), TRUTH) == pytest.approx(expected)
    assert expected == pytest.approx((0.7727, 0.6543), abs=1e-4)


def test_nothing_but_membrane() -> None:
    # Eighteen regions of a pixel: V-Rand = (18 / 18^2) / (1/2 * 1/18 + 1/2 * 1/2), H(S) = log2(18).
    found = membrane_scores(cells(*range(7)), TRUTH)
    assert found == pytest.approx(((1 / 18) / (1 / 36 + 1 / 4), 2 / (math.log2(18) + 1)))


def test_corners_do_not_join_cells_and_one_cell_is_known_without_information() -> None:
    truth = torch.tensor([[True, False], [False, True]])
    assert membrane_scores(truth, truth) == (1.0, 1.0)
    whole = torch.ones(4, 4, dtype=torch.bool)
    assert membrane_scores(whole, whole) == (1.0, 1.0)


def test_a_truth_without_cells_has_no_score() -> None:
    assert all(math.isnan(score) for score in membrane_scores(TRUTH, torch.zeros_like(TRUTH)))
    with pytest.raises(ValueError, match="of one size"):
        membrane_scores(TRUTH, TRUTH[:2])
