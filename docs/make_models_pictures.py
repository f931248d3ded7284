"""Draw docs/pictures/timeline.svg and docs/pictures/family_NAME.svg, one idea for each family of networks.

python docs/make_models_pictures.py           # all
python docs/make_models_pictures.py png       # as PNG beside them, to look at
"""

import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

matplotlib.use("svg")
matplotlib.rcParams.update({"font.size": 11, "svg.hashsalt": "pixelwise", "font.family": "DejaVu Sans"})
DOCS = Path(__file__).parent
TABLE = tomllib.loads((DOCS / "models.toml").read_text())
COLORS = dict(
    zip(
        TABLE["families"],
        (
            "#4C72B0", "#C44E52", "#55A868", "#DD8452", "#8172B3", "#937860", "#2A9D8F", "#8C8C8C", "#3A6B35",
            "#B5548E",
        ),
        strict=True,
    )
)  # fmt: skip
BLUE, RED, GREEN, ORANGE, GREY = "#4C72B0", "#C44E52", "#55A868", "#DD8452", "#9A9A9A"
FIRST = 2013  # earlier papers stand in this year
Point = tuple[float, float]


# --- what pictures are made of ---------------------------------------------------------------------------


def canvas(width: float, height: float) -> Axes:
    """An empty drawing of `width` x `height` units; a page shows it 700 pixels wide."""
    _, axes = plt.subplots(figsize=(9, 9 * height / width))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    axes.figure.subplots_adjust(0, 0, 1, 1)
    return axes


def box(
    axes: Axes, x: float, y: float, w: float, h: float, color: str, text: str = "", below: str = ""
) -> None:
    """A box with its lower left corner at x, y; a text in it, and one below."""
    axes.add_patch(Rectangle((x, y), w, h, facecolor=color, edgecolor="black", lw=0.8, alpha=0.85))
    axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", color="white", weight="bold")
    axes.text(x + w / 2, y - 0.12, below, ha="center", va="top")


def arrow(axes: Axes, start: Point, end: Point, color: str = "black", bend: float = 0.0) -> None:
    """From one point to another; bent by a share of its length."""
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, color=color, connectionstyle=style, lw=1.3
        )
    )


def plus(axes: Axes, x: float, y: float, sign: str = "+") -> None:
    """A small circle with a sign of an operation."""
    axes.plot(x, y, "o", ms=17, mfc="white", mec="black")
    axes.text(x, y - 0.02, sign, ha="center", va="center", size=13)


def grid(axes: Axes, x: float, y: float, count: int, cell: float, colors: dict[tuple[int, int], str]) -> None:
    """Cells of an image, some of them coloured, by row from the top and column."""
    for row in range(count):
        for column in range(count):
            place = x + column * cell, y + (count - 1 - row) * cell
            color = colors.get((row, column), "white")
            axes.add_patch(Rectangle(place, cell, cell, facecolor=color, edgecolor="#BBBBBB", lw=0.5))


# --- one idea for each family -----------------------------------------------------------------------------


def convolutional() -> None:
    """FCN-8s."""
    axes = canvas(12, 5.6)
    heights = (3.2, 1.6, 1.1, 0.8, 0.55, 0.55)
    names = ("image", "pool3\n1/8", "pool4\n1/16", "pool5\n1/32", "fc6, fc7\nas conv.", "scores")
    left = (0.3, 1.9, 3.1, 4.3, 5.5, 6.9)
    colors = (GREY, BLUE, BLUE, BLUE, ORANGE, GREEN)
    for i, (x, h) in enumerate(zip(left, heights, strict=True)):
        box(axes, x, 3.6 - h / 2, 0.9 if i != 0 else 1.2, h, colors[i])
        axes.text(x + (0.6 if i == 0 else 0.45), 3.6 - h / 2 - 0.1, names[i], ha="center", va="top")
        if i:
            arrow(axes, (left[i - 1] + (1.2 if i == 1 else 0.9), 3.6), (x, 3.6))
    plus(axes, 8.6, 3.6)
    plus(axes, 9.8, 3.6)
    arrow(axes, (7.8, 3.6), (8.35, 3.6))
    arrow(axes, (8.85, 3.6), (9.55, 3.6))
    arrow(axes, (10.05, 3.6), (10.7, 3.6))
    axes.text(8.08, 3.78, "x2", ha="center")
    axes.text(9.2, 3.78, "x2", ha="center")
    axes.text(10.37, 3.78, "x8", ha="center")
    box(axes, 10.7, 2.0, 1.0, 3.2, GREEN, "", "labels")
    for x, meets, y, name in ((3.55, 8.6, 1.4, "scores of pool4"), (2.35, 9.8, 0.6, "scores of pool3")):
        axes.plot([x, x, meets], [2.1, y, y], color="black", lw=1.3)
        arrow(axes, (meets, y - 0.02), (meets, 3.33))
        axes.text(6.4, y + 0.1, f"{name} by a 1x1 convolution", ha="center")


