"""`pixelwise track`: points on a video become masks, a movie and run lengths."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import pixelwise as pw
from pixelwise.cli import app
from pixelwise.rle import RleMasks
from pixelwise.types import ClassTable
from pixelwise.video import MovieWriter, read_frames

HEIGHT, WIDTH = 24, 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = pw.build("sam2", image_size=32, encoder_width=8, width=32, memory_width=8)
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.layers[2].bias, 9.0)  # visible objects
    path = tmp_path_factory.mktemp("model") / "sam2.safetensors"
    pw.save(model, path, ClassTable.of("object"))
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "video"
    folder.mkdir()
    for number in range(4):
        pixels = random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")
    return folder


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["track", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_masks_a_movie_and_run_lengths_are_written(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = np.zeros((HEIGHT, WIDTH), np.uint8)
    first[3:9, 4:12], first[12:21, 20:28] = 1, 2  # along the cells of the network's masks
    Image.fromarray(first).save(tmp_path / "first.png")
    arguments = (video, "--model", checkpoint, "--mask", f"1,{tmp_path / 'first.png'}", "--out", out)
    code, told = run(*arguments, "--point", "3:2,5.5,6", "--outside", "3:2,1,1", "--box", "4:2,1,1,9,9")
    assert (code, told) == (0, f"4 objects followed through 4 frames, written to {out}")
    for number in range(4):
        with Image.open(out / "masks" / f"{number:05d}.png") as mask:
            assert (mask.mode, mask.size) == ("P", (WIDTH, HEIGHT))
    content = json.loads((out / "tracks.json").read_text())
    assert content["videos"][0]["length"] == 4
    assert [one["id"] for one in content["annotations"]] == [1, 2, 3, 4]
    own = content["annotations"][1]
    assert len(own["segmentations"]) == len(own["areas"]) == len(own["bboxes"]) == 4
    shown = RleMasks.from_coco([own["segmentations"][1]]).decode()[0]
    assert (shown & (first == 2)).sum() / (shown | (first == 2)).sum() > 0.8
    assert own["areas"][1] == shown.sum()
    assert own["bboxes"][1] == pytest.approx([20, 12, 8, 9], abs=2)
    movie = list(read_frames(out / "overlay.mp4"))
    assert [frame.shape for frame in movie] == [(HEIGHT, WIDTH, 3)] * 4


def test_masks_are_scored_as_davis_does(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth"
    arguments = (video, "--model", checkpoint, "--point", "0,8,8", "--no-overlay")
    assert run(*arguments, "--out", out)[0] == 0
    assert not (out / "overlay.mp4").exists()
    truth.mkdir()
    for number in range(4):
        mask = np.array(Image.open(out / "masks" / f"{number:05d}.png"))
        mask[:2, :2] = 1  # so that there is an object
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(truth / f"{number}.png")
        Image.fromarray(mask).save(out / "masks" / f"{number:05d}.png")
    from pixelwise.predict.track_files import score_masks

    scores = score_masks(out / "masks", truth)
    assert (scores.j.mean, scores.f.mean) == (1.0, 1.0)
    code, told = run(*arguments, "--out", tmp_path / "new", "--truth", truth)
    assert code == 0
    assert "J&F" in told
    (truth / "3.png").unlink()
    code, told = run(*arguments, "--out", tmp_path / "newer", "--truth", truth)
    assert (code, "holds 3 masks" in told) == (2, True)


def test_files_of_the_user_are_never_lost(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (video, "--model", checkpoint, "--point", "0,8,8", "--no-overlay", "--out", out)
    assert run(*arguments)[0] == 0
    code, told = run(*arguments)
    assert (code, "was written before" in told) == (2, True)
    assert run(*arguments, "--overwrite", "--point", "9,1,1")[0] == 2
    assert len(list((out / "masks").iterdir())) == 4  # what was there stays until there is something else
    (video / "00003.png").unlink()
    assert run(*arguments, "--overwrite")[0] == 0
    assert len(list((out / "masks").iterdir())) == 3
    drawn = out / "masks" / "00001.png"
    drawn.write_bytes(b"mine")
    code, told = run(*arguments, "--overwrite")
    assert (code, "pixelwise did not write it" in told) == (2, True)
    assert drawn.read_bytes() == b"mine"


def test_a_movie_that_is_cut_off_is_followed_to_the_cut_and_that_is_told(
    checkpoint: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    with MovieWriter(tmp_path / "whole.mkv", rate=10) as movie:
        for _ in range(40):
            movie.write(random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    out = tmp_path / "out"
    code, told = run(tmp_path / "cut.mkv", "--model", checkpoint, "--point", "0,8,8", "--out", out)
    assert (code, "is cut off or damaged" in told) == (1, True)
    assert 5 < len(list((out / "masks").iterdir())) < 40
    assert (out / "tracks.json").exists()


def test_bad_input_is_told_in_one_sentence(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    def told(*arguments: object, source: Path = video) -> str:
        code, text = run(source, "--model", checkpoint, "--out", tmp_path / "out", "--no-overlay", *arguments)
        assert code == 2
        assert "Traceback" not in text
        return text

    assert "there is nothing to follow" in told()
    assert "there is no frame 9: the video has frames 0 to 3" in told("--point", "9,1,1")
    assert "the point 99,1 lies outside of the image" in told("--point", "0,99,1")
    assert "has no area" in told("--box", "0,5,5,5,9")
    assert "--point must be [OBJECT:]FRAME,X,Y, got 'nonsense'" in told("--point", "nonsense")
    assert "--box must be" in told("--box", "0,1,2,3")
    assert "two boxes" in told("--box", "0,1,2,3,4", "--box", "0,1,2,3,5")
    assert "--mask must be FRAME,FILE" in told("--mask", "first.png")
    assert "there is no video" in told("--point", "0,1,1", source=tmp_path / "none.mp4")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there is no image in the folder" in told("--point", "0,1,1", source=empty)
    (tmp_path / "empty.mp4").touch()
    assert "it is empty" in told("--point", "0,1,1", source=tmp_path / "empty.mp4")
    Image.new("L", (WIDTH - 1, HEIGHT)).save(tmp_path / "narrow.png")
    assert "has 24 x 31 pixels, the frames of the video 24 x 32" in told(
        "--mask", f"0,{tmp_path / 'narrow.png'}"
    )
    Image.new("RGB", (5, 5)).save(video / "00009.png")
    assert "frame 4 of" in told("--point", "0,1,1")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "black.png")
    assert "shows no object" in told("--mask", f"0,{tmp_path / 'black.png'}")
