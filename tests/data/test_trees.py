"""Data sets by name: trees typed by hand in `trees/listings.txt`, never made from the row that reads them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from pixelwise import metrics
from pixelwise.data import check_data, open_data as open_semantic
from pixelwise.data.datasets import DATASETS, NOT_READ
from pixelwise.tasks import get_task, open_data
from pixelwise.types import ClassMasks
from tests.data.test_class_files import deep_png

SIZE = (4, 6)
BY_NAME = {
    "gta5",
    "refuge",
    "ecssd",
    "msra10k",
    "lip",
    "eg1800",
    "atr",
    "judd",
}  # look like other people's folders


@dataclass(frozen=True)
class Line:
    part: str
    image: str
    mask: str
    kind: str
    values: list[str]
    labels: list[int]


def listings() -> dict[str, tuple[list[Line], dict[str, str]]]:
    found: dict[str, tuple[list[Line], dict[str, str]]] = {}
    name = ""
    for text in (Path(__file__).parent / "trees" / "listings.txt").read_text().splitlines():
        if text.startswith("["):
            name = text.strip("[]")
            found[name] = ([], {})
        elif text.startswith("- |"):
            _, path, content = text.split(" | ")
            found[name][1][path] = content + "\n"
        elif text and not text.startswith("#"):
            part, image, mask, kind, values, labels = text.split(" | ")
            found[name][0].append(
                Line(part, image, mask, kind, values.split(), list(map(int, labels.split())))
            )
    return found


LISTINGS = listings()


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(path)


def mask(path: Path, kind: str, values: list[str]) -> None:
    """A mask whose columns hold the values in turn, stored as the line says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [tuple(map(int, value.split("/"))) for value in values]
    row = np.array([cells[i % len(cells)] for i in range(SIZE[1])])
    pixels = np.tile(row[None], (SIZE[0], 1, 1))
    flat = pixels[..., 0]
    if kind == "RGB":
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    elif kind == "RGB16":
        deep_png(path, pixels.astype(np.uint16))
    elif kind == "P":
        image = Image.fromarray(flat.astype(np.uint8), "P")
        image.putpalette([x for i in range(256) for x in (i, 255 - i, i // 2)])
        image.save(path)
    elif kind.startswith("mat:"):
        key = kind.removeprefix("mat:")
        content = {"Segmentation": flat.astype(np.uint8)} if key == "GTcls" else flat.astype(np.uint8)
        savemat(path, {key: content})
    elif kind == "txt":
        np.savetxt(path, flat, fmt="%d")
    elif kind == "jpg":
        big = np.kron(flat, np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(big).save(path, quality=95)
    else:
        Image.fromarray(flat.astype(np.uint8)).save(path)


def grown(root: Path, name: str) -> Path:
    lines, texts = LISTINGS[name]
    for line in lines:
        picture(root / line.image)
        mask(root / line.mask, line.kind, line.values)
        if line.kind == "jpg":
            Image.fromarray(np.full((SIZE[0] * 8, SIZE[1] * 8, 3), 90, np.uint8)).save(root / line.image)
    for path, content in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


@pytest.mark.parametrize("name", LISTINGS)
def test_a_tree_is_read_as_its_owners_mean_it(tmp_path, name) -> None:
    root = grown(tmp_path, name)
    data = open_semantic(root, format=name, val_fraction=0, test_fraction=0)
    lines = LISTINGS[name][0]
    found = {
        (part, pair.id): (images.labels(i), pair)
        for part, images in data.parts().items()
        for i, pair in enumerate(images.pairs)
    }
    assert set(found) == {(line.part, line.image) for line in lines}
    for line in lines:
        labels, pair = found[line.part, line.image]
        assert pair.mask == root / line.mask
        step = 8 if line.kind == "jpg" else 1
        row = labels[0, ::step].tolist()
        assert row == [line.labels[i % len(line.labels)] for i in range(SIZE[1])], line
    assert not data.unpaired


@pytest.mark.parametrize("name", sorted(set(LISTINGS) - BY_NAME - {"deepglobe_land", "deepglobe_road"}))
def test_a_tree_is_recognised_by_itself_also_from_the_folder_above(tmp_path, name) -> None:
    grown(tmp_path / "download" / "SET", name)
    for root in (tmp_path / "download" / "SET", tmp_path / "download"):
        assert open_semantic(root, val_fraction=0, test_fraction=0).format == name


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_folders_that_anybody_may_have_are_no_data_set_unless_somebody_says_so(tmp_path, name) -> None:
    root = grown(tmp_path, name)
    assert not any(DATASETS[other].marks and get_task().formats[other].matches(root) for other in LISTINGS)


def test_a_tree_that_could_be_two_data_sets_is_asked_for(tmp_path) -> None:
    root = grown(tmp_path, "deepglobe_road")
    with pytest.raises(ValueError, match=r"could be deepglobe_land or deepglobe_road.*--format"):
        open_semantic(root)


def test_values_that_a_data_set_does_not_have_are_told(tmp_path) -> None:
    root = grown(tmp_path, "coco_stuff")
    mask(root / "annotations/val2017/000000000139.png", "L", ["11"])
    with pytest.raises(ValueError, match="holds the value 11"):
        open_semantic(root).val.labels(0)
    root = grown(tmp_path / "isprs", "potsdam")
    mask(root / "5_Labels_all/top_potsdam_2_10_label.tif", "RGB", ["254/0/0"])
    with pytest.raises(ValueError, match=r"the colour \(254, 0, 0\).*'clutter' has \(255, 0, 0\)"):
        open_semantic(root).train.labels(0)


def test_an_image_without_a_mask_is_a_finding(tmp_path) -> None:
    root = grown(tmp_path, "ade20k")
    picture(root / "images/training/ADE_train_00000002.jpg")
    data = open_semantic(root)
    assert [path.name for path in data.unpaired] == ["ADE_train_00000002.jpg"]
    assert any("no partner" in problem for problem in check_data(root).problems)


def test_a_class_file_of_the_user_counts_more(tmp_path) -> None:
    root = grown(tmp_path, "ade20k")
    (root / "classes.csv").write_text("name,id\nstuff,0\nthing,1\nthing,150\nthing,4\nthing,13\n")
    assert open_semantic(root).train.labels(0)[0, :3].tolist() == [0, 1, 1]


# --- trees with code of their own ---------------------------------------------------------------------


def test_lesions_of_idrid_overlap_and_may_be_absent(tmp_path) -> None:
    for part, number in (("a. Training Set", "01"), ("b. Testing Set", "55")):
        picture(tmp_path / "1. Original Images" / part / f"IDRiD_{number}.jpg")
        truth = tmp_path / "2. All Segmentation Groundtruths" / part
        mask(truth / "1. Microaneurysms" / f"IDRiD_{number}_MA.tif", "L", ["0", "76"])
        mask(truth / "5. Optic Disc" / f"IDRiD_{number}_OD.tif", "L", ["0", "76", "76"])
    data = open_data(tmp_path, task="multilabel", val_fraction=0, test_fraction=0)
    assert data.format == "idrid"
    assert len(data.train) == len(data.test) == 1
    target = data.train.target(0)
    assert isinstance(target, ClassMasks)
    assert data.classes.names == (
        "microaneurysm",
        "haemorrhage",
        "hard exudate",
        "soft exudate",
        "optic disc",
    )
    assert target.masks.flatten(1).any(1).tolist() == [True, False, False, False, True]
    assert target.masks[0, 0].tolist() == [0, 1] * 3
    assert target.masks[4, 0].tolist() == [0, 1, 1] * 2
    assert not data.unpaired


def test_parts_of_a_face_lie_over_each_other_and_are_half_as_large(tmp_path) -> None:
    for number in (0, 2001):
        path = tmp_path / "CelebA-HQ-img" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((SIZE[0] * 2, SIZE[1] * 2, 3), 90, np.uint8)).save(path)
        home = tmp_path / "CelebAMask-HQ-mask-anno" / str(number // 2000)
        mask(home / f"{number:05d}_skin.png", "L", ["255", "255", "0"])
        mask(home / f"{number:05d}_nose.png", "L", ["0", "255", "0"])
    data = open_semantic(tmp_path, val_fraction=0, test_fraction=0)
    assert data.format == "celebamask_hq"
    assert len(data.train) == 2
    for i in range(2):
        assert data.train.labels(i)[0].tolist() == [1, 1, 2, 2, 0, 0] * 2  # the nose wins, there is no hat
        assert data.train[i].image.shape[1:] == data.train.labels(i).shape
    pairs = {tuple(data.classes.names[y] for y in pair) for pair in data.classes.flip_pairs}
    assert pairs == {("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")}


def test_nuclei_have_a_file_each_and_pedestrians_a_number(tmp_path) -> None:
    home = tmp_path / "dsb" / "stage1_train" / "00ae65c1"
    home.joinpath("images").mkdir(parents=True)
    Image.fromarray(np.full((*SIZE, 4), 90, np.uint8)).save(home / "images" / "00ae65c1.png")
    mask(home / "masks" / "a.png", "L", ["255", "0", "0"])
    mask(home / "masks" / "b.png", "L", ["0", "255", "0"])  # touches the first
    picture(tmp_path / "fudan" / "PNGImages" / "FudanPed00001.png")
    mask(tmp_path / "fudan" / "PedMasks" / "FudanPed00001_mask.png", "L", ["0", "1", "2"])
    for name, row in (("dsb", "dsb2018"), ("fudan", "penn_fudan")):
        data = open_data(tmp_path / name, task="instance", val_fraction=0, test_fraction=0)
        assert data.format == row
        target = data.train.target(0)
        assert len(target) == 2
        assert not (target.dense[0] & target.dense[1]).any()
        assert torch.equal(target.dense.flatten(1).sum(1), torch.tensor([8, 8]))


def test_objects_of_movies_are_the_values_of_the_palette_without_void(tmp_path) -> None:
    for root, stem, values in (
        ("davis/{}/480p/bike-packing", "00000", ["0", "1", "2", "255"]),
        ("youtube/train/{}/003234408d", "00005", ["0", "1", "0"]),
        ("youtube/train/{}/003234408d", "00010", ["0", "1", "2"]),
    ):
        picture(tmp_path / root.format("JPEGImages") / f"{stem}.jpg")
        mask(tmp_path / root.format("Annotations") / f"{stem}.png", "P", values)
    davis = open_data(tmp_path / "davis", task="instance", val_fraction=0, test_fraction=0)
    assert davis.format == "davis2017"
    assert len(davis.train.target(0)) == 2  # 255 is background
    movies = open_data(tmp_path / "youtube", task="instance", val_fraction=0, test_fraction=0)
    assert movies.format == "youtube_vos"
    assert [len(movies.train.target(i)) for i in range(2)] == [1, 2]  # the second object appears later


@pytest.mark.parametrize(
    "lists",
    [
        {
            "480p/train": "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png",
            "480p/val": "/JPEGImages/480p/dog/00000.jpg /Annotations/480p/dog/00000.png",
        },
        {"2017/train": "bear", "2017/val": "dog"},
    ],
)
def test_lists_of_davis_tell_the_parts_by_frame_or_by_sequence(tmp_path, lists) -> None:
    for name in ("bear", "dog", "walking"):
        picture(tmp_path / f"JPEGImages/480p/{name}/00000.jpg")
        mask(tmp_path / f"Annotations/480p/{name}/00000.png", "L", ["0", "255"])
    for file, content in lists.items():
        path = tmp_path / f"ImageSets/{file}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    data = open_semantic(tmp_path)
    assert data.format == "davis2016"
    found = {part: [pair.id for pair in images.pairs] for part, images in data.parts().items()}
    assert found == {
        "train": ["JPEGImages/480p/bear/00000.jpg"],
        "val": ["JPEGImages/480p/dog/00000.jpg"],
    }


def config_of_mapillary(path: Path) -> None:
    labels = [
        {"name": "animal--bird", "readable": "Bird", "color": [165, 42, 42], "instances": True},
        {
            "name": "construction--barrier--curb",
            "readable": "Curb",
            "color": [196, 196, 196],
            "instances": False,
        },
        {"name": "void--unlabeled", "readable": "Unlabeled", "color": [0, 0, 0], "instances": False},
    ]
    for place, label in enumerate(labels):
        label["evaluate"] = place < 2
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"labels": labels, "version": "1.2"}))


@pytest.mark.parametrize("folder, config", [("v1.2/", "config_v1.2.json"), ("", "config.json")])
def test_mapillary_tells_its_classes_in_a_config(tmp_path, folder, config) -> None:
    config_of_mapillary(tmp_path / config)
    for part in ("training", "validation"):
        picture(tmp_path / part / "images" / "_HJyoGt4Vw1QjXiDgiKQmw.jpg")
        mask(tmp_path / part / f"{folder}labels/_HJyoGt4Vw1QjXiDgiKQmw.png", "P", ["0", "1", "2"])
    picture(tmp_path / "testing" / "images" / "a.jpg")
    data = open_semantic(tmp_path)
    assert data.format == "mapillary"
    assert data.classes.names == ("Bird", "Curb")
    assert data.classes.colors[0] == (165, 42, 42)
    assert data.classes.things == (0,)
    assert (len(data.train), len(data.val), data.test) == (1, 1, None)
    assert data.train.labels(0)[0].tolist() == [0, 1, 255] * 2


@pytest.mark.parametrize(
    "content", ["{}", '{"labels": []}', '{"labels": [{"name": "a"}]}', "[", '{"labels": 3}']
)
def test_a_config_that_tells_no_classes_is_named(tmp_path, content) -> None:
    picture(tmp_path / "training/images/a.jpg")
    mask(tmp_path / "training/v1.2/labels/a.png", "P", ["0"])
    (tmp_path / "config_v1.2.json").write_text(content)
    with pytest.raises(ValueError, match=r"config_v1\.2\.json"):
        open_semantic(tmp_path)


def parts_of_a_person(
    path: Path, objects: list[tuple[str, np.ndarray, list[tuple[str, np.ndarray]]]]
) -> None:
    """A file of Pascal Parts: each object with class, mask and parts, each with name and mask."""
    made = np.zeros(len(objects), [(name, object) for name in ("class", "class_ind", "mask", "parts")])
    for i, (kind, whole, parts) in enumerate(objects):
        inside = np.zeros((0, 0))
        if parts:
            inside = np.zeros((1, len(parts)), [("part_name", object), ("mask", object)])
            for j, (name, place) in enumerate(parts):
                inside[0, j] = (name, place.astype(np.uint8))
        made[i] = (kind, 15.0, whole.astype(np.uint8), inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"anno": {"imname": path.stem, "objects": made[None]}})


