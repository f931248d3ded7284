"""What every metric keeps: several processes, also one that saw no image, score what one process scores.

The metrics are found by importing `pixelwise.metrics`; a new one needs nothing but two images in `EXAMPLES`.
"""

import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing
from torchmetrics import Metric

from pixelwise import metrics
from pixelwise.metrics.rows import RowMetric
from pixelwise.types import Boxes, ClassTable, Keypoints, MaskSet, Skeleton

TABLE = ClassTable(("sky", "road", "car"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), things=(2,))
OVERLAPPING = ClassTable(TABLE.names, TABLE.colors, exclusive=False)
PEOPLE = ClassTable(("person",), ((9, 9, 9),), skeleton=Skeleton(("nose", "left eye", "right eye")))
HEIGHT, WIDTH = 12, 16


def labels(seed: int, classes: int = 3) -> Tensor:
    """Blocks of labels."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, classes, (HEIGHT // 4, WIDTH // 4), generator=random)
    return blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)


def things(seed: int, label: int) -> MaskSet:
    random = torch.Generator().manual_seed(seed)
    masks = torch.stack([labels(seed, 2) == 1, labels(seed + 1, 2) == 1])
    return MaskSet.of(masks, torch.tensor([label, label]), torch.rand(2, generator=random))


def boxes(seed: int) -> Boxes:
    """Two of each class, near those of any other seed."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[0.0, 0, 9, 9], [6, 2, 15, 11]]) + 3 * torch.rand(3, 2, 4, generator=random)
    scores = torch.rand(6, generator=random)
    return Boxes.of(corners.flatten(0, 1), torch.arange(3).repeat_interleave(2), scores)


def people(seed: int) -> Keypoints:
    """Two objects of three joints, near those of any other seed."""
    random = torch.Generator().manual_seed(seed)
    points = torch.tensor([[[4.0, 4]], [[10, 8]]]) + 3 * torch.rand(2, 3, 2, generator=random)
    around = torch.cat([points.amin(1), points.amax(1)], 1)
    scores, areas = torch.rand(2, generator=random), torch.full((2,), 1500.0)
    return Keypoints(points, torch.full((2, 3), 2.0), scores, areas, around, torch.tensor([False, False]))


def segments(seed: int) -> metrics.PanopticMap:
    ids = labels(seed) + 1
    seen = ids.unique()
    return metrics.PanopticMap.of(ids, seen, seen - 1)


def videos(seed: int) -> tuple[Tensor, Tensor]:
    target = torch.stack([labels(0)] * 5)
    return torch.stack([labels(0), *(labels(seed + frame) for frame in range(4))]), target


@dataclasses.dataclass(frozen=True)
class Example:
    """How to make a metric, and what one update takes for image number `seed`."""

    make: Callable[[], Metric]
    image: Callable[[int], tuple[Any, ...]]


EXAMPLES = {
    "BandMetrics": Example(
        lambda: metrics.BandMetrics(TABLE, radius=1), lambda i: (labels(i)[None], labels(i + 9)[None])
    ),
    "BoundaryBenchmark": Example(
        lambda: metrics.BoundaryBenchmark(num_thresholds=3),
        lambda i: (labels(i) / 2, labels(i + 9)[None] == 1),
    ),
    "BoxMetrics": Example(
        lambda: metrics.BoxMetrics(TABLE), lambda i: (boxes(i), boxes(i + 9), f"image {i}")
    ),
    "CalibrationMetrics": Example(
        lambda: metrics.CalibrationMetrics(bins=4), lambda i: (labels(i) / 2, labels(i), labels(i + 9))
    ),
    "CityscapesInstanceMetrics": Example(
        metrics.CityscapesInstanceMetrics, lambda i: (things(i, 26), 26000 + labels(i + 9))
    ),
    "CityscapesMetrics": Example(metrics.CityscapesMetrics, lambda i: (7 + labels(i), 7 + labels(i + 9))),
    "DavisMetrics": Example(lambda: metrics.DavisMetrics("semi-supervised"), videos),
    "InstanceMetrics": Example(
        lambda: metrics.InstanceMetrics(TABLE), lambda i: (things(i, 2), things(i + 9, 2), f"image {i}")
    ),
    "KeypointMetrics": Example(
        lambda: metrics.KeypointMetrics(PEOPLE), lambda i: (people(i), people(i + 9), f"image {i}")
    ),
    "MultilabelMetrics": Example(
        lambda: metrics.MultilabelMetrics(OVERLAPPING),
        lambda i: tuple(torch.stack([labels(j, 2)] * 3)[None] for j in (i, i + 9)),
    ),
    "PanopticMetrics": Example(
        lambda: metrics.PanopticMetrics(TABLE), lambda i: (segments(i), segments(i + 9))
    ),
    "PerImageMetrics": Example(
        lambda: metrics.PerImageMetrics(TABLE), lambda i: (labels(i)[None], labels(i + 9)[None])
    ),
    "PixelPrecisionRecall": Example(
        lambda: metrics.PixelPrecisionRecall(OVERLAPPING),
        lambda i: (torch.stack([labels(i) / 2] * 3), torch.stack([labels(i + 9, 2)] * 3)),
    ),
    "RegionBenchmark": Example(
        lambda: metrics.RegionBenchmark((0.5,)), lambda i: (labels(i)[None], labels(i + 9)[None])
    ),
    "SaliencyMetrics": Example(metrics.SaliencyMetrics, lambda i: (labels(i) / 2, labels(i + 9) == 1)),
    "SegmentationMetrics": Example(
        lambda: metrics.SegmentationMetrics(TABLE), lambda i: (labels(i)[None], labels(i + 9)[None])
    ),
    "SurfaceMetrics": Example(lambda: metrics.SurfaceMetrics(TABLE), lambda i: (labels(i), labels(i + 9))),
}
# Which of the images 0 and 1 each of two processes sees.
SHARES = {"the first sees none": ([], [0, 1]), "the last sees none": ([0, 1], []), "one each": ([0], [1])}


