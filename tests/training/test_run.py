"""What a training leaves behind, and what it says when it cannot go on."""

import csv
import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import pixelwise as pw
from pixelwise.checkpoint import read_classes
from pixelwise.data import SegmentationData, class_counts, open_data, training_transform
from pixelwise.tasks import get_task
from pixelwise.training import NonFiniteLoss, Recipe, TrainingModule, make_experiment, resume, run, train
from pixelwise.types import LabelMap, Sample

MakeRecipe = Callable[..., Recipe]


def test_a_run_directory_holds_all_that_is_needed_to_use_and_repeat_it(
    tiny: MakeRecipe, tmp_path: Path
) -> None:
    result = run(tiny(epochs=2), progress=False)
    path = tmp_path / "run"
    names = {
        "recipe.json",
        "environment.json",
        "classes.json",
        "metrics.csv",
        "tensorboard",
        "last.ckpt",
        "best.safetensors",
        "last.safetensors",
        "report.html",
        "scores.json",
        "pictures",
        ".lock",
    }
    assert {p.name for p in path.iterdir()} == names
    assert result.path == path
    assert result.report.exists()
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert environment["seed"] == 0
    assert read_classes(json.loads((path / "classes.json").read_text())).names == ("background", "box")
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["val_mean_iou"]) == pytest.approx(result.history[-1]["val_mean_iou"])
    assert list((path / "tensorboard").glob("events.*"))
    assert {p.name for p in (path / "pictures").iterdir()} >= {"curves.png", "confusion.png", "worst_1.png"}


def test_the_recipe_of_a_run_repeats_it_exactly(tiny: MakeRecipe, tmp_path: Path) -> None:
    first = run(tiny(epochs=2), progress=False, report=False)
    recipe = Recipe.read(first.path / "recipe.json").changed(out=tmp_path / "again")
    again = run(recipe, progress=False, report=False)
    ours, theirs = load_file(first.last), load_file(again.last)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    other = run(recipe.changed(out=tmp_path / "other", seed=1), progress=False, report=False)
    assert not all(torch.equal(ours[key], value) for key, value in load_file(other.last).items())


def test_the_scores_are_those_of_the_best_weights(tiny: MakeRecipe) -> None:
    result = run(tiny(epochs=4, lr=0.03), progress=False, report=False)
    history = [row["val_mean_iou"] for row in result.history]
    assert result.best_epoch == history.index(max(history)) + 1
    assert result.scores["mean_iou"] == pytest.approx(max(history))
    scored = pw.evaluate(result.best, result.recipe.data, progress=False)
    assert scored.confusion.equal(result.scores.confusion)
    assert pw.load(result.best).notes["epoch"] == str(result.best_epoch)
    assert pw.load(result.last).notes["epoch"] == "4"


def test_training_makes_the_loss_smaller_and_the_scores_better(tiny: MakeRecipe) -> None:
    result = run(tiny(model="unet", epochs=12, color=0, scale=(1, 1)), progress=False, report=False)
    assert result.history[-1]["train_loss"] < 0.6 * result.history[0]["train_loss"]
    assert result.scores["mean_iou"] > 0.7


def test_the_validation_loss_does_not_depend_on_how_images_are_batched(
    tiny: MakeRecipe, tmp_path: Path
) -> None:
    one = run(tiny(epochs=1), progress=False, report=False)
    two = run(tiny(epochs=1, val_batch_size=2, out=tmp_path / "two"), progress=False, report=False)
    assert two.history[0]["val_loss"] == pytest.approx(one.history[0]["val_loss"], rel=1e-5)
    assert two.scores.confusion.equal(one.scores.confusion)


def test_steps_end_in_the_middle_of_an_epoch_with_a_validation(tiny: MakeRecipe) -> None:
    result = run(tiny(epochs=None, steps=4, schedule="constant"), progress=False, report=False)
    assert [row["step"] for row in result.history] == [3, 4]


