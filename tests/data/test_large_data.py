"""Many files and large annotation files: listed once, read when asked for, counted before they are kept."""

import gc
import json
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.data import cache, open_data
from pixelwise.data.cache import cache_size, cached
from pixelwise.data.datasets import listing
from pixelwise.data.datasets.layout import folders, image_files, name_in_folder
from pixelwise.data.datasets.listing import listed, without_suffix
from pixelwise.recipe import Recipe
from pixelwise.tasks import open_data as open_task_data
from pixelwise.training import make_experiment
from pixelwise.training.samplers import train_loader

LONG_AGO = 1_600_000_000


def tree(root: Path, names: list[str]) -> Path:
    """Empty files."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def aged(root: Path) -> None:
    """As if nothing had changed for years."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (LONG_AGO, LONG_AGO))


# --- listings -------------------------------------------------------------------------------------


def test_files_are_listed_as_paths_are_sorted_without_hidden_ones(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a/b/c.JPG", "a-b/c.png", "a.png", "a/.hidden/x.png", ".x/y.png", "t.txt"]
    root = tree(tmp_path, [*names, ".z.png"])
    (root / "folder.png").mkdir()
    visible = [root / name for name in names if "/." not in "/" + name]
    assert image_files(root) == sorted(path for path in visible if path.suffix != ".txt")
    assert image_files(root, deep=False) == [root / "a.png", root / "b.png"]
    assert image_files(root / "a.png") == image_files(root / "nowhere") == []
    assert [path.name for path in folders(root)] == ["a", "a-b", "folder.png"]


def test_links_to_files_and_to_folders_elsewhere_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ["a.png", "inside/b.png"])
    outside = tree(tmp_path / "other", ["c.png", "deep/d.png"])
    (root / "link.png").symlink_to(outside / "c.png")
    (root / "broken.png").symlink_to(outside / "nowhere.png")
    (root / "folder").symlink_to(outside)
    (root / "same").symlink_to(outside / "deep")
    (root / "twin").symlink_to(root / "inside")
    (root / "inside" / "loop").symlink_to(root)
    (outside / "back").symlink_to(root / "inside")
    (root / "above").symlink_to(tmp_path)
    found = [name_in_folder(path, root) for path in image_files(root)]
    assert len(found) == len(set(found)) == 5
    assert {path.rpartition("/")[2] for path in found} == {"a.png", "b.png", "c.png", "d.png", "link.png"}


