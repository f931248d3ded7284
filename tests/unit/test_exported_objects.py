"""Networks of one stage and DETR as ONNX files: what is found is what the model finds, also nothing."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import pixelwise as pw
from pixelwise import decode
from pixelwise.checkpoint import save
from pixelwise.export import export_onnx, load_onnx, onnx_model
from pixelwise.export.onnx_objects import KINDS, OnnxObjects, put_together, taken_apart, unscaled, with_size
from pixelwise.types import Boxes, ClassTable, MaskSet, Model, PanopticMap

CLASSES = ClassTable(("sky", "road", "car"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), things=(0, 1, 2))
NAMES = ("centermask", "condinst", "detr", "detr_panoptic", "polarmask", "solov2", "tensormask", "yolact")
SMALL = {"encoder": "tiny", "width": 16, "num_queries": 6, "blocks": 1}


def network(name: str, *, sure: bool = True, scale: int | None = None) -> Model:
    """A network that is sure of a few things, or of none."""
    from pixelwise.registry import taken_by

    torch.manual_seed(0)
    arguments = SMALL | ({"size": scale} if name == "yolact" else {"min_size": scale})
    model = pw.build(name, 3, **taken_by(name, arguments)).eval()
    with torch.no_grad():
        for key, module in model.named_modules():
            if key.endswith("classes") and isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(8.0)
                of_background = {"detr": slice(-1, None), "yolact": slice(None, None, 4)}.get(
                    name.partition("_")[0]
                )
                module.bias.fill_(1.0 if sure else -50.0)
                if of_background is not None:
                    module.bias[of_background] = 0.0 if sure else 50.0
            if key.startswith("head.masks."):
                module.bias.fill_(2.0)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_an_output_is_put_together_as_it_was(name: str) -> None:
    model = network(name)
    assert isinstance(model, KINDS)
    with torch.no_grad():
        output = model(torch.rand(1, 3, 70, 90))
    form, tensors, sizes = taken_apart(output)
    again = put_together(form, tensors, sizes)
    assert type(again) is type(output)
    for meaning in (decode.instances, decode.boxes) if name not in ("detr", "detr_panoptic") else ():
        assert torch.equal(meaning(again)[0].scores, meaning(output)[0].scores)
    (found,) = (decode.boxes if name == "detr" else decode.instances)(with_size(again, (140, 180)))
    assert len(found)
    assert found.boxes.max() > 90 if isinstance(found, Boxes) else found.size == (140, 180)


def test_inside_images_are_taken_as_they_are_and_afterwards_not() -> None:
    model = network("condinst", scale=110)
    image = torch.rand(1, 3, 70, 90)
    with torch.no_grad():
        with unscaled(model):
            assert model(image).objects.scales.canvas == (70, 90)
        assert model(image).objects.scales.canvas == (110, 141)


@pytest.mark.parametrize(("height", "width", "seen"), [(33, 1200, "36 x 1333"), (40, 45, "40 x 45")])
def test_sizes_that_the_program_does_not_take_are_told(height: int, width: int, seen: str) -> None:
    output = {"min_size": 96 if width > 45 else None, "max_size": 1333, "names": [], "value": {}}
    about = {"in_channels": 3, "minimum_size": 32, "tasks": ["instance"], "output": output}
    model = OnnxObjects(None, about)  # without a program, which is never asked
    with pytest.raises(ValueError, match=f"must see images of 64 to 4096 pixels on each side, got {seen}"):
        model(torch.rand(1, 3, height, width))


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.parametrize(("sure", "scale"), [(True, None), (False, None), (True, 110)])
@pytest.mark.parametrize("name", NAMES)
def test_objects_are_those_of_the_model(name: str, sure: bool, scale: int | None, tmp_path: Path) -> None:
    model = network(name, sure=sure, scale=scale)
    compared = export_onnx(model, tmp_path / "model.onnx", CLASSES)
    assert max(one.largest for one in compared) < 1e-4
    assert {one.size[0] for one in compared} == {1, 3}
    settings = {"decoding": {"min_score": 0.0}}
    for size in ((97, 131), (140, 80)):
        image = torch.rand(3, *size)
        expected = pw.Predictor(model, CLASSES, **settings)(image).annotation
        found = pw.Predictor(tmp_path / "model.onnx", **settings)(image).annotation
        assert type(found) is type(expected)
        if isinstance(expected, MaskSet | Boxes):
            assert len(found) == len(expected)
            assert bool(len(found)) == (sure or name == "detr")  # each of whose queries is a box
            torch.testing.assert_close(found.scores, expected.scores, atol=2e-3, rtol=0)
            torch.testing.assert_close(found.classes, expected.classes)
        if isinstance(expected, PanopticMap):
            assert expected.id_map.shape == size
            assert torch.equal(found.classes, expected.classes)
            assert (found.id_map != expected.id_map).float().mean() < 0.03  # of queries that nearly agree
        if isinstance(expected, MaskSet):
            assert found.size == size
            # Scores of random weights lie near the threshold: some pixels fall on its other side.
            assert len(found) == 0 or (found.dense ^ expected.dense).float().mean() < 1e-2


@pytest.mark.slow
@pytest.mark.compile
def test_the_commands_export_and_predict_in_processes_of_their_own(tmp_path: Path) -> None:
    model = network("condinst", scale=96)
    save(model, tmp_path / "model.safetensors", CLASSES, task="instance")
    pw.data.write_image(tmp_path / "photo.png", torch.rand(3, 240, 320))

    def pixelwise(*words: str) -> str:
        command = [sys.executable, "-m", "pixelwise", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    assert "differs by at most" in pixelwise("export", "model.safetensors", "--out", "model.onnx")
    for name in ("model.safetensors", "model.onnx"):
        pixelwise("predict", name, "photo.png", "--out", name.partition(".")[2])
    files = [sorted(path.name for path in (tmp_path / kind).rglob("*.*")) for kind in ("safetensors", "onnx")]
    assert files[0] == files[1]
    assert files[0]
    with pytest.raises(ValueError, match="must see images of 64 to 4096 pixels on each side, got 36 x 1333"):
        load_onnx(tmp_path / "model.onnx").model(torch.rand(1, 3, 33, 1200))

    strange = onnx.load(tmp_path / "model.onnx")
    text = next(one for one in strange.metadata_props if one.key == onnx_model.KEY)
    text.value = text.value.replace("pixelwise.models.fcos.places:Scales", "subprocess:Popen")
    onnx.save(strange, tmp_path / "strange.onnx")
    with pytest.raises(ValueError, match="not of this package"):
        load_onnx(tmp_path / "strange.onnx")
