"""The loops that people write by hand, for `auto.py`: each trains for a time and writes its predictions.

Each is a process of its own, `python bench/auto_loops.py LOOP TRAIN HELD OUT SECONDS SEED`, so that imports
count in its time; see `auto.py` for what its settings are and where they come from.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import pixelwise as pw
from pixelwise.data import SegmentationData
from pixelwise.types import LabelMap, MaskSet


def all_of(folder: Path, task: str) -> SegmentationData:
    """Every image of a folder."""
    return pw.open_data(folder, task=task, val_fraction=0.0, test_fraction=0.0).train


# --- images: SMP's tutorials ------------------------------------------------------------------------

SIDE, BATCH, LR = 256, 8, 1e-4


def smp(train: Path, held: Path, out: Path, seconds: float, seed: int) -> None:
    """U-Net on resnet34; the time counts its predictions too."""
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

    def image_of(path: Path) -> Tensor:
        array = np.asarray(Image.open(path).convert("RGB"))
        return normal(torch.from_numpy(array.copy()).permute(2, 0, 1) / 255)

    def read(name: str) -> tuple[Tensor, Tensor]:
        mask = np.asarray(Image.open(train / "masks" / name)).copy()
        return image_of(train / "images" / name), torch.from_numpy(mask).long()

    def scores(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = torch.nn.functional.pad(image, (0, -width % 32, 0, -height % 32))
        return model(padded[None])[0, :, :height, :width]

    model = smp.Unet("resnet34", encoder_weights=None, classes=classes)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    entropy = torch.nn.CrossEntropyLoss(ignore_index=255)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    best, best_score, validation = model.state_dict(), -1.0, 0.0
    images = sorted((held / "images").iterdir())
    writing = 3.0 + 0.15 * len(images)
    while True:
        model.train()
        random.shuffle(learnt)
        for at in range(0, len(learnt), BATCH):
            batch = []
            for name in learnt[at : at + BATCH]:
                image, mask = read(name)
                batch.append(crop(tv_tensors.Image(image), tv_tensors.Mask(mask)))
            inputs, targets = (torch.stack([one[i].as_subclass(Tensor) for one in batch]) for i in (0, 1))
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
        for path in images:
            Image.fromarray(scores(image_of(path)).argmax(0).byte().numpy()).save(out / path.name)
    print(f"validation {best_score:.3f}")


# --- instances: torchvision's references/detection --------------------------------------------------


def torchvision(train: Path, held: Path, out: Path, seconds: float, seed: int) -> None:
    """Mask R-CNN on resnet50 with FPN; `out` gets the mask AP of the held-out images in score.json."""
    started = time.monotonic()
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    from pixelwise.predict.evaluation import scored
    from pixelwise.tasks import get_task

    torch.manual_seed(seed)
    random.seed(seed)
    task, learnt = get_task("instance"), all_of(train, "instance")
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=len(learnt.classes) + 1)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.02 / 8, momentum=0.9, weight_decay=1e-4)
    warmup = min(1000, max(1, len(learnt) // 2 - 1))

    def example(index: int) -> tuple[Tensor, dict[str, Tensor]]:
        sample = learnt[index]
        assert isinstance(sample.target, MaskSet)
        kept = ~sample.target.is_crowd
        image, masks = sample.image, sample.target.dense[kept]
        if random.random() < 0.5:
            image, masks = image.flip(-1), masks.flip(-1)
        labels = sample.target.classes[kept].long() + 1
        return image, {"boxes": boxes_of(masks), "labels": labels, "masks": masks.to(torch.uint8)}

    step, last, order = 0, 0.0, list[int]()
    model.train()
    while time.monotonic() - started + last < seconds:
        began, part = time.monotonic(), (time.monotonic() - started) / seconds
        drops = sum(part >= epoch / 26 for epoch in (16, 22))
        for group in optimizer.param_groups:
            group["lr"] = 0.02 / 8 * min(1.0, 1e-3 + (1 - 1e-3) * step / warmup) * 0.1**drops
        if len(order) < 2:
            order = random.sample(range(len(learnt)), len(learnt))
        images, targets = zip(*(example(order.pop()) for _ in range(2)), strict=True)
        loss = sum(model(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, last = step + 1, time.monotonic() - began
    model.eval()
    pairs = []
    with torch.no_grad():
        for sample in all_of(held, "instance"):
            (found,) = model([sample.image])
            masks = found["masks"][:, 0] >= 0.5
            pairs.append((sample, MaskSet.of(masks, found["labels"] - 1, found["scores"])))
    out.mkdir(parents=True)
    score = scored(pairs, task, learnt.classes).score
    (out / "score.json").write_text(json.dumps({"mask_ap": score, "steps": step}))
    print(f"{step} steps")


def boxes_of(masks: Tensor) -> Tensor:
    """Boxes x1, y1, x2, y2 of masks; pixels have an extent."""
    from torchvision.ops import masks_to_boxes

    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1
    return boxes


# --- volumes: the plan of nnU-Net -------------------------------------------------------------------


def nnunet(train: Path, held: Path, out: Path, seconds: float, seed: int) -> None:
    """The plan that nnU-Net makes, as a plain loop; predictions of the last weights with mirrored copies."""
    started = time.monotonic()
    from monai.inferers import sliding_window_inference  # type: ignore[attr-defined]
    from monai.losses import DiceCELoss  # type: ignore[attr-defined]
    from monai.networks.nets import DynUNet  # type: ignore[attr-defined]
    from monai.utils import set_determinism  # type: ignore[attr-defined]

    set_determinism(seed)
    learnt = all_of(train, "volume")
    volumes = [volume_of(learnt, i) for i in range(len(learnt))]
    shape = np.median([labels.shape for _, labels in volumes], 0)
    halvings = [int(np.log2(side / 4)) for side in shape]  # as long as 4 voxels are left
    patch = [int(np.ceil(side / 2**n) * 2**n) for side, n in zip(shape, halvings, strict=True)]
    strides = [1] + [[2 if stage < n else 1 for n in halvings] for stage in range(max(halvings))]
    model: Any = DynUNet(
        3, 1, len(learnt.classes), [3] * len(strides), strides, strides[1:],
        filters=[min(32 * 2**stage, 320) for stage in range(len(strides))],
        norm_name=("instance", {"affine": True}),
        deep_supervision=True, deep_supr_num=max(1, len(strides) - 3),
    )  # fmt: skip
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    crop = patches(patch)
    step, last = 0, 0.0
    model.train()
    while (part := (time.monotonic() - started + last) / seconds) < 1:
        began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - part) ** 0.9
        drawn = [crop({"image": i, "label": t}, step % 3 == 0) for i, t in random.choices(volumes, k=2)]
        images, targets = (torch.stack([one[name] for one in drawn]) for name in ("image", "label"))
        outputs = model(images).unbind(1)  # full resolution first
        weights = [0.5**i for i in range(len(outputs))]
        loss = sum(w * criterion(output, targets) for w, output in zip(weights, outputs, strict=True))
        optimizer.zero_grad()
        (loss / sum(weights)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 12.0)
        optimizer.step()
        step, last = step + 1, time.monotonic() - began
    model.eval()
    out.mkdir(parents=True)
    tested = all_of(held, "volume")
    mirrors = [[axis for axis in (2, 3, 4) if bits >> (axis - 2) & 1] for bits in range(8)]

    def mirrored(windows: Tensor) -> Tensor:
        every = [model(windows.flip(axes)).softmax(1).flip(axes) for axes in mirrors]
        return torch.stack(every).mean(0)

    with torch.no_grad():
        for i in range(len(tested)):
            image, labels = volume_of(tested, i)
            found: Any = sliding_window_inference(
                image[None], patch, 2, mirrored, overlap=0.5, mode="gaussian"
            )
            predicted = found[0, :, : labels.shape[0], : labels.shape[1], : labels.shape[2]].argmax(0)
            np.save(out / f"{Path(tested.pairs[i].id).name.split('.')[0]}.npy", predicted.byte().numpy())
    print(f"{step} steps, patch {patch}")


def volume_of(data: SegmentationData, index: int) -> tuple[Tensor, Tensor]:
    """An image of mean 0 and deviation 1 as c D H W, and its labels."""
    sample = data[index]
    assert isinstance(sample.target, LabelMap)
    return (sample.image - sample.image.mean()) / sample.image.std(), sample.target.labels


def patches(size: list[int]) -> Callable[[Mapping[str, Tensor], bool], dict[str, Tensor]]:
    """Patches of nnU-Net's augmentation: turned, scaled, noisy, blurred, of other contrast, mirrored.

    The function takes a volume, and whether the patch must hold a structure.
    """
    t: Any = import_module("monai.transforms")  # it does not tell what it exports

    both = ["image", "label"]
    ready = t.SpatialPadd(both, size)
    anywhere = t.RandSpatialCropd(both, size, random_size=False)
    around = t.RandCropByPosNegLabeld(both, "label", size, pos=1, neg=0, num_samples=1)
    bilinear = ["bilinear", "nearest"]
    changes = t.Compose([
        t.RandRotated(both, 0.5, 0.5, 0.5, prob=0.2, mode=bilinear, padding_mode="border"),
        t.RandZoomd(both, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=["trilinear", "nearest"]),
        t.RandGaussianNoised("image", prob=0.1, std=0.1),
        t.RandGaussianSmoothd("image", (0.5, 1), (0.5, 1), (0.5, 1), prob=0.2),
        t.RandScaleIntensityd("image", 0.25, prob=0.15),
        t.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        *(t.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
    ])  # fmt: skip

    def cut(volume: Mapping[str, Tensor], structure: bool) -> dict[str, Tensor]:
        whole = ready({"image": volume["image"], "label": volume["label"][None]})
        one = around(whole)[0] if structure else anywhere(whole)
        changed = changes(one)
        return {name: torch.as_tensor(changed[name]).as_subclass(Tensor) for name in both}

    return cut


LOOPS = {"smp": smp, "torchvision": torchvision, "nnunet": nnunet}


if __name__ == "__main__":
    loop, train, held, out, seconds, seed = sys.argv[1:]
    LOOPS[loop](Path(train), Path(held), Path(out), float(seconds), int(seed))
