"""COCO's AP: every number is pycocotools', and what it does where pycocotools cannot."""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pixelwise.metrics.coco.evaluate import AREA_RANGES, coco_evaluate
from pixelwise.metrics.coco.files import CocoGroundTruth
from pixelwise.metrics.coco.scores import CocoScores

Json = dict[str, Any]
SharedData = Callable[..., Path]
IOU_TYPE = {"mask": "segm", "box": "bbox", "keypoints": "keypoints"}


def official(truth: Json, results: list[Json], kind: str, use_classes: bool = True) -> Any:
    """An evaluation by pycocotools, which writes into what it is given."""
    truth, results = copy.deepcopy((truth, results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), IOU_TYPE[kind])
        evaluation.params.useCats = int(use_classes)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_official(
    truth: Json, results: list[Json], kind: Any, use_classes: bool = True, threads: int = 1
) -> CocoScores:
    theirs = official(truth, results, kind, use_classes)
    ours = coco_evaluate(truth, results, kind, use_classes=use_classes, threads=threads)
    np.testing.assert_array_equal(ours.precision, theirs.eval["precision"])
    np.testing.assert_array_equal(ours.recall, theirs.eval["recall"])
    np.testing.assert_array_equal(ours.scores, theirs.eval["scores"])
    np.testing.assert_array_equal(ours.stats, theirs.stats)
    return ours


def coded(box: list[int], height: int, width: int, hole: bool = False) -> Json:
    """A rectangle as compressed run lengths."""
    x, y, w, h = box
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if hole:
        mask[y + h // 4 : y + h // 2, x + w // 4 : x + w // 2] = 0
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def data_set(seed: int, with_boxes: bool = False) -> tuple[Json, list[Json]]:
    """Crowds, doubled annotations (ties of IoU), few scores (ties), images and classes without anything,
    areas on the bounds of the ranges, polygons and run lengths, 130 detections of one class in one image."""
    random = np.random.default_rng(seed)
    images = [{"id": int(n), "height": 120 + int(n) % 3, "width": 150} for n in random.permutation(14) + 1]
    truth: Json = {
        "images": images,
        "annotations": [],
        "categories": [{"id": k, "name": f"class {k}"} for k in (7, 1, 3, 12, 9)],
    }
    results: list[Json] = []
    for image in images[:11]:
        number, height, width = image["id"], image["height"], image["width"]
        for _ in range(int(random.integers(0, 7))):
            w, h = (int(v) for v in random.choice([[32, 32], [96, 96], [20, 40], [64, 16], [9, 5], [70, 90]]))
            x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
            crowd = bool(random.random() < 0.2)
            label = int(random.choice([1, 3, 7, 9]))
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            thing = {
                "image_id": number,
                "category_id": label,
                "iscrowd": int(crowd),
                "area": float(w * h),
                "bbox": [float(x), float(y), float(w), float(h)],
                "segmentation": coded([x, y, w, h], height, width, True) if crowd else polygon,
            }
            for _ in range(2 if random.random() < 0.2 else 1):
                truth["annotations"].append({**copy.deepcopy(thing), "id": len(truth["annotations"]) + 1})
            for _ in range(int(random.integers(0, 4))):
                moved = [
                    int(np.clip(v + random.integers(-4, 5), 0, limit - 1))
                    for v, limit in ((x, width - w), (y, height - h))
                ]
                guess = label if random.random() < 0.8 else int(random.choice([1, 3, 7, 12]))
                result = found(number, guess, [*moved, w, h], height, width, random)
                results.append(result if with_boxes else {k: v for k, v in result.items() if k != "bbox"})
    image = images[0]
    for _ in range(130):
        box = [*(int(v) for v in random.integers(0, 60, 2)), 40, 40]
        result = found(image["id"], 3, box, image["height"], image["width"], random)
        results.append(result if with_boxes else {k: v for k, v in result.items() if k != "bbox"})
    return truth, [results[place] for place in random.permutation(len(results))]


def found(
    number: int, label: int, box: list[int], height: int, width: int, random: np.random.Generator
) -> Json:
    return {
        "image_id": number,
        "category_id": label,
        "score": int(random.integers(1, 9)) / 8,
        "segmentation": coded(box, height, width),
        "bbox": [float(v) + 0.5 * (random.random() < 0.5) for v in box],
    }


def persons(seed: int) -> tuple[Json, list[Json]]:
    """Keypoints: some persons without a labelled one, crowds, more than 20 detections of an image."""
    random = np.random.default_rng(seed)
    truth: Json = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    results: list[Json] = []
    for number in range(1, 9):
        truth["images"].append({"id": number, "height": 300, "width": 400})
        for _ in range(int(random.integers(0, 5))):
            x, y = random.uniform(0, 200, 2).tolist()
            w, h = random.uniform(20, 150, 2).tolist()
            points = np.stack([x + w * random.random(17), y + h * random.random(17)], 1).round(1)
            visible = random.integers(0, 3, 17) * (random.random() < 0.8)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": int(random.random() < 0.1),
                    "area": float(random.choice([1024.0, 9216.0, w * h / 2])),
                    "bbox": [x, y, w, h],
                    "num_keypoints": int((visible > 0).sum()),
                    "keypoints": np.column_stack([points * (visible[:, None] > 0), visible]).ravel().tolist(),
                }
            )
            for _ in range(int(random.integers(1, 9))):
                guess = points + random.normal(0, 0.04 * (w + h), points.shape)
                results.append(
                    {
                        "image_id": number,
                        "category_id": 1,
                        "score": int(random.integers(1, 9)) / 8,
                        "keypoints": np.column_stack([guess, np.ones(17)]).ravel().tolist(),
                    }
                )
    return truth, results


