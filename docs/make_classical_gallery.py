"""Write docs/classical.md and docs/pictures/classical: every classical method on the same four images.

    python docs/make_classical_gallery.py [NAME ...]

With names (such as `kmeans` or `mrf-icm`) only those pictures are made and the page stays as it is. The
images come with scikit-image.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage import data

from pixelwise.algorithms import GridEnergy, Segmentation
from pixelwise.algorithms.by_name import segment_image
from pixelwise.algorithms.clusters_in_fields import cluster_costs
from pixelwise.draw import OUTLINE

HEIGHT, SHOWN = 256, 176  # pixels: of the images that are segmented, and of the pictures on the page
PICTURES = Path(__file__).parent / "pictures" / "classical"
Look = Literal["means", "outlines", "foreground"]
Line = tuple[tuple[int, int], ...]


class Scene(NamedTuple):
    """An image "256 w 3" or "256 w", and what a person says about its foreground."""

    image: np.ndarray
    box: tuple[int, int, int, int]
    foreground: tuple[Line, ...]  # lines through (x, y)
    background: tuple[Line, ...]

    @property
    def strokes(self) -> np.ndarray:
        """The lines as 0 background, 1 foreground, 2 unknown."""
        canvas = Image.new("L", self.image.shape[1::-1], 2)
        pen = ImageDraw.Draw(canvas)
        for value, lines in ((1, self.foreground), (0, self.background)):
            for line in lines:
                pen.line(line, value, width=6)
        return np.asarray(canvas).astype(np.int64)


class Show(NamedTuple):
    """A method with settings."""

    name: str
    title: str
    method: str
    text: str
    look: Look
    options: Mapping[str, object] = {}
    needs: Literal["", "box", "strokes"] = ""


def scenes() -> dict[str, Scene]:
    """The four images."""

    def loaded(name: str) -> np.ndarray:
        image = Image.fromarray(getattr(data, name)())
        return np.asarray(
            image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.BOX)
        )

    return {
        "astronaut": Scene(
            loaded("astronaut"),
            (6, 6, 254, 256),
            (((108, 22), (110, 70), (104, 108)), ((30, 160), (60, 240), (150, 200)),
             ((200, 230), (235, 220))),
            (((150, 12), (205, 14), (200, 120)), ((8, 20), (50, 60)), ((165, 110), (245, 160)),
             ((60, 8), (66, 60))),
        ),
        "coffee": Scene(
            loaded("coffee"),
            (40, 4, 312, 254),
            (((75, 90), (75, 150), (130, 222), (240, 215)), ((125, 45), (150, 110), (215, 118)),
             ((234, 185), (258, 60))),
            (((8, 8), (8, 250)), ((60, 250), (90, 252)), ((376, 8), (340, 120), (340, 250)),
             ((90, 6), (30, 40))),
        ),
        "chelsea": Scene(
            loaded("chelsea"),
            (14, 0, 330, 256),
            (((60, 40), (90, 160), (180, 235)), ((150, 90), (250, 60)), ((230, 210), (280, 130)),
             ((270, 10), (318, 30))),
            (((350, 70), (330, 170), (370, 240)), ((8, 40), (8, 110))),
        ),
        "coins": Scene(
            loaded("coins"),
            (8, 6, 322, 250),
            (((30, 46), (44, 46)), ((124, 41), (136, 41)), ((284, 158), (304, 158)), ((30, 220), (44, 220)),
             ((220, 100), (234, 100)), ((172, 162), (186, 162))),
            (((10, 74), (255, 74)), ((10, 134), (255, 134)), ((10, 190), (255, 190)), ((66, 14), (250, 12)),
             ((322, 4), (322, 250))),
        ),
    }  # fmt: skip


SHOWS = (
    Show("kmeans", "k-means", "kmeans", "Eight clusters of colours (Lab), each in its mean colour.", "means",
         {"segments": 8}),
    Show("kmeans-xyrgb", "k-means in XYRGB", "kmeans", "Colour and position: a pixel of distance counts 0.4.",
         "means", {"segments": 60, "position": 0.4}),
    Show("kmeans-merged", "k-means, then merging", "kmeans",
         "Connected parts of the eight clusters, merged while their means differ by less than 12.",
         "outlines", {"segments": 8, "merge": 12.0, "min_size": 60}),
    Show("mini_batch_kmeans", "mini-batch k-means", "mini_batch_kmeans", "scikit-learn's.", "means",
         {"segments": 8}),
    Show("mean_shift", "mean shift", "mean_shift", "Regions of pixels that climb to the same mode.",
         "outlines"),
    Show("dirichlet_gibbs", "Dirichlet process, collapsed Gibbs", "dirichlet_gibbs",
         "Finds the number of clusters itself; 10 sweeps.", "means", {"further": {"sweeps": 10}}),
    Show("dirichlet_variational", "Dirichlet process, variational", "dirichlet_variational",
         "At most 10 clusters; scikit-learn's fit.", "means", {"segments": 10}),
    Show("normalized_cuts", "normalised cuts", "ncut",
         "Of a graph of about 300 superpixels, cut in two again and again while Ncut < 0.1.", "outlines"),
    Show("normalized_cuts-6", "normalised cuts, six at once", "ncut",
         "k-means of the first six eigenvectors.", "outlines", {"segments": 6}),
    Show("slic", "SLIC", "slic", "250 superpixels; scikit-image's.", "outlines", {"segments": 250}),
    Show("felzenszwalb", "Felzenszwalb and Huttenlocher", "felzenszwalb", "scale 200; scikit-image's.",
         "outlines", {"further": {"scale": 200.0, "min_size": 50}}),
    Show("watershed", "watershed", "watershed", "From the 100 lowest minima of the gradient; scikit-image's.",
         "outlines", {"segments": 100}),
    Show("otsu", "Otsu", "otsu", "Three levels of brightness; scikit-image's.", "means", {"segments": 3}),
    Show("graph_cut", "graph cut", "graph_cut",
         "From strokes: green on the foreground, blue on the background.", "foreground", {}, "strokes"),
    Show("random_walker", "random walker", "random_walker", "From the same strokes; scikit-image's.",
         "foreground", {}, "strokes"),
    Show("grabcut", "GrabCut", "grabcut", "From a box.", "foreground", {}, "box"),
    Show("dense_crf", "fully connected CRF", "dense_crf", "Six clusters of k-means, then 10 iterations.",
         "means", {"segments": 6}),
    *(
        Show(f"mrf-{solver}", title, "mrf", text, "means", {"segments": 6, "solver": solver})
        for solver, title, text in (
            ("alpha_expansion", "alpha-expansion", "Deterministic moves by minimum cuts."),
            ("alpha_beta_swap", "alpha-beta swap", "Likewise, two labels at a time."),
            ("icm", "iterated conditional modes", "One pixel at a time, downhill."),
            ("belief_propagation", "belief propagation", "Max-product, 50 sweeps."),
            ("tree_reweighted", "tree-reweighted message passing", "With a lower bound, 50 sweeps."),
            ("mean_field", "mean field", "50 sweeps."),
            ("metropolis_hastings", "Metropolis-Hastings", "200 sweeps."),
            ("gibbs", "Gibbs sampling", "200 sweeps."),
            ("simulated_annealing", "simulated annealing", "200 sweeps of falling temperature."),
        )
    ),
)  # fmt: skip


def run(show: Show, scene: Scene) -> tuple[Segmentation, float]:
    """A segmentation and the seconds of processor time it took."""
    needed = {"box": {"box": scene.box}, "strokes": {"strokes": scene.strokes}, "": {}}[show.needs]
    start = time.process_time()
    found = segment_image(scene.image, show.method, **show.options, **needed)
    return found, time.process_time() - start


def drawn(show: Show, scene: Scene, found: Segmentation) -> Image.Image:
    """What is shown of a segmentation."""
    image = scene.image if scene.image.ndim == 3 else np.repeat(scene.image[..., None], 3, axis=2)
    labels = found.label_map.labels.numpy()
    picture = image.copy()
    if show.look == "means":
        flat = labels.ravel()
        counts = np.maximum(np.bincount(flat), 1)
        for c in range(3):
            means = np.bincount(flat, image[..., c].ravel()) / counts
            picture[..., c] = np.rint(means)[labels]
    elif show.look == "foreground":
        picture[labels == 0] = 255 - (255 - picture[labels == 0]) // 4
    width = round(image.shape[1] * SHOWN / HEIGHT)
    small = np.asarray(Image.fromarray(picture).resize((width, SHOWN), Image.Resampling.BOX)).copy()
    if show.look != "means":
        rows, columns = np.arange(SHOWN) * HEIGHT // SHOWN, np.arange(width) * image.shape[1] // width
        there = labels[rows][:, columns]
        borders = np.zeros(there.shape, bool)
        borders[1:] |= there[1:] != there[:-1]
        borders[:, 1:] |= there[:, 1:] != there[:, :-1]
        small[borders] = OUTLINE if show.look == "outlines" else (220, 0, 80)
    result = Image.fromarray(small)
    pen, factor = ImageDraw.Draw(result), SHOWN / HEIGHT
    if show.needs == "box":
        pen.rectangle([x * factor - (i > 1) for i, x in enumerate(scene.box)], outline=(0, 90, 255), width=2)
    if show.needs == "strokes":
        for color, lines in (((0, 170, 0), scene.foreground), ((0, 90, 255), scene.background)):
            for line in lines:
                pen.line([(x * factor, y * factor) for x, y in line], color, width=4)
    return result


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Pictures in a row."""
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + 4 * (len(pictures) - 1), SHOWN), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + 4
    return sheet


