"""The forms in which predictions are saved, and that they can be read again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from pixelwise.predict import Prediction
from pixelwise.predict.prediction import files_of
from pixelwise.rle import RleMasks
from pixelwise.tasks import get_task
from pixelwise.types import Annotation, ClassMasks, ClassTable, LabelMap, MaskSet, PanopticMap

HEIGHT, WIDTH = 23, 31
TABLE = ClassTable.of("sky", "road", "car")


@pytest.fixture
def labels() -> np.ndarray:
    """Patches with holes, and pixels that touch at a corner only."""
    coarse = np.random.default_rng(0).integers(0, 3, (12, 16))
    return coarse.repeat(2, 0).repeat(2, 1)[:HEIGHT, :WIDTH]


def prediction_of(task: str, annotation: Annotation, classes: ClassTable = TABLE) -> Prediction:
    return Prediction(annotation, get_task(task), classes, torch.zeros(3, HEIGHT, WIDTH), "street.png")


def painted(path: Path) -> list[tuple[int, np.ndarray]]:
    """Label and mask of each feature of a GeoJSON file."""
    content = json.loads(path.read_text())
    assert (content["height"], content["width"]) == (HEIGHT, WIDTH)
    found = []
    for feature in content["features"]:
        shape = feature["geometry"]
        polygons = [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]
        rings = [np.array(ring[:-1]).ravel().tolist() for polygon in polygons for ring in polygon]
        assert all(ring[0] == ring[-1] for polygon in polygons for ring in polygon)
        mask = RleMasks.from_polygons([rings], HEIGHT, WIDTH, even_odd=True).decode()[0]
        assert mask.sum() == feature["properties"]["area"]
        found.append((feature["properties"]["label"], mask))
    return found


def test_labels_come_back_from_every_form(labels: np.ndarray, tmp_path: Path) -> None:
    prediction = prediction_of("semantic", LabelMap(torch.from_numpy(labels)))
    for suffix in (".png", ".tif"):
        assert np.array_equal(np.asarray(Image.open(prediction.save(tmp_path / f"a{suffix}"))), labels)
    assert np.array_equal(np.load(prediction.save(tmp_path / "a.npy")), labels)
    again = np.full((HEIGHT, WIDTH), -1)
    for label, mask in painted(prediction.save(tmp_path / "a.geojson")):
        again[mask] = label
    assert np.array_equal(again, labels)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_labels_come_back_through_pycocotools(
    labels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = get_task("semantic")
    collector = task.collectors["coco"]
    named = [(name, collector.compact(LabelMap(torch.from_numpy(labels)))) for name in ("a.png", "b.png")]
    results, images = collector.write(tmp_path, named, TABLE)
    loaded = COCO(str(images)).loadRes(str(results))
    for image in loaded.getImgIds():
        again = np.full((HEIGHT, WIDTH), -1)
        for entry in loaded.loadAnns(loaded.getAnnIds(imgIds=image)):
            again[loaded.annToMask(entry) == 1] = entry["category_id"] - 1
        assert np.array_equal(again, labels)


def test_more_than_255_labels_are_tiffs_of_16_bits(tmp_path: Path) -> None:
    labels = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    table = ClassTable.of(*(f"class {number}" for number in range(HEIGHT * WIDTH)), ignore=65535)
    path = prediction_of("semantic", LabelMap(labels), table).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(Image.open(path)), labels.numpy())


def test_outlines_of_several_classes_of_instances_and_of_segments(labels: np.ndarray, tmp_path: Path) -> None:
    masks = np.stack([labels == 0, labels > 0, labels == 2])
    several = ClassMasks(torch.from_numpy(masks.astype(np.int64)))
    objects = MaskSet.of(torch.from_numpy(masks), torch.tensor([2, 0, 1]), torch.tensor([0.9, 0.5, 0.25]))
    table = ClassTable(TABLE.names, TABLE.colors, things=(2,))
    ids = torch.tensor([7, 8, 9])
    segments = PanopticMap.of(ids[torch.from_numpy(labels)], ids, torch.tensor([0, 1, 2]))
    for task, annotation, wanted in [
        ("multilabel", several, [(0, masks[0]), (1, masks[1]), (2, masks[2])]),
        ("instance", objects, [(2, masks[0]), (0, masks[1]), (1, masks[2])]),
        ("panoptic", segments, [(0, labels == 0), (1, labels == 1), (2, labels == 2)]),
    ]:
        path = prediction_of(task, annotation, table).save(tmp_path / f"{task}.geojson")
        for (label, mask), (expected_label, expected) in zip(painted(path), wanted, strict=True):
            assert label == expected_label
            assert np.array_equal(mask, expected)
    scores = [
        feature["properties"]["score"]
        for feature in json.loads((tmp_path / "instance.geojson").read_text())["features"]
    ]
    assert scores == pytest.approx([0.9, 0.5, 0.25])


def test_probabilities_are_saved_with_the_names_of_the_classes(tmp_path: Path) -> None:
    probabilities = torch.rand(3, HEIGHT, WIDTH)
    labels = LabelMap(probabilities.argmax(0))
    image = torch.zeros(3, HEIGHT, WIDTH)
    prediction = Prediction(labels, get_task("semantic"), TABLE, image, "a.png", probabilities)
    path = prediction.save(tmp_path / "a_probabilities.npz")
    saved = np.load(path)  # nothing is pickled
    assert saved["probabilities"].dtype == np.float16
    assert np.allclose(saved["probabilities"], probabilities, atol=1e-3)
    assert saved["names"].tolist() == list(TABLE.names)
    with pytest.raises(ValueError, match="predict with probabilities=True"):
        prediction_of("semantic", labels).save(tmp_path / "b_probabilities.npz")


@pytest.mark.parametrize("name", ["semantic", "multilabel", "instance", "detection"])
def test_what_another_thread_writes_needs_no_tensor_operation(
    name: str, labels: np.ndarray, tmp_path: Path
) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Large(TorchDispatchMode):
        """Fails on operations on whole images; lists of objects are small."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            tensors = [each for each in args if isinstance(each, torch.Tensor)]
            if func is not torch.ops.aten.detach.default:  # a view
                assert all(each.numel() < HEIGHT * WIDTH for each in tensors), func
            return func(*args, **(kwargs or {}))

    masks = torch.from_numpy(np.stack([labels == 0, labels > 0, labels == 2]))
    objects = MaskSet.of(masks, torch.tensor([2, 0, 1]))
    task = get_task(name)
    annotation = {
        "semantic": LabelMap(torch.from_numpy(labels)),
        "multilabel": ClassMasks(masks.long()),
        "instance": objects,
        "detection": objects.boxes,
    }[name]
    for suffix, writer in task.writers.items():
        if writer.prepare is not None:
            path = tmp_path / f"a{suffix}"
            write = prediction_of(name, annotation).writing(path)
            with Large():
                write()
            assert all(each.exists() for each in files_of(path, task, TABLE))