def encoder_decoder() -> None:
    """U-Net."""
    axes = canvas(12, 5.8)
    for level, (channels, h) in enumerate(zip((64, 128, 256, 512), (1.0, 0.8, 0.65, 0.5), strict=True)):
        y, left, right = 4.3 - 1.15 * level, 0.7 + 1.05 * level, 9.9 - 1.05 * level
        box(axes, left, y, 1.4, h, BLUE, f"{channels}")
        box(axes, right, y, 1.4, h, GREEN, f"{channels}")
        arrow(axes, (left + 1.45, y + h / 2), (right - 0.05, y + h / 2), GREY)
        following = 4.3 - 1.15 * (level + 1)
        top = following + (0.8, 0.65, 0.5, 0.5)[level]
        if level < 3:
            arrow(axes, (left + 1.2, y), (left + 1.2, top), RED)
            arrow(axes, (right + 0.2, top), (right + 0.2, y), ORANGE)
    box(axes, 5.3, 0.1, 1.4, 0.45, BLUE, "1024")
    arrow(axes, (4.7, 0.85), (5.3, 0.4), RED)
    arrow(axes, (6.7, 0.4), (7.4, 0.85), ORANGE)
    axes.text(1.4, 5.4, "image", ha="center")
    axes.text(10.6, 5.4, "scores", ha="center")
    axes.text(6, 4.92, "copy", ha="center", color="#555555")
    axes.text(0.6, 2.4, "halve", color=RED)
    axes.text(10.4, 2.4, "double", color=ORANGE)


def top_down() -> None:
    """A feature pyramid."""
    axes = canvas(12, 5.4)
    widths = (3.2, 2.4, 1.7, 1.1)
    for level, w in enumerate(widths):
        y = 0.5 + 1.2 * level
        box(axes, 2.4 - w / 2, y, w, 0.6, BLUE, f"c{level + 2}")
        box(axes, 8.0 - w / 2, y, w, 0.6, GREEN, f"1/{4 * 2**level}")
        arrow(axes, (2.4 + w / 2, y + 0.3), (8.0 - w / 2, y + 0.3), GREY)
        if level < 3:
            arrow(axes, (2.4, y + 0.6), (2.4, y + 1.2), RED)
            arrow(axes, (8.0, y + 1.2), (8.0, y + 0.6), ORANGE)
            axes.text(8.15, y + 0.9, "x2, and add", va="center")
    axes.text(2.4, 0.3, "encoder", ha="center", va="top")
    axes.text(8.0, 0.3, "top-down path", ha="center", va="top")
    arrow(axes, (9.6, 0.8), (10.4, 0.8))
    axes.text(10.5, 0.8, "scores", va="center")
    axes.text(5.1, 4.52, "1x1, large kernel,", ha="center", va="bottom", color="#555555")
    axes.text(5.1, 4.3, "gate, ...", ha="center", va="top", color="#555555")


