"""A person labels a folder of images on the page, as people start it."""

import csv as csv_module
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.checkpoint import save as write_checkpoint
from pixelwise.data import open_data, read_classes_file
from pixelwise.rle import RleMasks
from tests.product.conftest import Outcome, scene
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


def labels_at(street: Path, number: int | str) -> np.ndarray:
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


def in_polygon(corners: list[tuple[float, float]], size: tuple[int, int] = SIZE) -> np.ndarray:
    """The pixels whose middles lie in a polygon: each line that is crossed on the way to the right counts."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            crosses = ((ay <= y) != (by <= y)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
        inside ^= crosses
    return inside


def share_of(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return (a & b).sum() / (a | b).sum()


def clicked(page: Any, *places: tuple[float, float]) -> None:
    for place in places:
        page.mouse.click(*on_image(page, *place))


@pytest.fixture
def empty(page: Any, street: Path) -> Any:
    """The page with the third image, of which nothing is labelled."""
    page.click(".sample >> nth=2")
    told(page, "egun" if (street / "masks" / "2.png").exists() else "Nothing is labelled")
    page.select_option("#start-from", "")
    told(page, "Nothing is labelled yet")
    return page


def test_a_polygon_is_drawn_with_the_mouse(empty: Any, street: Path, tmp_path: Path) -> None:
    page = empty
    corners = [(100, 100), (400, 120), (350, 300), (200, 200)]
    page.keyboard.press("2")
    page.keyboard.press("l")
    clicked(page, *corners, (10, 400), (600, 10))
    page.keyboard.press("Backspace")
    page.keyboard.press("Control+z")  # while a polygon is open, this takes a corner back too
    page.mouse.move(*on_image(page, 150, 250))
    page.screenshot(path=str(tmp_path / "polygon.png"))
    page.keyboard.press("Enter")
    page.keyboard.press("3")
    clicked(page, (450, 300), (600, 300))
    page.mouse.dblclick(*on_image(page, 600, 450))
    clicked(page, (20, 20), (60, 20), (60, 60))
    page.keyboard.press("Escape")
    clicked(page, (20, 400), (60, 400), (60, 460), (20.5, 400.5))  # the first corner again
    save(page)
    labels = labels_at(street, 2)
    assert share_of(labels == 1, in_polygon(corners)) > 0.99
    two = in_polygon([(450, 300), (600, 300), (600, 450)]) | in_polygon([(20, 400), (60, 400), (60, 460)])
    assert share_of(labels == 2, two) > 0.97
    assert (labels[:90] == 255).all()  # given up
    page.keyboard.press("Control+z")
    save(page)
    assert (labels_at(street, 2)[:, :100] == 255).all()


def test_a_polygon_is_drawn_with_the_keyboard(empty: Any, street: Path) -> None:
    page = empty
    page.locator("#stage").focus()
    page.keyboard.press("2")
    page.keyboard.press("l")
    area = page.locator("#stage").bounding_box()
    zoom = min(area["width"] / SIZE[1], area["height"] / SIZE[0])

    def move(key: str, times: int) -> None:
        for _ in range(times):
            page.keyboard.press(key)

    move("ArrowLeft", 10)  # from the middle of the stage, ten pixels of the screen each
    page.keyboard.press(" ")
    move("ArrowRight", 20)
    page.keyboard.press(" ")
    move("ArrowDown", 15)
    move("Shift+ArrowDown", 5)
    page.keyboard.press(" ")
    page.keyboard.press("Enter")
    save(page)
    x, y = SIZE[1] / 2, SIZE[0] / 2
    side, down = 100 / zoom, 155 / zoom
    expected = in_polygon([(x - side, y), (x + side, y), (x + side, y + down)])
    assert share_of(labels_at(street, 2) == 1, expected) > 0.99


@pytest.mark.slow
def test_what_was_drawn_is_a_data_set(page: Any, street: Path) -> None:
    for number in range(3):
        page.click("#view-list")
        page.click(f"#list-rows .link >> nth={number}")
        told(page, "Begun with" if (street / "masks" / f"{number}.png").exists() else "Nothing is labelled")
        page.keyboard.press("3")
        drawn(page, (100, 300), (400, 300))
        save(page)
    page.click("#view-list")
    with page.expect_download() as saved:
        page.click("#all-coco")
    assert len(json.loads(Path(saved.value.path()).read_text())["images"]) == 3
    splits = open_data(street, val_fraction=0, test_fraction=0)
    assert len(splits.train) == 3
    assert splits.classes.names == ("background", "disc", "road")
    assert all(splits.train.labels(number)[300, 200] == 2 for number in range(3))


@pytest.mark.slow
def test_an_object_is_clicked_without_weights(page: Any, street: Path, tmp_path: Path) -> None:
    page.click(".sample >> nth=1")
    told(page, "egun" if (street / "masks" / "1.png").exists() else "Nothing is labelled")
    _, truth = scene(*SIZE, seed=1)
    y, x = _inside(truth == 1)
    page.keyboard.press("2")
    page.keyboard.press("g")
    page.mouse.click(*on_image(page, x, y))
    told(page, "Enter accepts")
    page.screenshot(path=str(tmp_path / "object.png"))
    page.keyboard.press("Enter")
    save(page)
    labels = labels_at(street, 1)
    found = labels == 1
    assert found[int(y), int(x)]
    assert (found & (truth == 1)).sum() > 0.9 * found.sum() > 200
    page.mouse.click(*on_image(page, 5, 5))
    told(page, "Enter accepts")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    save(page)
    assert np.array_equal(labels_at(street, 1), labels)  # given up, nothing of it stays


def _inside(mask: np.ndarray) -> np.ndarray:
    """The pixel of a mask that is farthest from what is not in it."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(mask)
    return np.array(np.unravel_index(distance.argmax(), distance.shape))


