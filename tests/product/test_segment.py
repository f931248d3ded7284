"""Classical methods as commands, with default threads, on images of 480 x 640 and 12 megapixels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ended, picture


@pytest.mark.parametrize(
    "method",
    [("mean_shift",), pytest.param(("grabcut", "--box", "20,10,600,400"), marks=pytest.mark.slow)],
    ids=lambda method: method[0],
)
def test_segment_an_image(pixelwise: Callable, place: Path, method: tuple[str, ...]) -> None:
    image = "my_folder/images/001.png"
    ended(pixelwise("segment", image, "--method", *method, "--out", "segments"))
    written = sorted((place / "segments").glob(f"001_{method[0]}*.png"))
    assert written
    for path in written:
        picture(path)


def test_segment_12_megapixels(pixelwise: Callable, place: Path) -> None:
    ended(pixelwise("segment", "photos/large.jpg", "--method", "otsu", "--out", "segments"))
    picture(place / "segments" / "large_otsu.png", (4000, 3000))
