"""Facts of data that are known because the test has drawn them."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from pixelwise.data import SegmentationData
from pixelwise.planning import DataFacts, measure_data, read_budget
from pixelwise.tasks import open_data

Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., DataFacts]:
    def measure(draw: Draw, count: int = 12, *, name: str = "{:03}.png", **options: object) -> DataFacts:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        for number in range(count):
            image, mask = draw(number, np.random.default_rng(number))
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "images" / name.format(number))
            Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / name.format(number))
        return measure_data(open_data(tmp_path, task="semantic", val_fraction=0, **options).train)

    return measure


def noise(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise with a bright bar, 4 pixels wide, anywhere."""
    mask = np.zeros((48, 64), int)
    left = random.integers(2, 58)
    mask[:, left : left + 4] = 1
    image = random.integers(0, 120, (48, 64)) + 100 * mask
    return np.repeat(image[..., None], 3, 2), mask


def test_grey_images_thickness_and_shares(measured: Callable[..., DataFacts]) -> None:
    facts = measured(noise)
    assert (facts.train, facts.size, facts.channels) == (12, (48, 64), 1)
    assert facts.thinnest == 4.0
    assert facts.classes[1].share == pytest.approx(4 / 64)
    assert facts.classes[1].area == 48 * 4
    assert not facts.sequence
    assert (facts.groups, facts.duplicates) == (12, 0)


