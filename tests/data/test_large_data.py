"""Many files and large annotation files: listed once, read when asked for, counted before they are kept."""

import os
from pathlib import Path

import pytest
from PIL import Image

from pixelwise.data import open_data
from pixelwise.data.datasets import listing
from pixelwise.data.datasets.layout import folders, image_files, name_in_folder, stem_in
from pixelwise.data.datasets.listing import listed

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


def test_links_to_files_count_and_links_to_folders_do_not(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ["a.png", "inside/b.png"])
    outside = tree(tmp_path / "other", ["c.png"])
    (root / "link.png").symlink_to(outside / "c.png")
    (root / "broken.png").symlink_to(outside / "nowhere.png")
    (root / "folder").symlink_to(outside)
    (root / "inside" / "loop").symlink_to(root)
    assert [path.name for path in image_files(root)] == ["a.png", "b.png", "link.png"]


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


@pytest.mark.parametrize("root", ["data", "/data", "data/sub", "."])
def test_names_inside_a_folder_are_those_of_pathlib(root: str) -> None:
    for name in ("a.png", "x/y.z/b.tar.png", "x.y/no_suffix"):
        path = Path(root) / name
        assert name_in_folder(path, Path(root)) == path.relative_to(root).as_posix()
        assert stem_in(path, Path(root)) == path.relative_to(root).with_suffix("").as_posix()
    assert name_in_folder(Path("/a.png"), Path("/")) == "a.png"


def test_no_image_is_read_to_open_a_folder_with_a_class_table(tmp_path: Path, monkeypatch) -> None:
    names = [f"{kind}/{n}.png" for kind in ("images", "masks") for n in range(30)]
    root = tree(tmp_path, names)
    (root / "classes.csv").write_text("name,r,g,b\na,0,0,0\nb,255,0,0\n")
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    splits = open_data(root)
    assert len(splits.train) + len(splits.val) == 30
