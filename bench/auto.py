"""`pixelwise train DIR --budget TIME` against the loop that people write by hand with SMP, at equal time.

Both get the same folder, the same wall time on the same cores (imports, validation and report included) and
random weights, each in a process of its own. Both are scored on images that neither has seen, held out by
fixed rules, by `pixelwise evaluate` on the masks that they write. The loop has the settings of SMP's
tutorials: U-Net on resnet34, Adam with 1e-4, Dice plus (binary) cross-entropy, crops of 256, flips to left
and right, batches of 8, a random fifth for validation after each epoch, the best weights kept. Beside them
stands what the best trivial prediction scores: the commonest class, or Otsu's threshold of two classes.

    python bench/auto.py --data ../shared/data --budget 4m --sets em nuclei camvid pets hippocampus
"""

import argparse
import datetime
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.data import SegmentationData
from pixelwise.planning import read_budget
from pixelwise.predict.baselines import baseline_scores
from pixelwise.tasks import get_task
from pixelwise.training.environment import cpu_name

Pairs = Iterator[tuple[str, bool, Image.Image, Image.Image]]  # name, held out, image, mask of class numbers
SIDE, BATCH, LR = 256, 8, 1e-4  # of the loop


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


SETS: dict[str, Callable[[Path], Pairs]] = {
    "em": em, "nuclei": nuclei, "camvid": camvid, "pets": pets, "hippocampus": hippocampus,
}  # fmt: skip


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


# --- the loop that people write ---------------------------------------------------------------------


def loop(train: Path, images: Path, out: Path, seconds: float, seed: int) -> None:
    """Train until the time is over, and write the masks of `images` to `out`."""
    started = time.monotonic()
    import segmentation_models_pytorch as smp
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    torch.manual_seed(seed)
    classes = len(json.loads((train / "classes.json").read_text())["names"])
    names = sorted(path.name for path in (train / "images").iterdir())
    random.Random(seed).shuffle(names)
    val, learnt = names[: max(1, len(names) // 5)], names[max(1, len(names) // 5) :]
    crop = v2.Compose([v2.RandomCrop(SIDE, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
                       v2.RandomHorizontalFlip()])  # fmt: skip
    normal = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def image_of(path: Path) -> torch.Tensor:
        array = np.asarray(Image.open(path).convert("RGB"))
        return normal(torch.from_numpy(array.copy()).permute(2, 0, 1) / 255)

    def read(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        mask = np.asarray(Image.open(train / "masks" / name)).copy()
        return image_of(train / "images" / name), torch.from_numpy(mask).long()

    def scores(image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        padded = torch.nn.functional.pad(image, (0, -width % 32, 0, -height % 32))
        return model(padded[None])[0, :, :height, :width]

    model = smp.Unet("resnet34", encoder_weights=None, classes=classes)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    entropy = torch.nn.CrossEntropyLoss(ignore_index=255)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    best, best_score, validation = model.state_dict(), -1.0, 0.0
    writing = 3.0 + 0.15 * len(list(images.iterdir()))
    while True:
        model.train()
        random.shuffle(learnt)
        for at in range(0, len(learnt), BATCH):
            batch = []
            for name in learnt[at : at + BATCH]:
                image, mask = read(name)
                batch.append(crop(tv_tensors.Image(image), tv_tensors.Mask(mask)))
            inputs, targets = (
                torch.stack([one[i].as_subclass(torch.Tensor) for one in batch]) for i in (0, 1)
            )
            if len(inputs) < 2:
                continue
            output = model(inputs)
            optimizer.zero_grad()
            (dice(output, targets) + entropy(output, targets)).backward()
            optimizer.step()
            if time.monotonic() - started > seconds - writing - validation:
                break
        model.eval()
        began = time.monotonic()
        metrics = pw.metrics.SegmentationMetrics(pw.ClassTable.of(*(f"class {i}" for i in range(classes))))
        with torch.no_grad():
            for name in val:
                image, mask = read(name)
                metrics.update(scores(image).argmax(0)[None], mask[None])
        if (score := metrics.compute().mean_iou) > best_score:
            best = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            best_score = score
        validation = time.monotonic() - began
        if time.monotonic() - started > seconds - writing - validation:
            break
    model.load_state_dict(best)
    out.mkdir(parents=True)
    with torch.no_grad():
        for path in sorted(images.iterdir()):
            Image.fromarray(scores(image_of(path)).argmax(0).byte().numpy()).save(out / path.name)
    print(f"validation {best_score:.3f}")


# --- both in turn -----------------------------------------------------------------------------------


def run(*words: object) -> str:
    """What a command prints.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def all_of(folder: Path) -> SegmentationData:
    """Every image of a folder."""
    return pw.open_data(folder, val_fraction=0.0, test_fraction=0.0).train


def trivial(train: Path, held: Path) -> float:
    """The best score that a trivial prediction has on the held-out images."""
    task = get_task("semantic")
    return max(baseline_scores(all_of(train), all_of(held), task, task.scoring).values())


def main() -> None:
    """Print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--budget", default="4m")
    arguments.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--loop", nargs=5, help=argparse.SUPPRESS)  # the process of the loop
    given = arguments.parse_args()
    if given.loop:
        train, images, out = map(Path, given.loop[:3])
        loop(train, images, out, float(given.loop[3]), int(given.loop[4]))
        return
    seconds = read_budget(given.budget)
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{datetime.date.today()}, {machine}, Python {platform.python_version()}; {given.budget} each")
    print("set          seed  trivial  SMP loop  pixelwise  its time  its own score")
    for name in given.sets:
        with tempfile.TemporaryDirectory() as folder:
            train, held = write_folders(SETS[name](given.data), Path(folder))
            least = trivial(train, held)
            for seed in range(given.seeds):
                by_hand, ours, model = (Path(folder) / f"{kind}{seed}" for kind in ("loop", "ours", "run"))
                run(__file__, "--loop", train, held / "images", by_hand, seconds, seed)
                began = time.monotonic()
                run(
                    "-m",
                    "pixelwise",
                    "train",
                    train,
                    "--budget",
                    given.budget,
                    "--seed",
                    seed,
                    "--out",
                    model,
                )
                took = time.monotonic() - began
                run("-m", "pixelwise", "predict", model, held / "images", "--out", ours)
                told = json.loads(run("-m", "pixelwise", "evaluate", model, train, "--json"))["mean_iou"]
                print(
                    f"{name:12} {seed:4} {least:8.3f} {pw.evaluate(by_hand, all_of(held))['mean_iou']:9.3f} "
                    f"{pw.evaluate(ours, all_of(held))['mean_iou']:10.3f} {took:7.0f} s  {told:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
