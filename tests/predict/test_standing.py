"""What is said beside a score: intervals, trivial predictions, images that are too close."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.data import SegmentationData
from pixelwise.data.dataset import Pair
from pixelwise.data.kinship import folds_of, groups_of, kinship, specimen_of, too_close
from pixelwise.metrics import ImageStates, bootstrap_interval
from pixelwise.metrics.pixels.per_image import PerImageMetrics
from pixelwise.predict import evaluate_images
from pixelwise.predict.baselines import baseline_scores
from pixelwise.predict.evaluation import scored
from pixelwise.predict.standing import Standing, standing
from pixelwise.tasks import get_task
from pixelwise.types import ClassMasks, ClassTable, LabelMap, Sample

CLASSES = ClassTable.of("ground", "thing")


def folder(root: Path, images: dict[str, np.ndarray], masks: dict[str, np.ndarray] | None = None):
    """Images, and masks that are 1 where they are brighter than 127 unless they are given."""
    pairs = []
    for name, image in images.items():
        mask = (image > 127).astype(np.uint8) if masks is None else masks[name]
        for kind, array in (("images", image), ("masks", mask)):
            path = root / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        pairs.append(Pair(root / "images" / name, root / "masks" / name, f"images/{name}"))
    return SegmentationData(tuple(pairs), CLASSES)


def noise(seed: int, side: int = 48) -> np.ndarray:
    """An image of large random patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((side, side), Image.Resampling.NEAREST))


def drift(count: int) -> dict[str, np.ndarray]:
    """Frames of a window that moves over one large image."""
    world = noise(5, 400)
    return {f"film_{i:03d}.png": world[:200, 6 * i : 6 * i + 200] for i in range(count)}


def label_maps(count: int, seed: int = 0) -> list[tuple[Sample, LabelMap]]:
    random = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(count):
        target, found = (torch.randint(0, 2, (6, 5), generator=random) for _ in range(2))
        pairs.append((Sample(torch.zeros(3, 6, 5), LabelMap(target), f"{i}"), LabelMap(found)))
    return pairs


# --- intervals ------------------------------------------------------------------------------------


def test_the_interval_of_a_metric_is_that_of_its_confusion_matrices() -> None:
    pairs = label_maps(9)
    matrices = PerImageMetrics(CLASSES)
    for sample, found in pairs:
        matrices.update(found.labels[None], sample.target.labels[None])
    expected = bootstrap_interval(matrices.compute().matrices, CLASSES, level=0.9, draws=800)
    interval = scored(pairs, get_task("semantic"), CLASSES).interval(draws=800)
    assert interval.score == pytest.approx(expected.score)
    assert interval.low == pytest.approx(expected.low, abs=0.01)
    assert interval.high == pytest.approx(expected.high, abs=0.01)


def test_a_draw_of_every_image_once_is_the_score_itself_for_rows_and_sums() -> None:
    classes = ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)), exclusive=False)
    random = torch.Generator().manual_seed(0)
    several = []
    for i in range(4):
        probabilities = torch.rand(2, 5, 5, generator=random)
        target = ClassMasks(torch.randint(0, 2, (2, 5, 5), generator=random))
        found = ClassMasks((probabilities > 0.5).long(), probabilities)
        several.append((Sample(torch.zeros(3, 5, 5), target, f"{i}"), found))
    volumes = []
    for i in range(3):
        target, found = (torch.randint(0, 2, (4, 5, 6), generator=random) for _ in range(2))
        target = LabelMap(target, (1.0, 1.0, 2.0))
        volumes.append((Sample(torch.zeros(1, 4, 5, 6), target, f"{i}"), LabelMap(found)))
    for name, table, pairs in (("multilabel", classes, several), ("volume", CLASSES, volumes)):
        task = get_task(name)
        evaluation = scored(pairs, task, table)
        report = evaluation.states.of_draw(torch.ones(len(pairs), dtype=torch.int64))
        assert report.values == pytest.approx(evaluation.report.values)
        interval = evaluation.interval(draws=20)
        assert interval.low <= interval.score <= interval.high


