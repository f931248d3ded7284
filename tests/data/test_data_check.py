"""The check of a data set: everything that would spoil a training is found and told in a sentence."""

import json
import math
import shutil

import pytest
import torch

from pixelwise.data import ClassCounts, check_data, class_counts, open_data, write_classes_file
from pixelwise.types import ClassTable, LabelMap

TABLE = ClassTable.of("sky", "road", "car")


@pytest.fixture
def good(tmp_path, draw_image, draw_mask):
    for number, (part, name) in enumerate([("train", "a"), ("train", "b"), ("train", "c"), ("val", "d")]):
        draw_image(tmp_path / part / "images" / f"{name}.png", number=number)
        draw_mask(tmp_path / part / "masks" / f"{name}.png", values=(0, 1, 2, 255))
    write_classes_file(tmp_path / "classes.csv", TABLE)
    return tmp_path


def test_good_data_have_no_problems(good) -> None:
    report = check_data(good)
    assert report.problems == ()
    assert report.remarks == ()
    assert report.counts["train"].num_images == 3
    assert report.counts["train"].shares == pytest.approx((1 / 3,) * 3)
    assert report.counts["train"].ignored_share == 0.25
    assert report.sizes == ((12, 16), (12, 16))
    assert report.class_weights == (1.0, 1.0, 1.0)
    text = report.render()
    assert "No problem found." in text
    assert "12 x 16" in text
    assert all(name in text for name in TABLE.names)
    assert json.loads(json.dumps(report.as_dict()))["parts"]["val"]["images"] == 1


def spoil_truncated(root, draw_image, draw_mask) -> str:
    path = root / "train" / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:-200])
    return r"cannot read .*images/a\.png"


def spoil_no_mask(root, draw_image, draw_mask) -> str:
    (root / "train" / "masks" / "a.png").unlink()
    return r"images/a\.png has no partner"


def spoil_no_image(root, draw_image, draw_mask) -> str:
    draw_mask(root / "val" / "masks" / "alone.png")
    return r"masks/alone\.png has no partner"


def spoil_size(root, draw_image, draw_mask) -> str:
    draw_mask(root / "train" / "masks" / "b.png", size=(12, 17))
    return r"images/b\.png has 12 x 16 pixels, its annotation in .*b\.png 12 x 17"


def spoil_value(root, draw_image, draw_mask) -> str:
    draw_mask(root / "train" / "masks" / "b.png", values=(0, 37))
    return r"masks/b\.png holds the value 37"


def spoil_leak(root, draw_image, draw_mask) -> str:
    # The pixels count, not the bytes of the file.
    from PIL import Image

    with Image.open(root / "train" / "images" / "a.png") as image:
        image.save(root / "val" / "images" / "d.png", compress_level=0)
    return r"the same image is in train and val: train/images/a\.png, val/images/d\.png"


def spoil_class(root, draw_image, draw_mask) -> str:
    for name in "abc":
        draw_mask(root / "train" / "masks" / f"{name}.png", values=(0, 1))
    return "class 'car' is in no training image"


@pytest.mark.parametrize(
    "spoil",
    [spoil_truncated, spoil_no_mask, spoil_no_image, spoil_size, spoil_value, spoil_leak, spoil_class],
)
def test_a_problem_is_found_and_is_the_only_one(good, draw_image, draw_mask, spoil) -> None:
    import re

    expected = spoil(good, draw_image, draw_mask)
    report = check_data(good)
    assert len(report.problems) == 1
    assert re.search(expected, report.problems[0])
    assert f"Problem: {report.problems[0]}" in report.render()
    assert "1 problem found." in report.render()


def test_all_problems_are_found_at_once(good, draw_image, draw_mask) -> None:
    spoil_truncated(good, draw_image, draw_mask)
    spoil_size(good, draw_image, draw_mask)
    spoil_no_image(good, draw_image, draw_mask)
    report = check_data(good)
    assert len(report.problems) == 3
    assert report.counts["train"].num_images == 1


def test_a_mask_that_cannot_be_read_does_not_stop_the_search_for_classes(good) -> None:
    (good / "classes.csv").unlink()
    (good / "train" / "masks" / "a.png").write_bytes(b"broken")
    report = check_data(good)
    assert len(report.problems) == 1
    assert "masks/a.png" in report.problems[0]
    assert report.classes.names == ("class 0", "class 1", "class 2")
    assert any("no class table was given" in remark for remark in report.remarks)


def test_the_same_image_twice_in_one_part_is_worth_a_remark(good) -> None:
    shutil.copy(good / "train" / "images" / "a.png", good / "train" / "images" / "b.png")
    report = check_data(good)
    assert not report.problems
    assert report.remarks == ("the same image is 2 times in train: train/images/a.png, train/images/b.png",)


def test_black_and_white_masks_are_told(pair_folder) -> None:
    report = check_data(pair_folder(values=(0, 255)))
    assert any("only 0 and 255: read as background and foreground" in remark for remark in report.remarks)
    assert any("1 image was drawn" in remark for remark in report.remarks)
    assert not report.problems


def test_black_and_white_masks_with_a_plain_table_are_a_problem(pair_folder) -> None:
    report = check_data(pair_folder(values=(0, 255)), classes=ClassTable.of("background", "cell"))
    assert any("give it the id 255" in problem for problem in report.problems)
    assert "class 'cell' is in no image" in report.remarks


