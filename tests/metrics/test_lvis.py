"""LVIS AP: numbers of lvis-api, frozen, since the package is no dependency of the tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixelwise.metrics.coco.lvis import LvisGroundTruth, lvis_evaluate

Json = dict[str, Any]
SharedData = Callable[..., Path]

# lvis 0.5.3 with pycocotools 2.0.11: LVISEval(...).run(), the values of `results` in their order.
SYNTHETIC = {
    "box": [
        0.29757743770598466,
        0.5231182310635274,
        0.28379426764437937,
        0.3395186344031228,
        0.3251652529843152,
        -1.0,
        0.3089093629721255,
        0.2839815610894287,
        0.30437334792858506,
        0.560599358974359,
        0.5384126984126985,
        0.5612373737373737,
        -1.0,
    ],
    "mask": [
        0.12337645345115156,
        0.4433186156771781,
        0.007112211221122112,
        0.1607819512109941,
        0.13759153159543988,
        -1.0,
        0.1202713354650416,
        0.1125083345195148,
        0.14097239667944386,
        0.26542521367521366,
        0.27,
        0.2677741702741703,
        -1.0,
    ],
}
VAL100 = {
    "box": [
        0.4617511010663572,
        0.8143234787153825,
        0.4600781889041635,
        0.4795328254105406,
        0.478892026648599,
        0.5014256576159287,
        0.7999999999999999,
        0.5042289115466168,
        0.45160906827804637,
        0.5593262108768825,
        0.5528746282205067,
        0.5581706831180516,
        0.5561076604554864,
    ],
    "mask": [
        0.13247040859491221,
        0.4066433618642072,
        0.04518641668264472,
        0.12064673841812838,
        0.11315868710063602,
        0.20705142253355766,
        0.29999999999999993,
        0.17522809780978094,
        0.1233492748348421,
        0.17622322010318928,
        0.15867241434053683,
        0.14722958036115932,
        0.24293190706234186,
    ],
}


def results_of(truth: Json, seed: int = 0) -> list[Json]:
    """Annotations moved, some of another class; detections of absent and of partly labelled classes; 350 more
    in one image. Scores are multiples of 1/20, so that there are ties."""
    random = np.random.default_rng(seed)
    results = []
    labels = sorted(category["id"] for category in truth["categories"])

    def add(image: int, label: int, box: list[float]) -> None:
        score = int(random.integers(1, 21)) / 20
        results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})

    for n, annotation in enumerate(truth["annotations"]):
        x, y, w, h = annotation["bbox"]
        for _ in range(1 + n % 3):
            dx, dy, dw, dh = (random.integers(-8, 9, 4) / 64).tolist()
            label = annotation["category_id"] if random.random() < 0.8 else int(random.choice(labels))
            add(annotation["image_id"], label, [x + dx * w, y + dy * h, w * (1 + dw), h * (1 + dh)])
    for image in truth["images"][:40]:
        for label in image["neg_category_ids"] + image["not_exhaustive_category_ids"]:
            add(image["id"], label, random.integers(1, 100, 4).tolist())
    for _ in range(350):
        add(truth["images"][3]["id"], int(random.choice(labels[:300])), random.integers(1, 100, 4).tolist())
    return results


def federated(seed: int = 1) -> Json:
    """20 images, 12 classes; classes 2 and 9 are shown nowhere."""
    random = np.random.default_rng(seed)
    truth: Json = {"images": [], "annotations": [], "categories": []}
    for label in range(1, 13):
        truth["categories"].append({"id": label, "name": f"class {label}", "frequency": "rcf"[label % 3]})
    for number in range(1, 21):
        shown = random.permutation([1, 3, 4, 5, 6, 7, 8, 10, 11, 12])[: int(random.integers(0, 5))].tolist()
        rest = [label for label in range(1, 13) if label not in shown]
        image = {"id": number, "height": 200, "width": 300}
        image["neg_category_ids"] = random.permutation(rest)[:3].tolist()
        image["not_exhaustive_category_ids"] = shown[:1]
        truth["images"].append(image)
        for label in shown:
            for _ in range(int(random.integers(1, 4))):
                x, y, w, h = (random.integers(10, 100, 4) * 1.0).tolist()
                if random.random() < 0.2:
                    w = h = 32.0
                polygon = [x, y, x + w, y, x + w, y + h, x + w / 2, y + h / 2, x, y + h]
                truth["annotations"].append(
                    {
                        "id": len(truth["annotations"]) + 1,
                        "image_id": number,
                        "category_id": label,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": [polygon],
                    }
                )
    return truth


@pytest.mark.parametrize("kind", ("box", "mask"))
def test_a_federated_data_set_scores_as_by_lvis_api(kind: Any) -> None:
    truth = federated()
    assert lvis_evaluate(truth, results_of(truth), kind).stats.tolist() == SYNTHETIC[kind]


@pytest.mark.parametrize("kind", ("box", "mask"))
def test_images_of_lvis_score_as_by_lvis_api(kind: Any, shared_data: SharedData) -> None:
    truth = json.loads((shared_data("data", "lvis_val100") / "lvis_val_100.json").read_text())
    assert lvis_evaluate(truth, results_of(truth), kind).stats.tolist() == VAL100[kind]


def small() -> tuple[Json, list[Json]]:
    thing = {"image_id": 7, "category_id": 1, "bbox": [2.0, 2.0, 10.0, 10.0], "area": 100.0}
    image = {"id": 7, "height": 50, "width": 50, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
    categories = [{"id": label, "frequency": f} for label, f in ((1, "f"), (2, "r"), (3, "c"))]
    return {"images": [image], "annotations": [thing], "categories": categories}, [{**thing, "score": 0.5}]


def test_a_perfect_result_scores_one_in_the_frequencies_that_are_there() -> None:
    scores = lvis_evaluate(*small(), "box").as_dict()
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AP_r", "AP_c", "AP_f"]
    assert list(scores) == [*names, "AR300", "AR_small", "AR_medium", "AR_large"]
    assert (scores["AP"], scores["AP_f"], scores["AR300"]) == pytest.approx((1, 1, 1))
    assert np.isnan([scores["AP_r"], scores["AP_c"]]).all()


def wrong_detection(label: int) -> Json:
    return {"image_id": 7, "category_id": label, "bbox": [30.0, 30.0, 9.0, 9.0], "score": 0.9}


def test_a_class_that_nobody_looked_for_costs_nothing_and_one_that_is_absent_does() -> None:
    truth, results = small()
    truth["annotations"] += [{**truth["annotations"][0], "category_id": 3, "image_id": 8}]
    truth["images"] += [{**truth["images"][0], "id": 8}]
    results += [{**results[0], "category_id": 3, "image_id": 8}]
    unknown = lvis_evaluate(truth, [*results, wrong_detection(3)], "box")
    assert unknown.as_dict()["AP_c"] == pytest.approx(1)
    truth["images"][0]["neg_category_ids"] = [3]
    absent = lvis_evaluate(truth, [*results, wrong_detection(3)], "box")
    assert absent.as_dict()["AP_c"] == pytest.approx(0.5)


def test_an_unmatched_detection_of_a_partly_labelled_class_costs_nothing() -> None:
    truth, results = small()
    assert lvis_evaluate(truth, [*results, wrong_detection(1)], "box").ap == pytest.approx(0.5)
    truth["images"][0]["not_exhaustive_category_ids"] = [1]
    assert lvis_evaluate(truth, [*results, wrong_detection(1)], "box").ap == pytest.approx(1)


def test_detections_are_counted_per_image_over_all_classes() -> None:
    truth, results = small()
    others = [wrong_detection(2) for _ in range(3)]
    assert lvis_evaluate(truth, [*others, *results], "box", max_detections=4).ap == pytest.approx(1)
    assert lvis_evaluate(truth, [*others, *results], "box", max_detections=3).ap == 0


def test_ready_ground_truth_and_files_score_as_dictionaries(tmp_path: Path) -> None:
    truth = federated()
    results = results_of(truth)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    expected = lvis_evaluate(truth, results).stats
    np.testing.assert_array_equal(lvis_evaluate(LvisGroundTruth.read(truth), results).stats, expected)
    np.testing.assert_array_equal(lvis_evaluate(tmp_path / "truth.json", results).stats, expected)
    np.testing.assert_array_equal(lvis_evaluate(truth, [], "box").stats[[0, 9]], [0, 0])


def test_input_that_is_not_of_lvis_is_named() -> None:
    truth, results = small()
    with pytest.raises(ValueError, match="made ready for kind 'box'"):
        lvis_evaluate(LvisGroundTruth.read(truth, "box"), results, "boundary")
    truth["categories"][0]["frequency"] = "often"
    with pytest.raises(ValueError, match="r, c or f, got 'often'"):
        lvis_evaluate(truth, results, "box")
    del truth["images"][0]["neg_category_ids"]
    with pytest.raises(ValueError, match="'neg_category_ids' with every image"):
        lvis_evaluate(truth, results, "box")
