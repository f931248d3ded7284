"""A person labels objects that lie over each other on the page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixelwise.rle import RleMasks
from tests.product.test_labelling import (
    SIZE,
    clicked,
    drawn,
    in_polygon,
    on_image,
    share_of,
    street as street,
    told,
    watched,
)
from tests.product.test_serve import browser as browser, start, stop, wait_until_ready

FIRST = [(100, 100), (300, 100), (300, 300), (100, 300)]
SECOND = [(200, 200), (450, 200), (450, 400), (200, 400)]


@pytest.fixture(scope="module")
def labelling(street: Path) -> Iterator[str]:
    """A server of objects, without any model."""
    process, url = start(
        "--images", street / "images", "--classes", street / "classes.csv", "--save-to", street / "objects",
        "--task", "instance",
    )  # fmt: skip
    wait_until_ready(url)
    yield url
    assert stop(process) == 0


@pytest.fixture
def page(browser: Any, labelling: str) -> Iterator[Any]:
    page, wrong = watched(browser, labelling, viewport={"width": 1200, "height": 900})
    yield page
    assert wrong == []
    page.close()


def save(page: Any) -> None:
    with page.expect_response(lambda answer: answer.request.method == "PUT") as answer:
        page.keyboard.press("s")
    assert answer.value.status == 200
    told(page, "Saved as instances.json")


def saved(street: Path, name: str) -> tuple[list[str], np.ndarray]:
    """Classes and masks of an image in the file."""
    content = json.loads((street / "objects" / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    image = next(one["id"] for one in content["images"] if one["file_name"] == name)
    mine = [one for one in content["annotations"] if one["image_id"] == image]
    masks = RleMasks.from_coco([one["segmentation"] for one in mine], SIZE).decode()
    return [names[one["category_id"]] for one in mine], masks


def test_objects_that_lie_over_each_other_keep_their_own_pixels(
    page: Any, street: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page.click(".sample >> nth=0")
    told(page, "Nothing is labelled yet")
    classes = page.locator("#paint-classes li").all_inner_texts()
    assert [text.split() for text in classes] == [["disc", "1"], ["road", "2"]]  # no background
    page.keyboard.press("1")
    page.keyboard.press("l")
    clicked(page, *FIRST)
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    clicked(page, *SECOND)
    page.keyboard.press("Enter")
    expect(page.locator("#objects-told")).to_contain_text("2 objects")
    page.screenshot(path=str(tmp_path / "objects.png"))
    save(page)
    names, masks = saved(street, "0.jpg")
    assert names == ["disc", "road"]
    assert share_of(masks[0], in_polygon(FIRST)) > 0.99
    assert share_of(masks[1], in_polygon(SECOND)) > 0.99
    assert (masks[0] & masks[1]).sum() > 9_000

    page.keyboard.press("v")
    page.mouse.click(*on_image(page, 150, 150))  # the first object is chosen, and drawn on
    expect(page.locator("#objects-told")).to_contain_text("disc 1 is drawn on")
    page.keyboard.press("b")
    drawn(page, (250, 350), (400, 350))
    page.screenshot(path=str(tmp_path / "chosen.png"))
    save(page)
    _, changed = saved(street, "0.jpg")
    assert changed[0, 350, 300]
    assert np.array_equal(changed[1], masks[1])  # the brush went over the second one
    page.keyboard.press("e")
    drawn(page, (150, 150), (250, 250))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    save(page)
    assert np.array_equal(saved(street, "0.jpg")[1], masks)
    with page.expect_download() as got:
        page.click("#draw-coco")
    coco = json.loads(Path(got.value.path()).read_text())
    found = RleMasks.from_coco([one["segmentation"] for one in coco["annotations"]], SIZE).decode()
    assert np.array_equal(found, masks)
    page.click("#view-image")
    page.click("#view-list")
    page.click("#list-rows .link >> nth=0")
    told(page, "Begun with what was saved")
    page.keyboard.press("v")
    page.mouse.click(*on_image(page, 400, 300))
    page.select_option("#object-class", "0")
    save(page)
    assert saved(street, "0.jpg")[0] == ["disc", "disc"]
    page.keyboard.press("Delete")
    save(page)
    assert np.array_equal(saved(street, "0.jpg")[1], masks[:1])


@pytest.mark.slow
def test_objects_are_clicked_one_after_the_other(page: Any, street: Path, tmp_path: Path) -> None:
    page.click(".sample >> nth=1")
    told(page, "Nothing is labelled yet")
    page.keyboard.press("g")
    for x, y in ((130, 380), (320, 240)):
        page.mouse.click(*on_image(page, x, y))
        told(page, "Enter accepts")
        page.keyboard.press("Enter")
    page.mouse.click(*on_image(page, 500, 100))
    told(page, "Enter accepts")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    page.screenshot(path=str(tmp_path / "clicked.png"))
    save(page)
    names, masks = saved(street, "1.jpg")
    assert names == ["disc", "disc"]
    assert masks[0, 380, 130]
    assert masks[1, 240, 320]


RUNS = """async ([masks, height, width]) => {
  const { encoded } = await import("/page/rle.js");
  const { object, Objects } = await import("/page/objects.js");
  return masks.map((mask) => {
    const all = Objects.prototype.runsOf.call({ labels: mask, width }, 1, [0, 0, width, height]);
    const counts = encoded(all, width, height);
    const back = object(0, { size: [height, width], counts });
    return { counts, same: JSON.stringify(back.runs) === JSON.stringify(all), box: back.box };
  });
}"""


@pytest.mark.slow
def test_the_run_lengths_of_the_page_are_those_of_coco(page: Any) -> None:
    random = np.random.default_rng(0)
    masks = [random.random((37, 53)) < share for share in (0.02, 0.5, 0.98)]
    masks += [np.zeros((37, 53), bool), np.ones((37, 53), bool), np.eye(37, 53, dtype=bool)]
    masks.append(np.pad(np.ones((20, 30), bool), ((5, 12), (3, 20))))
    results = page.evaluate(RUNS, [[mask.ravel().astype(int).tolist() for mask in masks], 37, 53])
    for mask, result in zip(masks, results, strict=True):
        assert result["counts"] == RleMasks.encode(mask[None]).to_coco()[0]["counts"]
        assert result["same"] is True
        if mask.any():
            y, x = np.nonzero(mask)
            assert result["box"] == [x.min(), y.min(), x.max() + 1, y.max() + 1]