def perfect() -> tuple[Json, list[Json]]:
    """Two classes, each found as it is."""
    boxes = [[2, 3, 20, 10], [40, 40, 50, 50], [10, 60, 12, 12]]
    truth = {
        "images": [{"id": 4, "height": 100, "width": 100}],
        "annotations": [
            {"id": n + 1, "image_id": 4, "category_id": n % 2, "iscrowd": 0, "area": float(b[2] * b[3]),
             "bbox": b, "segmentation": coded(b, 100, 100)}
            for n, b in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 5, "name": "newt"}],
    }  # fmt: skip
    results = [{**thing, "score": 0.9} for thing in truth["annotations"]]
    return truth, results


# --- as pycocotools -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ("mask", "box"))
def test_every_number_is_that_of_pycocotools(seed: int, kind: str) -> None:
    assert_official(*data_set(seed), kind)


def test_boxes_in_results_decide_the_areas_of_masks_as_in_pycocotools() -> None:
    truth, results = data_set(5, with_boxes=True)
    with_boxes = assert_official(truth, results, "mask")
    assert_official(truth, results, "box")
    without = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    assert not np.array_equal(with_boxes.precision, assert_official(truth, without, "mask").precision)


def test_results_with_boxes_alone_are_masks_of_their_boxes() -> None:
    truth, results = data_set(6, with_boxes=True)
    assert_official(
        truth, [{k: v for k, v in result.items() if k != "segmentation"} for result in results], "mask"
    )


@pytest.mark.parametrize("kind", ("mask", "box"))
def test_pooled_classes_are_those_of_pycocotools(kind: str) -> None:
    assert_official(*data_set(7), kind, use_classes=False)


def test_several_threads_change_nothing() -> None:
    assert_official(*data_set(8), "mask", threads=3)
    assert_official(*data_set(8), "box", threads=3)


@pytest.mark.parametrize("seed", range(3))
def test_keypoints_are_those_of_pycocotools(seed: int) -> None:
    assert_official(*persons(seed), "keypoints")


def test_no_targets_give_minus_one_in_the_arrays_and_nan_by_name() -> None:
    truth, results = perfect()
    truth["annotations"] = []
    scores = assert_official(truth, results, "box")
    assert (scores.precision == -1).all()
    assert np.isnan(list(scores.as_dict().values())).all()
    assert np.isnan(scores.per_class_ap).all()


def test_coco_s_own_example_gives_the_published_numbers(shared_data: SharedData) -> None:
    folder = shared_data("data", "coco_eval")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    published = (folder / "val2014_fake_eval_res.txt").read_text().split("type=")
    for kind, name in (("mask", "segm"), ("box", "bbox")):
        results = json.loads((folder / f"instances_val2014_fake{name}100_results.json").read_text())
        scores = assert_official(truth, results, kind)
        text = next(part for part in published if part.startswith(name))
        numbers = [float(line.rsplit("=", 1)[1]) for line in text.splitlines() if "Average" in line]
        assert scores.stats.round(3).tolist() == numbers


