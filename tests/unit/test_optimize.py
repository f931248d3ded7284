"""The fastest form that agrees, and where the choice is kept."""

import copy
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import pixelwise as pw
from pixelwise.checkpoint import Checkpoint, save
from pixelwise.cli import app
from pixelwise.export import fast_forms, onnx_model, optimize, recalled
from pixelwise.export.choice import folder_of
from pixelwise.types import BuiltBy, ClassTable

pytestmark = pytest.mark.compile
CLASSES = ClassTable.of("sky", "road", "car")
IN_TORCH = ("channels-last", "channels-last, bf16")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXELWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def network(name: str = "full_resolution_cnn", **arguments: object) -> Checkpoint:
    torch.manual_seed(3)
    model = pw.build(name, 3, **(arguments or {"width": 4, "depth": 3})).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return Checkpoint(model, CLASSES, BuiltBy("x", {}), {}, "semantic")


def pictures(count: int = 4) -> list[torch.Tensor]:
    coarse = torch.rand(count, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    return list(torch.nn.functional.interpolate(coarse, (40, 56), mode="bilinear"))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Forms that are known to be fast, slow, wrong or missing."""

    def form(change, seconds):
        def made(found, images, file):
            model = copy.deepcopy(found.model)

            def run(image):
                time.sleep(seconds)
                return change(model(image))

            return fast_forms.FastModel(found.model, run)

        return made

    def flipped(output):
        return type(output)(output.coarse.flip(1), output.size)

    def missing(found, images, file):
        raise ValueError("OpenVINO needs more packages")

    forms = {
        "slow": form(lambda output: output, 0.05),
        "wrong": form(flipped, 0.0),
        "missing": missing,
    }
    monkeypatch.setattr(fast_forms, "FORMS", forms)
    monkeypatch.setattr("pixelwise.export.choice.FORMS", forms)
    return forms


def test_wrong_slow_and_missing_forms_are_not_chosen(pretended: dict[str, object]) -> None:
    result = optimize(network(), pictures(), rounds=3)
    rows = {row.form: row for row in result.table}
    assert result.form == "eager"
    assert rows["slow"].milliseconds >= 50
    assert rows["slow"].agreement == 1
    assert rows["wrong"].milliseconds is None
    assert rows["wrong"].note == "agrees in less than 99.50%"
    assert rows["missing"].note == "skipped: OpenVINO needs more packages"


def test_forms_in_8_bit_integers_are_told_the_tolerance(pretended: dict[str, object]) -> None:
    asked = []

    def of_integers(found, images, file, tolerance):
        asked.append(tolerance)
        return fast_forms.FastModel(found.model, copy.deepcopy(found.model))

    pretended["onnx, int8"] = of_integers
    optimize(network(), pictures(), tolerance=0.9, rounds=1)
    assert asked == [0.9]


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_the_tolerance_reaches_the_export(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stops(found, path, images, *, tolerance):
        asked.append(tolerance)
        raise ValueError("stop")

    monkeypatch.setattr(fast_forms, "export_int8", stops)
    with pytest.raises(ValueError, match="stop"):
        fast_forms.FORMS[f"{kind}, int8"](network(), pictures(), tmp_path / "q", tolerance=0.9)
    assert asked == [0.9]


def test_the_fastest_form_is_chosen_and_recalled(
    pretended: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = network()
    run = found.model.forward

    def slowly(image):
        time.sleep(0.2)
        return run(image)

    made = copy.deepcopy(found)
    pretended["fast"] = lambda found, images, file: fast_forms.FastModel(made.model, made.model)
    monkeypatch.setattr(found.model, "forward", slowly)
    assert optimize(found, pictures(), rounds=3).form == "fast"
    again = recalled(found, (40, 56))
    assert again is not None
    assert again.form == "fast"
    assert {row.form for row in again.table} == {"eager", *pretended}
    assert recalled(found, (40, 57)) is None
    with torch.no_grad():
        next(found.model.parameters()).add_(1e-3)
    assert recalled(found, (40, 56)) is None, "other weights"


def test_the_place_of_a_choice_tells_machine_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    found, threads = network(), torch.get_num_threads()
    here = folder_of(found, (40, 56))
    assert folder_of(found, (40, 56)) == here
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert folder_of(found, (40, 56)) != here
    monkeypatch.undo()
    monkeypatch.setattr("pixelwise.export.choice._version", lambda name: "9.9")
    assert folder_of(found, (40, 56)) != here


@pytest.mark.slow
def test_forms_of_torch_compute_the_same(cache: Path) -> None:
    found, images = network("unet", encoder="tiny"), pictures()
    with torch.no_grad():
        before = copy.deepcopy(found.model.state_dict())
        for name, close in (("channels-last", 1e-5), ("folded", 1e-5), ("channels-last, bf16", 5e-2)):
            model = fast_forms.FORMS[name](found, images, cache)
            for image in (images[0][None], torch.rand(2, 3, 50, 33)):
                expected, given = found.model(image).logits, model(image).logits
                assert given.dtype == torch.float32
                assert (given - expected).abs().max() < close * expected.abs().max()
    for key, tensor in found.model.state_dict().items():
        assert tensor.equal(before[key])
        assert tensor.stride() == before[key].stride()


@pytest.mark.slow
def test_every_norm_after_a_convolution_is_folded() -> None:
    found = network("unet", encoder="tiny")
    form, _ = onnx_model.form_of(found.model, CLASSES, task=None, decoding=None, labels=False)
    module = onnx_model.traced(found.model, form).module()
    norms = sum(isinstance(one, torch.nn.BatchNorm2d) for one in found.model.modules())
    assert fast_forms.fold(module) == norms > 0
    assert not any(node.target is torch.ops.aten.batch_norm.default for node in module.graph.nodes)


def test_a_norm_stays_where_others_need_the_convolution_as_it_is() -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.convolution(x)
            return x + self.norm(x)

    plain, image = Both().eval(), torch.rand(1, 3, 4, 4)
    torch.nn.init.uniform_(plain.norm.running_mean)
    module = torch.export.export(plain, (image,)).module()
    assert fast_forms.fold(module) == 0
    torch.testing.assert_close(module(image), plain(image))


@pytest.mark.slow
def test_a_predictor_uses_the_choice_and_makes_one_where_there_is_none(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixelwise.export.choice.FORMS", {k: fast_forms.FORMS[k] for k in IN_TORCH})
    found = network()
    image = pictures()[0]
    expected = pw.Predictor(found)(image).annotation.labels
    predictor = pw.Predictor(found, optimize=True)
    assert (predictor(image).annotation.labels == expected).float().mean() >= 0.995
    assert list(cache.rglob("choice.json"))

    def again(*_: object, **__: object) -> None:
        raise AssertionError("measured although a choice was kept")

    monkeypatch.setattr("pixelwise.export.optimize", again)
    given = pw.Predictor(found, optimize=True)(image).annotation.labels
    assert (given == expected).float().mean() >= 0.995
    with pytest.raises(ValueError, match="chooses the precision itself"):
        pw.Predictor(found, optimize=True, precision="bf16")


def test_wrong_arguments_are_sentences() -> None:
    found, images = network(), pictures()
    with pytest.raises(ValueError, match="tolerance is a share of equal labels"):
        optimize(found, images, tolerance=1.5)
    with pytest.raises(ValueError, match="images of one size"):
        optimize(found, [images[0], images[1][:, :-1]])
    with pytest.raises(ValueError, match="there is no form 'tensorrt'"):
        optimize(found, images, forms=["tensorrt"])
    boxes = Checkpoint(pw.build("maskformer", 3, encoder="tiny"), CLASSES, BuiltBy("x", {}), {})
    with pytest.raises(ValueError, match="only networks that score pixels"):
        optimize(boxes, images)


def test_the_command_tells_what_it_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(pw.build("full_resolution_cnn", 3, width=4, depth=3), "model.safetensors", CLASSES)
    for number, image in enumerate(pictures()):
        pw.data.write_image(f"photos/{number}.png", image)
    run = CliRunner().invoke
    options = ["--size", "48x32", "--rounds", "1", *(word for form in IN_TORCH for word in ("--form", form))]
    done = run(app, ["optimize", "model.safetensors", "--calibrate", "photos", *options])
    assert done.exit_code == 0, done.stderr
    assert "one image of 48 x 32" in done.stdout
    assert "channels-last, bf16" in done.stdout
    assert "chosen" in done.stdout
    refused = run(app, ["optimize", "model.safetensors"])
    assert refused.exit_code == 2
    assert "name a folder of images (--calibrate FOLDER)" in refused.stderr
    refused = run(app, ["optimize", "model.safetensors", "--calibrate", "nowhere"])
    assert refused.exit_code == 2
    assert "there is no folder nowhere" in refused.stderr
