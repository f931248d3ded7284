"""One file that needs nothing from elsewhere."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.metrics import Scores
from pixelwise.predict import ImageScores, evaluate_images
from pixelwise.report import Example, best_and_worst, write_report
from pixelwise.report.figures import class_curves, confusion, curves
from pixelwise.report.pictures import embedded
from pixelwise.tasks import get_task
from pixelwise.types import ClassTable, Report

CLASSES = pw.ClassTable.of("sky & sea", "road", "<car>")
SCORES = Scores(torch.tensor([[30, 10, 0], [5, 55, 0], [0, 0, 0]]), CLASSES)
REPORT = SCORES.report()
ROWS = [
    {
        "epoch": float(e),
        "train_loss": 1 / e,
        "val_loss": 2 / e,
        "val_mean_iou": 0.1 * e,
        "val_class/road": 0.2 * e,
        "val_class/<car>": math.nan,
        "lr": 0.1,
        "seconds": 40.0,
    }
    for e in range(1, 4)
]


class Page(HTMLParser):
    """Tags, pictures and text of a page; unbalanced tags are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: dict[str, list[Image.Image]] = {}
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag == "img":
            kind, _, data = given["src"].partition(",")
            assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
            name = given["alt"].partition(" of ")[0]
            self.pictures.setdefault(name, []).append(Image.open(io.BytesIO(base64.b64decode(data))))
        elif tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)


def example(name: str = "a.png") -> Example:
    target = torch.zeros(20, 30, dtype=torch.long)
    target[:, 15:] = 1
    target[0] = 255
    return Example(
        name,
        0.5,
        torch.rand(3, 20, 30),
        pw.LabelMap(target),
        pw.LabelMap(torch.zeros_like(target)),
        get_task("semantic"),
    )


def test_a_report_shows_scores_curves_classes_confusion_and_predictions(tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "deep" / "report.html",
        "Street",
        REPORT,
        CLASSES,
        history=ROWS,
        best=[example("best.png")],
        worst=[example("worst.png"), example("second.png")],
        settings={"lr": 0.1, "out": None},
        environment={"cpu": "fast"},
    )
    page = Page(path)
    assert f"{SCORES.mean_iou:.3f} mean IoU" in page.text
    assert "road" in page.text
    assert f"{SCORES.iou[1].item():.3f}" in page.text
    assert "2 min 00 s" in page.text
    assert page.text.index("best.png") < page.text.index("worst.png") < page.text.index("second.png")
    assert "lr 0.1" in page.text
    assert "cpu fast" in page.text
    assert {name: len(found) for name, found in page.pictures.items()} == {
        "curves": 2,  # of the run, and of its classes
        "confusion": 1,
        "image": 3,
        "truth": 3,
        "prediction": 3,
        "errors": 3,
    }
    for found in page.pictures.values():
        for picture in found:
            picture.verify()


def test_a_report_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", "Street", REPORT, CLASSES, history=ROWS, worst=[example()])
    links = Page(path).links
    assert len(links) == 7  # two plots of curves, the confusion matrix, four panels
    assert all(re.match("data:image/(png|jpeg);base64,", link) for link in links)
    without_pictures = re.sub(r"base64,[^']*", "", path.read_text())
    assert not re.search(r"https?:|url\(|@import|<script [^>]|<link|fetch|import\(", without_pictures)


def test_names_are_written_as_they_are_and_never_as_markup(tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "report.html",
        "<b>& co",
        REPORT,
        CLASSES,
        worst=[example("<script>.png")],
        settings={"name": "<i>"},
        remark="<u>",
    )
    page = Page(path)
    for text in ("<b>& co", "<script>.png", "sky & sea", "<car>", "<i>", "<u>"):
        assert text in page.text, text


