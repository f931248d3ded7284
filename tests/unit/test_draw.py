"""Pictures show the colours they should."""

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise import draw, draw_objects
from pixelwise.types import ClassTable, LabelMap, MaskSet

TABLE = ClassTable(("sky", "road", "car"), ((0, 0, 255), (90, 90, 90), (255, 0, 0)))
LABELS = LabelMap(torch.tensor([[0, 0, 1, 1], [0, 0, 1, 255], [2, 2, 2, 255]]))


def test_a_palette_image_holds_the_labels_and_the_colours() -> None:
    image = draw.palette_image(LABELS, TABLE)
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), LABELS.labels.numpy())
    colors = np.asarray(image.convert("RGB"))
    assert tuple(colors[0, 0]) == (0, 0, 255)
    assert tuple(colors[2, 1]) == (255, 0, 0)
    assert tuple(colors[2, 3]) == draw.IGNORED


def test_a_palette_image_has_room_for_256_classes_and_no_more() -> None:
    many = ClassTable.of(*(f"class {i}" for i in range(300)), ignore=-1)
    image = draw.palette_image(LabelMap(torch.tensor([[0, 255]])), many)
    assert np.asarray(image).tolist() == [[0, 255]]
    assert tuple(np.asarray(image.convert("RGB"))[0, 1]) == many.colors[255]
    with pytest.raises(ValueError, match=r"got 256: save as .npy"):
        draw.palette_image(LabelMap(torch.tensor([[0, 256]])), many)
    with pytest.raises(ValueError, match="got -1"):
        draw.palette_image(LabelMap(torch.tensor([[0, -1]])), many)


@pytest.mark.parametrize("wrong", [3, -1, 254])
def test_a_label_outside_the_table_is_named(wrong: int) -> None:
    labels = LabelMap(torch.tensor([[0, wrong]]))
    for picture in (draw.palette_image, draw.color_image):
        with pytest.raises(ValueError, match=f"label {wrong} is outside the table of 3 classes"):
            picture(labels, TABLE)


def test_an_overlay_mixes_image_and_colour() -> None:
    image = torch.full((3, 3, 4), 100 / 255)
    mixed = np.asarray(draw.overlay(image, LABELS, TABLE, alpha=0.25))
    assert mixed[0, 0].tolist() == [75, 75, 139]  # 100 + (color - 100) / 4, rounded to even
    assert mixed[1, 3].tolist() == [100, 100, 100]


def test_an_overlay_at_its_ends_is_the_image_or_the_classes() -> None:
    image = torch.rand(3, 3, 4)
    classes_only = LabelMap(LABELS.labels.clamp(max=2))
    nothing = draw.overlay(image, classes_only, TABLE, alpha=0.0)
    everything = draw.overlay(image, classes_only, TABLE, alpha=1.0)
    assert np.array_equal(np.asarray(nothing), np.asarray(draw.rgb_image(image)))
    assert np.array_equal(np.asarray(everything), np.asarray(draw.color_image(classes_only, TABLE)))


def test_clear_classes_keep_the_image_and_contours_are_drawn_in_full() -> None:
    labels = torch.zeros(9, 9, dtype=torch.long)
    labels[2:7, 2:7] = 2
    picture = np.asarray(
        draw.overlay(torch.zeros(3, 9, 9), LabelMap(labels), TABLE, alpha=0.2, contours=True, clear=("sky",))
    )
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[1, 4].tolist() == [0, 0, 0]  # the clear side of the border
    assert picture[2, 4].tolist() == [255, 0, 0]
    assert picture[4, 4].tolist() == [51, 0, 0]


@pytest.mark.parametrize("name", ["background", "Background", "bg", "void", "Unlabelled", "unlabeled"])
@pytest.mark.parametrize("label", [0, 1])
def test_the_background_is_not_tinted_unless_asked(name: str, label: int) -> None:
    names = [name, "cat"] if label == 0 else ["cat", name]
    classes = ClassTable.of(*names)
    labels = LabelMap(torch.tensor([[label, 1 - label]]))
    image = torch.full((3, 1, 2), 100 / 255)
    plain, tinted = (np.asarray(draw.overlay(image, labels, classes, clear=clear)) for clear in (None, ()))
    assert plain[0, 0].tolist() == [100, 100, 100]
    assert plain[0, 1].tolist() == tinted[0, 1].tolist() != [100, 100, 100]
    color = classes.colors[label]
    assert tinted[0, 0].tolist() == [round(100 + (part - 100) / 2) for part in color]


