"""Networks of regions in ONNX Runtime: any number of images of any size, and images without objects."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from pixelwise import build, decode
from pixelwise.export import RegionProgram
from pixelwise.types import Model

SIZES = ((1, 65, 97), (2, 140, 80), (3, 66, 71))


def network(name: str) -> Model:
    """A small network that is sure of many things."""
    torch.manual_seed(0)
    model = build(name, 3, encoder="tiny", width=16, min_size=None).eval()
    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and ("proposals" in key or "head." in key):
            gain = 12.0 if "classes" in key else 1.4
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
    detector(model).head.score_threshold = 0.3
    return model


def detector(model: Model) -> nn.Module:
    return getattr(model, "detector", model)


def expected(model: Model, image: Tensor) -> list[tuple[Tensor, ...]]:
    """Boxes, classes, scores and, of Mask R-CNN, masks of each image."""
    with torch.no_grad():
        output = model(image)
    found = decode.boxes(output)
    if model.tasks == ("detection",):
        return [(one.boxes, one.classes, one.scores) for one in found]
    label = torch.cat([one.classes for one in found]) + 1
    masks = output.mask_logits[torch.arange(len(label)), label].sigmoid()
    parts = masks.split([len(one) for one in found])
    return [(one.boxes, one.classes, one.scores, drawn) for one, drawn in zip(found, parts, strict=True)]


def by_image(flat: tuple[Tensor, ...], count: int) -> list[tuple[Tensor, ...]]:
    boxes, classes, scores, image, *masks = flat
    return [tuple(part[image == n] for part in (boxes, classes, scores, *masks)) for n in range(count)]


def check(model: Model, flat: tuple[Tensor, ...], image: Tensor, least: int) -> None:
    for found, wanted in zip(by_image(flat, len(image)), expected(model, image), strict=True):
        assert len(wanted[0]) >= least
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_the_flat_program_finds_what_the_model_finds(name: str) -> None:
    model = network(name)
    for size in SIZES:
        image = torch.rand(size[0], 3, *size[1:])
        with torch.no_grad():
            check(model, RegionProgram(model)(image), image, 5)
    detector(model).head.score_threshold = 1.0
    with torch.no_grad():
        assert [len(part) for part in RegionProgram(model)(image)][:4] == [0] * 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "name, threshold, least", [("faster_rcnn", 0.3, 5), ("mask_rcnn", 0.3, 5), ("mask_rcnn", 1.0, 0)]
)
def test_one_onnx_file_serves_every_batch_and_size_and_empty_images(
    name: str, threshold: float, least: int, tmp_path: Path
) -> None:
    model = network(name)
    detector(model).head.score_threshold = threshold
    sides = {2: Dim("H", min=65, max=2048), 3: Dim("W", min=65, max=2048)}
    program = torch.onnx.export(
        RegionProgram(model).eval(),
        (torch.rand(2, 3, 97, 131),),
        dynamo=True,
        dynamic_shapes=({0: Dim("b", min=1, max=64), **sides},),
        verbose=False,
    )
    program.save(tmp_path / "regions.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "regions.onnx", providers=["CPUExecutionProvider"])
    name_of_input = session.get_inputs()[0].name
    for count, height, width in SIZES:
        image = torch.rand(count, 3, height, width)
        flat = tuple(torch.from_numpy(part) for part in session.run(None, {name_of_input: image.numpy()}))
        check(model, flat, image, least)
        assert least or len(flat[0]) == 0
