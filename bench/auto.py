"""`pixelwise train DIR --budget TIME` against the loops that people write by hand, at equal time.

Both get the same folder, the same wall time on the same cores (imports included, ours with validation and
report) and random weights, each in a process of its own. Both are scored by our metrics on images that
neither has seen, held out by fixed rules. Beside them stands what the best trivial prediction scores: the
commonest class, or Otsu's threshold of two classes. The loops are in `auto_loops.py`:

- Images: SMP with the settings of its tutorials. U-Net on resnet34, Adam with 1e-4, Dice plus (binary)
  cross-entropy, crops of 256, flips to left and right, batches of 8, a random fifth for validation after each
  epoch, the best weights kept.
- Instances (mask AP): torchvision with the settings of its references/detection. Mask R-CNN on resnet50 with
  FPN, images of 800 pixels, SGD with 0.0025 for 2 images (0.02 for 16), momentum 0.9, weight decay 1e-4, a
  warm-up of up to 1000 steps, flips to left and right, a tenth of the rate after 16/26 and 22/26 of the time
  (there of 26 epochs, whose number nobody knows beforehand). The last weights count; its predictions take no
  part of its time.
- Volumes (mean Dice): the plan that nnU-Net 2 makes, as a plain loop on MONAI's DynUNet. This is not the
  package itself, which counts epochs and not time. Patches as large as the median volume, halvings as long as
  4 voxels are left, 32 channels and twice as many at each level up to 320, instance norm and leaky ReLU,
  batches of 2, SGD with 0.01, Nesterov momentum 0.99 and weight decay 3e-5, poly of power 0.9 over the time,
  Dice and cross-entropy with deep supervision, every third step around a structure, turns, scales, noise,
  blur, contrast and mirrors; predictions in overlapping windows with Gaussian weights and mirrored copies,
  which take no part of its time. Its own batch for these volumes would be 9, which makes fewer steps; its
  augmentation has a few changes more, and it turns a copy of the labels to the lower resolutions where this
  loop enlarges the scores.

    python bench/auto.py --data ../shared/data --budget 4m --sets em nuclei camvid pets hippocampus volumes

`--only ours` or `--only peer` runs one of both; the columns of the other are nan. On a machine that others
use too, `--clock processor` under `taskset -c 1` counts time of the processor instead of the wall's: the
budget is then that of a core that nobody else uses, and no processes load images beside.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from auto_loops import all_of
from PIL import Image

import pixelwise as pw
from pixelwise.planning import read_budget
from pixelwise.predict.baselines import baseline_scores
from pixelwise.tasks import get_task
from pixelwise.training.environment import cpu_name

Pairs = Iterator[tuple[str, bool, Image.Image, Image.Image]]  # name, held out, image, mask of class numbers


# --- data: which images are held out ----------------------------------------------------------------


def em(root: Path) -> Pairs:
    """Membranes in slices of one specimen: the last 6 of 24 slices are held out."""
    images = sorted((root / "isbi2012_em" / "images").iterdir())
    for i, path in enumerate(images):
        mask = next((root / "isbi2012_em" / "labels").glob(f"{path.stem}.*"))
        yield path.stem, i >= len(images) - 6, Image.open(path), binary(mask)


def nuclei(root: Path) -> Pairs:
    """Nuclei of many microscopes: every fourth image is held out."""
    for i, path in enumerate(sorted((root / "dsb2018_nuclei" / "images").iterdir())):
        mask = next((root / "dsb2018_nuclei" / "labels").glob(f"{path.stem}.*"))
        yield path.stem, i % 4 == 3, Image.open(path).convert("RGB"), binary(mask)


def camvid(root: Path) -> Pairs:
    """Streets at half size, 11 classes: the validation part, other sequences, is held out."""
    folder = root / "camvid"
    for part in ("train", "val"):
        for line in (folder / f"{part}.txt").read_text().split("\n"):
            if not (name := Path(line.split()[0]).stem if line.split() else ""):
                continue
            image, mask = (
                Image.open(next((folder / kind).rglob(f"{name}.*"))) for kind in ("images", "labels")
            )
            half = (image.width // 2, image.height // 2)
            labels = np.asarray(mask.resize(half, Image.Resampling.NEAREST)).copy()
            labels[labels == 11] = 255
            yield name, part == "val", image.convert("RGB").resize(half), Image.fromarray(labels)


def pets(root: Path) -> Pairs:
    """Cats and dogs: every fourth image is held out."""
    for i, path in enumerate(sorted((root / "oxford_pet_sample" / "images").iterdir())):
        mask = next((root / "oxford_pet_sample" / "labels").glob(f"{path.stem}.*"))
        yield path.stem, i % 4 == 3, Image.open(path).convert("RGB"), Image.open(mask)


def hippocampus(root: Path) -> Pairs:
    """Every fourth slice through the hippocampus, 3 classes: every fifth patient is held out."""
    for i, path in enumerate(sorted((root / "hippocampus_mri" / "images").iterdir())):
        label = next((root / "hippocampus_mri" / "labels").glob(f"{path.name.split('.')[0]}*"))
        volume, mask = (np.asarray(nibabel.Nifti1Image.from_filename(one).dataobj) for one in (path, label))
        scaled = np.clip(volume / np.percentile(volume, 99.5), 0, 1) * 255
        for z in range(2, volume.shape[2], 4):
            slices = (Image.fromarray(one[..., z].astype(np.uint8)) for one in (scaled, mask))
            yield f"{path.name.split('.')[0]}_{z:02}", i % 5 == 4, *slices


def binary(path: Path) -> Image.Image:
    """Whatever is above 0 is foreground."""
    return Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8))


def write_folders(pairs: Pairs, folder: Path) -> tuple[Path, Path]:
    """`train` and `held`, each with images and masks; both have the classes that any mask shows."""
    shown: set[int] = set()
    for name, held, image, mask in pairs:
        for kind, picture in (("images", image), ("masks", mask)):
            target = folder / ("held" if held else "train") / kind
            target.mkdir(parents=True, exist_ok=True)
            picture.save(target / f"{name}.png")
        shown |= set(np.unique(np.asarray(mask)).tolist()) - {255}
    names = [f"class {i}" for i in range(max(shown) + 1)]
    for part in ("train", "held"):
        (folder / part / "classes.json").write_text(json.dumps({"names": names}))
    return folder / "train", folder / "held"


def fruits(root: Path, folder: Path) -> tuple[Path, Path]:
    """Fruits and nuts, 3 classes of instances: every third photograph is held out."""
    known = json.loads((root / "fruits_nuts" / "open" / "trainval_dev.json").read_text())
    for part in ("train", "held"):
        (folder / part / "images").mkdir(parents=True)
        images = [one for i, one in enumerate(known["images"]) if (i % 3 == 2) == (part == "held")]
        inside = {one["id"] for one in images}
        told = [one for one in known["annotations"] if one["image_id"] in inside]
        for one in images:
            shutil.copy(root / "fruits_nuts" / "images" / one["file_name"], folder / part / "images")
        content = {"images": images, "annotations": told, "categories": known["categories"]}
        (folder / part / "instances.json").write_text(json.dumps(content))
    return folder / "train", folder / "held"


def volumes(root: Path, folder: Path) -> tuple[Path, Path]:
    """Volumes of the hippocampus, 3 classes: every fifth patient is held out."""
    for i, path in enumerate(sorted((root / "hippocampus_mri" / "images").iterdir())):
        label = next((root / "hippocampus_mri" / "labels").glob(f"{path.name.split('.')[0]}*"))
        for kind, file in (("images", path), ("labels", label)):
            target = folder / ("held" if i % 5 == 4 else "train") / kind
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return folder / "train", folder / "held"


@dataclass(frozen=True)
class Set:
    """A set of the table.

    Attributes:
        write: from the folder of all data to `train` and `held` in an empty folder.
        peer: name of the loop.
        task: what is learnt.
    """

    write: Callable[[Path, Path], tuple[Path, Path]]
    peer: str = "smp"
    task: str = "semantic"


def of_pairs(pairs: Callable[[Path], Pairs]) -> Set:
    """A set of images and masks."""
    return Set(lambda root, folder: write_folders(pairs(root), folder))


SETS = {
    "em": of_pairs(em),
    "nuclei": of_pairs(nuclei),
    "camvid": of_pairs(camvid),
    "pets": of_pairs(pets),
    "hippocampus": of_pairs(hippocampus),
    "volumes": Set(volumes, "nnunet", "volume"),
    "fruits": Set(fruits, "torchvision", "instance"),
}


# --- both in turn -----------------------------------------------------------------------------------


_OF_PROCESSOR = """
import runpy, sys, time
time.monotonic = time.process_time
del sys.argv[0]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*words: object, clock: str = "wall") -> str:
    """What a command of Python prints; with the clock "processor", its time is what it used of processors.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    before = ["-c", _OF_PROCESSOR] if clock == "processor" else []
    command = [sys.executable, *before, *map(str, words)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def now(clock: str) -> float:
    """Seconds: by the wall, or of processors in the commands that have ended."""
    return sum(os.times()[2:4]) if clock == "processor" else time.monotonic()


def trivial(train: Path, held: Path, name: str) -> float:
    """The best score that a trivial prediction has on the held-out images; nan where there is none."""
    task = get_task(name)
    scores = baseline_scores(all_of(train, name), all_of(held, name), task, task.scoring)
    return max(scores.values(), default=float("nan"))


def by_hand(one: Set, train: Path, held: Path, out: Path, seconds: float, seed: int, clock: str) -> float:
    """The score of a loop on the held-out images."""
    loop = Path(__file__).with_name("auto_loops.py")
    print(run(loop, one.peer, train, held, out, seconds, seed, clock=clock).strip(), file=sys.stderr)
    if one.task == "instance":
        return float(json.loads((out / "score.json").read_text())["mask_ap"])
    return pw.evaluate(out, all_of(held, one.task), task=one.task)[get_task(one.task).monitor]


def by_pixelwise(
    one: Set, train: Path, held: Path, out: Path, budget: str, seed: int, clock: str
) -> tuple[float, float, float]:
    """The score of a planned training on the held-out images, its seconds, and the score that it promised."""
    began = now(clock)
    options = ["--task", one.task, "--budget", budget, "--seed", seed, "--out", out]
    options += ["--workers", 0] if clock == "processor" else []
    run("-m", "pixelwise", "train", train, *options, clock=clock)
    took = now(clock) - began
    monitor = get_task(one.task).monitor
    told = json.loads(run("-m", "pixelwise", "evaluate", out, train, "--json"))[monitor]
    return pw.evaluate(out, all_of(held, one.task))[monitor], took, told


def main() -> None:
    """Print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--budget", default="4m")
    arguments.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--only", choices=("ours", "peer"))
    arguments.add_argument("--clock", choices=("wall", "processor"), default="wall")
    given = arguments.parse_args()
    seconds = read_budget(given.budget)
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    each = f"{given.budget} of {given.clock} time each"
    print(f"{datetime.date.today()}, {machine}, Python {platform.python_version()}; {each}")
    print("set          seed  trivial  peer         its score  pixelwise  its time  its own score")
    for name in given.sets:
        one = SETS[name]
        with tempfile.TemporaryDirectory() as folder:
            train, held = one.write(given.data, Path(folder))
            least = trivial(train, held, one.task)
            for seed in range(given.seeds):
                out, model = (Path(folder) / f"{kind}{seed}" for kind in ("loop", "run"))
                theirs = ours = took = told = float("nan")
                if given.only != "ours":
                    theirs = by_hand(one, train, held, out, seconds, seed, given.clock)
                if given.only != "peer":
                    ours, took, told = by_pixelwise(one, train, held, model, given.budget, seed, given.clock)
                print(
                    f"{name:12} {seed:4} {least:8.3f}  {one.peer:12} {theirs:9.3f} {ours:10.3f} "
                    f"{took:7.0f} s  {told:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