def dilation() -> None:
    """Rates, and bins of a pyramid."""
    axes = canvas(12, 5.0)
    for i, rate in enumerate((1, 2, 4)):
        x = 0.2 + 2.35 * i
        taps = {(4 + a * rate, 4 + b * rate): BLUE for a in (-1, 0, 1) for b in (-1, 0, 1)}
        grid(axes, x, 1.7, 9, 0.24, taps | {(4, 4): RED})
        axes.text(x + 1.08, 1.55, f"rate {rate}\nsees {2 * rate + 1} x {2 * rate + 1}", ha="center", va="top")
    axes.text(3.6, 4.3, "dilated convolution", ha="center", weight="bold")
    for i, bins in enumerate((1, 2, 3, 6)):
        x = 7.45 + 1.15 * i
        grid(axes, x, 2.2, bins, 0.96 / bins, {(r, c): GREEN for r in range(bins) for c in range(bins)})
        axes.text(x + 0.48, 2.05, f"{bins} x {bins}", ha="center", va="top")
    axes.text(9.7, 4.3, "pyramid pooling", ha="center", weight="bold")
    axes.text(9.7, 1.2, "means of the cells, enlarged\nand put beside the map", ha="center", va="top")


def attention() -> None:
    """Whom a pixel asks."""
    axes = canvas(12, 4.6)
    here = (3, 2)
    every = {(r, c): "#AEC3E3" for r in range(8) for c in range(8)}
    cross = {(3, c): "#AEC3E3" for c in range(8)} | {(r, 2): "#AEC3E3" for r in range(8)}
    for x, cells, name in ((0.4, every, "every pixel"), (4.3, cross, "row and column, twice")):
        grid(axes, x, 1.1, 8, 0.33, cells | {here: RED})
        axes.text(x + 1.32, 0.95, name, ha="center", va="top")
    grid(axes, 8.1, 1.6, 5, 0.33, {here: RED})
    for k in range(4):
        box(axes, 10.9, 1.25 + 0.55 * k, 0.8, 0.35, GREEN)
        arrow(axes, (9.0, 2.1), (10.85, 1.42 + 0.55 * k), GREY)
    axes.text(9.9, 0.95, "K vectors", ha="center", va="top")
    axes.text(6, 4.2, "what the red pixel looks at, and adds to itself", ha="center", weight="bold")


def fields() -> None:
    """An iteration of mean field."""
    axes = canvas(12, 4.4)
    names = ("softmax", "filter by place\nand colour", "mix labels", "add the\nscores")
    for i, name in enumerate(names):
        x = 1.9 + 2.35 * i
        box(axes, x, 2.1, 1.9, 1.0, (GREEN, BLUE, ORANGE, RED)[i])
        axes.text(x + 0.95, 2.6, name, ha="center", va="center", color="white", weight="bold", size=10)
        arrow(axes, (x - 0.45, 2.6), (x, 2.6))
    arrow(axes, (10.85, 2.6), (11.3, 2.6))
    axes.text(11.35, 2.6, "labels", va="center", size=10)
    axes.text(0.2, 2.6, "scores of\nthe network", va="center", size=10)
    axes.plot([11.05, 11.05, 1.65], [2.6, 3.7, 3.7], color="black", lw=1.3)
    arrow(axes, (1.65, 3.72), (1.65, 2.65))
    axes.text(6.2, 3.85, "5 to 10 times", ha="center")
    axes.text(4.25 + 0.95, 0.7, "image", ha="center", va="top")
    arrow(axes, (5.2, 0.8), (5.2, 2.1))
    axes.plot([0.9, 0.9, 9.9], [2.1, 0.25, 0.25], color=GREY, lw=1.3)
    arrow(axes, (9.9, 0.24), (9.9, 2.1), GREY)


def streams() -> None:
    """HRNet."""
    axes = canvas(12, 5.0)
    starts = (0.6, 3.0, 5.4, 7.8)
    for level, h in enumerate((0.8, 0.6, 0.45, 0.3)):
        y = 3.7 - 1.05 * level
        for stage in range(level, 4):
            box(axes, starts[stage] + 0.3, y, 1.1, h, (BLUE, GREEN, ORANGE, RED)[level])
        axes.text(9.75, y + h / 2, f"1/{4 * 2**level}", va="center")
    middle = [3.7 - 1.05 * level + h / 2 for level, h in enumerate((0.8, 0.6, 0.45, 0.3))]
    for stage in range(3):
        x = starts[stage] + 1.45
        for i in range(stage + 1):
            for j in range(stage + 2):
                arrow(axes, (x, middle[i]), (starts[stage + 1] + 0.25, middle[j]), GREY)
    for stage, x in enumerate(starts):
        axes.text(x + 0.85, 4.75, f"stage {stage + 1}", ha="center")
    axes.text(10.75, 2.0, "all four,\nenlarged:\nscores", ha="left", va="center", size=10)