def test_parts_of_people_are_joined_to_the_six_of_the_benchmark(tmp_path) -> None:
    columns = [np.tile(np.arange(SIZE[1]) == i, (SIZE[0], 1)) for i in range(SIZE[1])]
    whole = np.ones(SIZE, bool)
    parts = [("head", columns[0] | columns[1]), ("hair", columns[1]), ("neck", columns[2])]
    parts += [("ruarm", columns[3]), ("lhand", columns[4]), ("rfoot", columns[5])]
    picture(tmp_path / "JPEGImages/2008_000003.jpg")
    horse = ("horse", whole, [("head", columns[0])])
    file = tmp_path / "Annotations_Part/2008_000003.mat"
    parts_of_a_person(file, [horse, ("person", whole, parts)])
    picture(tmp_path / "JPEGImages/2008_000008.jpg")
    parts_of_a_person(tmp_path / "Annotations_Part/2008_000008.mat", [("chair", whole, []), horse])
    data = open_semantic(tmp_path, val_fraction=0, test_fraction=0)
    assert data.format == "pascal_person_part"
    assert data.train.labels(0)[0].tolist() == [1, 1, 2, 3, 4, 6]
    assert data.train.labels(1).unique().tolist() == [0]
    savemat(file, {"anno": {"objects": np.zeros((0, 0))}})
    with pytest.raises(ValueError, match=r"2008_000003\.mat.*Pascal Parts"):
        data.train.labels(0)


