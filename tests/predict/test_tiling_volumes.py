"""Tiles of volumes: as of images, along three axes."""

import pytest
import torch
from torch import Tensor, nn

from pixelwise.tiling import bands, tile, tiled, untile
from pixelwise.types import DenseLogits


def local(volume: Tensor) -> DenseLogits:
    """A network that sees one voxel around each."""
    kernel = torch.linspace(-1, 1, 27).view(1, 1, 3, 3, 3)
    return DenseLogits(nn.functional.conv3d(volume, kernel, padding=1), tuple(volume.shape[2:]))


@pytest.mark.parametrize("size, overlap", [((8, 8, 8), 4), ((6, 10, 7), (2, 4, 3)), ((30, 9, 8), 2)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_scores_are_those_of_the_whole_volume(
    size: tuple[int, int, int], overlap: int | tuple[int, int, int], batch_size: int
) -> None:
    volume = torch.rand(2, 1, 19, 21, 17)
    found = tiled(local, size, overlap, blend="crop", batch_size=batch_size)(volume)
    assert found.size == (19, 21, 17)
    torch.testing.assert_close(found.logits, local(volume).logits)


@pytest.mark.parametrize("blend", ["gaussian", "constant", "crop"])
def test_tiles_come_together_again(blend: str) -> None:
    volume = torch.rand(1, 2, 13, 9, 16)
    tiles = tile(volume, (6, 5, 8), 2)
    assert tiles.shape[2:] == (2, 6, 5, 8)
    torch.testing.assert_close(untile(tiles, (13, 9, 16), (6, 5, 8), 2, blend=blend), volume)


def test_slices_are_told_as_soon_as_they_are_known() -> None:
    looked_at: list[int] = []

    def f(patch: Tensor) -> DenseLogits:
        looked_at.append(len(patch))
        return local(patch)

    told = bands(f, torch.rand(1, 1, 40, 8, 8), (10, 8, 8), 2)
    first = next(told)
    assert len(looked_at) == 1  # the second tile has no part in these rows
    assert first.shape[2:] == (8, 8, 8)
    assert sum(band.shape[2] for band in told) + 8 == 40


def test_tiles_with_other_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="tiles of 2 axes do not fit an image of 3"):
        tiled(local, (8, 8), 2)(torch.rand(1, 1, 9, 9, 9))