def command(show: Show) -> str:
    """The same on the command line."""
    words = ["pixelwise segment IMAGE --method", show.method]
    for option, value in show.options.items():
        if isinstance(value, dict):
            words += [f"--set {key}={number:g}" for key, number in value.items()]
        else:
            words.append(
                f"--{option.replace('_', '-')} {value:g}" if option != "solver" else f"--solver {value}"
            )
    words += {"box": ["--box L,T,R,B"], "strokes": ["--strokes FILE"], "": []}[show.needs]
    return " ".join(words)


def energies(show: Show, images: dict[str, Scene], found: list[Segmentation]) -> list[float]:
    """The energy of each labelling over the costs of the clusters alone, as the method `mrf` has it."""
    values = []
    for scene, one in zip(images.values(), found, strict=True):
        space = "lab" if scene.image.ndim == 3 else "rgb"
        energy = GridEnergy.contrast_potts(cluster_costs(scene.image, 6, space), scene.image, 5.0)
        values.append(energy.of(one.label_map.labels.numpy()))
    return values


def main() -> None:
    """Make the pictures and the page."""
    torch.set_num_threads(1)
    images, names = scenes(), set(sys.argv[1:])
    PICTURES.mkdir(parents=True, exist_ok=True)
    plain = Show("images", "", "", "", "outlines")
    originals = [
        drawn(plain, s, Segmentation.of(np.zeros(s.image.shape[:2], np.int64))) for s in images.values()
    ]
    strip(originals).save(PICTURES / "images.jpg", quality=80, optimize=True)
    sizes = ", ".join(f"{name} {s.image.shape[1]} x {s.image.shape[0]}" for name, s in images.items())
    rows, pictures, least = [], [], None
    for show in SHOWS:
        if names and show.name not in names:
            continue
        scene = images["coffee"]
        run(show, scene if show.needs else scene._replace(image=scene.image[:64, :64]))  # compiles
        results = [run(show, scene) for scene in images.values()]
        found = [one for one, _ in results]
        path = PICTURES / f"{show.name}.jpg"
        shown = [drawn(show, scene, one) for scene, one in zip(images.values(), found, strict=True)]
        for quality in (75, 65, 55, 45):
            strip(shown).save(path, quality=quality, optimize=True)
            if path.stat().st_size < 60_000:
                break
        print(show.name, *(f"{seconds:.2f}" for _, seconds in results), path.stat().st_size, flush=True)
        numbers = [f"{seconds:.2f} s, {one.num_segments}" for one, seconds in results]
        if show.method == "mrf":
            reached = energies(show, images, found)
            least = least or reached  # of alpha-expansion, which comes first
            numbers = [
                f"{seconds:.2f} s, {100 * (value / best - 1):+.2f} %"
                for (_, seconds), value, best in zip(results, reached, least, strict=True)
            ]
        rows.append((show, f"| [{show.title}](#{anchor(show)}) | " + " | ".join(numbers) + " |"))
        pictures.append(
            f"### {show.title}\n\n{show.text} `{command(show)}`\n\n"
            f"![{show.title} on the four images](pictures/classical/{show.name}.jpg)\n"
        )
    if not names:
        write_page(rows, pictures, sizes)