def test_an_evaluation_alone_has_a_report(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", "Evaluation", REPORT, CLASSES))
    assert "Training" not in page.text
    assert set(page.pictures) == {"confusion"}


def test_absent_classes_have_a_dash_and_the_rule_is_told(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", "Street", REPORT, CLASSES))
    assert "<car> – – – – 0 " in page.text
    assert "left out of the means" in page.text
    counted_as_0 = Scores(SCORES.matrix, CLASSES, "zero").report()
    page = Page(write_report(tmp_path / "zero.html", "Street", counted_as_0, CLASSES))
    assert "counted as 0" in page.text


def test_the_confusion_figure_holds_shares_of_the_rows() -> None:
    axes = confusion(SCORES.matrix, CLASSES).axes[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "8", "92"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES.names)


def test_the_curves_hold_the_history() -> None:
    figure = curves(ROWS, "mean_iou")
    loss, iou, lr = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]]
    assert list(iou.lines[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.3])
    assert list(lr.lines[0].get_xdata()) == [1, 2, 3]


def test_curves_without_a_score_can_be_drawn(tmp_path: Path) -> None:
    rows = [{**row, "val_mean_iou": math.nan} for row in ROWS]
    write_report(tmp_path / "report.html", "Street", REPORT, CLASSES, history=rows)


def test_many_classes_fit(tmp_path: Path) -> None:
    classes = pw.ClassTable.of(*(f"class {i}" for i in range(60)))
    report = Scores(torch.eye(60, dtype=torch.long), classes).report()
    write_report(tmp_path / "report.html", "Many", report, classes)


def scored(id: str, mean_iou: float, *iou: float) -> ImageScores:
    per_class = {name: {"IoU": value} for name, value in zip(CLASSES.names, iou, strict=True)}
    return ImageScores(0, id, mean_iou, Report({"mean_iou": mean_iou, "pixel_accuracy": 0.75}, per_class))


def test_every_image_has_a_row_that_sorts_by_its_numbers(tmp_path: Path) -> None:
    images = [scored("b <1>.png", 0.25, 0.25, 0.25, math.nan), scored("a.png", 0.5, 0.75, 0.25, math.nan)]
    path = write_report(tmp_path / "report.html", "Street", REPORT, CLASSES, images=images)
    page = Page(path)
    for row in ("b <1>.png 0.250 0.750 0.250 0.250 –", "a.png 0.500 0.750 0.750 0.250 –"):
        assert row in page.text
    assert "IoU sky & sea IoU road IoU <car>" in page.text
    assert "<td data-value=0.25>0.250</td>" in path.read_text()
    assert "<td data-value=-1>–</td>" in path.read_text()


def test_of_very_many_images_the_worst_are_shown_and_that_is_told(tmp_path: Path) -> None:
    images = [scored(f"{i}.png", i / 1000, 0.0, 0.0, 0.0) for i in range(501)]
    page = Page(write_report(tmp_path / "report.html", "Street", REPORT, CLASSES, images=images))
    assert "The worst 500 of 501 images are shown." in page.text
    assert "499.png" in page.text
    assert "500.png" not in page.text