def test_accumulated_batches_are_one_large_batch(tiny: MakeRecipe, tmp_path: Path) -> None:
    norms = [
        name
        for name, part in pw.build("unet", 2, width=2).named_modules()
        if isinstance(part, nn.BatchNorm2d)
    ]
    plain = {
        "model": "unet",
        "model_arguments": {"width": 2},
        "freeze": norms,
        "scale": (1.5, 2.0),
        "optimizer": "sgd",
        "epochs": None,
        "steps": 1,
        "lr": 0.1,
    }
    large = run(tiny(**plain, batch_size=4, out=tmp_path / "large"), progress=False, report=False)
    small = run(tiny(**plain, batch_size=2, accumulate=2), progress=False, report=False)
    ours, theirs = load_file(large.last), load_file(small.last)
    for key in ours:
        assert torch.allclose(ours[key], theirs[key], atol=1e-6), key


def test_frozen_parts_keep_their_weights_and_their_statistics(tiny: MakeRecipe) -> None:
    recipe = tiny(freeze=["encoder"], epochs=1)
    before = {k: v.clone() for k, v in make_experiment(recipe).module.model.state_dict().items()}
    after = load_file(run(recipe, progress=False, report=False).last)
    for key, value in after.items():
        if key.startswith("encoder."):
            assert torch.equal(value, before[key]), key
    assert not torch.equal(after["head.2.weight"], before["head.2.weight"])
    assert not torch.equal(after["head.0.1.running_mean"], before["head.0.1.running_mean"])


def test_frozen_parts_stay_in_eval_mode_when_the_rest_trains(tiny: MakeRecipe) -> None:
    module = make_experiment(tiny(freeze=["encoder"])).module
    module.eval().train()
    assert not module.model.encoder.training
    assert module.model.head.training


def test_mixed_precision_trains(tiny: MakeRecipe) -> None:
    result = run(tiny(precision="bf16", epochs=6, lr=0.02), progress=False, report=False)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in load_file(result.last).values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_without_a_gpu_is_refused(tiny: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="precision 16 needs a GPU: take bf16"):
        run(tiny(precision="16"))


def test_images_lie_in_memory_as_asked(tiny: MakeRecipe) -> None:
    weight = {
        last: make_experiment(tiny(channels_last=last)).module.model.head[0][0].weight
        for last in (True, False)
    }
    assert weight[True].is_contiguous(memory_format=torch.channels_last)
    assert weight[False].is_contiguous()


def test_balanced_weights_come_from_the_training_images(tiny: MakeRecipe, boxes: Path) -> None:
    weight = (
        make_experiment(tiny(class_weights="balanced")).module.criterion.loss.terms["cross_entropy"].weight
    )
    assert weight.tolist() == pytest.approx(class_counts(open_data(boxes).train).weights)
    assert weight[1] > weight[0]


def test_early_stopping_ends_after_epochs_without_a_better_score(tiny: MakeRecipe) -> None:
    result = run(
        tiny(early_stopping=2, lr=5.0, epochs=30, optimizer="sgd", momentum=0.0), progress=False, report=False
    )
    assert len(result.history) == result.best_epoch + 2 < 30


def test_data_can_be_given_opened_or_as_two_parts(tiny: MakeRecipe, boxes: Path, tmp_path: Path) -> None:
    settings = {k: v for k, v in tiny(epochs=1).as_dict().items() if k not in ("data", "out", "model")}
    splits = open_data(boxes)
    folder = train(boxes, "pspnet", progress=False, out=tmp_path / "a", **settings)
    opened = train(splits, "pspnet", progress=False, out=tmp_path / "b", **settings)
    parts = train((splits.train, splits.val), "pspnet", progress=False, out=tmp_path / "c", **settings)
    for other in (opened, parts):
        ours, theirs = load_file(folder.last), load_file(other.last)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert resume(tmp_path / "b").history == opened.history
    with pytest.raises(ValueError, match="data given in memory: give them again"):
        resume(tmp_path / "c")
    assert resume(tmp_path / "c", data=(splits.train, splits.val)).history == parts.history