def test_a_data_folder_whose_images_are_a_link_opens(tmp_path: Path) -> None:
    images = tmp_path / "elsewhere"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "one.png")
    root = tmp_path / "data"
    root.mkdir()
    (root / "images").symlink_to(images)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    table = {
        "images": [{"id": 1, "file_name": "one.png", "width": 8, "height": 8}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [box | {"segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}],
    }
    (root / "instances_train.json").write_text(json.dumps(table))
    opened = open_task_data(root, task="instance", val_fraction=0.0, test_fraction=0.0)
    assert len(opened.train) == 1


def test_a_folder_that_has_not_changed_is_listed_once(tmp_path: Path, monkeypatch) -> None:
    root = tree(tmp_path, ["a/1.png", "b/2.png"])
    aged(root)
    first = listed(root)
    assert listed(root) is first
    assert listed(root).images is first.images
    tree(root, ["b/3.png"])
    assert [path.name for path in image_files(root)] == ["1.png", "2.png", "3.png"]
    (root / "a" / "1.png").unlink()
    assert [path.name for path in image_files(root)] == ["2.png", "3.png"]
    (root / "b" / "2.png").rename(root / "a" / "9.png")
    assert [path.name for path in image_files(root)] == ["9.png", "3.png"]


def test_a_folder_that_has_just_changed_is_listed_again(tmp_path: Path) -> None:
    root = tree(tmp_path, ["a.png"])
    assert not listed(root).holds
    time = os.stat(root).st_mtime_ns
    tree(root, ["b.png"])
    os.utime(root, ns=(time, time))  # as a coarse clock would have it
    assert len(image_files(root)) == 2


def test_only_some_listings_are_kept(tmp_path: Path) -> None:
    for number in range(2 * listing._KEPT):
        listed(tree(tmp_path / str(number), ["a.png"]))
    assert len(listing._known) <= listing._KEPT


def counted(monkeypatch) -> list[Path]:
    """The folders that are listed from now on."""
    asked: list[Path] = []
    plain = listing._listed

    def listed_again(root: Path, *, deep: bool) -> listing.Listing:
        asked.append(root)
        return plain(root, deep=deep)

    monkeypatch.setattr(listing, "_listed", listed_again)
    return asked


@pytest.fixture
def many_are_three(tmp_path: Path, monkeypatch) -> Path:
    """The cache, into which folders of three files go."""
    monkeypatch.setattr(listing, "_MANY", 3)
    monkeypatch.setenv("PIXELWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "listings"


def test_the_listing_of_a_large_folder_outlives_the_process(
    tmp_path: Path, monkeypatch, many_are_three: Path
) -> None:
    root = tree(tmp_path / "data", ["a/1.png", "b/2.png", "b/ä.png", "c/3.txt"])
    aged(root)
    first = listed(root)
    listing._known.clear()  # as in another process
    asked = counted(monkeypatch)
    again = listed(root)
    assert asked == []
    assert (again.names, again.images, again.at) == (first.names, first.images, first.at)
    assert again.changed == first.changed
    listing._known.clear()
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in listed(Path("data")).images] == [f"data/{name}" for name in first.names[:3]]
    assert asked == []
    assert not list((tmp_path / "cache").glob("*.json"))


@pytest.mark.parametrize("change", ["add", "remove", "rename", "folder"])
def test_a_kept_listing_of_a_folder_that_has_changed_is_not_used(
    tmp_path: Path, monkeypatch, many_are_three: Path, change: str
) -> None:
    root = tree(tmp_path / "data", ["a/1.png", "b/2.png", "b/3.png"])
    aged(root)
    listed(root)
    listing._known.clear()
    if change == "add":
        tree(root, ["b/4.png"])
    elif change == "remove":
        (root / "b" / "3.png").unlink()
    elif change == "rename":
        (root / "b" / "3.png").rename(root / "b" / "9.png")
    else:
        tree(root, ["d/1.png"])
    asked = counted(monkeypatch)
    names = listed(root).names
    assert asked == [root]
    assert list(names) == sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"at": 1}', '{"at": "x", "changed": {}, "names": 3}', "[" * 9999]
)
def test_a_damaged_file_of_a_listing_is_made_anew(
    tmp_path: Path, monkeypatch, many_are_three: Path, content: str
) -> None:
    root = tree(tmp_path / "data", ["1.png", "2.png", "3.png"])
    aged(root)
    listed(root)
    (file,) = many_are_three.glob("*.json")
    file.write_text(content)
    listing._known.clear()
    assert listed(root).names == ("1.png", "2.png", "3.png")
    listing._known.clear()
    asked = counted(monkeypatch)
    listed(root)
    assert asked == []


def test_small_folders_and_a_cache_that_cannot_be_written_leave_no_files(
    tmp_path: Path, monkeypatch, many_are_three: Path
) -> None:
    listed(tree(tmp_path / "small", ["1.png", "2.png"]))
    assert not many_are_three.exists()
    (tmp_path / "cache").write_text("a file where the folder must be")
    assert len(listed(tree(tmp_path / "large", ["1.png", "2.png", "3.png"])).names) == 3


@pytest.mark.parametrize("root", ["data", "/data", "data/sub", "."])
def test_names_inside_a_folder_are_those_of_pathlib(root: str) -> None:
    for name in ("a.png", "x/y.z/b.tar.png", "x.y/no_suffix"):
        path = Path(root) / name
        inside = path.relative_to(root)
        assert name_in_folder(path, Path(root)) == inside.as_posix()
        assert without_suffix(inside.as_posix()) == inside.with_suffix("").as_posix()
    assert name_in_folder(Path("/a.png"), Path("/")) == "a.png"


def test_no_image_is_read_to_open_a_folder_with_a_class_table(tmp_path: Path, monkeypatch) -> None:
    names = [f"{kind}/{n}.png" for kind in ("images", "masks") for n in range(30)]
    root = tree(tmp_path, names)
    (root / "classes.csv").write_text("name,r,g,b\na,0,0,0\nb,255,0,0\n")
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    splits = open_data(root)
    assert len(splits.train) + len(splits.val) == 30


# --- decoded images that are kept -----------------------------------------------------------------


def pictures(root: Path, count: int = 6) -> Path:
    """Images of 8 and of 16 bits in sizes of their own, with labels up to 3, or 300."""
    numbers = np.random.default_rng(0)
    for number in range(count):
        size = (8 + number, 12)
        deep = number % 2
        pixels = (
            numbers.integers(0, 65536, size, np.uint16) if deep else numbers.integers(0, 256, size, np.uint8)
        )
        labels = numbers.integers(0, 4, size).astype(np.uint16) * (100 if deep else 1)
        for kind, array in (("images", pixels), ("masks", labels)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / kind / f"{number}.png")
    names = "".join(f"class {n},{n % 256},{n // 256},0\n" for n in range(301))
    (root / "classes.csv").write_text(f"name,r,g,b\n{names}")
    return root


@pytest.mark.parametrize("place", ["ram", "disk"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_kept_is_what_is_read(tmp_path: Path, monkeypatch, place, channels: int) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = open_data(pictures(tmp_path / "data"), val_fraction=0.4, channels=channels).train
    told: list[tuple[int, int]] = []
    kept = cached(data, place, progress=lambda done, total: told.append((done, total)))
    assert told == [(n + 1, len(data)) for n in range(len(data))]
    expected = list(data)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    for wanted, got in zip(expected, pickle.loads(pickle.dumps(kept)), strict=True):
        assert torch.equal(wanted.image, got.image)
        assert torch.equal(wanted.target.labels, got.target.labels)
        assert (wanted.id, wanted.spacing) == (got.id, got.spacing)
        got.image.zero_()
    assert torch.equal(kept[0].image, expected[0].image)
    assert kept.take([1])[0].id == expected[1].id


def test_what_is_not_kept_is_read_from_its_file(tmp_path: Path) -> None:
    splits = open_data(pictures(tmp_path / "data"), val_fraction=0.4)
    kept = cached(splits.train, "ram")
    both = kept.joined(splits.val)  # as the report reads the images of both parts
    for wanted, got in zip([*splits.train, *splits.val], both, strict=True):
        assert torch.equal(wanted.image, got.image)
        assert torch.equal(wanted.target.labels, got.target.labels)
    assert torch.equal(kept.with_channels(1)[0].image, splits.train.with_channels(1)[0].image)


def test_the_file_of_a_cache_is_removed_with_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = open_data(pictures(tmp_path / "data")).train
    kept = cached(data, "disk")
    (file,) = tmp_path.glob("pixelwise-*.cache")
    sizes = [sample.image.shape[1] * 12 for sample in data]
    bits = [1 + int(sample.id[-5]) % 2 for sample in data]
    images = sum(size * bit * 3 for size, bit in zip(sizes, bits, strict=True))
    labels = sum(size * bit for size, bit in zip(sizes, bits, strict=True))
    assert file.stat().st_size == images + labels
    assert cache_size([data], "disk").needed == images + labels
    del kept
    gc.collect()
    assert not file.exists()


def test_a_cache_that_does_not_fit_is_refused_with_its_size(tmp_path: Path, monkeypatch) -> None:
    data = open_data(pictures(tmp_path / "data")).train
    monkeypatch.setattr(cache, "_free_memory", lambda: 1000)
    with pytest.raises(
        ValueError, match=r"takes about 0.0 MB of memory, where 0.0 MB are free: take another"
    ):
        cached(data, "ram")
    size = cache_size([data, data.take([0])], "ram")
    assert size.images == len(data) + 1


def test_masks_of_objects_are_read_as_before(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data")
    (root / "classes.csv").unlink()
    data = open_task_data(root, task="instance").train
    kept = cached(data, "ram")
    for wanted, got in zip(data, kept, strict=True):
        assert torch.equal(wanted.image, got.image)
        assert torch.equal(wanted.target.dense, got.target.dense)


def test_a_training_with_a_cache_is_the_same_training(tmp_path: Path, capsys) -> None:
    root = pictures(tmp_path / "data")
    scores = []
    for place in ("none", "ram", "disk"):
        recipe = Recipe(
            str(root),
            model_arguments={"encoder": "tiny", "width": 4},
            crop=(32, 32),
            batch_size=2,
            workers=0,
            steps=2,
            cache=place,
        )
        made = make_experiment(recipe)
        batch = next(iter(train_loader(made.batches, made.classes, workers=0)))
        scores.append(batch.image)
        assert ("the cache of 6 images takes about" in capsys.readouterr().err) == (place != "none")
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