def test_organs_in_x_rays_overlap_and_have_half_the_size(tmp_path) -> None:
    for fold, name in ((1, "JPCLN001"), (2, "JPCNN002")):
        path = tmp_path / "JSRT" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((SIZE[0] * 2, SIZE[1] * 2), 90, np.uint8)).save(path)
        for organ, values in (("heart", ["0", "255"]), ("left lung", ["255"]), ("right clavicle", ["0"])):
            mask(tmp_path / f"scratch/fold{fold}/masks/{organ}/{name}.gif", "gif", values)
    data = open_data(tmp_path, task="multilabel")
    assert data.format == "scr"
    assert data.classes.names == ("heart", "left lung", "right lung", "left clavicle", "right clavicle")
    assert {part: [pair.id for pair in some.pairs] for part, some in data.parts().items() if some.pairs}[
        "test"
    ] == ["JSRT/JPCNN002.png"]
    target = data.test.target(0)
    assert isinstance(target, ClassMasks)
    assert target.masks.shape == (5, SIZE[0] * 2, SIZE[1] * 2)
    assert target.masks[:, 0, :4].tolist() == [[0, 0, 1, 1], [1] * 4, [0] * 4, [0] * 4, [0] * 4]


# --- the table ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_a_row_says_what_its_user_must_know(name) -> None:
    row = DATASETS[name]
    assert row.name == name
    assert row.title
    assert row.licence
    assert row.source
    assert row.metric
    if row.score:
        assert getattr(metrics, row.score)
    if row.parts:
        assert len(row.table.names) > 0
        assert len(row.tree()) >= 2
        assert name in get_task(row.task).formats
    elif row.layout:
        assert row.layout in get_task(row.task).formats


