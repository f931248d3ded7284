"""A person labels a folder of images on the page, as people start it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelwise.rle import RleMasks
from tests.product.conftest import scene
from tests.product.test_serve import browser as browser, start, stop, wait_until_ready

SIZE = (480, 640)
TABLE = "name,r,g,b,id\nbackground,0,0,0,0\ndisc,230,126,34,1\nroad,41,128,185,2\n"


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, and classes to label."""
    street = tmp_path_factory.mktemp("street")
    (street / "images").mkdir()
    for number in range(3):
        Image.fromarray(scene(*SIZE, seed=number)[0]).save(street / "images" / f"{number}.jpg", quality=92)
    (street / "classes.csv").write_text(TABLE)
    return street


@pytest.fixture(scope="module")
def labelling(street: Path) -> Iterator[str]:
    """A server without any model."""
    process, url = start(
        "--images", street / "images", "--classes", street / "classes.csv", "--save-to", street / "masks"
    )  # fmt: skip
    wait_until_ready(url)
    yield url
    assert stop(process) == 0


@pytest.fixture
def page(browser: Any, labelling: str) -> Iterator[Any]:
    """The page, on which nothing may go wrong."""
    page, wrong = watched(browser, labelling, viewport={"width": 1200, "height": 800})
    yield page
    assert wrong == []
    page.close()


def watched(browser: Any, url: str, **options: Any) -> tuple[Any, list[str]]:
    """A page, and what its console complains of."""
    page = browser.new_page(**options)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    return page, wrong


def on_image(page: Any, x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[float, float]:
    """Where a pixel of the image, which fits the stage, lies on the page."""
    area = page.locator("#stage").bounding_box()
    zoom = min(area["width"] / size[1], area["height"] / size[0])
    left = area["x"] + (area["width"] - zoom * size[1]) / 2
    top = area["y"] + (area["height"] - zoom * size[0]) / 2
    return left + zoom * (x + 0.5), top + zoom * (y + 0.5)


def drawn(page: Any, *places: tuple[int, int], size: tuple[int, int] = SIZE) -> None:
    """A stroke through pixels of the image."""
    page.mouse.move(*on_image(page, *places[0], size))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*on_image(page, *place, size), steps=8)
    page.mouse.up()


def told(page: Any, sentence: str, timeout: float = 60_000) -> None:
    """Wait until the page says so."""
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_contain_text(sentence, timeout=timeout)


def save(page: Any) -> None:
    """Save the labels, and wait until it is done."""
    with page.expect_response(lambda answer: answer.request.method == "PUT") as answer:
        page.keyboard.press("s")
    assert answer.value.status == 200
    told(page, "Saved as")


def labels_at(street: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(street / "masks" / f"{number}.png")).copy()


def test_a_person_labels_an_image_from_nothing_and_saves_it(page: Any, street: Path, tmp_path: Path) -> None:
    page.click(".sample >> nth=0")
    told(page, "Nothing is labelled yet")
    page.keyboard.press("2")
    drawn(page, (100, 100), (300, 100))
    page.keyboard.press("3")
    drawn(page, (100, 300), (400, 300), (400, 400))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+y")
    page.keyboard.press("e")
    drawn(page, (400, 380), (400, 420))
    page.keyboard.press("1")
    page.keyboard.press("f")
    page.mouse.click(*on_image(page, 20, 20))
    save(page)
    labels = labels_at(street, 0)
    assert labels.shape == SIZE
    assert labels[100, 100:301].tolist() == [1] * 201
    assert labels[300, 100:401].tolist() == [2] * 301
    assert labels[400, 400] == 0  # erased, and then filled with what is around it
    assert labels[20, 20] == labels[470, 630] == 0
    assert (
        abs((labels == 1).sum() - (200 * 30 + np.pi * 15**2)) < 120
    )  # a disc of 30 pixels that moved by 200
    page.screenshot(path=str(tmp_path / "correct.png"))

    page.keyboard.press("Control+z")
    save(page)
    assert labels_at(street, 0)[20, 20] == 255  # the fill is undone: not labelled again
    page.keyboard.press("Control+y")
    with page.expect_download() as saved:
        page.click("#draw-png")
    assert np.array_equal(np.asarray(Image.open(saved.value.path())), labels)
    with page.expect_download() as saved:
        page.click("#draw-coco")
    coco = json.loads(Path(saved.value.path()).read_text())
    back = np.full(SIZE, 255)
    for one in coco["annotations"]:
        back[RleMasks.from_coco([one["segmentation"]]).decode()[0]] = one["category_id"] - 1
    assert np.array_equal(back, labels)
    with page.expect_download() as saved:
        page.click("#draw-yolo")
    assert {line.split()[0] for line in Path(saved.value.path()).read_text().splitlines()} == {"0", "1"}
    page.keyboard.press("n")
    told(page, "Nothing is labelled yet")
    assert np.array_equal(labels_at(street, 0), labels)  # saved on the way to the next one
