"""Agreement with peers where they are right, and what they say where they are not."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torchmetrics
from sklearn.metrics import cohen_kappa_score, confusion_matrix as sklearn_matrix, jaccard_score
from torch import Tensor
from torchmetrics.segmentation import MeanIoU

from pixelwise.metrics import Scores, confusion_matrix
from pixelwise.types import ClassTable, voc_palette

K = 5


def table(k: int) -> ClassTable:
    return ClassTable(tuple(str(i) for i in range(k)), voc_palette(k))


def ours(prediction: Tensor, target: Tensor, k: int = K, absent: str = "exclude") -> Scores:
    return Scores(confusion_matrix(prediction, target, k), table(k), absent)


def smp_iou(prediction: Tensor, target: Tensor, k: int, **options: object) -> float:
    counts = smp.metrics.get_stats(
        prediction[None], target[None], mode="multiclass", num_classes=k, ignore_index=255
    )
    return float(smp.metrics.iou_score(*counts, **{"reduction": "macro", **options}))


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    prediction, target = torch.randint(0, K, (20, 30)), torch.randint(0, K, (20, 30))
    agree = torch.rand(20, 30) < 0.5
    target = torch.where(agree, prediction, target)
    target[:3] = 255
    return prediction, target


def test_matrix_and_scores_are_those_of_torchmetrics(maps: tuple[Tensor, Tensor]) -> None:
    classification, options = torchmetrics.functional.classification, {"num_classes": K, "ignore_index": 255}
    scores = ours(*maps)
    assert torch.equal(scores.matrix, classification.multiclass_confusion_matrix(*maps, **options))
    for mine, theirs, average in (
        (scores.mean_iou, classification.multiclass_jaccard_index, "macro"),
        (scores.mean_accuracy, classification.multiclass_accuracy, "macro"),
        (scores.pixel_accuracy, classification.multiclass_accuracy, "micro"),
        (scores.mean_dice, classification.multiclass_f1_score, "macro"),
        (float(scores.precision.mean()), classification.multiclass_precision, "macro"),
    ):
        assert mine == pytest.approx(theirs(*maps, **options, average=average).item(), rel=1e-6)
    weighted = classification.multiclass_jaccard_index(*maps, **options, average="weighted").item()
    assert scores.frequency_weighted_iou == pytest.approx(weighted, rel=1e-6)


def test_iou_of_one_image_is_that_of_torchmetrics_segmentation(maps: tuple[Tensor, Tensor]) -> None:
    prediction, target = maps[0][3:][None], maps[1][3:][None]  # it knows no ignored pixels
    peer = MeanIoU(num_classes=K, per_class=True, input_format="index")
    peer.update(prediction, target)
    torch.testing.assert_close(ours(prediction, target).iou.float(), peer.compute())


def test_iou_is_that_of_smp_when_every_class_is_there(maps: tuple[Tensor, Tensor]) -> None:
    assert ours(*maps).mean_iou == pytest.approx(smp_iou(*maps, k=K), rel=1e-6)


def test_a_prediction_wrong_everywhere_scores_0_here_and_almost_1_in_a_peer() -> None:
    target, prediction = torch.zeros(8, 8, dtype=torch.long), torch.ones(8, 8, dtype=torch.long)
    assert smp_iou(prediction, target, k=150) == pytest.approx(0.987, abs=5e-4)
    assert ours(prediction, target, 150).mean_iou == 0
    assert ours(prediction, target, 150, "zero").mean_iou == 0
    assert ours(prediction, target, 150, "one").mean_iou == pytest.approx(148 / 150)  # asked for by name


def test_a_perfect_prediction_scores_1_here_and_a_third_in_a_peer_with_equal_weights() -> None:
    target = torch.arange(3).repeat(3, 1)
    peer = smp_iou(target, target, k=3, reduction="weighted-imagewise", class_weights=[1.0, 1.0, 1.0])
    assert peer == pytest.approx(1 / 3)
    assert ours(target, target, 3).mean_iou == 1


def test_a_prediction_outside_the_table_raises_here_and_is_counted_elsewhere_in_peers() -> None:
    prediction, target = torch.tensor([0, 0, 1, 2, 2, 4]), torch.tensor([0, 0, 1, 2, 2, 2])
    with pytest.raises(ValueError, match="prediction holds the label 4"):
        ours(prediction, target, 4)
    assert 0 < smp_iou(prediction, target, k=4) < 1  # no word about it


def test_kappa_is_that_of_sklearn_and_torchmetrics(maps: tuple[Tensor, Tensor]) -> None:
    prediction, target = maps
    valid = target != 255
    kappa = ours(*maps).kappa
    assert kappa == pytest.approx(cohen_kappa_score(target[valid], prediction[valid]), abs=1e-12)
    peer = torchmetrics.functional.cohen_kappa(
        prediction, target, task="multiclass", num_classes=K, ignore_index=255
    )
    assert kappa == pytest.approx(peer.item(), abs=1e-6)


def test_matrix_is_that_of_sklearn_for_any_share_of_ignored_pixels() -> None:
    for share in (0.0, 0.5, 0.99):
        prediction, target = torch.randint(0, K, (30, 40)), torch.randint(0, K, (30, 40))
        target[torch.rand(30, 40) < share] = 255
        valid = target != 255
        expected = sklearn_matrix(target[valid], prediction[valid], labels=range(K))
        assert ours(prediction, target).matrix.tolist() == expected.tolist()


# --- the definitions of three challenges, written anew from their tools --------------------------------


def voc(target: np.ndarray, prediction: np.ndarray, k: int) -> float:
    """VOCdevkit's VOCevalseg: accuracy of a class is hits over target + result - hits; the mean of all."""
    counts = np.zeros((k, k))
    for one, other in zip(target.ravel(), prediction.ravel(), strict=True):
        if one < 255:
            counts[one, other] += 1
    per_class = []
    for j in range(k):
        either = counts[j].sum() + counts[:, j].sum() - counts[j, j]
        per_class.append(counts[j, j] / either)
    return float(np.mean(per_class))


