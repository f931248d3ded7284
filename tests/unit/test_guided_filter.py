"""The guided filter against its definition, window by window."""

import numpy as np
import pytest
import torch

from pixelwise.ops import box_mean, guided_coefficients, guided_filter


def by_definition(guide: np.ndarray, p: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """A ridge regression in every window; each pixel takes the mean of all lines through it."""
    c, height, width = guide.shape
    sums, counts = np.zeros((height, width)), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            columns = slice(max(0, x - radius), x + radius + 1)
            colors = guide[:, rows, columns].reshape(c, -1).T
            values = p[rows, columns].ravel()
            away = colors - colors.mean(0)
            a = np.linalg.solve(
                away.T @ away / len(values) + epsilon * np.eye(c),
                away.T @ (values - values.mean()) / len(values),
            )
            b = values.mean() - a @ colors.mean(0)
            sums[rows, columns] += (guide[:, rows, columns] * a[:, None, None]).sum(0) + b
            counts[rows, columns] += 1
    return sums / counts


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("radius", [1, 2, 9])
def test_it_is_the_mean_of_the_ridge_regressions_of_all_windows(channels: int, radius: int) -> None:
    random = np.random.default_rng(channels)
    guide, p = random.random((channels, 7, 10)), random.random((7, 10))
    found = guided_filter(torch.from_numpy(guide)[None], torch.from_numpy(p)[None, None], radius, 1e-2)
    np.testing.assert_allclose(found[0, 0].numpy(), by_definition(guide, p, radius, 1e-2), atol=1e-10)


def test_single_precision_is_near_enough() -> None:
    guide, p = torch.rand(1, 3, 20, 30), torch.rand(1, 1, 20, 30)
    exact = guided_filter(guide.double(), p.double(), 4, 1e-4)
    torch.testing.assert_close(guided_filter(guide, p, 4, 1e-4).double(), exact, atol=5e-3, rtol=0)


def test_a_blurred_border_moves_to_the_edge_of_the_image() -> None:
    guide = torch.zeros(1, 1, 16, 32)
    guide[..., 16:] = 1
    blurred = torch.linspace(0, 1, 32).sub(0.5).mul(3).add(0.5).clamp(0, 1).expand(1, 1, 16, 32)
    found = guided_filter(guide, blurred, 6, 1e-4)
    assert found[..., 15].max() < 0.3 < 0.7 < found[..., 16].min()
    assert blurred[..., 16].max() - blurred[..., 15].min() < 0.1


def test_box_means_count_what_lies_in_the_map() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert float(box_mean(x, 1)[0, 0, 0, 0]) == (0 + 1 + 4 + 5) / 4
    torch.testing.assert_close(box_mean(x, 50), torch.full_like(x, 5.5))
    torch.testing.assert_close(box_mean(x, 0), x)


def test_coefficients_of_a_small_image_serve_the_large_one() -> None:
    guide = torch.rand(1, 3, 10, 12)
    slope, offset = guided_coefficients(guide, guide.mean(1, keepdim=True), 3, 1e-6)
    large = torch.nn.functional.interpolate(guide, scale_factor=4.0)
    up = [torch.nn.functional.interpolate(part, scale_factor=4.0) for part in (slope, offset)]
    torch.testing.assert_close((up[0] * large).sum(1), large.mean(1), atol=0.02, rtol=0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        guided_filter(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 5), 1, 1e-3)
    with pytest.raises(ValueError, match="epsilon"):
        guided_filter(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4), 1, 0)
    with pytest.raises(ValueError, match="radius"):
        guided_filter(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4), -1, 1e-3)