def test_every_row_with_a_tree_is_tested_here() -> None:
    by_hand = {"idrid", "celebamask_hq", "dsb2018", "penn_fudan", "davis2017", "youtube_vos"}
    by_hand |= {"scr", "pascal_person_part"}
    assert {name for name, row in DATASETS.items() if row.parts} == set(LISTINGS) | by_hand


def test_the_table_of_cityscapes_is_one_table() -> None:
    from pixelwise.data.datasets import cityscapes

    for name, expected in (
        ("cityscapes_ids", cityscapes.LABEL_IDS),
        ("cityscapes_train_ids", cityscapes.TRAIN_IDS),
    ):
        row = next(row for row in DATASETS.values() if row.classes == name)
        assert row.encoding.values == expected.values
        assert row.table.names == cityscapes.CLASSES.names
        assert row.table.colors == cityscapes.CLASSES.colors


def test_camvid_of_32_colours_becomes_the_11_classes_of_segnet() -> None:
    from pixelwise.data.datasets import camvid

    assert set(DATASETS["camvid32"].table.names) == set(camvid.CLASSES.names)
    assert DATASETS["camvid32"].table.names == camvid.CLASSES.names
    assert len(DATASETS["camvid32"].encoding.further_colors) == 31 - 11


# What section by section lectures, papers and our own list name, typed by hand; each is a row, or is not read
# for a reason.
NAMED = """
voc2012 sbd pascal_context pascal_person_part coco2017 coco_stuff coco_stuff_10k coco2017_panoptic
coco2017_keypoints lvis ade20k cityscapes_fine camvid11 camvid32 kitti mapillary_vistas bdd100k idd synthia
gta5
davis2016 davis2017 youtube_vos vsb100 bsds500 stanford_background msrc21 siftflow nyuv2 sun_rgbd
inria deepglobe_land deepglobe_road potsdam vaihingen loveda isaid landcover_ai aerial_online_maps osm_tiles
drive stare chase_db1 hrf refuge idrid brats lits acdc sunnybrook scr isles2022 bach promise12 isbi2012 msd
dsb2018
monuseg kvasir_seg cvc_clinicdb isic2017 isic2018 lgg_mri multiple_sclerosis imt
msra10k ecssd dut_omron duts pascal_s thur15k judd kaist_text coco_text svt
eg1800 p3m10k lip cihp atr celebamask_hq oxford_pet penn_fudan
""".split()