def test_a_model_for_grey_images_reads_them_grey(tiny: MakeRecipe) -> None:
    experiment = make_experiment(tiny(model_arguments={"encoder": "tiny", "in_channels": 1}))
    assert experiment.train_data[0].image.shape[0] == 1
    assert experiment.val_data[0].image.shape[0] == 1


def test_the_default_run_directory_is_never_a_taken_one(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(str(boxes)).changed(
        model="pspnet",
        model_arguments={"encoder": "tiny"},
        crop=(32, 32),
        epochs=1,
        workers=0,
        accelerator="cpu",
    )
    places = [run(recipe, progress=False, report=False).path.as_posix() for _ in range(2)]
    assert places == [f"runs/{boxes.name}-pspnet", f"runs/{boxes.name}-pspnet-2"]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "unett"}, "there is no model 'unett': did you mean unet"),
        ({"model_arguments": {"encoder": "tiny", "wdth": 3}}, "has no argument 'wdth'"),
        ({"data": "/nowhere"}, "there is no data folder /nowhere"),
        ({"loss": "dise"}, "no loss is called 'dise', did you mean dice"),
        ({"freeze": ["encodr"]}, "did you mean 'encoder'"),
        ({"crop": (16, 64)}, "crop must be at least 32 x 32 for 'pspnet', got 16 x 64"),
        ({"class_weights": (1.0, 2.0, 3.0)}, "2 classes need as many class_weights, got 3"),
        ({"location_prior": True, "model": "maskformer"}, "networks that score pixels, not for the task"),
        ({"warmup_steps": 99}, "warmup_steps must be at most the number of steps 12, got 99"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(
    tiny: MakeRecipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny(**changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_is_not_empty_is_refused_and_left_alone(
    tiny: MakeRecipe, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: resume it, or choose another"):
        run(tiny(), progress=False)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_place_that_cannot_be_written_is_told(tiny: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot make the folder .*file.run"):
        run(tiny(out=tmp_path / "file" / "run"), progress=False)


def test_data_without_a_validation_image_are_told(tiny: MakeRecipe, boxes: Path) -> None:
    splits = open_data(boxes)
    with pytest.raises(ValueError, match="there is no validation image"):
        run(tiny(), data=(splits.train, splits.val.take([])), progress=False)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("file write failed")]
)
def test_a_full_disk_is_told_and_the_run_can_be_continued(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = run(tiny(out=tmp_path / "whole"), progress=False, report=False)
    save, calls = torch.save, []

    def full(state: Any, path: Path, **kwargs: Any) -> None:
        calls.append(path)
        if len(calls) == 3:  # before the first epoch, after it, after the second
            path.write_bytes(b"half")
            raise error
        save(state, path, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"cannot write .*last\.ckpt: (No space left|file write failed)"):
        run(tiny(), progress=False, report=False)
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")] == [".lock"]
    result = resume(tmp_path / "run", progress=False, report=False)
    ours, theirs = load_file(result.last), load_file(expected.last)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_loss_that_is_not_finite_is_told_with_its_place_and_the_run_can_be_continued(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def spoiled(self: TrainingModule, batch: pw.Batch, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (1, 2):
            batch = replace(batch, image=batch.image * math.nan)
        return step(self, batch, batch_idx)

    expected = run(tiny(out=tmp_path / "whole"), progress=False, report=False)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", spoiled)
        with pytest.raises(NonFiniteLoss) as caught:
            run(tiny(), progress=False, report=False)
    said = str(caught.value)
    assert said.startswith("the loss became nan in epoch 2, step 6 (learning rate 0.00")
    assert "last finite loss 0." in said
    assert said.count("train/images/") == 2
    assert isinstance(caught.value, ValueError)
    result = resume(tmp_path / "run", progress=False, report=False)
    assert [row["train_loss"] for row in result.history] == [row["train_loss"] for row in expected.history]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_one_sentence(
    tiny: MakeRecipe, boxes: Path, tmp_path: Path, workers: int
) -> None:
    class Damaged(SegmentationData):
        def __getitem__(self, index: int) -> Sample:
            raise ValueError(f"cannot read {self.pairs[index].image}: it is cut short")

    splits = open_data(boxes)
    damaged = Damaged(splits.train.pairs, splits.classes, read_target=splits.train.read_target)
    with pytest.raises(ValueError, match=r"^cannot read [^\n]*\.png: it is cut short$"):
        run(tiny(workers=workers), data=(damaged, splits.val), progress=False)


@pytest.mark.parametrize("crop", [(32, 32), None])
def test_images_smaller_than_the_model_takes_are_learnt(
    tiny: MakeRecipe, tmp_path: Path, crop: tuple[int, int] | None
) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "small" / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((20, 24), i % 2, np.uint8)).save(tmp_path / "small" / kind / f"{i}.png")
    (tmp_path / "small" / "classes.csv").write_text("name\na\nb\n")
    result = run(tiny(data=tmp_path / "small", epochs=1, crop=crop), progress=False)
    predicted = pw.Predictor(result.path)(tmp_path / "small" / "images" / "0.png")
    assert predicted.label_map.labels.shape == (20, 24)


def test_training_leaves_the_random_numbers_of_the_caller_alone(tiny: MakeRecipe) -> None:
    before = torch.get_rng_state()
    run(tiny(epochs=1), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*treespec, LeafSpec")
def test_a_training_module_works_under_any_trainer(boxes: Path) -> None:
    import lightning

    from pixelwise.training import Optimization

    splits = open_data(boxes)
    transform = training_transform((32, 32))
    samples = [transform(splits.train[i]) for i in range(4)]
    batch = pw.Batch.collate(samples)
    classes = splits.classes
    model = pw.build("pspnet", 2, encoder="tiny")
    told: list[float] = []
    model.progress = told.append
    criterion = pw.make_criterion("cross_entropy+dice", classes)
    module = TrainingModule(model, criterion, get_task("semantic"), classes, Optimization(2))
    loaders = (torch.utils.data.DataLoader([batch, batch], batch_size=None) for _ in range(2))
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, *loaders)
    logged = trainer.callback_metrics
    assert told == [0.0, 0.5], "a model is told how much of the training is done"
    assert float(logged["val_mean_iou"]) == pytest.approx(module.report["mean_iou"], abs=1e-6)
    assert {"train_loss", "val_loss", "val_pixel_accuracy", "val_mean_dice"} <= set(logged)


def test_a_training_module_refuses_a_model_of_other_classes() -> None:
    from pixelwise.training import Optimization

    classes = pw.ClassTable.of("a", "b", "c")
    with pytest.raises(ValueError, match="the model has 2 classes, the class table 3"):
        TrainingModule(
            pw.build("pspnet", 2, encoder="tiny"),
            pw.make_criterion("dice", classes),
            get_task("semantic"),
            classes,
            Optimization(1),
        )


def test_unlabelled_validation_images_do_not_make_the_loss_nan(tiny: MakeRecipe, boxes: Path) -> None:
    class HalfLabelled(SegmentationData):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            if index:
                return sample
            return Sample(sample.image, LabelMap(torch.full_like(sample.target.labels, 255)), sample.id)

    splits = open_data(boxes)
    val = HalfLabelled(splits.val.pairs, splits.classes, read_target=splits.val.read_target)
    result = run(tiny(epochs=1), data=(splits.train, val), progress=False)
    assert math.isfinite(result.history[0]["val_loss"])
    assert int(result.scores.confusion.sum()) == 2 * 40 * 48
