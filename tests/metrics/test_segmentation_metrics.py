"""The metric that accumulates over batches and processes."""

import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing

from pixelwise.metrics import SegmentationMetrics, confusion_matrix
from pixelwise.types import ClassTable, LabelMap, voc_palette

CLASSES = ClassTable.of("sky", "road", "car")


def images(count: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    prediction = torch.randint(0, 3, (count, 6, 7), generator=random)
    target = torch.randint(0, 3, (count, 6, 7), generator=random)
    target[:, 0] = 255
    return prediction, target


def test_batches_add_up_to_the_whole() -> None:
    prediction, target = images()
    metrics = SegmentationMetrics(CLASSES)
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
        metrics.update(prediction[part], target[part])
    assert torch.equal(metrics.compute().matrix, confusion_matrix(prediction, target, 3))


def test_label_maps_and_tensors_are_taken_alike() -> None:
    prediction, target = images()
    metrics = SegmentationMetrics(CLASSES)
    metrics.update(LabelMap(prediction), LabelMap(target))
    metrics.update(LabelMap(prediction), target)
    assert torch.equal(metrics.compute().matrix, 2 * confusion_matrix(prediction, target, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_taken_for_the_labels_they_stand_for(dtype: torch.dtype) -> None:
    _, target = images()
    logits = torch.randn(4, 3, 6, 7).to(dtype)
    metrics = SegmentationMetrics(CLASSES)
    metrics.update(logits, target)
    metrics.update(logits, LabelMap(target))
    assert torch.equal(metrics.compute().matrix, 2 * confusion_matrix(logits.argmax(1), target, 3))


def test_scores_of_another_task_are_refused_and_wrong_targets_named() -> None:
    _, target = images()
    metrics = SegmentationMetrics(CLASSES)
    with pytest.raises(
        ValueError, match=r"scores of 3 classes must have the shape \(b, 3, ...\), got \(4, 5,"
    ):
        metrics.update(torch.randn(4, 5, 6, 7), target)
    target[1, 2, 2] = 9
    with pytest.raises(ValueError, match=r"target holds the label 9 in b\.png"):
        metrics.update(torch.randn(4, 3, 6, 7), target, ids=("a.png", "b.png", "c.png", "d.png"))
    assert not metrics.matrix.any()


def test_forward_scores_the_batch_and_remembers_it() -> None:
    prediction, target = images()
    metrics = SegmentationMetrics(CLASSES)
    first, second = metrics(prediction[:1], target[:1]), metrics(prediction[1:], target[1:])
    assert torch.equal(first.matrix, confusion_matrix(prediction[:1], target[:1], 3))
    assert torch.equal(first.matrix + second.matrix, metrics.compute().matrix)


def test_reset_forgets() -> None:
    metrics = SegmentationMetrics(CLASSES)
    metrics.update(*images())
    metrics.reset()
    assert not metrics.matrix.any()
    metrics.update(torch.tensor([1]), torch.tensor([1]))
    assert metrics.compute().support.tolist() == [0, 1, 0]


def test_what_was_computed_does_not_change_later() -> None:
    metrics = SegmentationMetrics(CLASSES)
    metrics.update(torch.tensor([1]), torch.tensor([1]))
    before = metrics.compute()
    metrics.update(torch.tensor([1]), torch.tensor([0]))
    assert before.mean_iou == 1
    assert metrics.compute().mean_iou == 0.25


def test_the_rule_for_absent_classes_is_passed_on() -> None:
    for absent, expected in (("exclude", 1.0), ("zero", 1 / 3), ("one", 1.0)):
        metrics = SegmentationMetrics(CLASSES, absent)
        metrics.update(torch.tensor([1]), torch.tensor([1]))
        assert metrics.compute().absent == absent
        assert metrics.compute().mean_iou == pytest.approx(expected)


def test_the_counts_move_between_devices_and_ignore_a_cast() -> None:
    metrics = SegmentationMetrics(CLASSES).half()
    assert metrics.matrix.dtype == torch.int64
    assert metrics.to("meta").matrix.device.type == "meta"


def test_the_counts_go_into_a_state_dict_on_request() -> None:
    metrics = SegmentationMetrics(CLASSES)
    assert metrics.state_dict() == {}
    metrics.persistent(True)
    metrics.update(*images())
    other = SegmentationMetrics(CLASSES)
    other.persistent(True)
    other.load_state_dict(metrics.state_dict())
    assert torch.equal(other.matrix, metrics.matrix)


def test_one_class_is_a_matrix_of_one_cell() -> None:
    metrics = SegmentationMetrics(ClassTable.of("all"))
    metrics.update(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    assert metrics.compute().matrix.tolist() == [[6]]
    assert metrics.compute().mean_iou == 1


def test_counts_in_inference_mode_can_go_on_outside() -> None:
    metrics = SegmentationMetrics(CLASSES)
    with torch.inference_mode():
        metrics.update(*images())
    metrics.update(*images())
    assert torch.equal(metrics.compute().matrix, 2 * confusion_matrix(*images(), 3))


def test_a_wrong_label_names_the_sample_it_comes_from_and_counts_nothing() -> None:
    prediction, target = images()
    target[2, 3, 3] = 37
    metrics = SegmentationMetrics(CLASSES)
    with pytest.raises(
        ValueError, match=r"target holds the label 37 in c\.png, outside the table of 3 classes"
    ):
        metrics.update(prediction, target, ids=("a.png", "b.png", "c.png", "d.png"))
    with pytest.raises(ValueError, match="target holds the label 37, outside the table of 3 classes"):
        metrics.update(prediction, target)
    assert not metrics.matrix.any()


def test_shapes_that_differ_are_refused() -> None:
    prediction, target = images()
    with pytest.raises((ValueError, TypeError), match="target"):
        SegmentationMetrics(CLASSES).update(prediction, target[:, 1:], ids=tuple("abcd"))


def test_tasks_and_rules_that_cannot_be_scored_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="exclusive=False"):
        SegmentationMetrics(ClassTable(("a", "b"), voc_palette(2), exclusive=False))
    with pytest.raises((ValueError, TypeError), match="absent"):
        SegmentationMetrics(CLASSES, "nan")


# --- several processes --------------------------------------------------------------------------------------


def test_the_counts_of_all_processes_are_added() -> None:
    metrics = SegmentationMetrics(CLASSES)
    metrics.update(*images())
    own = metrics.matrix.clone()
    # Two other processes, as torchmetrics would hear of them.
    metrics.distributed_available_fn = lambda: True
    metrics.dist_sync_fn = lambda counts, group=None: [counts, 10 * counts, 100 * counts]
    assert torch.equal(metrics.compute().matrix, 111 * own)
    assert torch.equal(metrics.matrix, own)  # and each goes on with its own


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    prediction, target = images(5)
    metrics = SegmentationMetrics(CLASSES)
    mine = slice(0, 2) if rank == 0 else slice(2, 5)
    metrics.update(prediction[mine], target[mine])
    torch.save(metrics.compute().matrix, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_what_one_scores(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    expected = confusion_matrix(*images(5), 3)
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)