def every_metric() -> list[type[Metric]]:
    for module in pkgutil.walk_packages(metrics.__path__, f"{metrics.__name__}."):
        importlib.import_module(module.name)
    found, todo = [], [Metric]
    while todo:
        todo += (below := todo.pop().__subclasses__())
        found += [one for one in below if one.__module__.startswith(f"{metrics.__name__}.")]
    return [one for one in found if one is not RowMetric]


def scored(name: str, images: list[int]) -> Any:
    metric = EXAMPLES[name].make()
    for i in images:
        metric.update(*EXAMPLES[name].image(i))
    return plain(metric.compute())


def plain(scores: Any) -> Any:
    """Scores as arrays in nested lists and dictionaries, which can be compared and saved."""
    if isinstance(scores, Tensor | np.ndarray):
        return np.asarray(scores)
    if isinstance(scores, Mapping):
        return {str(key): plain(value) for key, value in scores.items()}
    if isinstance(scores, list | tuple):
        return [plain(value) for value in scores]
    if hasattr(scores, "__dict__"):
        return plain(vars(scores))
    return scores


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    found = {(name, share): scored(name, SHARES[share][rank]) for name in EXAMPLES for share in SHARES}
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], Any]]:
    """The scores of every metric and share in each of two processes, which are started once for all."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, str(folder)), nprocs=2)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def test_every_metric_is_exported_and_has_an_example() -> None:
    names = {metric.__name__ for metric in every_metric()}
    assert names == set(EXAMPLES)
    assert all(hasattr(metrics, name) for name in names)


@pytest.mark.filterwarnings("ignore:.*is nan:UserWarning")
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_two_processes_score_what_one_scores(
    of_two_processes: list[dict[tuple[str, str], Any]], name: str, share: str
) -> None:
    expected = scored(name, [0, 1])
    for found in of_two_processes:
        np.testing.assert_equal(found[name, share], expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_metric_that_is_reset_has_forgotten_everything(name: str) -> None:
    metric = EXAMPLES[name].make()
    metric.update(*EXAMPLES[name].image(0))
    metric.reset()
    metric.update(*EXAMPLES[name].image(1))
    np.testing.assert_equal(plain(metric.compute()), scored(name, [1]))


# --- input that is no input -----------------------------------------------------------------------

WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda x: x.double() + 0.5,
    "half": lambda x: x.half(),
    "nan": lambda x: torch.full(x.shape, float("nan")),
    "complex": lambda x: x.to(torch.complex64),
    "bool": lambda x: x > 0,
    "uint16": lambda x: x.to(torch.uint16),
    "uint32": lambda x: x.to(torch.uint32),
    "uint64": lambda x: x.to(torch.uint64),
    "huge": lambda x: torch.full(x.shape, 2**62),
    "0-d": lambda x: x.flatten()[0],
    "empty": lambda x: x[..., :0],
    "nothing": lambda x: x[:0],
    "one more axis": lambda x: x[None],
    "one axis less": lambda x: x[0],
    "of another size": lambda x: x[..., 1:],
}


def refusal(metric: Metric, given: list[Any]) -> str | None:
    """What the metric says against an image; None where it counts it, or where shapes are checked before."""
    try:
        metric.update(*given)
    except ValueError as error:
        return str(error)
    except TypeError as error:
        if type(error).__name__ != "TypeCheckError":
            raise
    return None


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", EXAMPLES)
def test_input_of_the_wrong_kind_is_counted_or_named_in_one_sentence(name: str, wrong: str) -> None:
    given = EXAMPLES[name].image(0)
    names = list(inspect.signature(type(EXAMPLES[name].make()).update).parameters)[1:]
    tensors = [place for place, value in enumerate(given) if isinstance(value, Tensor)]
    for some in [*([place] for place in tensors), tensors]:
        damaged = [WRONG[wrong](x) if i in some else x for i, x in enumerate(given)]
        metric = EXAMPLES[name].make()
        said = refusal(metric, damaged)
        assert said is None or any(argument in said for argument in names), said
        assert said is None or len(said) < 400
