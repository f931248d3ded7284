"""The end of a training: choices that are kept, a part that nothing was chosen on, folds, ensembles."""

import csv
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pixelwise as pw
from pixelwise.data import open_data
from pixelwise.predict.choices import Choices, Part, choose
from pixelwise.predict.location_prior import location_prior
from pixelwise.training import Recipe, closing, folds, resume, run
from pixelwise.training.closing import choose_for, keep, scored_in, scored_part
from pixelwise.training.deadline import Clock
from pixelwise.training.folds import join
from pixelwise.training.parts import Parts
from pixelwise.training.run import _open

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A hundred small images in no parts: bright squares."""
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "many" / kind).mkdir(parents=True)
    for i in range(100):
        mask = np.zeros((32, 32), np.uint8)
        y, x = random.integers(0, 16, 2)
        mask[y : y + 14, x : x + 14] = 1
        image = mask * 130 + random.integers(0, 60, mask.shape)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "many" / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "many" / "masks" / f"{i}.png")
    return tmp_path / "many"


def names(data) -> set[str]:
    return {pair.id for pair in data.pairs}


def test_a_test_part_is_cut_of_many_images_and_of_no_others(many: Path, boxes: Path) -> None:
    splits = open_data(many)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (68, 17, 15)
    assert splits.made_test
    assert len(names(splits.train) | names(splits.val) | names(splits.test)) == 100
    assert names(open_data(many).test) == names(splits.test)
    assert open_data(many, test_fraction=0).test is None
    assert len(open_data(many, test_fraction=0.3).test) == 30
    (many / "images" / "0.png").unlink()
    (many / "masks" / "0.png").unlink()
    assert open_data(many).test is None  # 99 images
    assert open_data(boxes, test_fraction=0.3).test is None  # parts that are named are kept


def test_a_run_reports_on_the_part_that_nothing_was_chosen_on(tiny: MakeRecipe, many: Path) -> None:
    result = run(tiny(data=str(many), epochs=1, choose=False), progress=False)
    assert result.closing.part == "test"
    assert len(result.closing.evaluation.images) == 15
    assert result.remarks[0].startswith("Test images, on which nothing was chosen: mean IoU ")
    assert "over 15 images, 90 % interval " in result.remarks[0]
    assert result.remarks[1].startswith("Trivial: commonest class 0.")
    page = result.report.read_text()
    assert "on which nothing was chosen" in page
    assert "commonest class at each place" in page
    assert "15 test images" in page


def test_scores_of_validation_images_are_said_to_be_too_high(tiny: MakeRecipe) -> None:
    result = run(tiny(epochs=1), progress=False)
    assert result.closing.part == "validation"
    assert result.remarks[0].startswith("Validation images: mean IoU ")
    assert result.remarks[0].endswith("The score is a little too high, as the epoch was chosen on them.")
    assert result.closing.choices.trials == ()  # three images tell no error


def test_test_images_without_masks_are_no_test_part(many: Path) -> None:
    splits = open_data(many)
    bare = splits.test.take([])
    assert scored_part(splits.val, bare)[0] == "validation"
    assert scored_part(splits.val, splits.test)[0] == "test"


def test_what_is_chosen_is_kept_with_the_best_weights(tiny: MakeRecipe, many: Path) -> None:
    result = run(tiny(data=str(many), epochs=1), progress=False)
    assert result.closing.choices.images == 17
    assert {name for trial in result.closing.choices.trials for name in trial.setting} >= {
        "flip",
        "threshold",
    }
    kept = pw.load(result.best)
    assert kept.decoding == dict(result.closing.choices.decoding)
    said = "before test-time settings were chosen" in result.report.read_text()
    assert said == bool(kept.decoding)
    before = kept.model.state_dict()
    keep(result.best, {"threshold": 0.4, "flip": True})
    again = pw.load(result.best)
    assert again.decoding == {"threshold": 0.4, "flip": True}
    assert (again.notes, again.task) == (kept.notes, kept.task)
    assert all(tensor.equal(before[name]) for name, tensor in again.model.state_dict().items())
    keep(result.best, {})
    assert pw.load(result.best).decoding == {}


def test_fewer_images_are_scored_where_time_is_short(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]

    def two_seconds(*of: object, progress: bool) -> None:
        seconds[0] += 2.0

    monkeypatch.setattr(closing, "evaluate_images", two_seconds)
    monkeypatch.setattr(closing, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    val = open_data(many).val
    assert [len(scored_in(None, val, time)) for time in (100.0, 30.0, 1.0, -5.0)] == [17, 13, 8, 8]
    assert len(scored_in(None, val.take(range(5)), 1.0)) == 5


def test_nothing_is_chosen_where_no_time_is_left(many: Path) -> None:
    val = open_data(many).val
    assert choose_for(Path("no.safetensors"), Recipe(str(many)), Parts(val, val), -1.0).trials == ()


@pytest.mark.parametrize("patience", [0.001, -1.0])
def test_what_was_chosen_stays_where_a_finished_run_is_resumed_without_time(
    tiny: MakeRecipe, many: Path, patience: float
) -> None:
    result = run(tiny(data=str(many), epochs=1, choose=False), progress=False, report=False)
    keep(result.best, {"threshold": 0.4, "flip": True})
    splits = open_data(many)
    parts = Parts(splits.train, splits.val)
    choices = choose_for(result.best, result.recipe.changed(choose=True), parts, patience)
    assert choices.decoding == pw.load(result.best).decoding == {"threshold": 0.4, "flip": True}


def test_what_was_chosen_for_folds_stays_where_they_are_resumed_without_time(tiny: MakeRecipe) -> None:
    result = run(tiny(folds=2, epochs=1), progress=False, report=False)
    keep(result.best, {"threshold": 0.4})
    held = [(fold.path, _open(Recipe.read(fold.path / "recipe.json"), None)[0].val) for fold in result.folds]
    clock = Clock(deadline=time.monotonic() - 1.0, started=time.monotonic(), choices=0.5)
    folded = join(result.path, result.recipe, held, None, clock=clock)
    assert folded.choices.decoding == {"threshold": 0.4}
    assert pw.load(result.best).decoding == {"threshold": 0.4}


# --- folds ----------------------------------------------------------------------------------------


def test_folds_score_every_image_once_and_are_one_model(tiny: MakeRecipe, boxes: Path) -> None:
    result = run(tiny(folds=3, epochs=1), progress=False)
    assert len(result.folds) == 3
    held = [names_of_fold(fold.path, boxes) for fold in result.folds]
    assert sorted(len(one) for one in held) == [3, 3, 4]
    assert len(set.union(*held)) == 10
    assert result.remarks[0].startswith(
        "Out of fold, by 3 models at the end of their training, nothing chosen:"
    )
    assert "over 10 images" in result.remarks[0]
    assert "Out of fold" in result.report.read_text()
    together = pw.load(result.path)
    assert together.built_by.builder == "ensemble"
    assert len(together.model.members) == 3
    # The score is that of the last weights of each fold on the images that it was trained without.
    expected = []
    for fold in result.folds:
        recipe = Recipe.read(fold.path / "recipe.json")
        assert (recipe.folds, recipe.fold) == (3, int(fold.path.name[-1]))
        with (fold.path / "metrics.csv").open(newline="") as file:
            expected.append(float(list(csv.DictReader(file))[-1]["val_pixel_accuracy"]))
    sizes = [len(one) for one in held]
    mean = sum(size * one for size, one in zip(sizes, expected, strict=True)) / 10
    assert result.scores["pixel_accuracy"] == pytest.approx(mean, abs=1e-5)


def test_folds_try_the_location_prior_of_the_images_that_each_learnt_from(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        mask = np.zeros((32, 32), np.uint8)
        mask[: 14 + number] = 1
        for kind, array in (("images", np.full((32, 32, 3), 128, np.uint8)), ("masks", mask)):
            (tmp_path / "skies" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "skies" / kind / f"{number}.png")
    seen: list[list[Part]] = []

    def spied(parts: list[Part], **settings: Any) -> Choices:
        seen.append(parts)
        return choose(parts, **settings)

    monkeypatch.setattr("pixelwise.training.folds.choose", spied)
    recipe = tiny(data=str(tmp_path / "skies"), folds=3, epochs=1, location_prior=True)
    result = run(recipe, progress=False, report=False)
    every = open_data(tmp_path / "skies", val_fraction=0.0, test_fraction=0.0).train
    (parts,) = seen
    for part in parts:
        others = [i for i, pair in enumerate(every.pairs) if pair.id not in names(part.data)]
        assert len(others) == 4
        assert part.location_prior == location_prior(every.take(others))
    assert pw.load(result.best).decoding["location_prior"] == location_prior(every)
    assert "Kept with the weights: location_prior=2x16x16: mean IoU +" in " ".join(result.remarks)
    # Nothing but the place can be told of grey images.
    labels = pw.Predictor(result.best)(np.full((32, 32, 3), 128, np.uint8)).label_map.labels
    assert labels[:12].all()
    assert not labels[22:].any()


def test_of_more_folds_than_annotations_are_read_each_gives_one(
    tiny: MakeRecipe, boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = open_data(boxes, val_fraction=0.0, test_fraction=0.0).train
    monkeypatch.setattr(folds, "MOST", 2)
    recipe = tiny(data=str(boxes), folds=3, location_prior=True)
    of_all, of_each = folds._location_priors(recipe, [every.take([i]) for i in range(3)])
    assert of_all == location_prior(every.take([0, 1, 2]))
    assert len(of_each) == 3


def names_of_fold(path: Path, boxes: Path) -> set[str]:
    """The validation images of a fold, as its recipe alone finds them."""
    (train, val, _), _ = _open(Recipe.read(path / "recipe.json"), None)
    assert not names(train) & names(val)
    assert len(names(train) | names(val)) == 10
    return names(val)


def test_folds_go_on_where_they_were_stopped(tiny: MakeRecipe, monkeypatch) -> None:
    module = importlib.import_module("pixelwise.training.run")

    recipe, trained = tiny(folds=2, epochs=1), module._trained

    def stopped(experiment, path, lock, **options):
        if path.name == "fold_2":
            raise KeyboardInterrupt
        return trained(experiment, path, lock, **options)

    monkeypatch.setattr(module, "_trained", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"What is done is kept: pixelwise train --resume .*run$"):
        run(recipe, progress=False, report=False)
    path = Path(recipe.out)
    first = (path / "fold_1" / "last.safetensors").read_bytes()
    monkeypatch.setattr(module, "_trained", trained)
    result = resume(path, progress=False, report=False)
    assert len(result.folds) == 2
    assert (path / "fold_1" / "last.safetensors").read_bytes() == first
    assert len(pw.load(path).model.members) == 2
    with pytest.raises(ValueError, match="is not empty"):
        run(recipe, progress=False)


def test_one_fold_can_be_trained_alone(tiny: MakeRecipe) -> None:
    result = run(tiny(folds=3, fold=2, epochs=1), progress=False, report=False)
    assert result.folds == ()
    assert (result.path / "best.safetensors").is_file()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"folds": 1}, "folds must be a whole number at least 2"),
        ({"fold": 2}, "fold must be 1 to the number of folds, got 2 of None"),
        ({"folds": 2, "fold": 3}, "fold must be 1 to the number of folds, got 3 of 2"),
    ],
)
def test_impossible_folds_are_told(settings, told) -> None:
    with pytest.raises(ValueError, match=told):
        Recipe("street", **settings)


def test_more_folds_than_images_are_told(tiny: MakeRecipe) -> None:
    with pytest.raises(
        ValueError, match="10 images in 10 groups of images that belong together cannot make 11"
    ):
        run(tiny(folds=11), progress=False)
