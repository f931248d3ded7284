"""--crf-like: what authors put behind their networks."""

import pytest

from pixelwise.algorithms.dense_crf import USUAL_KERNELS
from pixelwise.cli.options import refinement


def test_without_the_options_nothing_is_refined() -> None:
    assert refinement(False, None) is None


def test_the_usual_settings_are_those_of_pydensecrf() -> None:
    assert refinement(True, None).kernels == USUAL_KERNELS


@pytest.mark.parametrize(
    ("name", "weight", "position", "color"),
    [("deeplabv1_voc", 4, 49, 5), ("deeplabv2_voc", 4, 67, 3), ("deconvnet_voc", 5, 20, 3)],
)
@pytest.mark.parametrize("crf", [None, True])
def test_published_settings_alone_refine(
    crf: bool | None, name: str, weight: float, position: float, color: float
) -> None:
    found = refinement(crf, name)
    assert found.iterations == 10
    smoothness, appearance = found.kernels
    assert (smoothness.weight, smoothness.position, smoothness.color) == (3, 3, None)
    assert (appearance.weight, appearance.position, appearance.color) == (weight, position, color)


def test_settings_that_nobody_published_are_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"--crf-like is one of deeplabv1_voc, .*, got 'deeplabv9'"):
        refinement(True, "deeplabv9")
    with pytest.raises(ValueError, match="--no-crf leaves out what --crf-like asks for"):
        refinement(False, "deeplabv1_voc")