def small() -> None:
    """A separable convolution."""
    axes = canvas(12, 4.4)
    axes.text(2.6, 4.0, "3x3 convolution", ha="center", weight="bold")
    axes.text(8.4, 4.0, "3x3 per channel, then 1x1", ha="center", weight="bold")
    for x, count in ((0.9, 5), (3.6, 5), (5.9, 5), (8.0, 5), (10.4, 5)):
        for channel in range(count):
            box(
                axes,
                x,
                0.9 + 0.55 * channel,
                0.7,
                0.4,
                BLUE if x in (0.9, 5.9) else GREEN if x != 8.0 else ORANGE,
            )
    for i in range(5):
        y = 1.1 + 0.55 * i
        arrow(axes, (6.6, y), (8.0, y), RED)
        for j in range(5):
            z = 1.1 + 0.55 * j
            axes.plot([1.6, 3.6], [y, z], color=RED, lw=1.2)
            axes.plot([8.7, 10.4], [y, z], color=GREY, lw=0.7)
    axes.text(2.6, 0.6, "every output sees 3x3\nof every input", ha="center", va="top")
    axes.text(7.3, 0.6, "3x3 of one", ha="center", va="top")
    axes.text(9.6, 0.6, "1x1 of all", ha="center", va="top")


def transformers() -> None:
    """Patches as tokens, and queries that give masks."""
    axes = canvas(12, 6.4)
    axes.set_ylim(-0.3, 6.1)
    grid(axes, 0.3, 3.9, 4, 0.45, {(i, i): BLUE for i in range(4)})
    axes.text(1.2, 3.75, "patches", ha="center", va="top")
    arrow(axes, (2.2, 4.8), (2.9, 4.8))
    for i in range(9):
        box(axes, 3.0, 3.6 + 0.27 * i, 0.3, 0.22, BLUE)
    axes.text(3.15, 3.5, "tokens", ha="center", va="top")
    for i in range(3):
        arrow(axes, (3.4 + 1.5 * i, 4.8), (3.9 + 1.5 * i, 4.8))
        box(axes, 3.9 + 1.5 * i, 4.0, 1.0, 1.6, ORANGE, "attend")
    arrow(axes, (7.9, 4.8), (8.5, 4.8))
    grid(axes, 8.6, 3.9, 4, 0.45, {(i, j): BLUE for i in range(4) for j in range(4)})
    axes.text(9.5, 3.75, "map of 1/16", ha="center", va="top")
    arrow(axes, (10.5, 4.8), (11.0, 4.8))
    axes.text(11.5, 4.8, "scores", ha="center", va="center")
    for i in range(4):
        box(axes, 0.5, 0.55 + 0.5 * i, 1.0, 0.35, RED)
    axes.text(1.0, 0.4, "queries", ha="center", va="top")
    arrow(axes, (1.6, 1.5), (2.3, 1.5))
    box(axes, 2.3, 0.7, 1.9, 1.6, ORANGE, "attend to\nthe image")
    arrow(axes, (4.2, 2.0), (5.0, 2.0))
    axes.text(5.1, 2.0, "a class for each, or none", va="center")
    arrow(axes, (4.2, 1.0), (5.3, 1.0))
    plus(axes, 5.6, 1.0, "x")
    grid(axes, 6.6, 0.4, 4, 0.32, {(i, j): BLUE for i in range(4) for j in range(4)})
    axes.text(7.25, 0.3, "pixels", ha="center", va="top")
    arrow(axes, (6.5, 1.0), (5.9, 1.0))
    axes.plot([5.6, 5.6, 8.2, 8.2], [0.75, -0.15, -0.15, 0.7], color="black", lw=1.3)
    arrow(axes, (8.15, 0.7), (8.6, 0.7))
    for k, cells in enumerate(({(0, 0), (0, 1), (1, 0)}, {(2, 1), (2, 2), (3, 1), (3, 2)}, {(1, 3), (2, 3)})):
        grid(axes, 8.6 + 1.15 * k, 0.2, 4, 0.25, dict.fromkeys(cells, (GREEN, RED, BLUE)[k]))
    axes.text(10.2, 1.4, "a mask for each", ha="center")


