"""The losses against numbers worked by hand."""

import pytest
import torch

from pixelwise.style import content_loss, gram_matrix, style_loss, total_variation


def test_a_gram_matrix_is_the_one_worked_by_hand() -> None:
    # Two channels on a map of 1 x 3: (1, 2, 3) and (0, 1, -1).
    features = torch.tensor([[[1.0, 2, 3]], [[0.0, 1, -1]]])
    # 1 + 4 + 9 = 14, 0 + 2 - 3 = -1, 0 + 1 + 1 = 2, over 3 places.
    torch.testing.assert_close(gram_matrix(features), torch.tensor([[14.0, -1], [-1, 2]]) / 3)


def test_the_gram_matrix_of_a_region_is_that_of_its_places_alone() -> None:
    features, inside = torch.rand(5, 6, 7), torch.rand(6, 7) > 0.6
    part = features[:, inside][:, None]  # c 1 n
    torch.testing.assert_close(gram_matrix(features, inside.float()), gram_matrix(part))


def test_a_gram_matrix_does_not_know_where_things_are() -> None:
    features = torch.rand(4, 6, 5)
    shuffled = features.flatten(1)[:, torch.randperm(30)].view(4, 5, 6)
    torch.testing.assert_close(gram_matrix(shuffled), gram_matrix(features))


def test_content_and_style_loss_are_those_of_the_paper() -> None:
    a, b = torch.rand(3, 4, 5, dtype=torch.float64), torch.rand(3, 4, 5, dtype=torch.float64)
    places, channels = 20, 3
    content, style = 0.0, 0.0
    for i in range(channels):
        content += sum(0.5 * float(x - y) ** 2 for x, y in zip(a[i].flatten(), b[i].flatten(), strict=True))
        for j in range(channels):
            g, other = float((a[i] * a[j]).sum()), float((b[i] * b[j]).sum())
            style += (g - other) ** 2 / (4 * channels**2 * places**2)
    assert float(content_loss(a, b)) == pytest.approx(content)
    assert float(style_loss(gram_matrix(a), gram_matrix(b))) == pytest.approx(style)


def test_total_variation_is_zero_for_one_colour_and_the_slope_of_a_ramp() -> None:
    assert float(total_variation(torch.full((3, 4, 5), 0.3))) == pytest.approx(0, abs=1e-7)
    ramp = torch.arange(6.0).mul(0.1).expand(1, 4, 6)
    assert float(total_variation(ramp)) == pytest.approx((0.01 + (1 / 255) ** 2) ** 0.5 - 1 / 255, rel=1e-5)