def ade20k(target: np.ndarray, prediction: np.ndarray, k: int) -> tuple[float, float]:
    """The scene parsing benchmark's: label 0 is void, classes follow; an absent class has IoU 0 / eps = 0."""
    prediction = prediction * (target > 0)
    found = prediction[prediction == target]
    common = np.bincount(found, minlength=k + 1)[1:]
    either = (
        np.bincount(prediction.ravel(), minlength=k + 1)[1:]
        + np.bincount(target.ravel(), minlength=k + 1)[1:]
    )
    iou = common / (either - common + np.spacing(1))
    right = ((prediction == target) & (target > 0)).sum() / ((target > 0).sum() + np.spacing(1))
    return float(iou.mean()), float(right)


def cityscapes(target: np.ndarray, prediction: np.ndarray, k: int) -> float:
    """Cityscapes' tool: hits over hits + misses + false alarms on labelled pixels; absent classes are nan."""
    scores = []
    for label in range(k):
        labelled = target != 255
        hits = ((target == label) & (prediction == label)).sum()
        misses = ((target == label) & (prediction != label)).sum()
        false_alarms = (labelled & (target != label) & (prediction == label)).sum()
        if hits + misses + false_alarms:
            scores.append(hits / (hits + misses + false_alarms))
    return float(np.mean(scores))


@pytest.mark.parametrize("absent_class", [False, True])
def test_means_are_those_of_voc_ade20k_and_cityscapes(absent_class: bool) -> None:
    k = K + absent_class  # the last class then is in neither map
    prediction, target = torch.randint(0, K, (20, 30)), torch.randint(0, K, (20, 30))
    target[torch.rand(20, 30) < 0.1] = 255
    mine = ours(prediction, target, k)
    maps = target.numpy(), prediction.numpy()
    assert mine.mean_iou == pytest.approx(cityscapes(*maps, k), abs=1e-14)
    if not absent_class:
        assert mine.mean_iou == pytest.approx(voc(*maps, k), abs=1e-14)
    shifted = np.where(maps[0] == 255, 0, maps[0] + 1), maps[1] + 1
    iou, accuracy = ade20k(*shifted, k)
    assert ours(prediction, target, k, "zero").mean_iou == pytest.approx(iou, abs=1e-14)
    assert mine.pixel_accuracy == pytest.approx(accuracy, abs=1e-14)


# --- who says what on corner cases: [0 0 1 1 2 2] against [0 0 1 2 2 2], four classes --------------------


def test_peers_disagree_on_an_absent_class_and_ours_has_each_answer_by_name() -> None:
    prediction, target = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 2, 2, 2])
    by_rule = {rule: ours(prediction, target, 4, rule).mean_iou for rule in ("exclude", "zero", "one")}
    excluded = torchmetrics.functional.jaccard_index(prediction, target, task="multiclass", num_classes=4)
    zero = jaccard_score(target, prediction, labels=range(4), average="macro", zero_division=0)
    assert by_rule["exclude"] == pytest.approx(excluded.item()) == pytest.approx(0.722, abs=5e-4)
    assert by_rule["zero"] == pytest.approx(zero) == pytest.approx(0.542, abs=5e-4)
    assert by_rule["one"] == pytest.approx(smp_iou(prediction, target, k=4)) == pytest.approx(0.792, abs=5e-4)


def test_all_pixels_ignored_is_nan_here_and_a_perfect_score_in_a_peer() -> None:
    nothing = torch.full((4, 4), 255)
    assert smp_iou(torch.zeros(4, 4, dtype=torch.long), nothing, k=3) == 1
    with pytest.warns(UserWarning, match="no labelled pixel"):
        assert math.isnan(ours(torch.zeros(4, 4, dtype=torch.long), nothing, 3).mean_iou)