def test_an_image_that_is_drawn_twice_counts_twice() -> None:
    pairs = label_maps(2)
    states = scored(pairs, get_task("semantic"), CLASSES).states
    expected = scored([pairs[0], pairs[0], pairs[1]], get_task("semantic"), CLASSES)
    assert states.of_draw(torch.tensor([2, 1])).values == expected.report.values


def test_a_gain_is_sure_where_every_image_gains_alike_and_unsure_where_they_differ() -> None:
    task = get_task("semantic")

    def accuracies(rights: list[int]) -> ImageStates:
        pairs = []
        for i, right in enumerate(rights):
            found = torch.tensor([0] * right + [1] * (10 - right))
            target = LabelMap(torch.zeros(10, dtype=torch.int64))
            pairs.append((Sample(torch.zeros(3, 10), target, f"{i}"), LabelMap(found)))
        return scored(pairs, task, CLASSES).states

    def score(report) -> float:
        return report["pixel_accuracy"]

    plain = accuracies([2, 5, 8, 5])
    alike, differing = (accuracies(rights).gain_over(plain, score) for rights in ([3, 6, 9, 6], [9, 1, 9, 5]))
    assert alike.mean == pytest.approx(0.1)
    assert alike.error == pytest.approx(0, abs=1e-9)
    assert differing.mean == pytest.approx(0.1)
    assert differing.error > 0.1
    with pytest.raises(ValueError, match="on the same images, got 3 and 4"):
        accuracies([1, 2, 3]).gain_over(plain, score)


def test_one_image_and_average_precision_have_no_interval(model, classes, tmp_path) -> None:
    pairs = label_maps(1)
    assert scored(pairs, get_task("semantic"), CLASSES).interval() is None
    assert not get_task("instance").metrics(CLASSES, get_task("instance").scoring).may_be_drawn


# --- trivial predictions --------------------------------------------------------------------------


def test_trivial_predictions_score_what_they_should(tmp_path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 40:] = 1
    image = np.where(mask, 30, 200).astype(np.uint8)  # things are dark
    data = folder(tmp_path, {"a.png": image, "b.png": image}, {"a.png": mask, "b.png": mask})
    scores = baseline_scores(data, data, get_task("semantic"))
    assert list(scores) == ["commonest class", "commonest class at each place", "Otsu's threshold"]
    assert scores["commonest class"] == pytest.approx(40 / 64 / 2)
    assert scores["commonest class at each place"] == 1
    assert scores["Otsu's threshold"] == 1


def test_places_without_a_label_take_the_commonest_class(tmp_path) -> None:
    mask = np.full((32, 32), 255, np.uint8)
    mask[:4] = 1
    mask[4:6] = 0
    image = np.zeros((32, 32), np.uint8)  # nothing for a threshold
    train = folder(tmp_path / "train", {"a.png": image}, {"a.png": mask})
    whole = np.ones((32, 32), np.uint8)
    whole[4:6] = 0
    held = folder(tmp_path / "held", {"a.png": image}, {"a.png": whole})
    assert baseline_scores(train, held, get_task("semantic"))["commonest class at each place"] == 1


def test_tasks_with_objects_have_no_trivial_prediction(tmp_path) -> None:
    data = folder(tmp_path, {"a.png": noise(0)})
    assert baseline_scores(data, data, get_task("instance")) == {}


def test_several_classes_per_pixel_are_guessed_everywhere_and_by_place() -> None:
    classes = ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)), exclusive=False)
    masks = torch.zeros(2, 32, 32, dtype=torch.int64)
    masks[0, :16] = 1
    masks[1, :, :8] = 1

    class Layers(SegmentationData):
        def __getitem__(self, index: int) -> Sample:
            return Sample(torch.zeros(3, 32, 32), ClassMasks(masks), "a")

        def target(self, index: int) -> ClassMasks:
            return ClassMasks(masks)

    data = Layers((Pair(Path("a"), Path("a"), "a"),), classes)
    scores = baseline_scores(data, data, get_task("multilabel"))
    everything = (2 * 0.5 / 1.5 + 2 * 0.25 / 1.25) / 2
    assert scores["every class everywhere"] == pytest.approx(everything)
    assert scores["what is mostly there at each place"] == 1


