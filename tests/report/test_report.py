"""One file that needs nothing from elsewhere."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from pixelwise.training.report import confusion, curves

import pixelwise as pw
from pixelwise.data import open_data
from pixelwise.metrics import Scores
from pixelwise.predict import evaluate_images
from pixelwise.training import Example, Recipe, run, write_report

CLASSES = pw.ClassTable.of("sky & sea", "road", "<car>")
SCORES = Scores(torch.tensor([[30, 10, 0], [5, 55, 0], [0, 0, 0]]), CLASSES)
ROWS = [
    {
        "epoch": float(e),
        "train_loss": 1 / e,
        "val_loss": 2 / e,
        "val_mean_iou": 0.1 * e,
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
            assert kind == "data:image/png;base64"
            self.pictures.setdefault(given["alt"], []).append(Image.open(io.BytesIO(base64.b64decode(data))))
        elif tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def example(name: str = "a.png") -> Example:
    target = torch.zeros(20, 30, dtype=torch.long)
    target[:, 15:] = 1
    target[0] = 255
    return Example(
        name, 0.5, torch.rand(3, 20, 30), pw.LabelMap(target), pw.LabelMap(torch.zeros_like(target))
    )


def test_a_report_shows_scores_curves_classes_confusion_and_predictions(tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "deep" / "report.html",
        "Street",
        SCORES,
        history=ROWS,
        best=[example("best.png")],
        worst=[example("worst.png"), example("second.png")],
        settings={"lr": 0.1, "out": None},
        environment={"cpu": "fast"},
    )
    page = Page(path)
    assert f"{SCORES.mean_iou:.3f} mean IoU" in page.text
    assert "road" in page.text
    assert f"{SCORES.rows()[1].iou:.3f}" in page.text
    assert "2 min 00 s" in page.text
    assert page.text.index("best.png") < page.text.index("worst.png") < page.text.index("second.png")
    assert "lr 0.1" in page.text
    assert "cpu fast" in page.text
    assert {name: len(found) for name, found in page.pictures.items()} == {
        "curves": 1,
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
    path = write_report(tmp_path / "report.html", "Street", SCORES, history=ROWS, worst=[example()])
    assert all(link.startswith("data:image/png;base64,") for link in Page(path).links)
    without_pictures = re.sub(r"base64,[^']*", "", path.read_text())
    assert not re.search(r"https?:|url\(|@import|<script|<link", without_pictures)


def test_names_are_written_as_they_are_and_never_as_markup(tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "report.html",
        "<b>& co",
        SCORES,
        worst=[example("<script>.png")],
        settings={"name": "<i>"},
        remark="<u>",
    )
    page = Page(path)
    for text in ("<b>& co", "<script>.png", "sky & sea", "<car>", "<i>", "<u>"):
        assert text in page.text, text


def test_an_evaluation_alone_has_a_report(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", "Evaluation", SCORES))
    assert "Training" not in page.text
    assert set(page.pictures) == {"confusion"}


def test_absent_classes_have_a_dash_and_the_rule_is_told(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", "Street", SCORES))
    assert "<car> – – – 0 0.0 %" in page.text
    assert "left out of the means" in page.text
    page = Page(write_report(tmp_path / "zero.html", "Street", Scores(SCORES.matrix, CLASSES, "zero")))
    assert "counted as 0" in page.text


def test_the_confusion_figure_holds_shares_of_the_rows() -> None:
    axes = confusion(SCORES).axes[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "8", "92"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES.names)


def test_the_curves_hold_the_history() -> None:
    figure = curves(ROWS)
    loss, iou, lr = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]]
    assert list(iou.lines[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.3])
    assert list(lr.lines[0].get_xdata()) == [1, 2, 3]


def test_curves_without_a_score_can_be_drawn(tmp_path: Path) -> None:
    rows = [{**row, "val_mean_iou": math.nan} for row in ROWS]
    write_report(tmp_path / "report.html", "Street", SCORES, history=rows)


def test_many_classes_fit(tmp_path: Path) -> None:
    classes = pw.ClassTable.of(*(f"class {i}" for i in range(60)))
    write_report(tmp_path / "report.html", "Many", Scores(torch.eye(60, dtype=torch.long), classes))


def test_the_report_of_a_run_shows_the_best_and_the_worst_of_its_images(boxes: Path, tmp_path: Path) -> None:
    recipe = Recipe(str(boxes)).changed(
        model="pspnet",
        model_arguments={"encoder": "tiny"},
        crop=(32, 32),
        epochs=1,
        workers=0,
        accelerator="cpu",
        out=tmp_path / "run",
        name="my boxes",
    )
    result = run(recipe, progress=False)
    page = Page(result.report)
    images = evaluate_images(result.best, open_data(boxes), progress=False).ranked()
    assert page.text.startswith(
        "my boxes my boxes Scores of the best weights (epoch 1 of 1) on 3 validation images."
    )
    best = f"{images[-1].id} mean IoU {images[-1].mean_iou:.3f}"
    worst = f"{images[0].id} mean IoU {images[0].mean_iou:.3f}"
    assert page.text.index("Best") < page.text.index(best) < page.text.index("Worst") < page.text.index(worst)
    assert page.pictures["image"][0].size == (48, 40)
    assert len(page.pictures["image"]) == 3  # each is shown once
