"""An ensemble is a model like any other: built, saved, loaded, scored and used through the same doors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise import checkpoint
from pixelwise.ensembles import Ensemble, averaged, averaged_weights
from pixelwise.types import ClassTable, Heatmaps, Model

TABLE = ClassTable.of("ground", "square")
SEVERAL = ClassTable(TABLE.names, TABLE.colors, exclusive=False)


def small(seed: int, name: str = "pspnet", classes: int = 2, **arguments) -> Model:
    torch.manual_seed(seed)
    return pw.build(name, classes, encoder="tiny", **arguments).eval()


def saved(folder: Path, model: Model, classes: ClassTable = TABLE, **more) -> Path:
    path = folder / "best.safetensors"
    pw.save(model, path, classes, **more)
    return folder


def test_an_ensemble_averages_probabilities() -> None:
    one, other = small(0), small(1, "unet")
    image = torch.rand(2, 3, 40, 33)
    with torch.no_grad():
        together = Ensemble([one, other]).eval()(image)
        expected = (one(image).logits.softmax(1) + other(image).logits.softmax(1)) / 2
        torch.testing.assert_close(together.logits.softmax(1), expected)
        several = Ensemble([one, other], exclusive=False).eval()(image)
        each = (one(image).logits.sigmoid() + other(image).logits.sigmoid()) / 2
    torch.testing.assert_close(several.logits.sigmoid(), each)
    assert tuple(together.size) == (40, 33)


def test_an_ensemble_of_volumes_averages_voxels() -> None:
    one, other = (pw.build("unet3d", 2, width=4).eval() for _ in range(2))
    volume = torch.rand(1, 1, 16, 16, 16)
    together = Ensemble([one, other]).eval()
    assert together.tasks == ("volume",)
    with torch.no_grad():
        expected = (one(volume).logits.softmax(1) + other(volume).logits.softmax(1)) / 2
        torch.testing.assert_close(together(volume).logits.softmax(1), expected)


def test_heatmaps_have_a_mean_and_boxes_have_none() -> None:
    maps = [Heatmaps(torch.full((1, 2, 4, 4), float(value)), (16, 16)) for value in (1, 3)]
    assert averaged(maps[0], maps[1:], True).coarse.eq(2).all()
    detectors = [pw.build("faster_rcnn", 2, encoder="tiny") for _ in range(2)]
    with pytest.raises(ValueError, match=r"of several models cannot be averaged: take one of the models"):
        Ensemble(detectors)


def test_models_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in num_classes: 2, 3"):
        Ensemble([small(0), small(0, classes=3)])
    with pytest.raises(ValueError, match="differ in in_channels: 1, 3"):
        Ensemble([small(0), small(0, in_channels=1)])
    with pytest.raises(ValueError, match="2 to 64 models, got 1"):
        Ensemble([small(0)])


def test_an_ensemble_is_one_file_that_every_door_takes(tmp_path) -> None:
    runs = [saved(tmp_path / str(seed), small(seed)) for seed in (0, 1)]
    both = pw.ensemble(runs)
    path = tmp_path / "both.safetensors"
    pw.save(both.model, path, both.classes, task=both.task, decoding=both.decoding)
    again = pw.load(path)
    assert again.built_by.builder == "ensemble"
    assert "members.1." in "".join(again.model.state_dict())
    image = torch.rand(3, 40, 50)
    expected = pw.Predictor(both)(image, probabilities=True).probabilities
    for source in (again, path, f"{runs[0]},{runs[1]}", pw.load(f"{runs[0]},{runs[1]}")):
        found = pw.Predictor(source)(image, probabilities=True).probabilities
        torch.testing.assert_close(found, expected)
    street = tmp_path / "street"
    for kind, array in (("images", np.arange(64) * 3), ("masks", np.arange(64) > 31)):
        (street / kind).mkdir(parents=True)
        for i in range(3):
            picture = np.tile(array.astype(np.uint8), (48, 1))
            Image.fromarray(picture).save(street / kind / f"{i}.png")
    (street / "classes.csv").write_text("name,r,g,b\nground,0,0,0\nsquare,255,0,0\n")
    scores = pw.evaluate(path, street, progress=False)
    assert scores.values == pw.evaluate(f"{runs[0]},{runs[1]}", street, progress=False).values
    # An ensemble of ensembles counts every model once.
    assert len(pw.ensemble([path, runs[0]]).model.members) == 3


def test_a_folder_of_runs_is_their_ensemble(tmp_path) -> None:
    for seed in (0, 1, 2):
        saved(tmp_path / "folds" / f"fold_{seed}", small(seed))
    assert len(pw.load(tmp_path / "folds").model.members) == 3
    with pytest.raises(ValueError, match="means 3 checkpoints"):
        checkpoint.find(tmp_path / "folds")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        pw.load(tmp_path / "nothing")


def test_models_of_other_classes_make_no_ensemble(tmp_path) -> None:
    runs = [
        saved(tmp_path / "a", small(0)),
        saved(tmp_path / "b", small(1), ClassTable.of("ground", "circle")),
    ]
    with pytest.raises(ValueError, match="differ in classes or task: ground, square"):
        pw.ensemble(runs)
    with pytest.raises(ValueError, match="at least two models, got 1"):
        pw.ensemble(runs[:1])
    with pytest.raises(ValueError, match="average must be one of outputs, weights, got 'both'"):
        pw.ensemble(runs, average="both")


def test_settings_of_decoding_are_kept_where_the_models_agree(tmp_path) -> None:
    decodings = [{"thresholds": [0.2, 0.6]}, {"thresholds": [0.4, 0.6]}]
    runs = [
        saved(tmp_path / str(i), small(i), SEVERAL, task="multilabel", decoding=decoding)
        for i, decoding in enumerate(decodings)
    ]
    together = pw.ensemble(runs)
    assert together.decoding["thresholds"] == pytest.approx([0.3, 0.6])
    assert not together.model.exclusive
    runs.append(saved(tmp_path / "plain", small(3), SEVERAL, task="multilabel"))
    assert pw.ensemble(runs).decoding == {}


def test_weights_are_averaged_of_models_that_were_built_alike(tmp_path) -> None:
    one, other = small(0), small(1)
    soup = averaged_weights([one, other])
    for name, tensor in soup.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (one.state_dict()[name] + other.state_dict()[name]) / 2)
    runs = [saved(tmp_path / str(i), model) for i, model in enumerate((one, other))]
    assert pw.ensemble(runs, average="weights").built_by == one.built_by
    with pytest.raises(ValueError, match="built alike"):
        averaged_weights([one, small(0, "unet")])


@pytest.mark.slow
def test_an_ensemble_is_exported_like_any_model() -> None:
    together = Ensemble([small(0), small(1)]).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        program = torch.export.export(together, (image,), strict=False)
        torch.testing.assert_close(program.module()(image).logits, together(image).logits)


def test_a_file_that_asks_for_a_strange_ensemble_is_refused(tmp_path) -> None:
    path = saved(tmp_path, small(0)) / "best.safetensors"
    text = path.read_bytes()
    # One model's weights under the name of an ensemble.
    header = int.from_bytes(text[:8], "little")
    changed = text[8 : 8 + header].replace(b'"builder":"pspnet"', b'"builder":"ensemble"').rstrip()
    changed = changed.ljust(-(-len(changed) // 8) * 8)
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + text[8 + header :])
    with pytest.raises(ValueError, match="cannot be used"):
        pw.load(path)