# --- images that are too close --------------------------------------------------------------------


def test_frames_of_a_film_are_a_sequence_and_unrelated_images_are_none(tmp_path) -> None:
    frames = folder(tmp_path / "film", drift(24))
    assert kinship(frames).is_sequence
    others = folder(tmp_path / "others", {f"img_{i:02d}.png": noise(i) for i in range(24)})
    assert not kinship(others).is_sequence
    assert too_close(others.take(range(18)), others.take(range(18, 24))) == []


def test_validation_frames_between_training_frames_are_told(tmp_path) -> None:
    frames = folder(tmp_path, drift(24))
    held = [3, 9, 15, 21]
    train = frames.take([i for i in range(24) if i not in held])
    (sentence,) = too_close(train, frames.take(held))
    assert sentence.startswith("training and validation images come from one sequence or specimen")
    assert "4 of 4 validation images stand beside a training image" in sentence


def test_copies_are_told_with_their_names(tmp_path) -> None:
    images = {f"{i}.png": noise(i) for i in range(6)}
    train = folder(tmp_path / "train", images)
    brighter = (noise(2) * 0.9).astype(np.uint8)
    held = folder(tmp_path / "held", {"new.png": noise(50), "again.png": brighter})
    (sentence,) = too_close(train, held, "test")
    assert sentence == (
        "1 of 2 test images nearly equal training images, such as images/again.png the image images/2.png: "
        "their score says nothing about new images"
    )


def test_the_specimen_is_the_folder_and_what_stands_before_the_last_number() -> None:
    assert specimen_of("images/val/0016E5_08021.png") == "0016E5_"
    assert specimen_of("train/patient4/slice_3.nii.gz") == "patient4/slice_"
    assert specimen_of("images/cat.png") == "cat"


def test_copies_share_a_fold_and_a_sequence_is_cut_in_blocks(tmp_path) -> None:
    images = {f"{i}.png": noise(i % 6) for i in range(12)}  # every image twice
    groups = groups_of(kinship(folder(tmp_path / "copies", images)), at_least=3)
    assert len(set(groups)) == 6
    folds = folds_of(groups, 3, seed=0)
    assert folds[:6] == folds[6:]
    assert sorted(folds.count(fold) for fold in (1, 2, 3)) == [4, 4, 4]
    frames = kinship(folder(tmp_path / "film", drift(20)))
    assert groups_of(frames, at_least=4) == tuple(i // 5 for i in range(20))
    with pytest.raises(ValueError, match="in 2 groups of images that belong together cannot make 3 folds"):
        folds_of([0, 0, 1], 3, seed=0)


# --- together -------------------------------------------------------------------------------------


def test_a_model_below_a_trivial_prediction_is_warned_of() -> None:
    told = Standing("mean_iou", 0.3, 1, None, {"commonest class": 0.4}).sentences
    assert told[0] == "mean IoU 0.300 over 1 image."
    assert told[-1] == "Warning: the model is not better than the trivial prediction 'commonest class'."
    assert len(Standing("mean_iou", 0.5, 1, None, {"commonest class": 0.4}).sentences) == 2


def test_training_images_that_cannot_be_read_do_not_hide_the_score(model, classes, tmp_path) -> None:
    data = SegmentationData(folder(tmp_path, {"a.png": noise(0), "b.png": noise(1)}).pairs, classes)
    evaluation = evaluate_images(model, data, progress=False)
    missing = SegmentationData((Pair(tmp_path / "no.png", tmp_path / "no.png", "no.png"),), classes)
    beside = standing(evaluation, data, missing)
    assert beside.interval is not None
    assert beside.warnings[0].startswith("the training images could not be looked at (")
