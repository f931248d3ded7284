"""Panoptic FPN on five images of COCO until it knows them by heart, in minutes on a CPU.

    python recipes/panoptic_fpn_five.py path/to/coco/ runs/five

The first argument is a folder with a COCO panoptic file, its PNG files and images. Five images without small
segments are copied to `runs/five/data`, as training and as validation part; the network starts from random
weights. Prints panoptic quality: 0.896 after 4 minutes of one core. A check of the path from files to scores.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import pixelwise as pw
from pixelwise.data.datasets.coco_panoptic import PanopticFiles
from pixelwise.training import Recipe, run

IMAGES = (30, 72, 73, 309, 370)  # of train2017


def panoptic_fpn_five(data: str, out: str | None = None, *, epochs: int = 60) -> Recipe:
    """An encoder without batch norm, which would need more than one image; images as they are, but small."""
    return Recipe(
        data,
        name="Panoptic FPN on five images",
        model="panoptic_fpn",
        model_arguments={
            "encoder": "convnext_atto",
            "pretrained": False,
            "width": 48,
            "min_size": 128,
            "max_size": 224,
        },
        epochs=epochs,
        val_every=epochs // 5,
        batch_size=1,
        crop=None,
        scale=(1.0, 1.0),
        flip=0.0,
        color=0.0,
        lr=7e-4,
        warmup_steps=20,
        clip_norm=5.0,
        workers=0,
        out=out,
    )


def copy_five(source: Path, folder: Path) -> Path:
    """A COCO panoptic folder of the five images, each in both parts."""
    data = pw.open_data(source, task="panoptic").train
    files = data.read_target
    if not isinstance(files, PanopticFiles):
        raise ValueError(f"{source} is no COCO panoptic folder")
    chosen = {int(Path(pair.id).stem): pair for pair in data.pairs if int(Path(pair.id).stem) in IMAGES}
    if missing := set(IMAGES) - set(chosen):
        raise ValueError(f"{source} lacks the image {min(missing)}")
    images, annotations = [], []
    for number, pair in chosen.items():
        (folder / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(pair.image, folder / "images")
        for part in ("train", "val"):
            (folder / f"panoptic_{part}").mkdir(exist_ok=True)
            shutil.copy(pair.mask, folder / f"panoptic_{part}")
        images.append({"id": number, "file_name": pair.image.name})
        segments = files.segments[pair.id]
        annotations.append({"image_id": number, "file_name": pair.mask.name, "segments_info": segments})
    table = data.classes
    categories = [
        {"id": number, "name": name, "isthing": int(label in table.things), "color": table.colors[label]}
        for label, (number, name) in enumerate(zip(table.ids, table.names, strict=True))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for part in ("train", "val"):
        (folder / f"panoptic_{part}.json").write_text(json.dumps(content))
    return folder


if __name__ == "__main__":
    place = Path(sys.argv[2])
    start = time.process_time()
    recipe = panoptic_fpn_five(str(copy_five(Path(sys.argv[1]), place / "data")), str(place / "run"))
    result = run(recipe)
    minutes = (time.process_time() - start) / 60
    print(f"PQ {result.scores['pq']:.3f} after {minutes:.1f} minutes of one core: {result.report}")
