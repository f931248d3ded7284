"""The pages of models name every model, and what they link exists."""

import json
import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import pixelwise as pw
from pixelwise import models
from pixelwise.paper_recipes import list_recipes
from pixelwise.registry import takes_classes

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
TABLE = tomllib.loads((DOCS / "models.toml").read_text())
PAGES = sorted((DOCS / "models").glob("*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
MEASURED = json.loads((DOCS / "models_measured.json").read_text())
CHECKED = ("bisenet_resnet18", "fc_densenet103", "hrnetv2_w18", "pspnet_resnet50", "unet")


def file_of(name: str) -> str:
    return vars(models)[name].__module__.partition(".models.")[2].partition(".")[0]


def test_every_model_has_one_row_and_every_row_is_a_model() -> None:
    rows = [name for page in PAGES for name in re.findall(r"^\| `(\w+)`", page.read_text(), re.M)]
    assert sorted(rows) == pw.list_models(), "run `make docs`"
    assert set(MEASURED) <= set(pw.list_models()), "run `make docs`"
    overview = (DOCS / "models.md").read_text()
    assert sorted(set(re.findall(r"`(\w+)`", overview)) & set(rows)) == pw.list_models()


def test_every_file_of_models_is_in_a_family_with_a_page_and_a_picture() -> None:
    assert set(TABLE["papers"]) == {file_of(name) for name in pw.list_models()}
    assert {page.stem for page in PAGES} == set(TABLE["families"])
    assert {paper["family"] for paper in TABLE["papers"].values()} == set(TABLE["families"])
    pictures = ["timeline.svg", *(f"family_{family}.svg" for family in TABLE["families"])]
    for picture in pictures:
        assert ElementTree.parse(DOCS / "pictures" / picture).getroot().tag.endswith("svg")


def test_pages_and_table_link_only_what_exists() -> None:
    for page in (DOCS / "models.md", *PAGES):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"
    for file, paper in TABLE["papers"].items():
        for test in paper.get("tests", [f"tests/models/test_{file}.py"]):
            assert (ROOT / test).is_file(), test
        assert set(paper.get("published", {})) <= set(pw.list_models())
    assert {name for page in PAGES for name in re.findall(r"`(\w+)`", page.read_text())} >= set(
        list_recipes()
    )


@pytest.mark.parametrize("name", CHECKED)
def test_the_pages_tell_the_parameters_of_the_code(name: str) -> None:
    assert takes_classes(name)
    with torch.device("meta"):
        count = sum(p.numel() for p in pw.build(name, 21).parameters())
    millions = re.search(rf"^\| `{name}`(?: on \w+)? \|(?:[^|]*\|){{2}} ([\d.?]+) \|", TEXT, re.M).group(1)
    assert millions in ("?", f"{count / 1e6:.1f}"), "run `make docs`"


def published() -> list[object]:
    entries = [item for paper in TABLE["papers"].values() for item in paper.get("published", {}).items()]
    return [pytest.param(*item, marks=() if item[0] in CHECKED else pytest.mark.slow) for item in entries]


@pytest.mark.parametrize("name, entry", published())
def test_published_counts_are_within_half_a_percent_of_ours(name: str, entry: list[object]) -> None:
    theirs, num_classes, _, *rest = entry
    with torch.device("meta"):
        model = pw.build(name, num_classes or None, **(rest[0] if rest else {}))
    tolerance = 0.06 if len(rest) > 1 else 0.005  # the table says why some differ by more
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(theirs, rel=tolerance)
