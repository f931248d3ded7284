"""Mask2Former on five images of COCO until it knows them by heart, in minutes of a CPU.

    python recipes/mask2former_five.py path/to/coco/ runs/five

The first argument is a folder with a COCO panoptic file, its PNG files and images. Five images without small
segments are copied to `runs/five/data` at a longer side of 192 pixels, as training and as validation part,
with their segments and, for the second task, their things as instances. The network starts from random
weights and learns the segments; the same weights then give the instances. Prints panoptic quality and the AP
of masks:
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.data.formats.coco_panoptic import categories_of, write_segments
from pixelwise.predict import evaluate_images
from pixelwise.report import write_evaluation_report
from pixelwise.rle import RleMasks
from pixelwise.training import Recipe, run
from pixelwise.types import PanopticMap, Report

IMAGES = (30, 72, 73, 309, 370)  # of train2017
SIDE = 192  # pixels


def mask2former_five(data: str, out: str | None = None, *, epochs: int = 150) -> Recipe:
    """An encoder without batch norm, few queries and one round of the decoder; images as they are."""
    return Recipe(
        data,
        name="Mask2Former on five images",
        model="mask2former",
        task="panoptic",
        model_arguments={
            "encoder": "convnext_atto",
            "pretrained": False,
            "width": 96,
            "num_queries": 40,
            "blocks": 1,
        },
        epochs=epochs,
        val_every=epochs // 5,
        batch_size=1,
        crop=None,
        scale=(1.0, 1.0),
        flip=0.0,
        color=0.0,
        lr=5e-4,
        warmup_steps=50,
        clip_norm=5.0,
        workers=0,
        out=out,
    )


def copy_five(source: Path, folder: Path) -> Path:
    """Five small images with a COCO panoptic file and a COCO file of instances, each for both parts."""
    data = pw.open_data(source, task="panoptic").train
    chosen = {int(Path(pair.id).stem): pair for pair in data.pairs if int(Path(pair.id).stem) in IMAGES}
    if missing := set(IMAGES) - set(chosen):
        raise ValueError(f"{source} lacks the image {min(missing)}")
    for name in ("images", "panoptic_train", "panoptic_val"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for number, pair in chosen.items():
        photo = Image.open(pair.image).convert("RGB")
        photo.thumbnail((SIDE, SIDE))
        photo.save(folder / "images" / f"{number}.jpg", quality=95)
        size = (photo.height, photo.width)
        target = data.read_target(pair)
        assert isinstance(target, PanopticMap)
        small = F.interpolate(target.id_map[None, None].float(), size, mode="nearest-exact")[0, 0].long()
        kept = [i for i, one in enumerate(target.ids) if (small == one).any()]
        target = PanopticMap(small, target.ids[kept], target.classes[kept], target.is_crowd[kept])
        for part in ("train", "val"):
            info = write_segments(folder / f"panoptic_{part}" / f"{number}.png", target, data.classes)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": size[0], "width": size[1]})
        segments.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
        masks = RleMasks.encode(small == target.ids[:, None, None]).to_coco()
        for mask, one, label in zip(masks, info, target.classes.tolist(), strict=True):
            if label in data.classes.things:
                number_of_it = {"id": len(instances) + 1, "image_id": number, "segmentation": mask}
                instances.append(one | number_of_it)
    categories = categories_of(data.classes)
    for part in ("train", "val"):
        for kind, annotations in (("panoptic", segments), ("instances", instances)):
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / f"{kind}_{part}.json").write_text(json.dumps(content))
    return folder


def as_instances(trained: Path, data: Path, report: Path) -> Report:
    """Scores of a run for panoptic segmentation as instances of things, and a report with pictures."""
    predictor = pw.Predictor(trained, task="instance")
    part = pw.open_data(data, task="instance").val
    evaluation = evaluate_images(predictor, part, progress=False)
    write_evaluation_report(report, "The same weights for instances", evaluation, part, predictor)
    return evaluation.report


if __name__ == "__main__":
    place = Path(sys.argv[2])
    start = time.process_time()
    five = copy_five(Path(sys.argv[1]), place / "data")
    result = run(mask2former_five(str(five), str(place / "run")))
    minutes = (time.process_time() - start) / 60
    things = as_instances(place / "run", five, place / "instances.html")
    print(f"PQ {result.scores['pq']:.3f}, mask AP {things['mask_ap']:.3f}, {minutes:.1f} minutes of one core")
    print(f"{result.report} and {place / 'instances.html'}")
