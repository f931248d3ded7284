"""Mask R-CNN from random weights on photographs of dates, figs and hazelnuts, in minutes on one core.

    python recipes/fruits_nuts_mask_rcnn.py fruits_nuts/ out/

Every fourth image of the json file is held out. Prints AP of masks and boxes on those, and writes a report
with pictures of them.
"""

import argparse
import json
import os
import time
from pathlib import Path

from pixelwise.files import atomic_write
from pixelwise.training import Recipe, recipe_of, run
from pixelwise.types import Report


def fruits_nuts_mask_rcnn(data: str, out: str | None = None, *, epochs: int = 70) -> Recipe:
    """A small network on small images; what it does not say is that of all instance segmentation.

    Args:
        data: a COCO folder, such as `split` makes.
        out: run directory.
        epochs: 70 take some six minutes of one core.
    """
    return recipe_of(
        {
            "data": data,
            "name": "Mask R-CNN on fruits and nuts",
            "out": out,
            "model": "mask_rcnn",
            "model_arguments": {
                "encoder": "resnet18",
                "pretrained": False,
                "min_size": 256,  # of the shorter side, in pixels
                "max_size": 384,
                "width": 32,  # channels of the pyramid: in a wide one, the mask head takes most of the time
            },
            "epochs": epochs,
            "val_every": 10,
            "lr": 8e-4,
            "warmup_steps": 10,
            "color": 0.2,  # dates and figs differ in colour first
            "workers": 0,
            "accelerator": "cpu",
        }
    )


def split(root: Path, out: Path) -> Path:
    """A COCO folder with a file of instances for training and one for validation, beside the images."""
    content = json.loads((root / "open" / "trainval_dev.json").read_text())
    held_out = {image["id"] for image in content["images"][::4]}
    for name, wanted in (("train", False), ("val", True)):
        part = {
            "categories": content["categories"],
            "images": [image for image in content["images"] if (image["id"] in held_out) is wanted],
            "annotations": [a for a in content["annotations"] if (a["image_id"] in held_out) is wanted],
        }
        with atomic_write(out / f"instances_{name}.json") as temporary:
            temporary.write_text(json.dumps(part))
    if not (out / "images").exists():
        os.symlink((root / "images").resolve(), out / "images")
    return out


def scores_in_words(scores: Report) -> str:
    """A line per score and per class."""
    lines = [f"{name:<16} {value:.3f}" for name, value in scores.values.items()]
    for name, row in scores.per_class.items():
        lines.append(f"{name:<16} AP {row['AP']:.3f}, AP50 {row['AP50']:.3f}, {row['objects']:.0f} objects")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=70)
    given = parser.parse_args()
    folder = split(given.data, given.out / "data")
    result = run(fruits_nuts_mask_rcnn(str(folder), str(given.out / "run"), epochs=given.epochs))
    print(scores_in_words(result.scores))
    print(f"{time.process_time():.0f} s of processor time; report: {result.report}")
