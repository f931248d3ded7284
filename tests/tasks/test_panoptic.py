"""Panoptic segmentation from a COCO folder to files, with a network whose output no other file knows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import pixelwise as pw
from pixelwise import decode, draw
from pixelwise.data import check_data
from pixelwise.losses import loss_parts
from pixelwise.metrics import panoptic_file_scores
from pixelwise.predict.writing import plan, write_predictions
from pixelwise.tasks import get_task, open_data
from pixelwise.training import train
from pixelwise.types import Batch, ClassTable, Model, PanopticMap, Paper, Value, value

from .panoptic_scenes import HEIGHT, WIDTH, scene, write_png, write_scenes

PAPER = Paper("None", "Nobody", "Nowhere", 2026, "https://example.org")
TASK = get_task("panoptic")


# --- a paper of its own: network, output, loss, decoding ------------------------------------------


@value
class NumberedPixels(Value):
    """A class for each pixel, and the number of its thing, counted from the left."""

    classes: Float[Tensor, "b k H W"]
    numbers: Float[Tensor, "b 3 H W"]


class NumberingNet(Model):
    tasks = ("panoptic",)
    output = NumberedPixels

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Sequential(nn.Conv2d(5, 24, 1), nn.ReLU(), nn.Conv2d(24, num_classes + 3, 1))

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> NumberedPixels:
        b, _, height, width = image.shape
        y, x = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(b, -1, -1, -1)
        scores = self.body(torch.cat([image, place], 1))
        return NumberedPixels(scores[:, : self.num_classes], scores[:, self.num_classes :])


def numbering_net(num_classes: int) -> NumberingNet:
    """The only size."""
    return NumberingNet(num_classes)


@loss_parts.register
def _(output: NumberedPixels, batch: Batch) -> dict[str, Tensor]:
    labels = torch.full(output.classes.shape[:1] + output.classes.shape[2:], -1)
    numbers = labels.clone()
    for image, target in enumerate(batch.annotations):
        assert isinstance(target, PanopticMap)
        for number, label in zip(target.ids.tolist(), target.classes.tolist(), strict=True):
            inside = target.id_map == number
            labels[image][inside] = label
            if label == 0:
                left = inside.any(0).nonzero()[0, 0]
                numbers[image][inside] = int(left) * 3 // WIDTH
    return {
        "class": F.cross_entropy(output.classes, labels, ignore_index=-1),
        "number": F.cross_entropy(output.numbers, numbers, ignore_index=-1),
    }


@decode.panoptic.register
def _(
    output: NumberedPixels, classes: ClassTable, merging: decode.Merging = decode.PAPERS_OWN
) -> tuple[PanopticMap, ...]:
    limits = merging.over(decode.Thresholds(0, 0, 0))
    found = []
    for labels, numbers in zip(output.classes.argmax(1), output.numbers.argmax(1), strict=True):
        things = torch.isin(labels, torch.tensor(classes.things))
        id_map = 1 + labels * 3 + torch.where(things, numbers, 0)
        ids = id_map.unique()
        ids = torch.tensor([i for i in ids.tolist() if (id_map == i).sum() >= limits.min_stuff_area])
        id_map[~torch.isin(id_map, ids)] = 0
        found.append(PanopticMap.of(id_map, ids, (ids - 1) // 3))
    return tuple(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pw.models, "numbering_net", numbering_net, raising=False)
    return "numbering_net"


# --- data -----------------------------------------------------------------------------------------


def test_a_folder_gives_segments_crowds_and_the_numbers_of_categories(folder: Path) -> None:
    data = pw.open_data(folder)
    assert data.format == "coco_panoptic"
    assert data.classes.names == ("car", "sky", "ground")  # in the order of their ids
    assert data.classes.ids == (3, 5, 9)
    assert data.classes.things == (0,)
    assert data.classes.colors[1] == (90, 150, 230)
    target = data.val[0].target
    assert isinstance(target, PanopticMap)
    assert target.ids.tolist() == [70000, 300, 1, 2, 3]
    assert target.classes.tolist() == [1, 2, 0, 0, 0]
    assert target.is_crowd.tolist() == [False] * 4 + [True]
    assert target.id_map[0, 0] == 70000
    assert (target.id_map[-3:] == 0).all()
    assert target.areas is not None
    assert check_data(folder, formats=TASK.formats).problems == ()


def test_one_file_is_a_data_set_and_images_are_never_taken_from_the_folder_of_segments(folder: Path) -> None:
    data = pw.open_data(folder / "annotations" / "panoptic_train.json", task="panoptic", val_fraction=0.5)
    assert len(data.train) == len(data.val) == 1
    assert data.train.pairs[0].image.parent.name == "train"
    assert data.train.pairs[0].mask.parent.name == "panoptic_train"


def test_a_class_table_renames_the_categories(folder: Path) -> None:
    data = open_data(folder, task="panoptic", classes=ClassTable.of("Auto", "Himmel", "Boden"))
    assert data.classes.names == ("Auto", "Himmel", "Boden")
    assert (data.classes.things, data.classes.ids) == ((0,), (3, 5, 9))
    with pytest.raises(ValueError, match="has 3 categories, the class table 2 classes"):
        open_data(folder, task="panoptic", classes=ClassTable.of("Auto", "Himmel"))


def changed(root: Path, **changes: object) -> Path:
    """The scenes with something else in the first annotation of the training part."""
    path = write_scenes(root) / "annotations" / "panoptic_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0] |= changes
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"segments_info": [{"id": 300, "category_id": 9}]},
            r"1\.png shows segments .* lacks: 1, 2, 3, 70000",
        ),
        ({"segments_info": [{"id": 300, "category_id": 4}]}, "segment 300 .* unknown category 4"),
        ({"segments_info": [{"id": 0, "category_id": 9}]}, "id 0, which means void"),
        ({"segments_info": [{"id": 300, "category_id": 9}] * 2}, "two segments of the json file have one id"),
        ({"image_id": 2}, "the image '2' has two annotations"),
        ({"image_id": 77}, "unknown image '77'"),
        ({"file_name": ""}, "must name a file"),
    ],
)
def test_an_annotation_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(changed(tmp_path, **changes), task="panoptic").train[0]


def test_a_segment_that_no_pixel_shows_is_refused(tmp_path: Path) -> None:
    root = write_scenes(tmp_path)
    _, ids, _ = scene(np.random.default_rng(0))
    write_png(root / "annotations" / "panoptic_train" / "000000000001.png", np.where(ids == 2, 0, ids))
    with pytest.raises(ValueError, match=r"1\.png lacks segments that the json file lists: 2"):
        open_data(root, task="panoptic").train[0]


def test_augmentation_moves_image_and_segments_together(folder: Path) -> None:
    settings = {
        "crop": (40, 40),
        "scale": (1.3, 1.3),
        "scale_to": "image",
        "flip": 1.0,
        "color": 0.0,
        "rotation": 8,
        "elastic": 0,
    }
    settings |= {"flip_vertical": 0.0, "rotate90": 0.0, "rare_crops": 0.0, "augment": ""}
    data = pw.open_data(folder).train
    moved = TASK.transform(data.classes, settings)(data[0])
    assert moved.target.id_map.shape == (40, 40)
    cars = torch.isin(moved.target.id_map, moved.target.ids[moved.target.classes == 0])
    assert cars.any()
    assert moved.image[0][cars].mean() > 2 * moved.image[2][cars].mean()  # red
    assert set(moved.target.id_map.unique().tolist()) - {0} == set(moved.target.ids.tolist())


# --- end to end -----------------------------------------------------------------------------------


def test_a_network_with_an_output_of_its_own_goes_from_data_to_files(
    folder: Path, net: str, tmp_path: Path
) -> None:
    result = train(
        folder,
        net,
        out=str(tmp_path / "run"),
        epochs=60,
        val_every=60,
        batch_size=2,
        lr=0.05,
        crop=None,
        scale=(1.0, 1.0),
        flip=0.0,
        color=0.0,
        workers=0,
        accelerator="cpu",
        progress=False,
    )
    assert result.scores["pq"] > 0.8
    assert next(iter(result.scores.values)) == "pq"
    assert result.scores.columns == ("PQ", "SQ", "RQ", "TP", "FP", "FN")
    assert result.scores.per_class["car"]["TP"] == 5  # the sixth is a crowd
    page = result.report.read_text()
    assert "PQ" in page
    assert "ground" in page

    # The scores of the checkpoint, of the files beside each other, and of COCO's form of results are one.
    data = pw.open_data(folder)
    assert pw.evaluate(result.best, data, progress=False)["pq"] == result.scores["pq"]
    predictor = pw.Predictor(result.best)
    assert predictor.classes.ids == (3, 5, 9)
    predictor.folder(folder / "val", tmp_path / "single", overlay=True, progress=False)
    assert (tmp_path / "single" / "000000000011_overlay.png").exists()
    for overlay in (tmp_path / "single").glob("*_overlay.png"):
        overlay.unlink()
    again = pw.evaluate(tmp_path / "single", data, task="panoptic", progress=False)
    assert again.values == pytest.approx(result.scores.values)
    out = tmp_path / "together"
    written = write_predictions(predictor, plan([folder / "val"], out), out, collector="coco", progress=False)
    assert [path.relative_to(out).as_posix() for path in written.predictions] == [
        "panoptic.json",
        "panoptic/000000000011.png",
        "panoptic/000000000012.png",
    ]
    official = panoptic_file_scores(out / "panoptic.json", folder / "annotations" / "panoptic_val.json")
    assert official.overall.pq == pytest.approx(result.scores["pq"])
    assert official.things.pq == pytest.approx(result.scores["pq_things"])


def test_settings_of_decoding_reach_the_paper(folder: Path, net: str) -> None:
    model = pw.build(net, 3)
    table = pw.open_data(folder).classes
    image = torch.rand(3, HEIGHT, WIDTH)
    plain = pw.Predictor(model, table)(image).annotation
    strict = pw.Predictor(model, table, decoding={"min_stuff_area": HEIGHT * WIDTH})(image).annotation
    assert len(plain.ids) > 0
    assert (plain.id_map > 0).all()
    assert len(strict.ids) < len(plain.ids)
    with pytest.raises(ValueError, match="no setting 'overlap'"):
        pw.Predictor(model, table, decoding={"overlap": 0.5})


# --- files ----------------------------------------------------------------------------------------


def some_map() -> tuple[PanopticMap, ClassTable]:
    table = ClassTable(("car", "sky"), ((200, 0, 0), (0, 0, 200)), things=(0,), ids=(3, 44))
    id_map = torch.tensor([[7, 7, 0, 9], [7, 0, 0, 9], [5, 5, 5, 5]])
    return PanopticMap.of(id_map, torch.tensor([9, 5, 7, 8]), torch.tensor([0, 1, 0, 0])), table


def test_files_keep_the_rules_of_the_panoptic_api(tmp_path: Path) -> None:
    found, table = some_map()
    (*_, png) = TASK.collectors["coco"].write(tmp_path, [("a/17.jpg", found)], table)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    (annotation,) = content["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (17, "a/17.png")
    coded = np.asarray(Image.open(png)).astype(int) @ (1, 256, 65536)
    segments = annotation["segments_info"]
    assert {segment["id"] for segment in segments} == set(np.unique(coded)) - {0}
    for segment in segments:  # the fourth segment of the table shows no pixel and is left out
        rows, columns = (coded == segment["id"]).nonzero()
        assert segment["area"] == len(rows)
        assert segment["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert [segment["category_id"] for segment in segments] == [3, 44, 3]
    assert [(one["id"], one["isthing"]) for one in content["categories"]] == [(3, 1), (44, 0)]
    assert content["images"] == [{"id": 17, "file_name": "a/17.jpg", "height": 3, "width": 4}]


def test_images_of_one_number_are_told_apart_by_their_names(tmp_path: Path) -> None:
    found, table = some_map()
    TASK.collectors["coco"].write(tmp_path, [("a/17.jpg", found), ("b/17.jpg", found)], table)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [one["image_id"] for one in content["annotations"]] == ["a/17", "b/17"]
    with pytest.raises(ValueError, match=r"17\.jpg and 17\.png would both be written"):
        TASK.collectors["coco"].files(tmp_path, ["17.jpg", "17.png"])


def test_ids_above_255_survive_the_coding(tmp_path: Path) -> None:
    ids = torch.arange(1, 70001)
    found = PanopticMap.of(ids.view(250, 280), ids[:300], torch.zeros(300).long())
    table = ClassTable.of("dot")
    TASK.writers[".png"].write(tmp_path / "a.png", found, table, "")
    read = TASK.read(tmp_path / "a.png", pw.data.SegmentationData((), table), found)
    assert read.ids.tolist() == list(range(1, 301))
    assert (read.id_map > 0).sum() == 300


# --- pictures -------------------------------------------------------------------------------------


def test_stuff_has_the_colour_of_its_class_and_things_have_shades_of_theirs() -> None:
    id_map = torch.zeros(40, 60).long()
    id_map[:20], id_map[25:38, 2:20], id_map[25:38, 30:50] = 1, 2, 3
    table = ClassTable(("car", "sky"), ((200, 60, 60), (40, 40, 240)), things=(0,))
    segments = PanopticMap.of(id_map, torch.tensor([1, 2, 3]), torch.tensor([1, 0, 0]))
    picture = np.asarray(draw.segments(torch.zeros(3, 40, 60), segments, table, alpha=1.0, names=False))
    assert picture[5, 5].tolist() == [40, 40, 240]
    assert picture[30, 10].tolist() == [200, 60, 60]
    assert picture[30, 40].tolist() not in ([200, 60, 60], [0, 0, 0])
    assert picture[39, 59].tolist() == [0, 0, 0]  # void
    assert picture[20, 5].tolist() == [255, 255, 255]  # outline
    named = np.asarray(draw.segments(torch.zeros(3, 40, 60), segments, table, alpha=1.0))
    assert (named != picture).any()
    with pytest.raises(ValueError, match="one size"):
        draw.segments(torch.zeros(3, 40, 61), segments, table)


def test_pixels_outside_of_a_match_are_red() -> None:
    target_map, found_map = torch.ones(2, 8).long(), torch.ones(2, 8).long()
    target_map[:, 4:], target_map[:, 7:] = 2, 0
    found_map[:, 3:] = 2
    table = ClassTable(("car", "sky"), ((200, 0, 0), (0, 0, 200)), things=(0,))
    target, found = (
        PanopticMap.of(one, torch.tensor([1, 2]), torch.tensor([1, 0])) for one in (target_map, found_map)
    )
    picture = np.asarray(draw.segment_errors(torch.zeros(3, 2, 8), found, target, table))[0].tolist()
    assert [picture[x] == list(draw.WRONG) for x in range(7)] == [False, False, False, True] + [False] * 3
    assert picture[7] == [128, 128, 128]
    swapped = PanopticMap.of(found_map, torch.tensor([1, 2]), torch.tensor([0, 1]))
    wrong = np.asarray(draw.segment_errors(torch.zeros(3, 2, 8), swapped, target, table))[0, :7]
    assert (wrong == draw.WRONG).all()
