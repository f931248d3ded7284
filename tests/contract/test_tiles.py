"""Tiles that overlap by the receptive field give exactly what the whole image gives, for local networks."""

import pytest
import torch

from pixelwise.ops import measured_receptive_field
from pixelwise.registry import build
from pixelwise.tiling import blocks, grid
from tests.contract.test_models import in_turn, small_arguments

SEEN = 320  # side of the image on which a receptive field is measured
STRIDE = 32
QUICK = ("fcn", "linknet", "unet", "msci", "segformer")
# What these look at follows from the whole image without a gradient that would tell.
GLOBAL = ("dsspn", "emanet", "foveanet")


def names() -> list[object]:
    every = [parameter.values[0] for parameter in in_turn() if not parameter.marks]
    slow = [name for name in every if name not in (*QUICK, *GLOBAL)]
    return [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


@pytest.mark.parametrize("name", names())
def test_tiles_with_a_halo_equal_the_whole_image(name: str) -> None:
    model = build(name, 3, **small_arguments(name)).eval()
    for parameter in model.parameters():
        if not parameter.any():  # heads that start at zero would show nothing
            torch.nn.init.normal_(parameter, std=0.05)
    field = max(measured_receptive_field(model, (SEEN, SEEN)))
    if field >= SEEN:
        assert name not in QUICK
        return  # it sees all of this image: no halo is large enough
    overlap = -(-(field + STRIDE) // STRIDE) * STRIDE
    tile = (overlap + 64, overlap + 64)
    image = torch.rand(1, model.in_channels, tile[0] + 128, tile[1] + 64, dtype=torch.double)
    model = model.double()
    found = None
    axes = grid(image.shape[2:], tile, overlap, "crop", STRIDE)
    assert len(axes[0]) > 2
    with torch.no_grad():
        whole = model(image).logits
        for block in blocks(model, lambda place: image[(..., *place)], axes, "crop"):
            part = block.output.logits[(..., *block.inside)]
            found = part.new_full(whole.shape, torch.nan) if found is None else found
            found[(..., *block.place)] = part
    assert found is not None
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-6 * float(whole.abs().max()))
