"""The README's Python runs from top to bottom, and its command lines are ones that the program takes."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from pixelwise.cli import app
from pixelwise.types import voc_palette

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language ("" where none is named)."""
    found, current = [], None
    for line in page.read_text().splitlines():
        if not line.startswith("```"):
            if current is not None:
                current.append(line)
        elif current is None:
            current, kind = [], line.removeprefix("```").strip()
        else:
            found += ["\n".join(current)] if kind == language else []
            current = None
    return found


def command_lines(text: str, program: str) -> list[str]:
    """Lines that call `program`, without comments; a backslash at the end of a line continues it."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.split()[:1] == [program]]


# --- Python -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with `my_folder` in it: squares and bars on grey, three classes, some pixels not labelled."""
    place = tmp_path_factory.mktemp("readme")
    for part in ("images", "masks"):
        (place / "my_folder" / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(10):
        labels = np.zeros((64, 64), np.uint8)
        top, left = random.integers(4, 28, 2)
        labels[top : top + 24, left : left + 24] = 1
        labels[:, 54:60] = 2
        labels[:2] = 255
        shades = np.array([90, 200, 20])[np.minimum(labels, 2)]
        image = np.clip(shades[..., None] + random.normal(0, 10, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(place / "my_folder" / "images" / f"{number:03}.png")
        mask = Image.fromarray(labels, "P")
        mask.putpalette([part for color in voc_palette(256) for part in color])
        mask.save(place / "my_folder" / "masks" / f"{number:03}.png")
    return place


README_PYTHON = blocks(PAGES[0], "python")


def test_the_readme_shows_a_training_and_a_loop_of_ones_own() -> None:
    assert len(README_PYTHON) >= 2
    assert any("pw.train(" in block for block in README_PYTHON)
    assert any("loss.backward()" in block for block in README_PYTHON)


def run(block: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("number", [n for n, block in enumerate(README_PYTHON) if "pw.train(" in block])
def test_a_block_of_the_readme_that_trains_runs(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(README_PYTHON[number], folder, monkeypatch)
    for name in ("prediction.png", "prediction_overlay.png", "runs/first/report.html"):
        assert (folder / name).stat().st_size > 0
    with Image.open(folder / "prediction.png") as written:
        assert written.size == (64, 64)


@pytest.mark.parametrize("number", [n for n, block in enumerate(README_PYTHON) if "pw.train(" not in block])
def test_a_block_of_the_readme_runs(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(README_PYTHON[number], folder, monkeypatch)


# --- command lines --------------------------------------------------------------------------------------


def parse(line: str) -> None:
    """Parse a command line as the program does, without doing what it says."""
    program = typer.main.get_command(app)
    for command in program.commands.values():
        command.callback = None
    program.main(shlex.split(line, comments=True)[1:], prog_name="pixelwise", standalone_mode=False)


SHOWN = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for language in ("", "bash", "sh", "console")
    for block in blocks(page, language)
    for line in command_lines(block, "pixelwise")
]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_line_on_a_page_is_one_that_the_program_takes(line: str) -> None:
    parse(line)


def test_the_readme_shows_the_main_commands() -> None:
    shown = {shlex.split(param.values[0])[1] for param in SHOWN}
    assert {"demo", "check", "train", "evaluate", "predict"} <= shown


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands))
def test_the_help_of_every_command_has_an_example_that_the_program_takes(name: str) -> None:
    text = re.sub(r"\s+", " ", typer.main.get_command(app).commands[name].help)
    examples = re.findall(r"\[bold\](pixelwise .*?)\[/bold\]", text)
    assert examples
    for line in examples:
        assert line.split()[1] == name
        parse(line)


@pytest.mark.parametrize(
    "line", ["pixelwise trian x", "pixelwise train x --epoch many", "pixelwise train x --lr much"]
)
def test_a_wrong_command_line_would_be_noticed(line: str) -> None:
    usage_error = typer.BadParameter.__base__  # click's, or that of the copy inside typer
    with pytest.raises(usage_error):
        parse(line)


def test_make_targets_on_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {
        line.split()[1]
        for page in PAGES
        for b in blocks(page, "") + blocks(page, "bash")
        for line in command_lines(b, "make")
    }
    assert {"demo", "test"} <= shown <= targets


def test_links_to_files_of_the_repository_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