# --- evaluations and models ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_person_walks_through_the_worst_images_and_compares_two_models(
    browser: Any, tmp_path: Path, pixelwise: Callable[..., Outcome]
) -> None:
    data = tmp_path / "data"
    for part in ("images", "masks"):
        (data / part / "val").mkdir(parents=True)
    for number in range(4):
        image, labels = scene(*SIZE, seed=number)
        Image.fromarray(image).save(data / "images" / "val" / f"{number}.png")
        Image.fromarray(labels).save(data / "masks" / "val" / f"{number}.png")
    (data / "classes.csv").write_text(TABLE)
    classes = read_classes_file(data / "classes.csv")
    for name, seed in (("first", 0), ("second", 1)):
        torch.manual_seed(seed)
        checkpoint = tmp_path / f"{name}.safetensors"
        write_checkpoint(pw.build("unet", 3, encoder="tiny"), checkpoint, classes)
        csv = ("--csv", tmp_path / f"{name}.csv")
        assert pixelwise("evaluate", checkpoint, data, *csv, "--device", "cpu").code == 0
    process, url = start(
        tmp_path / "first.safetensors", tmp_path / "second.safetensors", "--data", data,
        "--evaluation", tmp_path / "first.csv", "--evaluation", tmp_path / "second.csv",
        "--save-to", tmp_path / "fixed",
    )  # fmt: skip
    try:
        wait_until_ready(url)
        page, wrong = watched(browser, url, viewport={"width": 1200, "height": 800})
        page.click("#view-list")
        scores = {row["id"]: [float(row["mean_iou"])] for row in _rows(tmp_path / "first.csv")}
        for row in _rows(tmp_path / "second.csv"):
            scores[row["id"]].append(float(row["mean_iou"]))
        worse = sorted(scores, key=lambda id: scores[id][1] - scores[id][0])
        assert page.locator("#list-rows .link").all_inner_texts() == worse
        page.locator("#list-head button", has_text="first").first.click()
        assert page.locator("#list-rows .link").all_inner_texts() == sorted(
            scores, key=lambda i: scores[i][0]
        )
        page.screenshot(path=str(tmp_path / "list.png"))
        confused = next(name for name in _rows(tmp_path / "first.csv")[0] if name.startswith("confused/"))
        page.click(f"#confusions button >> text={confused.removeprefix('confused/')}")
        shares = {row["id"]: float(row[confused]) for row in _rows(tmp_path / "first.csv")}
        most = sorted(shares.values(), reverse=True)
        page.wait_for_timeout(500)
        listed = page.locator("#list-rows .link").all_inner_texts()
        assert [shares[name] for name in listed] == most
        page.screenshot(path=str(tmp_path / "confused.png"))
        page.select_option("#score-column", "mean_iou")
        page.locator("#list-head button", has_text="first").first.click()
        page.click("#list-rows .link >> nth=0")
        told(page, "Begun with the data's labels")
        page.screenshot(path=str(tmp_path / "worst.png"))
        page.keyboard.press("1")
        drawn(page, (10, 10), (100, 10))
        save(page)
        saved = next((tmp_path / "fixed").rglob("*.png"))
        labels = np.asarray(Image.open(saved))
        truth = np.asarray(Image.open(data / "masks" / "val" / saved.name))
        assert labels[10, 50] == 0
        assert np.array_equal(labels[30:], truth[30:])
        page.select_option("#start-from", "model:first")
        told(page, "Begun with the model first")
        page.click("#view-image")
        told(page, "Done in")
        page.select_option("#compare", "second")
        from playwright.sync_api import expect

        expect(page.locator("#legend")).to_contain_text("the same")
        page.screenshot(path=str(tmp_path / "difference.png"))
        assert wrong == []
        page.close()
    finally:
        assert stop(process) == 0


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv_module.DictReader(file))


