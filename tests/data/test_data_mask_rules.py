"""Masks that hold no class ids: black and white with greys between, and maps of instances."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from pixelwise import check_data
from pixelwise.data import LabelEncoding, open_data, read_mask
from pixelwise.predict import evaluate
from pixelwise.types import ClassTable


def soft_folder(root, draw_image, suffix: str = ".png", count: int = 3):
    """Masks of a white disc with a smooth rim."""
    (root / "masks").mkdir(parents=True)
    for i in range(count):
        draw_image(root / "images" / f"{i}.png", size=(48, 64), number=i)
        mask = Image.new("L", (64, 48))
        ImageDraw.Draw(mask).ellipse((8, 8, 30 + i, 36), fill=255)
        mask.filter(ImageFilter.GaussianBlur(0.7)).save(root / "masks" / f"{i}{suffix}")
    return root


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_smooth_masks_name_the_rule_that_reads_them(tmp_path, draw_image, suffix) -> None:
    root = soft_folder(tmp_path / "d", draw_image, suffix)
    with pytest.raises(ValueError, match=r"greys between .*--mask-rule above-127"):
        open_data(root)
    report = check_data(root)  # goes on with the rule that it suggests
    assert len(report.problems) == 1
    assert "--mask-rule above-127" in report.problems[0]
    assert sum(counts.num_images for counts in report.counts.values()) == 3
    assert check_data(root, mask_rule="above-127").problems == ()


def test_above_127_is_a_threshold(tmp_path, draw_image) -> None:
    root = soft_folder(tmp_path / "d", draw_image)
    data = open_data(root, mask_rule="above-127", val_fraction=0.0)
    assert data.classes.names == ("background", "foreground")
    pixels = np.array(Image.open(root / "masks" / "0.png"))
    assert np.array_equal(data.train[0].target.labels.numpy(), pixels > 127)
    assert 0 < (pixels > 127).sum() < (pixels > 0).sum()
    wide = open_data(root, mask_rule="above-0", val_fraction=0.0)
    assert np.array_equal(wide.train[0].target.labels.numpy(), pixels > 0)


def test_jpeg_masks_of_few_values_are_not_many_classes(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "images" / "a.png", size=(16, 16))
    (tmp_path / "masks").mkdir()
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, 8:] = 255
    pixels[0, 0], pixels[0, 9] = 3, 251
    Image.fromarray(pixels).save(tmp_path / "masks" / "a.jpg", quality=100)
    with pytest.raises(ValueError, match="above-127"):
        open_data(tmp_path)


def test_jpeg_masks_of_three_greys_are_refused(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "images" / "a.png", size=(64, 96))
    (tmp_path / "masks").mkdir()
    pixels = (
        np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), (8, 12)).repeat(8, 0).repeat(8, 1)
    )
    Image.fromarray(np.roll(pixels, (3, 5), (0, 1))).save(tmp_path / "masks" / "a.jpg", quality=60)
    with pytest.raises(ValueError, match=r"different values \(JPEG blurs masks\)"):
        open_data(tmp_path)


def test_a_value_beyond_two_classes_names_the_rules(pair_folder) -> None:
    root = pair_folder(values=(0, 1, 7))
    with pytest.raises(ValueError, match=r"value 7, .*--mask-rule above-127 or above-0"):
        open_data(root, classes=ClassTable.of("ground", "road")).train[0]


def test_plain_class_ids_are_not_taken_for_smooth_masks(pair_folder) -> None:
    assert len(open_data(pair_folder(values=(*range(14), 255))).classes) == 14
    assert len(open_data(pair_folder(values=(0, 100, 200), name="wide")).classes) == 3


def test_all_objects_of_an_instance_map_are_foreground(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    instances = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 3
    Image.fromarray(instances).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"instance maps.*--mask-rule above-0"):
        open_data(tmp_path)
    labels = open_data(tmp_path, mask_rule="above-0").train[0].target.labels
    assert labels.sum() == 12 * 16 - 1


def test_a_palette_counts_as_it_is_seen(tmp_path) -> None:
    # A GIF may store white as index 0 and black as index 1.
    mask = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    mask.putpalette([255, 255, 255, 0, 0, 0])
    mask.save(tmp_path / "a.png")
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    Image.fromarray(np.array([[[200, 0, 0], [90, 90, 90]]], dtype=np.uint8)).save(tmp_path / "c.png")
    np.save(tmp_path / "d.npy", np.array([[True, False]]))
    for name in ("a.png", "b.png", "c.png", "d.npy"):
        assert read_mask(tmp_path / name, LabelEncoding.by_rule("above-127")).tolist() == [[1, 0]]


def test_a_rule_fits_two_classes_in_mask_files_only(pair_folder) -> None:
    root = pair_folder()
    with pytest.raises(ValueError, match="the class table has 3 classes"):
        open_data(root, classes=ClassTable.of("a", "b", "c"), mask_rule="above-0")
    with pytest.raises(
        ValueError, match=r"mask_rule must be one of exact, above-127, above-0, first-channel, got 'xx"
    ):
        open_data(root, mask_rule="x" * 5000)
    named = open_data(root, classes=ClassTable.of("ground", "road"), mask_rule="above-0")
    assert named.classes.names == ("ground", "road")


def test_saved_predictions_are_scored_under_the_rule_of_the_masks(tmp_path, draw_image) -> None:
    root = soft_folder(tmp_path / "d", draw_image)
    data = open_data(root, mask_rule="above-127", val_fraction=0.0)
    for form, write in {
        "labels": lambda labels: Image.fromarray(labels.astype(np.uint8)),
        "seen": lambda labels: Image.fromarray((labels * 230 + 10).astype(np.uint8)),
    }.items():
        (tmp_path / form).mkdir()
        for sample in data.train:
            name = sample.id.rpartition("/")[2]
            write(sample.target.labels.numpy()).save(tmp_path / form / name)
        assert evaluate(tmp_path / form, data.train, progress=False)["mean_iou"] == 1


def test_sparse_values_of_the_table_are_labels() -> None:
    labels = LabelEncoding.by_rule("above-0").labels(np.array([[0, 3]]), "a.png")
    assert torch.equal(labels, torch.tensor([[0, 1]]))
