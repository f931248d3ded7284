"""Key points through the door: folder -> training -> scores -> report -> files."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

import pixelwise as pw
from pixelwise.data import check_data
from pixelwise.predict import Predictor, evaluate
from pixelwise.predict.writing import plan, write_predictions
from pixelwise.recipe import read_settings
from pixelwise.tasks import get_task, open_data, task_of_folder
from pixelwise.training import recipe_of, run as run_recipe
from pixelwise.types import Keypoints, Sample

WHOLE = {
    "crop": None, "scale": (1.5, 1.5), "flip": 1.0, "color": 0.0, "rotation": 0.0, "elastic": 0.0,
    "flip_vertical": 0.0, "rotate90": 0.0, "rare_crops": 0.0, "scale_to": "image", "augment": "",
}  # fmt: skip
RECIPES = Path(__file__).parent.parent.parent / "recipes"
STICK = ("head", "left_hand", "right_hand", "left_foot", "right_foot")
STICK_EDGES = ((1, 2), (1, 3), (4, 1), (5, 1))
FACE = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
PLACES = np.array([[0.5, 0.1], [0.9, 0.4], [0.1, 0.4], [0.8, 0.95], [0.2, 0.95]])
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
SETTINGS = {
    "crop": (64, 48), "scale": (0.8, 1.2), "flip": 0.5, "color": 0.3, "rotation": 20.0, "elastic": 0.0,
    "flip_vertical": 0.0, "rotate90": 0.0, "rare_crops": 0.0, "scale_to": "image", "augment": "",
    "loss": "heatmap",
}  # fmt: skip


def write_folder(root: Path, joints: Sequence[str], images: int = 4, objects: int = 2) -> Path:
    """Figures of coloured dots on grey, with COCO files for training and validation."""
    random = np.random.default_rng(0)
    described: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    skeleton = [list(edge) for edge in STICK_EDGES]
    described["categories"] = [{"id": 1, "name": "figure", "keypoints": list(joints), "skeleton": skeleton}]
    (root / "images").mkdir(parents=True)
    for number in range(1, images + 1):
        picture = Image.new("RGB", (160, 100), (90, 90, 90))
        pen = ImageDraw.Draw(picture)
        name = f"{number:012}.png"
        described["images"].append({"id": number, "file_name": name, "height": 100, "width": 160})
        for place in range(objects):
            box = np.array([5 + 80 * place, 5, 48, 64]) + random.integers(0, 20, 4)
            points = box[:2] + PLACES * box[2:]
            for (x, y), color in zip(points, COLORS, strict=True):
                pen.ellipse((x - 4, y - 4, x + 4, y + 4), color)
            triples = [number for x, y in points.tolist() for number in (x, y, 2)]
            described["annotations"].append(
                {
                    "id": len(described["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": triples,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                }
            )
        picture.save(root / "images" / name)
    for part in ("train", "val"):
        (root / f"figure_keypoints_{part}.json").write_text(json.dumps(described))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("figures") / "data", STICK)


def trained(folder: Path, out: Path, **changes: object) -> "pw.training.TrainResult":
    settings = {
        "model_arguments": {"encoder": "tiny", "width": 16, "pretrained": False},
        "crop": (64, 64),
        "scale": (0.9, 1.1),
        "rotation": 0.0,
        "batch_size": 8,
        "steps": 60,
        "lr": 0.002,
        "val_every": 60,
        "workers": 0,
    }
    return pw.train(folder, "simplebaseline", **(settings | changes), out=out, progress=False)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "pw.training.TrainResult":
    return trained(folder, tmp_path_factory.mktemp("run") / "first")


def test_a_folder_of_key_points_is_known_by_its_files(folder: Path) -> None:
    assert task_of_folder(folder).name == "keypoints"
    splits = open_data(folder)
    assert (len(splits.train), len(splits.val)) == (4, 4)
    assert splits.classes.skeleton.names == STICK
    assert splits.classes.skeleton.flip_pairs == ((1, 2), (3, 4))
    assert len(splits.train[0].target) == 2
    assert check_data(folder, formats=get_task("keypoints").formats).counts["train"].pixels == (8,)


def test_one_file_is_divided_into_parts(folder: Path) -> None:
    splits = open_data(folder / "figure_keypoints_train.json", task="keypoints", val_fraction=0.25)
    assert (len(splits.train), len(splits.val)) == (3, 1)


def test_training_samples_are_crops_of_single_objects(folder: Path) -> None:
    task, data = get_task("keypoints"), open_data(folder).train
    objects = task.prepare(data, SETTINGS)
    assert len(objects) == 8
    sample = task.transform(data.classes, SETTINGS)(objects[3])
    assert sample.image.shape == (3, 64, 48)
    assert sample.target.points.shape == (1, 5, 2)
    assert 0 <= sample.image.min() <= sample.image.max() <= 1


def test_joints_follow_a_deformed_crop(folder: Path) -> None:
    data, task = open_data(folder).train, get_task("keypoints")
    still = {**SETTINGS, "scale": (1.0, 1.0), "flip": 0.0, "color": 0.0, "rotation": 0.0}
    objects = task.prepare(data, still)
    plain, bent = (task.transform(data.classes, {**still, "elastic": std}) for std in (0.0, 2.0))
    torch.manual_seed(1)
    given, found = plain(objects[0]), bent(objects[0])
    assert (found.target.points - given.target.points).abs().max() > 0.3
    assert not torch.equal(found.image, given.image)
    assert len(found.target) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": (64, 48, 3)}, "key points need crops of a height and a width"),
        ({"crop": None}, "key points need crops of a height and a width"),
        ({"scale": (0.5, 2.0)}, "scale must be symmetric around 1"),
    ],
)
def test_settings_that_key_points_have_not_are_refused(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        get_task("keypoints").transform(open_data(folder).classes, SETTINGS | changes)


def test_another_loss_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="the loss of key points is heatmap or unbiased_heatmap"):
        get_task("keypoints").criterion(open_data(folder).classes, SETTINGS | {"loss": "dice"})


def test_a_small_network_learns_stick_figures(run: "pw.training.TrainResult") -> None:
    assert run.scores["oks_ap"] > 0.5
    assert set(run.scores.per_class) == set(STICK)
    assert run.scores.per_class["head"]["joints"] == 8
    assert "OKS AP" in run.report.read_text()


def test_crops_of_a_prediction_are_those_of_the_training(run: "pw.training.TrainResult") -> None:
    assert tuple(Predictor(run.best).decoding["crop"]) == (64, 64)
    assert Predictor(run.best).decoding["refine"] == "quarter_offset"


@pytest.mark.parametrize("refine", ["quarter_offset", "dark", "highest"])
def test_each_way_of_refining_finds_the_joints(
    run: "pw.training.TrainResult", folder: Path, refine: str
) -> None:
    predictor = Predictor(run.best, decoding={"refine": refine, "flip": False})
    assert evaluate(predictor, folder, progress=False)["oks_ap50"] > 0.5


def test_an_unknown_refinement_is_refused(run: "pw.training.TrainResult", folder: Path) -> None:
    with pytest.raises(ValueError, match="refine must be one of"):
        Predictor(run.best, decoding={"refine": "twice"})(folder / "images" / f"{1:012}.png")


def test_without_boxes_the_image_is_one_object(run: "pw.training.TrainResult", folder: Path) -> None:
    found = Predictor(run.best)(folder / "images" / f"{1:012}.png").annotation
    assert found.boxes.tolist() == [[0, 0, 160, 100]]
    assert found.points.shape == (1, 5, 2)


def test_boxes_of_a_detector_are_used_and_doubles_dropped(
    run: "pw.training.TrainResult", folder: Path, tmp_path: Path
) -> None:
    described = json.loads((folder / "figure_keypoints_val.json").read_text())
    results = [
        {"image_id": one["image_id"], "category_id": 1, "bbox": one["bbox"], "score": score}
        for one in described["annotations"]
        for score in (0.9, 0.8)  # each object twice
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(results))
    predictor = Predictor(run.best, decoding={"boxes": str(tmp_path / "boxes.json")})
    found = predictor(folder / "images" / f"{2:012}.png").annotation
    assert len(found) == 2
    assert (found.scores <= 0.9).all()
    with_boxes, annotated = evaluate(predictor, folder), evaluate(run.best, folder)
    assert with_boxes["oks_ap"] == pytest.approx(annotated["oks_ap"], abs=0.05)


def test_boxes_may_be_given_as_rows(run: "pw.training.TrainResult", folder: Path) -> None:
    image = torch.rand(3, 100, 160)
    rows = [[5, 5, 60, 80], [90, 5, 140, 80, 0.5]]
    for given, count in ((rows[:1], 1), ([], 0)):
        assert len(Predictor(run.best, decoding={"boxes": given})(image).annotation) == count
    with pytest.raises(ValueError, match="boxes must be rows"):
        Predictor(run.best, decoding={"boxes": [[1, 2]]})(image)


def test_a_damaged_file_of_boxes_is_named(run: "pw.training.TrainResult", tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text('[{"bbox": [1, 2, 3]}]')
    with pytest.raises(ValueError, match=r"cannot read boxes from .*boxes\.json"):
        Predictor(run.best, decoding={"boxes": str(tmp_path / "boxes.json")})(torch.rand(3, 99, 99))


def test_a_prediction_is_saved_as_json_and_read_back(
    run: "pw.training.TrainResult", folder: Path, tmp_path: Path
) -> None:
    predictor = Predictor(run.best)
    predictor.folder(folder / "images", tmp_path / "all", progress=False)
    content = json.loads((tmp_path / "all" / f"{1:012}.json").read_text())
    assert content["joints"] == list(STICK)
    assert np.shape(content["objects"][0]["points"]) == (5, 3)
    scores = evaluate(tmp_path / "all", folder, task="keypoints", progress=False)
    assert 0 <= scores["oks_ap"] <= 1
    (tmp_path / "all" / f"{1:012}.json").write_text('{"joints": ["nose"]}')
    with pytest.raises(ValueError, match="cannot read key points from"):
        evaluate(tmp_path / "all", folder, task="keypoints", progress=False)


def test_results_of_a_folder_are_loaded_by_pycocotools(
    run: "pw.training.TrainResult", folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor, out = Predictor(run.best), tmp_path / "out"
    jobs = plan([folder / "images"], out, ".json")
    written = write_predictions(predictor, jobs, out, collector="coco", progress=False)
    assert [path.name for path in written.predictions] == ["keypoints.json", "images.json"]
    loaded = COCO(str(folder / "figure_keypoints_val.json")).loadRes(str(out / "keypoints.json"))
    assert sorted(loaded.getImgIds()) == [1, 2, 3, 4]
    assert len(loaded.anns) == 4


def test_perfect_predictions_score_one_and_missing_ones_zero(folder: Path) -> None:
    task, data = get_task("keypoints"), open_data(folder).val
    for kept, expected in ((slice(None), 1.0), (slice(0), 0.0)):
        metrics = task.metrics(data.classes, {})
        for sample in data:
            target = sample.target
            assert isinstance(target, Keypoints)
            found = Keypoints(*(field[kept] for field in vars(target).values()))
            metrics.update([found], [target], [sample.id])
        report = metrics.compute()
        assert report["oks_ap"] == pytest.approx(expected)
        assert report.per_class["left_hand"]["PCK"] == expected


def test_a_picture_has_the_colours_of_the_joints_where_they_are(folder: Path) -> None:
    data = open_data(folder).val
    sample: Sample = data[0]
    blank = torch.zeros_like(sample.image)
    picture = np.asarray(get_task("keypoints").draw(blank, sample.target, data.classes))
    x, y = sample.target.points[0, 0].round().int().tolist()
    assert picture[y, x].max() == 255
    hidden = Keypoints(**{**vars(sample.target), "visible": torch.zeros_like(sample.target.visible)})
    assert not np.asarray(get_task("keypoints").draw(blank, hidden, data.classes)).any()


def test_who_learnt_no_mirror_images_is_tested_without_them(folder: Path) -> None:
    decoding_of = get_task("keypoints").decoding_of
    assert decoding_of(SETTINGS)["flip"] is True
    assert decoding_of(SETTINGS | {"flip": 0.0})["flip"] is False


@pytest.mark.slow
def test_the_recipe_learns_four_photographs_by_heart(
    shared_data: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = shared_data("data", "coco_pose")
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    for image in photographs.glob("*.jpg"):
        shutil.copy(image, data)
    for part in ("train", "val"):
        file = data / "annotations" / f"person_keypoints_{part}.json"
        shutil.copy(photographs / "test_coco.json", file)
    recipe = read_settings(RECIPES / "coco_pose_hrnet.toml")
    started = time.process_time()
    result = run_recipe(
        recipe_of({**recipe, "data": str(data), "out": str(tmp_path / "run")}), progress=False
    )
    minutes = (time.process_time() - started) / 60
    boxes = photographs / "test_coco_det_AP_H_56.json"
    detected = evaluate(Predictor(result.best, decoding={"boxes": str(boxes)}), data, progress=False)
    with capsys.disabled():
        scores = f"OKS AP {result.scores['oks_ap']:.3f}, with a detector's boxes {detected['oks_ap']:.3f}"
        print(f"\n{scores}, in {minutes:.1f} minutes of processor time")
    assert result.scores["oks_ap"] >= 0.9
    assert detected["oks_ap"] >= 0.8


def test_landmarks_of_faces_are_the_same_task(tmp_path: Path) -> None:
    faces = write_folder(tmp_path / "faces", FACE, images=2, objects=1)
    result = trained(faces, tmp_path / "run", steps=2, batch_size=2, val_every=1, loss="unbiased_heatmap")
    assert set(result.scores.per_class) == set(FACE)
    predictor = Predictor(result.best)
    assert predictor.decoding["refine"] == "dark"
    assert predictor.classes.skeleton.flip_pairs == ((0, 1), (3, 4))


def test_whole_images_are_scaled_and_mirrored_with_their_joints(tmp_path: Path) -> None:
    data = open_data(write_folder(tmp_path / "data", STICK), task="keypoint_detection").train
    sample = data[0]
    changed = get_task("keypoint_detection").transform(data.classes, WHOLE)(sample)
    assert changed.image.shape == (3, 150, 240)
    found, given = changed.target, sample.target
    # The left hand is where the right one was, seen in a mirror.
    left, right = STICK.index("left_hand"), STICK.index("right_hand")
    mirrored = torch.stack([240 - 1.5 * given.points[:, right, 0], 1.5 * given.points[:, right, 1]], 1)
    torch.testing.assert_close(found.points[:, left], mirrored)
    torch.testing.assert_close(found.areas, 2.25 * given.areas)
    x, y = (int(coordinate) for coordinate in found.points[0, 0])
    assert changed.image[:, y, x].tolist() == pytest.approx([1, 0, 0], abs=0.1)  # the head is red
    wide = found.boxes[:, 2:] - found.boxes[:, :2]
    torch.testing.assert_close(wide, 1.5 * (given.boxes[:, 2:] - given.boxes[:, :2]))
    torch.manual_seed(0)
    change = get_task("keypoint_detection").transform(data.classes, {**WHOLE, "flip": 0.0, "elastic": 4.0})
    deformed = change(sample)
    x, y = (int(coordinate) for coordinate in deformed.target.points[0, 0])
    assert (deformed.target.points - 1.5 * given.points).abs().max() > 1
    assert deformed.image[:, y, x].tolist() == pytest.approx([1, 0, 0], abs=0.1)  # still red


@pytest.mark.slow
def test_keypoint_rcnn_goes_through_the_door(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", STICK)
    recipe = {
        "data": str(root),
        "model": "keypoint_rcnn",
        "model_arguments": {"encoder": "tiny", "width": 16, "min_size": None},
        "epochs": 2,
        "workers": 0,
        "out": str(tmp_path / "run"),
    }
    result = run_recipe(recipe_of(recipe), progress=False)
    assert "oks_ap" in result.scores.values
    found = Predictor(result.best)(root / "images" / "000000000001.png").annotation
    assert isinstance(found, Keypoints)
    assert found.points.shape[1:] == (5, 2)
