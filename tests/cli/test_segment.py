"""`pixelwise segment`: every method writes its pictures; what cannot be done is said in one sentence."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.algorithms import SOLVERS
from pixelwise.algorithms.by_name import ALIASES, METHODS
from pixelwise.data.formats.strokes import read_strokes

H, W = 24, 32
# What each method is given beside the image, so that it is done at once.
OPTIONS: dict[str, tuple[object, ...]] = {
    "kmeans": ("--clusters", 3, "--position", 0.5, "--space", "rgb"),
    "mini_batch_kmeans": ("--segments", 3, "--set", "max_steps=4"),
    "mean_shift": ("--set", "color_radius=12", "--set", "radius=4"),
    "dirichlet_gibbs": ("--set", "sweeps=3"),
    "dirichlet_variational": ("--segments", 4),
    "normalized_cuts": ("--segments", 2, "--set", "num_regions=40"),
    "graph_cut": ("--strength", 10),
    "grabcut": ("--box", "8,5,24,19"),
    "mrf": ("--segments", 3, "--strength", 2),
    "dense_crf": ("--segments", 3),
    "slic": ("--segments", 12),
    "watershed": ("--segments", 5),
    "random_walker": ("--strokes", "strokes.png"),
    "otsu": ("--segments", 3),
}
ITERATIVE = {
    "kmeans", "mini_batch_kmeans", "dirichlet_gibbs", "dirichlet_variational", "graph_cut", "grabcut", "mrf",
    "dense_crf",
}  # fmt: skip


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Path:
    """A bright thing on dark ground, strokes on it, and this folder to work in."""
    monkeypatch.chdir(tmp_path)
    image = np.full((H, W, 3), (40, 60, 90), np.uint8)
    image[6:18, 10:22] = (220, 180, 40)
    image += np.random.default_rng(0).integers(0, 9, image.shape, dtype=np.uint8)
    Image.fromarray(image).save("scene.png")
    strokes = np.full((H, W), 2, np.uint8)
    strokes[0], strokes[10:13, 14:18] = 0, 1
    Image.fromarray(strokes).save("strokes.png")
    return tmp_path / "scene.png"


def complains(outcome, *words: str) -> None:
    """Code 2, and one sentence on standard error with all of `words`."""
    assert outcome.code == 2, (outcome.code, outcome.err)
    assert outcome.err.startswith("Error: "), outcome.err
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.sentence
    assert not Path("segments").exists()


@pytest.mark.parametrize("method", [*METHODS, *ALIASES])
def test_every_method_writes_labels_and_outlines(pixelwise, scene, method) -> None:
    shown = pixelwise("segment", scene, "--method", method, *OPTIONS.get(method, ()), "--out", "out")
    assert shown.code == 0, shown.err
    assert f"{method}: " in shown.out
    assert " segments in " in shown.out
    with Image.open(f"out/scene_{method}.png") as labels:
        assert (labels.mode, labels.size) == ("P", (W, H))
        found = np.array(labels)
    with Image.open(f"out/scene_{method}_overlay.png") as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", (W, H))
    assert f"{len(np.unique(found))} segments" in shown.out
    assert Path(f"out/scene_{method}_trace.png").exists() == (method in ITERATIVE)
    # The thing and the ground have no segment in common.
    assert not set(found[7:17, 11:21].ravel()) & set(found[:4].ravel())


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_of_a_random_field(pixelwise, scene, solver) -> None:
    shown = pixelwise("segment", scene, "--method", "mrf", "--segments", 2, "--solver", solver, "--json")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert found["segments"] == 2
    assert found["objective"] == ("free energy" if solver == "mean_field" else "energy")
    assert all(Path(path).is_file() for path in found["files"].values())
    assert set(found["files"]) == {"labels", "overlay", "trace"}


def test_the_help_names_every_method_and_solver(pixelwise) -> None:
    shown = " ".join(pixelwise("segment", "--help").out.replace("│", " ").split())
    for name in (*METHODS, *ALIASES, *SOLVERS):
        assert name in shown


def test_json_tells_what_was_found(pixelwise, scene) -> None:
    command = ("segment", scene, "--method", "kmeans", "--clusters", 2, "--seed", 5, "--json", "--overwrite")
    found = json.loads(pixelwise(*command).out)
    assert found["method"] == "kmeans"
    assert found["converged"] is True
    assert found["objective"] == "inertia"
    assert found["trace"] == sorted(found["trace"], reverse=True)
    assert found["seconds"] >= 0
    again = json.loads(pixelwise(*command).out)
    assert again["trace"] == found["trace"]


def test_regions_are_merged_afterwards(pixelwise, scene) -> None:
    def count(*options: object) -> int:
        command = ("segment", scene, "--method", "slic", "--segments", 40, "--overwrite", "--json")
        shown = pixelwise(*command, *options)
        return int(json.loads(shown.out)["segments"])

    assert count() > 10
    assert count("--merge", 20) == 2
    assert 2 < count("--min-size", 30) < count()


def test_strokes_may_be_drawn_in_red_and_blue(pixelwise, scene) -> None:
    with Image.open(scene) as image:
        drawn = np.array(image)
    drawn[0], drawn[10:13, 14:18] = (0, 0, 255), (255, 0, 0)
    Image.fromarray(drawn).save("drawn.png")
    assert (read_strokes("drawn.png") == read_strokes("strokes.png")).all()
    for method in ("graph_cut", "grabcut", "random_walker", "watershed"):
        for strokes in ("drawn.png", "strokes.png"):
            shown = pixelwise("segment", scene, "--method", method, "--strokes", strokes, "--out", strokes[0])
            assert shown.code == 0, shown.err
        labels = [np.array(Image.open(f"{folder}/scene_{method}.png")) for folder in "ds"]
        assert (labels[0] == labels[1]).all()
        assert labels[0][12, 16] == 1
        assert labels[0][0, 0] == 0


def test_many_segments_are_written_in_16_bits(pixelwise, scene) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)).save("noise.png")
    shown = pixelwise(
        "segment", "noise.png", "--method", "slic", "--segments", 900, "--set", "compactness=90"
    )
    assert shown.code == 0, shown.err
    labels = np.array(Image.open("segments/noise_slic.png"))
    assert labels.dtype == np.uint16
    assert 256 < labels.max() < 1000


@pytest.mark.parametrize("kind", ["grey", "16 bits", "5 channels", "one pixel"])
def test_images_of_any_kind(pixelwise, scene, kind) -> None:
    name = "odd.png"
    if kind == "grey":
        Image.open(scene).convert("L").save(name)
    elif kind == "16 bits":
        Image.fromarray(np.array(Image.open(scene).convert("L")).astype(np.uint16) * 257).save(name)
    elif kind == "one pixel":
        Image.new("RGB", (1, 1)).save(name)
    else:
        name = "odd.npy"
        np.save(name, np.repeat(np.array(Image.open(scene))[..., :1], 5, axis=2))
    clusters = 1 if kind == "one pixel" else 2
    shown = pixelwise("segment", name, "--clusters", clusters, "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["segments"] == clusters


@pytest.mark.compile
@pytest.mark.parametrize(
    "options, words",
    [
        (("--method", "kmean"), "no method is called 'kmean', did you mean kmeans?"),
        (("--method", "zzz"), "there are kmeans, mini_batch_kmeans"),
        (("--method", "mrf", "--solver", "expansion"), "no solver is called 'expansion', did you mean"),
        (("--method", "mrf", "--solver", "minimum_cut"), "two labels, the energy has 6"),
        (("--method", "otsu", "--box", "1,1,5,5"), "--box is for grabcut; otsu does not have it"),
        (("--method", "felzenszwalb", "--clusters", "3"), "--segments is for kmeans"),
        (("--method", "kmeans", "--solver", "icm"), "--solver is for mrf"),
        (("--method", "grabcut"), "GrabCut needs a box or strokes"),
        (("--method", "random_walker"), "random_walker needs --strokes"),
        (("--method", "grabcut", "--box", "1,2,3"), "--box takes LEFT,TOP,RIGHT,BOTTOM"),
        (("--method", "grabcut", "--box", "5,5,40,20"), "inside 32 x 24 pixels, got (5, 5, 40, 20)"),
        (
            ("--method", "watershed", "--segments", 3, "--strokes", "strokes.png"),
            "--segments or --strokes, not",
        ),
        (("--method", "graph_cut", "--strokes", "gone.png"), "there is no file gone.png"),
        (("--method", "graph_cut", "--strokes", "scene.png"), "there is no background"),
        (("--method", "graph_cut", "--strokes", "grey.png"), "or draw in red and blue"),
        (("--method", "graph_cut", "--strokes", "other.png"), "needs strokes of that size, got (5, 5)"),
        (("--method", "random_walker", "--strokes", "other.png"), "needs markers of that size, got (5, 5)"),
        (("--clusters", 769), "768 pixels allows 1 to 768 clusters, got 769"),
        (("--clusters", 0), "got 0"),
        (("--space", "hsv"), "must be rgb or lab, got 'hsv'"),
        (("--position", -1), "position_weight must be at least 0"),
        (("--method", "otsu", "--segments", 9), "num_classes must be in 2..5, got 9"),
        (("--merge", -1), "threshold must be at least 0"),
        (("--merge", "nan"), "threshold must be at least 0"),
        (("--min-size", 0), "min_size must be at least 1, got 0"),
        (("--set", "max_step=3"), "kmeans has no argument 'max_step', did you mean max_steps?"),
        (("--set", "max_steps=many"), "max_steps of kmeans must be a whole number, got 'many'"),
        (("--set", "max_steps=0"), "max_steps must be at least 1, got 0"),
        (("--set", "max_steps"), "--set takes KEY=VALUE"),
        (("--method", "mean_shift", "--set", "radius=wide"), "radius of mean_shift must be a number"),
    ],
)
def test_what_cannot_be_done_is_said(pixelwise, scene, options, words) -> None:
    Image.new("L", (W, H), 99).save("grey.png")
    Image.new("L", (5, 5)).save("other.png")
    complains(pixelwise("segment", scene, *options), words)


def test_images_that_cannot_be_used(pixelwise, scene) -> None:
    complains(pixelwise("segment", "gone.png"), "there is no file gone.png")
    complains(pixelwise("segment", "gone.npy"), "there is no file gone.npy")
    Path("text.png").write_text("no image")
    complains(pixelwise("segment", "text.png"), "text.png", "not an image")
    np.save("nan.npy", np.full((4, 4), np.nan))
    complains(pixelwise("segment", "nan.npy"), "nan.npy", "nan")
    np.save("words.npy", np.array([["a"]]))
    complains(pixelwise("segment", "words.npy"), "words.npy", "expected numbers")
    np.save("empty.npy", np.zeros((0, 4)))
    complains(pixelwise("segment", "empty.npy"), "empty.npy")


def test_output_where_no_file_can_be(pixelwise, scene, monkeypatch) -> None:
    Path("file").write_text("in the way")
    complains(pixelwise("segment", scene, "--clusters", 2, "--out", "file"), "cannot make the folder", "file")

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    shown = pixelwise("segment", scene, "--clusters", 2, "--out", "out")
    complains(shown, "No space left on device", "scene_kmeans.png")
    assert list(Path("out").iterdir()) == []
