"""Write docs/models.md and docs/models/: every model by family, from code, table and measurements.

python docs/measure_models.py && python docs/make_models_pictures.py && python docs/make_models.py
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from measure_models import LONG, file_of, paper_of, scores_pixels

import pixelwise as pw
from pixelwise.paper_recipes import list_recipes, paper_recipe
from pixelwise.registry import describe

DOCS = Path(__file__).parent
TABLE = tomllib.loads((DOCS / "models.toml").read_text())
UNKNOWN = "?"  # not measured yet

OVERVIEW = """# Models

Made by `make docs` from the code, from `docs/models.toml` (published counts and results with their sources)
and from measurements (`docs/models_measured.json`, `bench/`). Every name below is one that
`pixelwise.build` and `pixelwise train --model` take.

![Networks by year and family](pictures/timeline.svg)

| family | networks | names |
|---|---|---|
{families}

## How to read the tables

- **parameters**: millions, of `build(NAME, 21)` with default arguments.
- **published**: what authors or their code have, with the number of classes k, and ours for the same k; "="
  where both are the same number.
- **stride**: pixels of the image per score before the last resizing.
- **field**: side in pixels of what one score depends on, measured by gradient on an image of 1024 pixels
  (`pixelwise.ops.measured_receptive_field`); "all" where pooling, attention or a norm brings the whole image
  to every pixel, "> 1024" where the field is larger than that image.
- **GFLOPs**: of one image of 512 x 512, a multiplication with its addition counted as two.
- **time**: on a CPU at 256 x 256, as a multiple of `unet` on `resnet34`{bench}.
- **results**: mean IoU in percent as the lectures print them, corrected where a remark says so: test sets of
  PASCAL VOC 2012 and Cityscapes, COCO-Stuff. A star means further training data (COCO for VOC, coarse labels
  or other streets for Cityscapes). They are the papers' results, not ours.
- **?**: not measured yet; `python docs/measure_models.py` measures what is missing.
- **proof**: what the tests compare the network with.
- **recipe**: the paper's training, for `pixelwise train --recipe NAME`.

BoxSup (75.1 on VOC 2012) is a way to train, not a network: `python recipes/boxsup.py FOLDER`.

What these pages and the code correct in the lectures: [lectures.md](lectures.md).
"""

FAMILY = """# {title}

Made by `make docs`; [models.md](../models.md) says how to read the tables.

{idea}

![{caption}](../pictures/family_{name}.svg)

*{caption}*

## Networks

| name | paper | task | parameters (M) | published | stride | field | GFLOPs | time |
|---|---|---|---|---|---|---|---|---|
{rows}

## Results and proof

| network | VOC 2012 | Cityscapes | COCO-Stuff | proof | recipe |
|---|---|---|---|---|---|
{results}
{remarks}"""


def family_of(name: str) -> str:
    """Name of the family of a model."""
    return paper_of(name)["family"]


def published(name: str, measured: dict[str, Any]) -> str:
    """The count of the authors beside ours, or nothing."""
    entry = paper_of(name).get("published", {}).get(name)
    if entry is None:
        return ""
    theirs, num_classes, source, *rest = entry
    ours = measured.get("as_published")
    rounded = theirs % 100_000 == 0  # the paper tells millions
    classes = f", k = {num_classes}" if num_classes else ""
    why = f": {rest[1]}" if len(rest) > 1 else ""
    own = UNKNOWN if ours is None else "=" if ours == theirs else f"ours {number(ours, rounded)}"
    return f"{number(theirs, rounded)} ({source}{classes}), {own}{why}"


def number(count: int, rounded: bool) -> str:
    """In millions, or with thin groups of digits."""
    return f"{count / 1e6:.1f} M" if rounded else f"{count:,}".replace(",", " ")


def times() -> tuple[dict[str, str], str]:
    """Time of each model over that of the reference in the latest table of bench/models.py, and its file."""
    tables = sorted((DOCS.parent / "bench").glob("????-??-??-models.md"))
    if not tables:
        return {}, ""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\d.]+) \|", tables[-1].read_text(), re.M)
    return dict(rows), f" ([{tables[-1].stem}](../bench/{tables[-1].name}))"


def row_of(name: str, measured: dict[str, Any], time: str) -> str:
    """One line of the first table of a family."""
    card = describe(name)
    paper = f"[{card.paper.title}]({card.paper.url}), {card.paper.year}"
    encoder = f" on {card.encoder}" if card.encoder else ""
    parameters = f"{measured['parameters'] / 1e6:.1f}" if "parameters" in measured else UNKNOWN
    stride = gflops = field = ""
    if scores_pixels(name):
        stride = f"{measured['stride']:g}" if "stride" in measured else UNKNOWN
        gflops = f"{measured['gflops']:.1f}" if "gflops" in measured else UNKNOWN
        seen = measured.get("receptive_field")
        field = UNKNOWN if seen is None else str(seen) if seen < LONG else f"> {LONG}"
        if paper_of(name).get("global"):
            field = "all"
    # Every network for images serves slices of volumes, too.
    tasks = ", ".join(task for task in card.tasks if task != "volume_slices")
    cells = (
        f"`{name}`{encoder}", paper, tasks, parameters, published(name, measured), stride,
        field, gflops, time,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def results_of(file: str, recipes: dict[str, list[str]]) -> str:
    """One line of the second table: results that the lectures print, tests, recipes."""
    paper = TABLE["papers"][file]
    tests = paper.get("tests", [f"tests/models/test_{file}.py"])
    links = ", ".join(f"[{Path(test).stem}](../../{test})" for test in tests)
    results = " | ".join(paper.get(data, "") for data in ("voc", "cityscapes", "coco_stuff"))
    named = ", ".join(f"`{name}`" for name in recipes.get(file, []))
    return f"| {paper['short']} | {results} | {paper['proof']} ({links}) | {named} |"


def page(family: str, names: list[str], rows: dict[str, Any], times: dict[str, str]) -> str:
    """The page of one family."""
    recipes: dict[str, list[str]] = {}
    for recipe in list_recipes():
        recipes.setdefault(file_of(paper_recipe(recipe).settings["model"]), []).append(recipe)
    files = [file for file, paper in TABLE["papers"].items() if paper["family"] == family]
    names = sorted(names, key=lambda name: (files.index(file_of(name)), name))
    remarks = [
        f"- {TABLE['papers'][file]['short']}: {TABLE['papers'][file]['remark']}"
        for file in files
        if "remark" in TABLE["papers"][file]
    ]
    about = TABLE["families"][family]
    return FAMILY.format(
        **about,
        name=family,
        rows="\n".join(row_of(name, rows.get(name, {}), times.get(name, "")) for name in names),
        results="\n".join(results_of(file, recipes) for file in files),
        remarks="\n" + "\n".join(remarks) + "\n" if remarks else "",
    )


def main() -> None:
    """Write the pages."""
    rows = json.loads((DOCS / "models_measured.json").read_text())
    relative, bench = times()
    by_family: dict[str, list[str]] = {family: [] for family in TABLE["families"]}
    for name in pw.list_models():
        by_family[family_of(name)].append(name)
    lines = []
    (DOCS / "models").mkdir(exist_ok=True)
    for family, names in by_family.items():
        (DOCS / "models" / f"{family}.md").write_text(page(family, names, rows, relative))
        networks = sum(paper["family"] == family for paper in TABLE["papers"].values())
        told = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| [{TABLE['families'][family]['title']}](models/{family}.md) | {networks} | {told} |")
    (DOCS / "models.md").write_text(OVERVIEW.format(families="\n".join(lines), bench=bench))


if __name__ == "__main__":
    main()