def anchor(show: Show) -> str:
    """The place of a heading on the page."""
    return "".join(c for c in show.title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def write_page(rows: list[tuple[Show, str]], pictures: list[str], sizes: str) -> None:
    """Write classical.md."""
    head = "| method | astronaut | coffee | chelsea | coins |\n|---|---|---|---|---|\n"
    methods = "\n".join(row for show, row in rows if show.method != "mrf")
    solvers = "\n".join(row for show, row in rows if show.method == "mrf")
    first = next(i for i, (show, _) in enumerate(rows) if show.method == "mrf")
    (PICTURES.parent.parent / "classical.md").write_text(
        f"""# Classical methods

Every method of `pixelwise.algorithms` on the same four images, made by `make docs`. Each is a plain function
(`pixelwise.algorithms.kmeans(image, 8)`), and `pixelwise segment` writes its labels, the outlines and, where
it goes in steps, the energy. Settings are the usual ones but where the command says otherwise, and are the
same for all images; nothing is tuned to look well. How good the methods are beside people:
[classical_quality.md](classical_quality.md).

![The four images](pictures/classical/images.jpg)

They come with scikit-image: the astronaut Eileen Collins (NASA, public domain), coffee (Rachel Michetti,
CC0), Chelsea (Stefan van der Walt, CC0), Greek coins (Brooklyn Museum, no known copyright restrictions); here
of {HEIGHT} rows ({sizes}).

## Time and number of segments

Seconds of processor time in one thread, after compilation. Over other packages: `bench/classical.py`, see
[../bench/README.md](../bench/README.md).

{head}{methods}

The following minimise one energy: the cost of the six clusters of k-means plus contrast-sensitive Potts pairs
of 8 neighbours (`--method mrf`). The second number is how much more energy is left than by alpha-expansion.
(Mean field and the two samplers minimise something else: free energy, or nothing.)

{head}{solvers}

## Pictures

"""
        + "\n".join(pictures[:first])
        + "\n### Random fields on the grid\n\nThe solvers of the second table.\n\n"
        + "\n".join(pictures[first:]).replace("### ", "#### ")
    )


if __name__ == "__main__":
    main()
