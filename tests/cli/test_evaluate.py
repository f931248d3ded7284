"""`pixelwise evaluate`: scores on the screen, per image in a file, and never in the place of another file."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import pixelwise as pw
from pixelwise.recipe import Recipe


def test_evaluate_writes_one_row_per_image(pixelwise, street, weights, tmp_path) -> None:
    Image.new("L", (64, 48), 255).save(street / "masks" / "train" / "1.png")  # nothing is labelled
    target = tmp_path / "scores.csv"
    command = ("evaluate", weights, street, "--split", "train", "--csv", target, "--device", "cpu")
    for more in ((), ("--overwrite",)):  # a file that evaluate wrote is replaced where that is asked for
        shown = pixelwise(*command, *more)
        assert shown.code == 0, shown.err
    assert f"scores of each image: {target}" in shown.out
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:8] == [
        "id",
        "mean_iou",
        "pixel_accuracy",
        "mean_accuracy",
        "frequency_weighted_iou",
        "mean_dice",
        "IoU/ground",
        "IoU/square",
    ]
    assert [row["id"].rpartition("/")[2] for row in rows] == ["0.png", "1.png", "2.png"]
    assert set(list(rows[0])[8:]) <= {"confused/ground as square", "confused/square as ground"}
    assert set(list(rows[1].values())[1:]) == {""}
    for row in (rows[0], rows[2]):
        mean = (float(row["IoU/ground"]) + float(row["IoU/square"])) / 2
        assert float(row["mean_iou"]) == pytest.approx(mean, abs=2e-6)


def test_evaluate_scores_what_several_views_say_together(pixelwise, street, weights) -> None:
    data = pw.open_data(street)
    expected = pw.evaluate(pw.Predictor(weights, views="all", device="cpu"), data, progress=False)
    shown = pixelwise("evaluate", weights, street, "--views", "all", "--json", "--device", "cpu")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["mean_iou"] == pytest.approx(expected["mean_iou"])
    shown = pixelwise("evaluate", weights, street, "--views", "sideways", "--device", "cpu")
    assert shown.code == 2
    assert "views" in shown.sentence


@pytest.mark.parametrize("option", ["--csv", "--report"])
def test_evaluate_does_not_write_over_a_file_of_the_user(pixelwise, street, weights, option) -> None:
    classes = street / "classes.csv"
    before = classes.read_bytes()
    shown = pixelwise("evaluate", weights, street, option, classes)
    assert shown.code == 2
    assert shown.sentence == (
        f"Error: {classes} exists, and pixelwise did not write it as it is now: choose another folder"
    )
    assert classes.read_bytes() == before


@pytest.mark.parametrize("option", ["--csv", "--report"])
def test_evaluate_says_that_a_folder_is_no_file(pixelwise, street, weights, option) -> None:
    shown = pixelwise("evaluate", weights, street, option, street)
    assert shown.code == 2
    assert shown.sentence == f"Error: cannot write {street}: it is a folder"


def test_the_report_of_an_evaluation_tells_the_command(pixelwise, street, weights, tmp_path) -> None:
    target = tmp_path / "a report.html"
    command = ("evaluate", weights, street, "--report", target, "--device", "cpu")
    assert pixelwise(*command).code == 0
    page = target.read_text()
    assert f"evaluate {weights} {street} --report &#x27;{target}&#x27; --device cpu</pre>" in page
    assert "<td>cores</td>" in page
    assert "Worst predictions" in page


def test_data_without_a_labelled_pixel_are_told(pixelwise, street, weights) -> None:
    Image.new("L", (64, 48), 255).save(street / "masks" / "val" / "3.png")
    shown = pixelwise("evaluate", weights, street, "--device", "cpu")
    assert shown.code == 2
    assert (
        shown.sentence
        == f"Error: nothing of the val part of {street} is annotated: there is nothing to score"
    )


def test_images_without_masks_are_told(pixelwise, street, weights, tmp_path) -> None:
    shown = pixelwise("evaluate", weights, street / "images", "--device", "cpu")
    assert shown.code == 2
    assert shown.sentence.startswith("Error: ")


def test_the_data_of_a_run_are_read_and_split_as_it_did(pixelwise, street, weights, tmp_path) -> None:
    (street / "classes.csv").unlink()
    for kind in ("images", "masks"):  # no parts: the split is a matter of the seed
        for path in sorted(street.glob(f"{kind}/*/*.png")):
            pixels = np.array(Image.open(path)) * (255 if kind == "masks" else 1)
            path.unlink()
            for copy in "ab":
                Image.fromarray(pixels).save(street / kind / f"{path.stem}{copy}.png")
        for part in ("train", "val"):
            (street / kind / part).rmdir()
    Recipe(str(street), mask_rule="above-127", seed=4, val_fraction=0.4).write(tmp_path / "recipe.json")
    known = pw.open_data(street, mask_rule="above-127", seed=4, val_fraction=0.4).val
    other = pw.open_data(street, mask_rule="above-127").val
    scored = {}
    for name, more in (("as it did", ()), ("otherwise", ("--seed", "0"))):
        target = tmp_path / f"{name}.csv"
        shown = pixelwise("evaluate", weights, street, "--csv", target, "--device", "cpu", *more)
        assert shown.code == 0, shown.err
        with target.open(newline="") as file:
            scored[name] = [row["id"] for row in csv.DictReader(file)]
    assert sorted(scored["as it did"]) == sorted(pair.id for pair in known.pairs)
    assert sorted(scored["otherwise"]) != sorted(scored["as it did"])
    assert len(other) < len(known)
