"""Models as ONNX files: the same results at any size, and no file that computes something else."""

import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.checkpoint import save
from pixelwise.export import export_onnx, load_onnx, onnx_model
from pixelwise.ops.pooling import adaptive_average_pool
from pixelwise.types import ClassTable, LabelMap, MaskSet

pytestmark = pytest.mark.compile
CLASSES = ClassTable.of("sky", "road", "car")


def small(name: str = "pspnet") -> pw.types.Model:
    """A network with norms that have seen something."""
    torch.manual_seed(3)
    model = pw.build(name, 3, encoder="tiny")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[pw.types.Model, Path]:
    """A PSPNet, whose pooling has bins, and its file."""
    model, path = small(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    found = export_onnx(model, path, CLASSES)
    assert max(one.largest for one in found) < 1e-4
    return model, path


@pytest.mark.parametrize("size", [(2, 3), (1, 4), (7, 5), (None, 2), 3])
@pytest.mark.parametrize("shape", [(5, 7), (12, 9), (3, 20)])
def test_pooling_by_matrices_is_adaptive_pooling(size, shape) -> None:
    x = torch.randn(2, 3, *shape)
    torch.testing.assert_close(adaptive_average_pool(x, size), F.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("size", [(1, 51, 67), (2, 96, 40), (3, 130, 166)])
def test_scores_are_those_of_the_model_at_any_size(written, size) -> None:
    model, path = written
    image = torch.rand(size[0], 3, *size[1:])
    with torch.no_grad():
        expected, found = model(image), load_onnx(path).model(image)
    assert found.size == expected.size
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)


class Remainders(torch.nn.Module):
    """What remains of integers and of numbers, some below 0, divided by a size."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = x.shape
        return torch.arange(-3, width, device=x.device) % (height - 9), x % (1 - height)


def test_remainders_of_sizes_are_those_of_torch(tmp_path: Path) -> None:
    module, path = Remainders(), tmp_path / "remainders.onnx"
    sizes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    program = torch.export.export(module, (torch.randn(4, 7),), dynamic_shapes=(sizes,))
    onnx_program = torch.onnx.export(
        program, dynamo=True, verbose=False, custom_translation_table=onnx_model._TRANSLATIONS
    )
    assert onnx_program is not None
    onnx_program.save(str(path))
    session = onnxruntime.InferenceSession(str(path))
    for size in ((4, 7), (6, 5), (3, 8)):
        x = 10 * torch.randn(size)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for one, expected in zip(found, module(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), expected)


def test_a_predictor_takes_the_file_like_any_model(written) -> None:
    model, path = written
    image = torch.rand(3, 150, 190)
    for settings in ({}, {"tile": (96, 96), "overlap": 32}, {"flip": True, "scales": (0.75, 1.0)}):
        expected = pw.Predictor(model, CLASSES, **settings)(image, probabilities=True)
        found = pw.Predictor(path, **settings)(image, probabilities=True)
        torch.testing.assert_close(found.probabilities, expected.probabilities, atol=1e-5, rtol=1e-4)
        assert isinstance(found.annotation, LabelMap)
        assert found.classes.names == CLASSES.names


def test_objects_are_those_of_the_model(tmp_path: Path) -> None:
    model = small("unet_watershed")
    with torch.no_grad():
        model.network.head.bias[0] -= 1.0
    export_onnx(model, tmp_path / "objects.onnx", CLASSES, task="instance")
    image = torch.rand(3, 90, 75)
    expected = pw.Predictor(model, CLASSES)(image).annotation
    found = pw.Predictor(tmp_path / "objects.onnx")(image).annotation
    assert isinstance(expected, MaskSet)
    assert isinstance(found, MaskSet)
    assert len(found) == len(expected) > 0
    assert found.dense.equal(expected.dense)


def test_a_file_that_computes_something_else_does_not_appear(tmp_path: Path, monkeypatch) -> None:
    run = onnx_model.OnnxModel.forward

    def wrong(self, image):
        output = run(self, image)
        output.coarse[..., -1] += 1.0
        return output

    monkeypatch.setattr(onnx_model.OnnxModel, "forward", wrong)
    with pytest.raises(ValueError, match=r"differs from the model by .* no file was written"):
        export_onnx(small("fpn"), tmp_path / "wrong.onnx", CLASSES)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_used_are_told(tmp_path: Path, written) -> None:
    model, path = written
    with pytest.raises(ValueError, match=r"there is no file .*nothing\.onnx"):
        load_onnx(tmp_path / "nothing.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.onnx cannot be read as an ONNX file"):
        load_onnx(cut)
    other = onnx.load(path)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="was not written by `pixelwise export`"):
        load_onnx(tmp_path / "other.onnx")
    strange = onnx.load(path)
    text = next(one for one in strange.metadata_props if one.key == onnx_model.KEY)
    text.value = text.value.replace("pixelwise.types:DenseLogits", "subprocess:Popen")
    onnx.save(strange, tmp_path / "strange.onnx")
    with pytest.raises(ValueError, match="not of this package"):
        load_onnx(tmp_path / "strange.onnx")
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export_onnx(model, tmp_path / "model.txt", CLASSES)
    with pytest.raises(ValueError, match="at least"):
        load_onnx(path).model(torch.rand(1, 3, 8, 8))


def test_what_has_no_fixed_fields_is_refused(tmp_path: Path) -> None:
    model = pw.build("panet", 3, encoder="tiny", width=16, min_size=None)
    with pytest.raises(ValueError, match="MaskRegionLogits, cannot be exported to ONNX"):
        export_onnx(model, tmp_path / "regions.onnx", CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("min_size", [None, 110])
def test_regions_are_those_of_the_model(tmp_path: Path, min_size: int | None) -> None:
    torch.manual_seed(0)
    model = pw.build("mask_rcnn", 3, encoder="tiny", width=16, min_size=min_size, max_size=200).eval()
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and ("proposals" in key or "head." in key):
            gain = 12.0 if "classes" in key else 1.4
            torch.nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
    model.detector.head.score_threshold = 0.3
    export_onnx(model, tmp_path / "regions.onnx", CLASSES)
    image = torch.rand(3, 90, 140)
    expected = pw.Predictor(model, CLASSES)(image).annotation
    found = pw.Predictor(tmp_path / "regions.onnx")(image).annotation
    assert len(found) == len(expected) > 5
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-3, rtol=0)
    assert found.classes.equal(expected.classes)
    assert (found.dense ^ expected.dense).float().mean() < 1e-3


@pytest.mark.slow
def test_the_commands_export_and_predict_in_processes_of_their_own(tmp_path: Path) -> None:
    save(small("unet"), tmp_path / "model.safetensors", CLASSES)
    pw.data.write_image(tmp_path / "photo.png", torch.rand(3, 480, 640))

    def pixelwise(*words: str) -> str:
        command = [sys.executable, "-m", "pixelwise", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    assert "differs by at most" in pixelwise("export", "model.safetensors", "--out", "model.onnx")
    for name in ("model.safetensors", "model.onnx"):
        pixelwise("predict", name, "photo.png", "--out", name.partition(".")[2])
    masks = [next((tmp_path / kind).rglob("*.png")).read_bytes() for kind in ("safetensors", "onnx")]
    assert masks[0] == masks[1]