def test_an_overlay_of_many_rows_is_that_of_its_strips() -> None:
    image, labels = torch.rand(3, 600, 5), LabelMap(torch.randint(3, (600, 5)))
    whole = np.asarray(draw.overlay(image, labels, TABLE, contours=True))
    for row in (0, 254, 255, 256, 257, 511, 512, 599):
        near = slice(max(0, row - 1), row + 2)
        part = draw.overlay(image[:, near], LabelMap(labels.labels[near]), TABLE, contours=True)
        assert np.array_equal(whole[row], np.asarray(part)[row - near.start])


def test_what_does_not_fit_is_refused() -> None:
    image = torch.rand(3, 3, 4)
    with pytest.raises(ValueError, match="got 3 x 5 and 3 x 4"):
        draw.overlay(torch.rand(3, 3, 5), LABELS, TABLE)
    with pytest.raises(ValueError, match="alpha must be in"):
        draw.overlay(image, LABELS, TABLE, alpha=1.5)
    with pytest.raises(ValueError, match="clear names 'background'"):
        draw.overlay(image, LABELS, TABLE, clear=("background",))
    with pytest.raises(ValueError, match="one label map of two axes"):
        draw.color_image(LabelMap(LABELS.labels[None]), TABLE)
    with pytest.raises(ValueError, match="at least one panel"):
        draw.side_by_side([])


@pytest.mark.parametrize("channels, shown", [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_any_number_of_channels_can_be_looked_at(channels: int, shown: list[int]) -> None:
    image = torch.rand(channels, 4, 5)
    picture = np.asarray(draw.rgb_image(image)).astype(float) / 255
    assert np.abs(picture - image[shown].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6


def test_an_error_map_shows_wrong_ignored_and_right() -> None:
    prediction = LabelMap(torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0], [2, 2, 0, 255]]))
    image = torch.full((3, 3, 4), 1.0)
    picture = np.asarray(draw.error_map(prediction, LABELS, TABLE, image=image))
    wrong = (picture == draw.WRONG).all(-1)
    assert np.argwhere(wrong).tolist() == [[0, 1], [2, 2]]
    assert picture[1, 3].tolist() == picture[2, 3].tolist() == [128, 128, 128]
    assert picture[0, 0].tolist() == [153, 153, 153]
    plain = np.asarray(draw.error_map(prediction, LABELS, TABLE))
    assert plain[0, 0].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="must have one size"):
        draw.error_map(LabelMap(torch.zeros(2, 4, dtype=torch.long)), LABELS, TABLE)


def test_a_legend_shows_every_colour() -> None:
    for columns in (1, 2, 5):
        picture = np.asarray(draw.legend(TABLE, columns=columns)).reshape(-1, 3)
        for color in TABLE.colors:
            assert (picture == color).all(-1).sum() > 50


def test_a_longer_legend_is_higher_or_wider() -> None:
    one, two = draw.legend(TABLE), draw.legend(TABLE, columns=3)
    assert one.height > two.height
    assert one.width < two.width


def test_panels_stand_side_by_side_below_their_captions() -> None:
    red, blue = Image.new("RGB", (40, 30), (255, 0, 0)), Image.new("P", (60, 20))
    blue.putpalette([0, 0, 255])
    sheet = np.asarray(draw.side_by_side([("image", red), ("prediction", blue)], gap=5, size=10))
    assert sheet.shape == (16 + 30 + 10, 40 + 60 + 15, 3)
    assert (sheet == (255, 0, 0)).all(-1).sum() == 40 * 30
    assert (sheet == (0, 0, 255)).all(-1).sum() == 60 * 20
    assert (sheet[:20, :45].min(-1) < 128).any()  # letters


def test_panels_fill_a_grid_in_reading_order() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    panels = [("a very long caption that cannot fit", Image.new("RGB", (20, 20), color)) for color in colors]
    sheet = np.asarray(draw.side_by_side(panels, columns=2))
    centres = [np.argwhere((sheet == color).all(-1)).mean(0) for color in colors]
    assert centres[0][0] == centres[1][0] < centres[2][0]
    assert centres[0][1] == centres[2][1] < centres[1][1]


def test_objects_of_the_only_class_are_not_named() -> None:
    image, masks = torch.zeros(3, 40, 60), torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[0, 20:30, 20:40] = True
    truth = MaskSet.of(masks, torch.tensor([0]))
    one = np.asarray(draw_objects.instances(image, truth, ClassTable.of("cell")))
    two = np.asarray(draw_objects.instances(image, truth, ClassTable.of("cell", "dust")))
    assert not one[:17].any()
    assert two[:17].any()  # the name stands above the object
    sure = MaskSet.of(masks, torch.tensor([0]), scores=torch.tensor([0.9]))
    assert np.asarray(draw_objects.instances(image, sure, ClassTable.of("cell")))[:17].any()