def test_nothing_to_train_or_to_validate_on_is_a_problem(good, pair_folder) -> None:
    shutil.rmtree(good / "train")
    assert "there are no images to train on" in check_data(good).problems
    assert "there are no images to validate on" in check_data(pair_folder(1)).problems


def test_progress_counts_all_images(good) -> None:
    calls: list[tuple[int, int]] = []
    check_data(good, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_images_of_several_sizes_are_told(good, draw_image, draw_mask) -> None:
    draw_image(good / "train" / "images" / "e.png", size=(30, 8), number=9)
    draw_mask(good / "train" / "masks" / "e.png", size=(30, 8))
    report = check_data(good)
    assert report.sizes == ((12, 8), (30, 16))
    assert "from 12 x 8 to 30 x 16 pixels" in report.render()


def test_long_lists_are_cut_in_the_text(pair_folder) -> None:
    root = pair_folder(30)
    for path in list((root / "masks").iterdir())[:25]:
        path.unlink()
    report = check_data(root)
    assert len(report.problems) == 25
    text = report.render()
    assert "and 22 more like these" in text
    assert text.count("has no partner") == 3


def test_kinds_of_sentences_are_told_before_many_of_one_kind(pair_folder) -> None:
    root = pair_folder(30)
    for path in list((root / "masks").iterdir())[:25]:
        path.unlink()
    kept = next((root / "masks").iterdir())
    (root / "images" / kept.name).write_bytes(b"")
    text = check_data(root).render()
    assert "it is empty" in text
    assert text.count("Problem: ") == 5


def test_classes_of_a_long_table_that_no_image_shows_are_counted(pair_folder) -> None:
    names = tuple(f"thing {i}" for i in range(60))
    report = check_data(pair_folder(), classes=ClassTable.of(*names))
    text, shown = report.render(), sum(any(c.images[i] for c in report.counts.values()) for i in range(60))
    assert f"and {60 - shown} classes that no image shows" in text
    assert len(report.as_dict()["classes"]) == 60
    assert len(text.splitlines()) < 30


def test_masks_that_all_cannot_be_read_are_one_sentence(good) -> None:
    (good / "classes.csv").unlink()
    masks = list(good.rglob("masks/*.png"))
    for path in masks:
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match=rf"none of the {len(masks)} masks can be read: cannot read .*png"):
        check_data(good)


# --- numbers --------------------------------------------------------------------------------------


def test_weights_follow_median_frequency_balancing() -> None:
    # Two images of 100 pixels. Class 0: 60 + 20 of 200. Class 1: 40 of 100. Class 2: 80 of 100. No class 3.
    first = torch.tensor([0] * 60 + [1] * 40).view(10, 10)
    second = torch.tensor([0] * 20 + [2] * 80).view(10, 10)
    table = ClassTable.of("a", "b", "c", "d")
    counts = ClassCounts.of(LabelMap(first), table) + ClassCounts.of(LabelMap(second), table)
    assert counts.pixels == (80, 40, 80, 0)
    assert counts.images == (2, 1, 1, 0)
    # Frequencies 0.4, 0.4, 0.8: the median is 0.4.
    assert counts.weights == pytest.approx((1.0, 1.0, 0.5, 1.0))


def test_ignored_pixels_count_only_in_the_size_of_images() -> None:
    labels = torch.tensor([[0, 0, 1, 255]])
    counts = ClassCounts.of(LabelMap(labels), ClassTable.of("a", "b"))
    assert counts.shares == pytest.approx((2 / 3, 1 / 3))
    assert counts.ignored_share == 0.25
    assert counts.weights == pytest.approx((0.375 / 0.5, 0.375 / 0.25))


def test_nothing_at_all_has_weights_too() -> None:
    counts = ClassCounts.nothing(TABLE)
    assert counts.weights == (1.0,) * 3
    assert counts.shares == (0.0,) * 3
    assert not any(map(math.isnan, counts.weights))


def test_counting_reads_only_the_labels(good) -> None:
    data = open_data(good)
    for pair in data.train.pairs:
        pair.image.unlink()
    each = [ClassCounts.of(data.train.target(i), TABLE) for i in range(3)]
    assert class_counts(data.train) == each[0] + each[1] + each[2]
    assert sum(class_counts(data.train).pixels) > 0


def test_camvid_has_about_the_class_weights_that_segnet_was_trained_with(shared_data) -> None:
    # SegNet's authors print these weights in their training file. They list 12 classes, with the unlabelled
    # one, so their median is lower and all weights with it; their weight of "sign" is 2.5 times ours and
    # left out.
    data = open_data(shared_data("data", "camvid"))
    counts = class_counts(data.train)
    published = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)
    ratios = [p / w for p, w in zip(published, counts.weights, strict=True)]
    del ratios[data.classes.names.index("sign")]
    assert 0.8 < min(ratios) <= max(ratios) < 1.0


def test_one_is_not_counted_as_many(tmp_path, draw_image, draw_mask) -> None:
    for name in ("a", "b"):
        draw_image(tmp_path / "images" / f"{name}.png", number=ord(name))
        draw_mask(tmp_path / "masks" / f"{name}.png", values=(0,))
    text = check_data(tmp_path, classes=ClassTable.of("sky")).render()
    assert "1 class\n" in text
    assert text.count(" 1 image,") == 2
    assert "1 image was drawn" in text
