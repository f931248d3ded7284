"""The main job from end to end on the embedded sample."""

import json

import pytest
from PIL import Image

from pixelwise.demo import run_demo


def test_the_demo_leaves_data_run_pictures_and_report_and_a_second_one_spares_its_run(
    tmp_path, capsys
) -> None:
    result = run_demo(tmp_path / "demo", epochs=1)
    out = tmp_path / "demo"
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("IoU", "accuracy", "support", "background", "coin", "report.html", str(out / "pictures")):
        assert word in shown
    assert result.report == out / "report.html"
    page = result.report.read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert "http-equiv" not in page
    assert 'src="http' not in page
    command = f"pixelwise demo --out {out} --seed 0 --epochs 1"
    for words in ("<td>cores</td>", f"<pre>{command}</pre>", "<tr class=changed>"):
        assert words in page
    assert len(result.pictures) == 3
    for path in (*result.pictures, *(out / "predictions").glob("*.png")):
        with Image.open(path) as picture:
            picture.load()
    assert json.loads((result.training.path / "recipe.json").read_text())["model_arguments"] == {"width": 16}
    assert result.scores.confusion.sum() == 75 * 384
    second = run_demo(out, epochs=1, seed=1).training
    assert result.training.path != second.path
    assert result.training.best.is_file()


@pytest.mark.slow
def test_the_demo_finds_the_coins_and_does_so_again_with_the_same_seed(tmp_path) -> None:
    first = run_demo(tmp_path / "first", seed=3).scores
    assert first.per_class["coin"]["IoU"] >= 0.95
    again = run_demo(tmp_path / "again", seed=3).scores
    assert first.confusion.equal(again.confusion)


def test_the_demo_does_not_write_over_a_report_of_the_user(tmp_path) -> None:
    (tmp_path / "report.html").write_text("my report")
    with pytest.raises(ValueError, match=r"report\.html exists, and pixelwise did not write it"):
        run_demo(tmp_path, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
