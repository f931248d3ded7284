"""Tiles give back what they were cut from, and what the whole image would have given."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from pixelwise.predict import bands, tile, tiled, untile
from pixelwise.types import DenseLogits

BLENDS = ["gaussian", "constant", "crop"]


def network(depth: int = 3, k: int = 4) -> tuple[object, int]:
    """A stack of zero-padded 3x3 convolutions, and the radius of its receptive field."""
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    body = nn.Sequential(*layers, nn.Conv2d(8, k, 3, padding=1)).double().requires_grad_(False)
    return (lambda image: DenseLogits(body(image.double()), tuple(image.shape[-2:]))), depth


@st.composite
def cuts(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    image = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    overlap = tuple(draw(st.integers(0, side - 1)) for side in size)
    return image, size, overlap


@settings(max_examples=60, deadline=None)
@given(cuts(), st.sampled_from(BLENDS))
def test_cutting_and_joining_gives_the_image_back(cut: tuple, blend: str) -> None:
    image_size, size, overlap = cut
    image = torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
    tiles = tile(image, size, overlap)
    assert tiles.shape[-2:] == tuple(min(a, b) for a, b in zip(size, image_size, strict=True))
    back = untile(tiles, image_size, size, overlap, blend=blend)
    torch.testing.assert_close(back, image, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("image", [(50, 61), (20, 70), (16, 16), (9, 9)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_that_overlap_by_the_receptive_field_equal_the_whole_image(
    image: tuple[int, int], batch_size: int
) -> None:
    f, radius = network()
    x = torch.rand(2, 3, *image)
    whole = f(x)
    pieces = tiled(f, (16, 20), 2 * radius + 1, blend="crop", batch_size=batch_size)(x)
    assert pieces.size == image
    torch.testing.assert_close(pieces.logits, whole.logits.float(), atol=1e-6, rtol=1e-6)


def test_a_smaller_overlap_does_not_equal_the_whole_image() -> None:
    f, radius = network()
    x = torch.rand(1, 3, 40, 40)
    pieces = tiled(f, (16, 16), 2 * radius - 1, blend="crop")(x)
    assert not torch.allclose(pieces.logits, f(x).logits.float(), atol=1e-4)


@pytest.mark.parametrize("blend", BLENDS)
def test_every_blend_equals_the_whole_image_where_pixels_are_judged_alone(blend: str) -> None:
    x = torch.rand(1, 3, 33, 45)
    pieces = tiled(
        lambda image: DenseLogits(3 * image, tuple(image.shape[-2:])), (10, 12), (3, 5), blend=blend
    )(x)
    torch.testing.assert_close(pieces.logits, 3 * x)


def test_a_bell_trusts_the_middle_of_a_tile() -> None:
    # Two tiles of 16 that share 8: the first says 0, the second 1. Trust moves over.
    says = iter((0.0, 1.0))
    f = lambda image: DenseLogits(torch.full_like(image[:, :1], next(says)), tuple(image.shape[-2:]))  # noqa: E731
    row = tiled(f, (8, 16), (0, 8))(torch.zeros(1, 3, 8, 24)).logits[0, 0, 0]
    assert (row[:8] == 0).all()
    assert (row[16:] == 1).all()
    assert (row[8:16].diff() > 0).all()
    assert row[8] < 0.05
    torch.testing.assert_close(row[8:16] + row[8:16].flip(0), torch.ones(8))


def test_bands_come_from_top_to_bottom_and_never_hold_the_whole_image() -> None:
    seen: list[int] = []

    def f(image: Tensor) -> DenseLogits:
        seen.append(image.shape[0])
        return DenseLogits(image, tuple(image.shape[-2:]))

    x = torch.rand(1, 3, 100, 30)
    found = []
    for number, band in enumerate(bands(f, x, (20, 10), 5, batch_size=2)):
        found.append(band)
        if number == 0:
            # One row of five tiles, and one that came in the batch of the last: the rest is not computed yet.
            assert sum(seen) == 5 + 1
    assert max(seen) == 2
    assert max(band.shape[2] for band in found) <= 20
    assert len(found) == 7
    torch.testing.assert_close(torch.cat(found, dim=2), x)


def test_coarse_maps_are_tiled_at_the_size_of_the_image() -> None:
    def f(image: Tensor) -> DenseLogits:
        return DenseLogits(nn.functional.avg_pool2d(image, 4), tuple(image.shape[-2:]))

    x = torch.full((1, 3, 32, 48), 0.25)
    torch.testing.assert_close(tiled(f, (16, 16), 4)(x).logits, x)


@pytest.mark.parametrize(
    "size, overlap, blend, said",
    [
        ((8, 8), 8, "crop", "got 8 of 8"),
        ((8, 8), -1, "crop", "got -1 of 8"),
        ((8, 4), (0, 5), "crop", "got 5 of 4"),
        ((0, 8), 0, "crop", "got 0 of 0"),
    ],
)
def test_wrong_tiles_are_told(size: tuple, overlap: object, blend: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiled(lambda image: DenseLogits(image, (1, 1)), size, overlap, blend=blend)


@pytest.mark.compile  # the shape checker would refuse it first
def test_an_unknown_blend_is_told() -> None:
    with pytest.raises(ValueError, match="blend must be one of gaussian, constant, crop, got 'smooth'"):
        tiled(lambda image: DenseLogits(image, (1, 1)), (8, 8), 0, blend="smooth")


def test_a_wrong_number_of_tiles_is_told() -> None:
    tiles = tile(torch.rand(1, 3, 20, 20), (8, 8), 2)
    with pytest.raises(ValueError, match="has 9 tiles, got 8"):
        untile(tiles[:-1], (20, 20), (8, 8), 2)