@pytest.mark.parametrize("at_its_place", [True, False])
def test_what_lies_at_its_place_is_told_from_what_lies_anywhere(
    measured: Callable[..., DataFacts], at_its_place: bool
) -> None:
    def draw(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros((48, 64), int)
        top, left = (16, 24) if at_its_place else (random.integers(32), random.integers(48))
        mask[top : top + 16, left : left + 16] = 1
        return np.repeat(100 * mask[..., None], 3, 2), mask

    placed = measured(draw).placed
    assert placed > 0.3 if at_its_place else placed < 0.05


def test_slices_of_one_thing_are_a_sequence(measured: Callable[..., DataFacts]) -> None:
    base = np.random.default_rng(0).normal(0, 1, (60, 8, 8))
    smooth = np.stack([base[i : i + 12].mean(0) for i in range(40)])

    def draw(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image = np.kron(smooth[number], np.ones((8, 8))) * 100 + 128
        mask = np.zeros((64, 64), int)
        mask[20:40, 20:40] = 1
        return np.repeat(np.clip(image, 0, 255)[..., None], 3, 2), mask

    facts = measured(draw, 30)
    assert facts.sequence
    assert 1 < facts.gap < 10
    assert facts.independent == 1


def test_near_duplicates_are_one_group(measured: Callable[..., DataFacts]) -> None:
    def draw(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        same = 3 if number == 9 else number
        image, mask = noise(same, np.random.default_rng(same))
        return np.clip(image + random.integers(0, 2, image.shape), 0, 255), mask

    facts = measured(draw)
    assert (facts.duplicates, facts.groups) == (1, 11)
    assert facts.group_of[3] == facts.group_of[9]


def test_names_with_numbers_make_groups_of_patients(
    measured: Callable[..., DataFacts], tmp_path: Path
) -> None:
    facts = measured(noise, 24)
    assert facts.groups == 24
    pairs = open_data(tmp_path, task="semantic", val_fraction=0).train
    named = [
        pair.__class__(pair.image, pair.mask, f"p{i // 2}s_{i % 2}.png") for i, pair in enumerate(pairs.pairs)
    ]
    assert measure_data(pairs.with_pairs(named)).groups == 12


def test_scenes_are_upright_and_textures_are_not(measured: Callable[..., DataFacts], tmp_path: Path) -> None:
    def scene(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        horizon = random.integers(16, 32)
        mask = np.zeros((48, 64), int)
        mask[horizon:] = 1
        image = np.zeros((48, 64, 3))
        image[:horizon, :, 2], image[horizon:, :, 1] = 200, 120
        return np.clip(image + random.integers(0, 60, image.shape), 0, 255), mask

    facts = measured(scene, 48)
    assert facts.mirrored > 0.3
    assert facts.told_apart > 0.9
    assert not facts.free


def test_a_texture_has_no_up(measured: Callable[..., DataFacts]) -> None:
    facts = measured(noise, 48)
    assert facts.mirrored < 0.1
    assert facts.told_apart < 0.65
    assert facts.free


def test_numbers_of_objects_are_seen(measured: Callable[..., DataFacts]) -> None:
    def numbered(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros((64, 64), int)
        for cell in range(10 + number % 5):
            y, x = 2 + 16 * (cell // 4), 2 + 16 * (cell % 4)
            mask[y : y + 8, x : x + 8] = cell + 1
        return np.repeat((mask > 0)[..., None] * 150 + random.integers(0, 60, (64, 64, 3)), 1, 2), mask

    assert measured(numbered).numbered


def test_classes_of_a_street_are_no_numbers_of_objects(measured: Callable[..., DataFacts]) -> None:
    def street(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return random.integers(0, 255, (64, 64, 3)), random.integers(0, 12, (64, 64))

    assert not measured(street).numbered


def test_names_of_sides_are_seen(measured: Callable[..., DataFacts], tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("name,r,g,b\nbackground,0,0,0\nleft_lung,200,80,20\n")
    assert measured(noise).sides


def test_nothing_labelled_is_told(measured: Callable[..., DataFacts], tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("name,r,g,b\na,0,0,0\nb,200,80,20\n")
    with pytest.raises(ValueError, match="nothing in the 12 images that were looked at is labelled"):
        measured(lambda number, random: (noise(number, random)[0], np.full((48, 64), 255)))


def test_little_time_looks_at_a_few_images(tmp_path: Path, measured: Callable[..., DataFacts]) -> None:
    measured(noise, 30)
    data: SegmentationData = open_data(tmp_path, task="semantic", val_fraction=0).train
    facts = measure_data(data, seconds=0.0)
    assert facts.looked_at == 3
    assert len(facts.names) == 30


@pytest.mark.parametrize(
    "text, seconds",
    [("90", 90), ("90s", 90), ("20m", 1200), ("2h", 7200), ("1h30m", 5400), ("0.5 h", 1800), ("none", None)],
)
def test_budgets_as_people_write_them(text: str, seconds: float | None) -> None:
    assert read_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0", "5 parsecs", "1e400h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="a budget is a time such as 90s, 20m or 2h, or none"):
        read_budget(text)


@pytest.mark.parametrize(("anywhere", "expected"), [(True, 0.0), (False, 1.0)])
def test_volumes_whose_structures_lie_at_one_place_have_an_orientation(
    anywhere: bool, expected: float, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(24):
        labels = np.zeros((16, 24, 16), np.uint8)
        z = random.integers(0, 12) if anywhere else 2
        y, x = (8, 2) if not anywhere else (random.integers(0, 16), random.integers(0, 10))
        labels[z : z + 4, y : y + 8, x : x + 6] = 1
        image = (labels * 100 + random.integers(0, 20, labels.shape)).astype(np.float32)
        for folder, voxels in (("images", image), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / folder / f"{number:02}.nii.gz")
    data = open_data(tmp_path, task="volume", val_fraction=0)
    found = measure_data(data.train)
    assert found.mirrored == pytest.approx(expected, abs=0.14)
    assert found.sideways == pytest.approx(expected, abs=0.14)
    assert found.size == (16, 24, 16)[::-1]


@pytest.mark.parametrize(("anywhere", "expected"), [(True, 0.0), (False, 1.0)])
def test_small_structures_at_one_place_give_images_an_up_and_a_side(
    measured: Callable[..., DataFacts], anywhere: bool, expected: float
) -> None:
    def draw(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros((48, 64), int)
        top, left = (random.integers(0, 42), random.integers(0, 58)) if anywhere else (4, 8)
        mask[top : top + 6, left : left + 6] = 1
        image = random.integers(0, 120, (48, 64)) + 100 * mask
        return np.repeat(image[..., None], 3, 2), mask

    found = measured(draw, 60)
    assert found.mirrored == pytest.approx(expected, abs=0.14)
    assert found.sideways == pytest.approx(expected, abs=0.14)
