"""Files beside the data that tell its parts."""

import json

import pytest

from pixelwise.data import check_data, open_data


def stems(data) -> list[str]:
    return [pair.image.stem for pair in data.pairs]


SPLITS = {"train": ["0.png", "3.png", "1.png"], "val": ["2.png"], "test": ["4.png"]}
ROWS = [(name, part) for part, names in SPLITS.items() for name in names]
FILES = {
    "one table": {"split.csv": "image,subset\n" + "".join(f"{n},{p}\n" for n, p in ROWS)},
    "other column order": {
        "meta.csv": "w;set;file\n" + "".join(f"3.5;{p.upper()};images/{n}\n" for n, p in ROWS)
    },
    "tabs and stems": {"split.tsv": "".join(f"{n[:-4]}\t{p}\n" for n, p in ROWS)},
    "masks are named": {"split.csv": "mask,part\n" + "".join(f"/old/masks/{n},{p}\n" for n, p in ROWS)},
    "one table each": {
        f"{p}.csv": "id,image,mask\n" + "".join(f"x{n},images/{n},masks/{n}\n" for n in names)
        for p, names in SPLITS.items()
    },
    "json of lists": {"splits.json": json.dumps(SPLITS)},
    "json by name": {"splits.json": json.dumps(dict(ROWS))},
    "json of rows": {"dataset.json": json.dumps([{"file": n, "split": p} for n, p in ROWS])},
    "json as of the decathlon": {
        "dataset.json": json.dumps(
            {
                "name": "x",
                "training": [{"image": f"./images/{n}", "label": f"./masks/{n}"} for n in SPLITS["train"]],
                "validation": [{"image": f"./images/{n}"} for n in SPLITS["val"]],
                "test": SPLITS["test"],
            }
        )
    },
    "lists": {f"{p}.txt": "\n".join(names) for p, names in SPLITS.items()},
}


@pytest.mark.parametrize("files", FILES)
def test_a_file_tells_the_parts(pair_folder, files) -> None:
    root = pair_folder()
    for name, text in FILES[files].items():
        (root / name).write_text(text)
    data = open_data(root)
    assert not data.made_val
    assert [stems(part) for part in (data.train, data.val, data.test)] == [["0", "3", "1"], ["2"], ["4"]]
    assert data.remarks == ()


@pytest.mark.parametrize(
    "name, text",
    [
        ("train.csv", "EncodedPixels\n1 2 3\n"),
        ("split.csv", "image,fold\n0.png,0\n1.png,1\n2.png,2\n3.png,0\n4.png,1\n"),
        ("splits.json", '[{"train": ["0"]}, {"train": ["1"]}]'),
        ("splits.json", "[" * 100_000),
        ("dataset.csv", "a" * 200_000 + "\n"),
    ],
)
def test_a_file_that_seems_to_tell_the_parts_in_vain_is_a_remark(pair_folder, name, text) -> None:
    root = pair_folder()
    (root / name).write_text(text)
    report = check_data(root)
    assert report.problems == ()
    assert any(name in remark and "may tell the parts" in remark for remark in report.remarks)


def test_of_two_kinds_of_files_the_second_is_a_remark(pair_folder) -> None:
    root = pair_folder()
    for name, text in (FILES["lists"] | FILES["one table"]).items():
        (root / name).write_text(text)
    (remark,) = open_data(root).remarks
    assert "split.csv is not used" in remark


def test_what_no_list_names_is_a_remark_and_what_only_a_list_names_a_problem(pair_folder) -> None:
    root = pair_folder()
    (root / "split.csv").write_text("image,part\n0.png,train\n1.png,val\n2.png,train\ngone.png,val\n")
    report = check_data(root)
    assert any("names gone.png, but there is no such image" in problem for problem in report.problems)
    assert any("2 images are not named in split.csv" in remark for remark in report.remarks)
    with pytest.raises(ValueError, match=r"split\.csv names gone\.png"):
        open_data(root)


def test_names_in_lists_may_hold_spaces_and_columns(tmp_path, draw_image, draw_mask) -> None:
    for i, name in enumerate(("my photo 1", "my photo 2", "plain")):
        draw_image(tmp_path / "images" / f"{name}.png", number=i)
        draw_mask(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "train.txt").write_text("my photo 1\nimages/plain.png masks/plain.png\n")
    (tmp_path / "val.txt").write_text("images/my photo 2.png\n")
    data = open_data(tmp_path)
    assert [stems(data.train), stems(data.val)] == [["my photo 1", "plain"], ["my photo 2"]]