def objects() -> None:
    """Mask R-CNN."""
    axes = canvas(12, 4.6)
    box(axes, 0.2, 1.4, 1.9, 1.9, GREY, "image")
    box(axes, 2.9, 1.7, 1.3, 1.3, BLUE, "maps")
    box(axes, 4.9, 3.3, 1.6, 0.8, ORANGE, "proposals")
    arrow(axes, (2.1, 2.35), (2.9, 2.35))
    arrow(axes, (4.2, 2.7), (4.9, 3.5))
    grid(axes, 7.3, 1.6, 7, 0.22, {(r, c): "#CFE3D4" for r in range(7) for c in range(7)})
    arrow(axes, (4.2, 2.2), (7.25, 2.2))
    arrow(axes, (6.5, 3.6), (7.9, 3.2))
    axes.text(8.07, 1.5, "7 x 7 or 14 x 14\nfor each box", ha="center", va="top")
    axes.text(5.7, 1.95, "RoIAlign", ha="center", va="top")
    for y, name in ((3.5, "class, box"), (2.1, "mask"), (0.7, "key points")):
        box(axes, 10.0, y, 1.8, 0.65, GREEN, name)
        arrow(axes, (8.9, 2.35), (9.95, y + 0.33))


# --- the field over the years ------------------------------------------------------------------------------


def timeline() -> None:
    """Networks by year of their first publication and by family."""
    entries: dict[tuple[str, int], list[str]] = {}
    for file, paper in TABLE["papers"].items():
        year = max(import_module(f"pixelwise.models.{file}").PAPER.year, FIRST)
        if not paper["short"].startswith("SMP"):
            entries.setdefault((paper["family"], year), []).append(paper["short"])
    years = sorted({year for _, year in entries})
    heights = {
        family: max(len(entries.get((family, year), [])) for year in years) for family in TABLE["families"]
    }
    line, column, left = 0.4, 1.32, 2.7
    total = sum(max(count, 2) for count in heights.values()) * line + 0.25 * len(heights) + 0.6
    axes = canvas(left + column * len(years), total)
    for i, year in enumerate(years):
        told = f"{year}" if i else f"to {FIRST}"
        axes.text(left + column * (i + 0.5), total - 0.35, told, ha="center", weight="bold")
    top = total - 0.55
    for family, count in heights.items():
        bottom = top - max(count, 2) * line - 0.25
        axes.add_patch(
            Rectangle(
                (0, bottom),
                left + column * len(years),
                top - bottom - 0.05,
                facecolor=COLORS[family],
                alpha=0.16,
            )
        )
        words = TABLE["families"][family]["title"].split()
        axes.text(
            0.08,
            (top + bottom) / 2,
            wrapped(words, 20),
            va="center",
            size=8,
            weight="bold",
            color=COLORS[family],
        )
        for i, year in enumerate(years):
            for k, short in enumerate(entries.get((family, year), [])):
                axes.text(
                    left + column * (i + 0.5),
                    top - 0.12 - line * (k + 0.5),
                    short,
                    ha="center",
                    va="center",
                    size=7.5,
                )
        top = bottom


def wrapped(words: list[str], width: int) -> str:
    """Words in lines of at most so many letters."""
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


FAMILIES: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        convolutional, encoder_decoder, top_down, dilation, attention, fields, streams, small, transformers,
        objects,
    )
}  # fmt: skip


def main() -> None:
    """Draw all pictures."""
    suffix = "png" if sys.argv[1:] == ["png"] else "svg"
    drawings = {"timeline": timeline} | {f"family_{name}": draw for name, draw in FAMILIES.items()}
    for name, draw in drawings.items():
        draw()
        where = DOCS / "pictures" / f"{name}.{suffix}"
        plt.savefig(where, dpi=78, metadata={"Date": None} if suffix == "svg" else None, facecolor="white")
        plt.close()


if __name__ == "__main__":
    main()
