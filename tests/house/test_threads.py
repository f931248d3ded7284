"""Worker threads touch NumPy arrays only: inference mode, autograd and autocast are local to a thread."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from pixelwise.kernels import compiling

PACKAGE = Path(__file__).parents[2] / "pixelwise"
SIDE = 272  # 73,984 pixels: above the limits below which one thread does it all


class TensorInWorkerError(AssertionError):
    """A worker thread called torch."""


class NoTorch(TorchFunctionMode):
    """Refuses every function and method of torch in the thread that enters it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        raise TensorInWorkerError(f"a worker thread called {function}")


class Pool(ThreadPoolExecutor):
    """A pool that refuses torch."""

    used = 0

    def __init__(self, threads: int) -> None:
        super().__init__(threads, initializer=NoTorch().__enter__)
        type(self).used += 1


@pytest.fixture(autouse=True)
def workers_without_torch(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(compiling, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(Pool, "used", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def decoded(folder: Path) -> None:
    from pixelwise.decode import confidence, semantic
    from pixelwise.types import DenseLogits

    fine = torch.randn(1, 4, SIDE, SIDE)
    for scores in (fine, fine.bfloat16(), fine.half(), fine.contiguous(memory_format=torch.channels_last)):
        semantic(DenseLogits(scores, (SIDE, SIDE)))
        confidence(DenseLogits(scores, (SIDE, SIDE)))
        semantic(DenseLogits(scores[..., ::4, ::4], (SIDE, SIDE)))
        confidence(DenseLogits(scores[..., ::4, ::4], (SIDE, SIDE)))


def counted(folder: Path) -> None:
    from pixelwise.metrics import confusion_from_logits, confusion_matrix

    logits, target = torch.randn(2, 3, SIDE, SIDE), torch.randint(3, (2, SIDE, SIDE))
    for scores in (logits, logits.bfloat16(), logits.contiguous(memory_format=torch.channels_last)):
        for labels in (target, target.byte(), target.transpose(1, 2)):
            confusion_from_logits(scores, labels)
    confusion_matrix(target, target.flip(0), 3, threads=2)


def distances_in_a_loss(folder: Path) -> None:
    from pixelwise.losses.distance_maps import distance_across

    inside = torch.zeros(2, 2, 20, 20, dtype=torch.bool)
    inside[..., 5:10, 5:10] = True
    distance_across(inside, ~inside, None, torch.float32)


def lovasz(folder: Path) -> None:
    from pixelwise.losses.lovasz import lovasz_loss

    lovasz_loss(torch.randn(2, 3, 40, 50), torch.randint(3, (2, 40, 50)))


def panoptic_files(folder: Path) -> None:
    from pixelwise.metrics import panoptic_file_scores

    (folder / "all").mkdir()
    colors = np.zeros((8, 9, 3), np.uint8)
    colors[:4, :, 0] = 1
    segment = {"id": 1, "category_id": 7, "iscrowd": 0, "area": 36}
    entries = []
    for number in range(3):
        Image.fromarray(colors).save(folder / "all" / f"{number}.png")
        entries.append({"image_id": number, "file_name": f"{number}.png", "segments_info": [segment]})
    categories = [{"id": 7, "name": "car", "isthing": 1, "color": [1, 2, 3]}]
    file = folder / "all.json"
    file.write_text(json.dumps({"annotations": entries, "categories": categories}))
    panoptic_file_scores(file, file, threads=2)


def run_lengths(folder: Path) -> None:
    from pixelwise.rle import RleMasks

    RleMasks.encode(torch.rand(5, 20, 30) > 0.5, threads=2).decode(threads=2)


def coco_scores(folder: Path) -> None:
    from pixelwise.metrics import coco_evaluate

    boxes = [[2.0 * i, 3.0, 5.0, 6.0] for i in range(6)]
    annotations = [
        {"id": i + 1, "image_id": i % 3, "category_id": 1 + i % 2, "bbox": box, "area": 30.0, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    truth = {
        "images": [{"id": i, "height": 40, "width": 50} for i in range(3)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": annotations,
    }
    found = [{**annotation, "score": 0.5} for annotation in annotations]
    coco_evaluate(truth, found, "box", threads=2)


def dense_crf(folder: Path) -> None:
    from pixelwise.algorithms import DenseCrf

    DenseCrf(threads=2)(torch.rand(1, 2, 20, 20).softmax(1), torch.rand(1, 3, 20, 20))


def mean_shift(folder: Path) -> None:
    from pixelwise.algorithms import mean_shift as segment

    segment(torch.rand(3, 64, 20), max_steps=2)


def automatic_masks(folder: Path) -> None:
    import pixelwise as pw
    from pixelwise.predict import Predictor
    from pixelwise.predict.automatic import AutomaticMasks

    model = pw.build("sam", image_size=32, patch=8, width=16, depth=1)
    find = AutomaticMasks(points_per_side=2, min_iou=-99.0, min_stability=0.0)
    find(Predictor(model), torch.rand(3, 24, 32))


def kept_images(folder: Path) -> None:
    from pixelwise.data import check_data, open_data
    from pixelwise.data.cache import cached
    from pixelwise.data.check import class_counts

    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for number in range(3):
            Image.fromarray(np.full((8, 9), number, np.uint8)).save(folder / kind / f"{number}.png")
    data = open_data(folder).train
    with patch("pixelwise.data.parallel.usable_cores", lambda: 2):  # the tests may run on one
        cached(data, "ram")
        class_counts(data)
        check_data(folder)


# What runs the worker threads of each file that starts some.
PATHS: dict[str, Callable[[Path], None]] = {
    "decode": decoded,
    "kernels/pixels/argmax": decoded,
    "kernels/pixels/softmax": decoded,
    "metrics/pixels/confusion": counted,
    "kernels/pixels/confusion": counted,
    "losses/distance_maps": distances_in_a_loss,
    "kernels/boundaries/distance": distances_in_a_loss,
    "kernels/pixels/lovasz": lovasz,
    "metrics/panoptic/files": panoptic_files,
    "rle/masks": run_lengths,
    "metrics/coco/curves": coco_scores,
    "metrics/coco/shapes": coco_scores,
    "algorithms/dense_crf": dense_crf,
    "algorithms/mean_shift": mean_shift,
    "predict/automatic": automatic_masks,
    "data/parallel": kept_images,
}


def test_every_file_that_starts_worker_threads_is_run_here() -> None:
    starting = {
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*.py")
        if "parallel_map(" in path.read_text()
    }
    assert starting - {"kernels/compiling"} == set(PATHS)
    pools = {path.name for path in PACKAGE.rglob("*.py") if "ThreadPoolExecutor(" in path.read_text()}
    # They read and write files, turn bytes into pixels and back while the model works elsewhere, or ask a
    # server. Only those of predict/parallel.py call networks, in the modes of the thread that started them.
    assert pools == {
        "compiling.py",
        "app.py",
        "many.py",
        "movies.py",
        "parallel.py",
        "streaming.py",
        "remote.py",
    }


@pytest.mark.parametrize("work", dict.fromkeys(PATHS.values()), ids=lambda work: work.__name__)
@pytest.mark.parametrize("inference", [True, False])
def test_no_worker_thread_touches_a_tensor(work, inference: bool, tmp_path: Path) -> None:
    with torch.inference_mode(inference):
        work(tmp_path)
    assert Pool.used


def test_a_tensor_in_a_worker_thread_would_be_seen() -> None:
    tensor = torch.zeros(3)
    for touch in (lambda i: tensor[i], lambda i: tensor.numpy(), lambda i: torch.zeros(2)):
        with pytest.raises(TensorInWorkerError):
            compiling.parallel_map(touch, [0, 1], 2)