def test_a_crowded_image_of_coco_s_persons_scores_as_in_pycocotools(shared_data: SharedData) -> None:
    folder = shared_data("data", "coco_eval", "keypoints")
    truth, results = (json.loads((folder / f"{name}_dataset.json").read_text()) for name in ("gt", "dt"))
    assert_official(truth, results, "keypoints")


def test_drawn_shapes_score_as_in_pycocotools(shared_data: SharedData) -> None:
    folder = shared_data("data", "coco_eval", "toy")
    truth, results = (json.loads((folder / f"{name}_dataset.json").read_text()) for name in ("gt", "dt"))
    for kind in ("mask", "box"):
        assert_official(truth, results, kind)


# --- where pycocotools cannot ---------------------------------------------------------------------


def test_a_perfect_result_scores_one() -> None:
    truth, results = perfect()
    for kind in ("mask", "box", "boundary"):
        scores = coco_evaluate(truth, results, kind)
        assert scores.ap == pytest.approx(1)
        np.testing.assert_allclose(scores.per_class_ap, [1, 1, np.nan])


def test_an_annotation_with_id_zero_can_be_found() -> None:
    truth, results = perfect()
    truth["annotations"][0]["id"] = 0
    assert coco_evaluate(truth, results).ap == pytest.approx(1)
    assert official(truth, results, "mask").stats[0] < 0.9  # the defect this is about
    for annotation in truth["annotations"]:
        del annotation["id"]
    assert coco_evaluate(truth, results).ap == pytest.approx(1)


def test_a_missing_iscrowd_is_no_crowd() -> None:
    truth, results = data_set(1)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    expected = coco_evaluate(truth, results)
    for annotation in truth["annotations"]:
        del annotation["iscrowd"]
    np.testing.assert_array_equal(coco_evaluate(truth, results).precision, expected.precision)


def test_ap_is_at_the_largest_number_of_detections() -> None:
    truth, results = data_set(2)
    scores = coco_evaluate(truth, results, max_detections=(300, 1, 50))
    assert scores.max_detections == (1, 50, 300)
    assert scores.ap == float(scores.precision[:, :, :, 0, -1][scores.precision[:, :, :, 0, -1] > -1].mean())
    assert list(scores.as_dict())[6:9] == ["AR1", "AR50", "AR300"]
    np.testing.assert_array_equal(
        coco_evaluate(truth, results, max_detections=(100,)).precision[..., 0],
        coco_evaluate(truth, results).precision[..., 2],
    )


def test_no_detections_score_zero() -> None:
    truth, _ = perfect()
    for kind in ("mask", "box"):
        scores = coco_evaluate(truth, [], kind)
        assert scores.ap == 0
        assert scores.as_dict()["AR100"] == 0


def test_keypoints_match_without_classes() -> None:
    truth, results = persons(0)
    np.testing.assert_array_equal(
        coco_evaluate(truth, results, "keypoints", use_classes=False).precision,
        coco_evaluate(truth, results, "keypoints").precision,
    )


def test_other_numbers_of_keypoints_take_their_own_sigmas() -> None:
    truth, results = persons(1)
    for thing in (*truth["annotations"], *results):
        thing["keypoints"] = thing["keypoints"][:15]
    with pytest.raises(ValueError, match="17 sigmas need 51 numbers"):
        coco_evaluate(truth, results, "keypoints")
    ready = CocoGroundTruth.read(truth, "keypoints", sigmas=(0.05,) * 5)
    assert 0 < coco_evaluate(ready, results, "keypoints").ap < 1


def test_ranges_of_areas_are_named_by_the_caller() -> None:
    truth, results = data_set(3)
    ranges = {"all": (0.0, 1e10), "tiny": (0.0, 45.0)}
    scores = coco_evaluate(truth, results, "box", area_ranges=ranges)
    assert scores.precision.shape[3] == 2
    assert "AP_tiny" in scores.as_dict()
    np.testing.assert_array_equal(
        scores.precision[:, :, :, 0], coco_evaluate(truth, results, "box").precision[:, :, :, 0]
    )


def test_an_area_on_a_bound_belongs_to_both_ranges() -> None:
    truth, results = perfect()
    truth["annotations"] = [{**truth["annotations"][0], "area": 1024.0}]
    scores = coco_evaluate(truth, results[:1], "box").as_dict()
    assert (scores["AP_small"], scores["AP_medium"]) == pytest.approx((1, 1))
    assert np.isnan(scores["AP_large"])