# --- other screens ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dark", {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"}),
        ("zoomed", {"viewport": {"width": 600, "height": 400}, "device_scale_factor": 2}),
    ],
)
def test_the_page_can_be_used_in_the_dark_and_at_twice_the_size(
    browser: Any, labelling: str, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    page, wrong = watched(browser, labelling, **options)
    page.click(".sample >> nth=2")
    told(page, "egun")
    page.keyboard.press("2")
    page.locator("#stage").scroll_into_view_if_needed()
    drawn(page, (100, 100), (300, 200))
    page.screenshot(path=str(tmp_path / f"{name}.png"), full_page=True)
    widest = page.evaluate("document.documentElement.scrollWidth")
    assert widest <= options["viewport"]["width"]
    for id in ("save-here", "tool-brush", "step-back", "view-list"):
        page.locator(f"#{id}").scroll_into_view_if_needed()
        assert page.locator(f"#{id}").is_visible()
    assert wrong == []
    page.close()


@pytest.mark.slow
def test_a_photograph_of_12_megapixels_is_drawn_on(browser: Any, place: Path, tmp_path: Path) -> None:
    size = (3000, 4000)
    (tmp_path / "classes.csv").write_text(TABLE)
    process, url = start(
        "--images", place / "photos", "--classes", tmp_path / "classes.csv", "--save-to", tmp_path / "masks"
    )  # fmt: skip
    try:
        wait_until_ready(url)
        page, wrong = watched(browser, url, viewport={"width": 1200, "height": 800})
        page.click(".sample >> nth=0")
        told(page, "Nothing is labelled yet")
        page.keyboard.press("2")
        drawn(page, (500, 500), (3500, 2500), size=size)
        page.keyboard.press("1")
        page.keyboard.press("f")
        page.mouse.click(*on_image(page, 3500, 500, size))
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+y")
        for _ in range(3):
            page.keyboard.press("+")
        page.screenshot(path=str(tmp_path / "large.png"))
        save(page)
        labels = labels_at(tmp_path, "large")
        assert labels.shape == size
        line = [int(labels[round(500 + 2000 * t), round(500 + 3000 * t)]) for t in np.linspace(0, 1, 50)]
        assert line == [1] * 50
        assert np.unique(labels).tolist() in ([0, 1], [0, 1, 255])
        assert labels[500, 3500] == 0
        assert wrong == []
        page.close()
    finally:
        assert stop(process) == 0


# --- the parts of the page by themselves --------------------------------------------------------------


POLYGONS = """async ([polygons, height, width]) => {
  const { Drawing } = await import("/page/brush.js");
  return polygons.map((corners) => {
    const drawing = new Drawing(new Uint8Array(height * width), width, height);
    drawing.begin();
    const rectangle = drawing.polygon(corners.map(([x, y]) => ({ x, y })), 1);
    drawing.end();
    const labels = Array.from(drawing.labels);
    drawing.undo();
    return { labels, rectangle, undone: drawing.labels.every((value) => value === 0) };
  });
}"""


@pytest.mark.slow
def test_a_polygon_covers_the_pixels_whose_middles_lie_in_it(page: Any) -> None:
    random = np.random.default_rng(0)
    height, width = 61, 300
    polygons = [
        random.uniform((-20, -20), (width + 20, height + 20), (count, 2)).round(1).tolist()
        for count in (3, 4, 5, 8, 3)
    ]
    polygons += [[[10, 10], [20, 10], [20, 20], [10, 20]], [[-9, -9], [-5, -9], [-5, -5]]]
    results = page.evaluate(POLYGONS, [polygons, height, width])
    for corners, told in zip(polygons, results, strict=True):
        found = np.array(told["labels"]).reshape(height, width) > 0
        assert np.array_equal(found, in_polygon([(x, y) for x, y in corners], (height, width)))
        assert told["undone"] is True
        if found.any():
            rows, columns = np.nonzero(found)
            assert told["rectangle"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        else:
            assert told["rectangle"] is None


STROKES = """async ([strokes, height, width]) => {
  const { Drawing } = await import("/page/brush.js");
  const drawing = new Drawing(new Uint8Array(height * width).fill(9), width, height);
  const before = drawing.labels.slice();
  const results = [];
  for (const [ax, ay, bx, by, radius, label] of strokes) {
    drawing.begin();
    drawing.stroke({ x: ax, y: ay }, { x: bx, y: by }, radius, label);
    drawing.end();
    results.push(Array.from(drawing.labels));
  }
  const last = drawing.labels.slice();
  while (drawing.undo());
  const undone = drawing.labels.every((value, i) => value === before[i]);
  while (drawing.redo());
  const redone = drawing.labels.every((value, i) => value === last[i]);
  return { results, undone, redone };
}"""


@pytest.mark.slow
def test_a_stroke_covers_the_pixels_whose_middles_it_reaches(page: Any) -> None:
    random = np.random.default_rng(0)
    height, width = 61, 300  # two tiles across
    strokes = []
    for label in range(8):
        a, b = (random.uniform((-20, -20), (width + 20, height + 20)).round(1) for _ in range(2))
        strokes.append([*a.tolist(), *b.tolist(), float(random.choice([0.51, 3, 8.5, 40])), label])
    strokes[3][2:4] = strokes[3][:2]  # a dot
    strokes[4][3] = strokes[4][1]  # along a row
    told = page.evaluate(STROKES, [strokes, height, width])
    assert told["undone"] is True
    assert told["redone"] is True
    expected = np.full((height, width), 9)
    y, x = np.mgrid[:height, :width] + 0.5
    for (ax, ay, bx, by, radius, label), result in zip(strokes, told["results"], strict=True):
        length = (bx - ax) ** 2 + (by - ay) ** 2
        along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length if length else np.zeros_like(x)
        along = along.clip(0, 1)
        reached = np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay))
        expected[reached <= radius] = label
        unsure = abs(reached - radius) < 1e-6
        assert (np.array(result).reshape(height, width) == expected)[~unsure].all()
