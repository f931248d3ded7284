"""Agreement with peers where they are right, and what they say where they are not."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torchmetrics
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