# --- in and out -------------------------------------------------------------------------------------


def test_files_and_ready_ground_truth_score_as_dictionaries(tmp_path: Path) -> None:
    truth, results = data_set(4)
    before = copy.deepcopy((truth, results))
    expected = coco_evaluate(truth, results)
    assert (truth, results) == before  # nothing is written into the input
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    ready = CocoGroundTruth.read(tmp_path / "truth.json")
    for source in (ready, ready, str(tmp_path / "truth.json")):
        scores = coco_evaluate(source, tmp_path / "results.json")
        np.testing.assert_array_equal(scores.precision, expected.precision)


def test_the_table_shows_the_official_numbers() -> None:
    scores = coco_evaluate(*perfect())
    lines = scores.table().splitlines()
    assert len(lines) == 1 + len(scores.stats) == 13
    assert lines[1].split() == ["AP", "0.50:0.95", "all", "100", "1.000"]
    assert lines[6].split() == ["AP_large", "0.50:0.95", "large", "100", "nan"]
    assert "AP 1.0000" in repr(scores)
    with pytest.raises(AttributeError, match="frozen"):
        scores.kind = "box"


def test_other_averages_are_asked_for_by_value() -> None:
    scores = coco_evaluate(*data_set(0))
    names = scores.as_dict()
    assert scores.average_precision(0.75) == names["AP75"]
    assert scores.average_recall(area="small") == names["AR_small"]
    assert scores.average_recall(max_detections=10) == names["AR10"]
    for wrong in (
        lambda: scores.average_precision(0.42),
        lambda: scores.average_precision(area="huge"),
        lambda: scores.average_recall(max_detections=3),
    ):
        with pytest.raises(ValueError, match="must be one of"):
            wrong()


@pytest.mark.parametrize(
    "change, message",
    (
        (lambda t, r: r[1].update(image_id=99), "detection 1 has the image_id 99"),
        (lambda t, r: r[2].update(category_id=99), "detection 2 has the category_id 99"),
        (lambda t, r: r[0].pop("score"), "detection 0 has no score"),
        (lambda t, r: r[1].update(score=float("nan")), "detection 1 has the score nan"),
        (lambda t, r: r[1].pop("image_id"), "detection 1 has no image_id"),
        (lambda t, r: r[0].update(segmentation=coded([0, 0, 2, 2], 99, 100)), "size"),
        (lambda t, r: t["annotations"][0].pop("area"), "annotation 0 has no area"),
        (lambda t, r: t["annotations"][0].pop("segmentation"), "annotation has no segmentation"),
        (lambda t, r: t["annotations"][1].update(image_id=1), "annotation 1 has the image_id 1"),
        (lambda t, r: t["images"][0].pop("height"), "height and width of every image"),
        (lambda t, r: t.pop("images"), "a dictionary with images"),
    ),
)
def test_input_that_does_not_fit_is_named(change: Callable[[Json, list[Json]], Any], message: str) -> None:
    truth, results = copy.deepcopy(perfect())
    change(truth, results)
    with pytest.raises(ValueError, match=message):
        coco_evaluate(truth, results)


def test_arguments_that_do_not_fit_are_named(tmp_path: Path) -> None:
    truth, results = perfect()
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        coco_evaluate(tmp_path / "no.json", results)
    with pytest.raises(ValueError, match="made ready for kind 'box'"):
        coco_evaluate(CocoGroundTruth.read(truth, "box"), results)
    with pytest.raises(ValueError, match="max_detections must be at least 1"):
        coco_evaluate(truth, results, max_detections=(0, 10))
    with pytest.raises(ValueError, match="x, y, width, height"):
        coco_evaluate(truth, [{**results[0], "bbox": [1, 2, 3]}], "box")


@pytest.mark.compile
def test_an_unknown_kind_and_detections_that_are_no_list_are_named() -> None:
    truth, results = perfect()
    with pytest.raises(ValueError, match="kind must be one of mask, box"):
        coco_evaluate(truth, results, "segm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a list of results"):
        coco_evaluate(truth, {"annotations": results})  # type: ignore[arg-type]


def test_the_ranges_are_those_of_coco() -> None:
    assert AREA_RANGES == {
        "all": (0, 1e10),
        "small": (0, 1024),
        "medium": (1024, 9216),
        "large": (9216, 1e10),
    }