def test_precision_and_recall_have_columns_and_means(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", "Street", REPORT, CLASSES))
    assert "class IoU Dice precision recall support" in page.text
    assert "Support in pixels." in page.text
    assert f"sky & sea {30 / 45:.3f} {60 / 75:.3f} {30 / 35:.3f} {30 / 40:.3f} 40 road" in page.text
    means = SCORES.mean_iou, SCORES.mean_dice, (30 / 35 + 55 / 65) / 2, SCORES.mean_accuracy
    assert f"mean {' '.join(f'{mean:.3f}' for mean in means)} " in page.text


def test_pictures_can_be_enlarged_and_the_colours_of_the_errors_are_told(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", "Street", REPORT, CLASSES, best=[example()])
    assert path.read_text().count("<button type=button class=zoom") == 4
    assert "<dialog>" in path.read_text()
    assert "Errors: wrong: predicted as another class not labelled: does not count" in Page(path).text
    assert "background:rgb(230,25,45)" in path.read_text()  # the red of the error picture
    without = write_report(tmp_path / "without.html", "Street", REPORT, CLASSES)
    assert "<dialog>" not in without.read_text()


def test_settings_that_were_changed_are_marked_and_come_first(tmp_path: Path) -> None:
    settings, defaults = (
        {"lr": 0.1, "loss": "dice", "crop": [64, 64]},
        {"lr": 0.1, "loss": "focal", "crop": None},
    )
    path = write_report(
        tmp_path / "report.html",
        "Street",
        REPORT,
        CLASSES,
        settings=settings,
        defaults=defaults,
        command="a 'b c' <d>",
    )
    page = Page(path)
    assert "loss dice default focal crop 64 64 default – 1 settings are the defaults lr 0.1" in page.text
    assert path.read_text().count("<tr class=changed>") == 2
    assert "To repeat a 'b c' <d>" in page.text


def test_one_epoch_is_told_in_numbers_and_not_drawn(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", "Street", REPORT, CLASSES, history=ROWS[:1]))
    assert "training loss 1, validation loss 2, mean IoU on validation 0.1, learning rate 0.1" in page.text
    assert set(page.pictures) == {"confusion"}


def test_the_curves_of_many_classes_are_the_ten_that_end_lowest() -> None:
    rows = [
        {"epoch": float(e), **{f"val_class/{k}": 0.01 * k + 0.1 * e for k in range(12)}} for e in range(3)
    ]
    (axes,) = class_curves(rows).axes
    assert [line.get_label().split()[0] for line in axes.lines] == [str(k) for k in range(9, -1, -1)]
    assert list(axes.lines[-1].get_ydata()) == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("photograph, limit", [(True, 80_000), (False, 40_000)])
def test_eight_examples_of_1080_lines_stay_below_three_megabytes(photograph: bool, limit: int) -> None:
    y, x = np.mgrid[:1080, :1920]
    smooth = 127 + 90 * np.sin(x / 40) * np.cos(y / 30) + np.random.default_rng(0).normal(0, 9, y.shape)
    shown = smooth if photograph else (y // 9 + x // 7) % 2 * 255
    picture = Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8)).convert("RGB")
    data = base64.b64decode(
        embedded(picture, "it's", photograph=photograph).split("base64,")[1].split("'")[0]
    )
    with Image.open(io.BytesIO(data)) as kept:
        assert kept.format == ("JPEG" if photograph else "PNG")
        assert kept.width >= 480
    assert len(data) <= limit  # 8 times two photographs and two maps, as text: 2.6 MB


def test_a_map_keeps_its_colors_when_it_is_reduced() -> None:
    picture = Image.new("RGB", (1920, 1080), (10, 20, 30))
    picture.paste((200, 100, 50), (0, 0, 960, 1080))
    data = base64.b64decode(embedded(picture, "truth", photograph=False).split("base64,")[1].split("'")[0])
    with Image.open(io.BytesIO(data)) as kept:
        assert sorted(kept.getcolors() or []) == [(480 * 540, (10, 20, 30)), (480 * 540, (200, 100, 50))]


def test_of_many_classes_those_without_a_score_are_left_out(tmp_path: Path) -> None:
    names = [f"kind {number}" for number in range(40)]
    rows = {name: {"PQ": 0.5 if name == "kind 7" else math.nan} for name in names}
    page = write_report(
        tmp_path / "many.html", "Many", Report({"pq": 0.5}, rows), ClassTable.of(*names)
    ).read_text()
    assert "kind 7" in page
    assert "kind 8" not in page
    assert "39 classes without a score are left out" in page
    few = dict(list(rows.items())[:10])
    page = write_report(
        tmp_path / "few.html", "Few", Report({"pq": 0.5}, few), ClassTable.of(*names[:10])
    ).read_text()
    assert "kind 8" in page


def test_grey_images_are_shown_by_a_model_of_one_channel(tmp_path: Path) -> None:
    for kind, values in (("images", 255), ("masks", 2)):
        (tmp_path / kind).mkdir()
        for name in "ab":
            array = np.random.default_rng(ord(name)).integers(0, values, (40, 48), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / kind / f"{name}.png")
    data = pw.open_data(tmp_path, task="semantic", val_fraction=0.0, test_fraction=0.0).train
    model = pw.models.unet(2, encoder="tiny", in_channels=1)
    predictor = pw.Predictor(model, classes=data.classes)
    evaluation = evaluate_images(predictor, data)
    best, worst = best_and_worst(predictor, data, evaluation.ranked(), 1)
    assert {best[0].id, worst[0].id} == {one.id for one in data}