def test_every_data_set_that_the_lectures_name_is_a_row_or_has_a_reason() -> None:
    assert len(NAMED) == len(set(NAMED)) == 83
    assert not set(DATASETS) & set(NOT_READ)
    assert set(NAMED) - set(DATASETS) == set(NOT_READ)


def test_the_page_names_what_is_not_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert all(f"`{name}`" in page for name in NOT_READ)


def test_two_dates_are_six_channels(tmp_path: Path) -> None:
    grown(tmp_path, "levir_cd")
    for name, value in (("A", 51), ("B", 204)):
        Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(tmp_path / "train" / name / "train_1.png")
    train = open_data(tmp_path).train
    assert train[0].image[:, 0, 0].tolist() == pytest.approx([0.2] * 3 + [0.8] * 3)
    with pytest.raises(ValueError, match=r"train_1\.png is one of two images"):
        train.with_channels(3)[0]
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "train" / "B" / "train_1.png")
    with pytest.raises(ValueError, match=r"A/train_1\.png and .*B/train_1\.png differ in size"):
        train[0]


def test_organs_of_btcv_have_names(tmp_path: Path) -> None:
    import nibabel

    home = tmp_path / "RawData" / "Training"
    for number in ("0001", "0002"):
        for kind, value in (("img", 40), ("label", 13)):
            (home / kind).mkdir(parents=True, exist_ok=True)
            voxels = np.full((5, 6, 4), value, np.int16)
            voxels[0] = 6 if kind == "label" else 0
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), home / kind / f"{kind}{number}.nii.gz")
    for root in (home, tmp_path / "RawData"):
        data = open_data(root, val_fraction=0)
        assert (data.format, len(data.classes)) == ("btcv", 14)
        assert [pair.mask for pair in data.train.pairs] == [
            home / "label" / "label0001.nii.gz",
            home / "label" / "label0002.nii.gz",
        ]
        found = {data.classes.names[label] for label in data.train.labels(0).unique().tolist()}
        assert found == {"liver", "left adrenal gland"}
