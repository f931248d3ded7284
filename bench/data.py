"""Images per second that one worker loads and changes, over torchvision v2 and albumentations.

    python bench/data.py [--data FOLDER] [--rounds 9]

The same augmentations on the same JPEG images and PNG masks, from file to batch: decode, random scale of 0.5
to 2, crop of 256 x 256, mirror, brightness, contrast and saturation; and with rotation, blur and JPEG
compression besides. Each way loads the same images in turn, in this process with one thread, as one worker
of a loader does. A ratio above 1 is in favour of pixelwise.

`--data` is a folder of images and masks of at least 40 images; without it, images of 360 x 480 pixels are
made.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import compare, peer
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from pixelwise.data import Augmented, Pair, degradations_of, open_data, training_transform
from pixelwise.data.transforms import Compose
from pixelwise.types import Batch, Sample

SIDE, COUNT = 256, 40
HEAVY = {"blur": 0.3, "jpeg": 0.3}
Load = Callable[[Pair], tuple[Tensor, Tensor]]


def made_images(root: Path) -> None:
    """Smooth colours with noise, and masks of eleven classes."""
    random = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((480, 360), Image.Resampling.BICUBIC))
        pixels = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        labels = Image.fromarray(random.integers(0, 11, (12, 16), np.uint8))
        for kind, picture, name in (
            ("images", Image.fromarray(pixels), f"{number}.jpg"),
            ("masks", labels.resize((480, 360), Image.Resampling.NEAREST), f"{number}.png"),
        ):
            (root / kind).mkdir(exist_ok=True)
            picture.save(root / kind / name)


class RandomScale(v2.Transform):
    """torchvision's resize by a random factor of 0.5 to 2."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the size."""
        height, width = flat_inputs[0].shape[-2:]
        factor = 0.5 * 4 ** torch.rand(()).item()
        return {"size": [round(height * factor), round(width * factor)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image or a mask."""
        return tvf.resize(inpt, params["size"], antialias=True)


class Compressed(v2.Transform):
    """torchvision's JPEG with a probability; of 8-bit images."""

    _transformed_types = (tv_tensors.Image,)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Compress three images of ten."""
        return v2.JPEG((30, 95))(inpt) if torch.rand(()) < HEAVY["jpeg"] else inpt


def torchvision_way(heavy: bool) -> Load:
    """What torchvision's references do, in 8 bits until the end."""
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    steps: list[Any] = [
        RandomScale(),
        v2.RandomCrop((SIDE, SIDE), pad_if_needed=True, fill=fill),
        v2.RandomHorizontalFlip(),
    ]
    if heavy:
        steps.append(v2.RandomRotation(10, v2.InterpolationMode.BILINEAR, fill=fill))
    steps.append(v2.ColorJitter(0.4, 0.4, 0.4))
    if heavy:
        steps += [v2.RandomApply([v2.GaussianBlur(9, (0.5, 1.5))], HEAVY["blur"]), Compressed()]
    steps.append(v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True))
    change = v2.Compose(steps)

    def load(pair: Pair) -> tuple[Tensor, Tensor]:
        assert pair.mask is not None
        image = tv_tensors.Image(tvf.pil_to_tensor(Image.open(pair.image).convert("RGB")))
        mask = tv_tensors.Mask(torch.from_numpy(np.array(Image.open(pair.mask))))
        image, mask = change(image, mask)
        return image, mask

    return load


def albumentations_way(heavy: bool) -> Load | None:
    """As its documentation writes a pipeline for segmentation; None where it is not installed."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the internet for newer versions
    a, cv2 = peer("albumentations"), peer("cv2")
    if a is None or cv2 is None:
        return None
    cv2.setNumThreads(0)

    class LogScale(a.RandomScale):  # type: ignore[misc, name-defined]
        """Factors as the others draw them: evenly in their logarithm."""

        def get_params(self) -> dict[str, float]:
            """Draw the factor."""
            return {"scale": 0.5 * 4 ** self.py_random.random()}

    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": 255}
    steps = [
        LogScale((-0.5, 1.0), p=1.0),
        a.PadIfNeeded(SIDE, SIDE, **border),
        a.RandomCrop(SIDE, SIDE),
        a.HorizontalFlip(),
    ]
    if heavy:
        steps.append(a.Rotate(10, p=1.0, **border))
    steps.append(a.ColorJitter(0.4, 0.4, 0.4, 0.0, p=1.0))
    if heavy:
        steps += [
            a.GaussianBlur(sigma_limit=(0.5, 1.5), p=HEAVY["blur"]),
            a.ImageCompression(quality_range=(30, 95), p=HEAVY["jpeg"]),
        ]
    change = a.Compose(steps)

    def load(pair: Pair) -> tuple[Tensor, Tensor]:
        assert pair.mask is not None
        image = cv2.cvtColor(cv2.imread(str(pair.image)), cv2.COLOR_BGR2RGB)
        changed = change(image=image, mask=np.array(Image.open(pair.mask)))
        pixels = torch.from_numpy(changed["image"]).permute(2, 0, 1).float().div_(255)
        return pixels, torch.from_numpy(changed["mask"]).long()

    return load


def batches_of(load: Load, pairs: Sequence[Pair]) -> Callable[[], None]:
    """Batches of eight from a plain loader."""

    def run() -> None:
        for first in range(0, len(pairs), 8):
            images, masks = zip(*map(load, pairs[first : first + 8]), strict=True)
            torch.stack(images), torch.stack(masks)

    return run


def ours(data: Any, heavy: bool) -> Callable[[], None]:
    """Batches of eight as a training makes them."""
    asked = HEAVY if heavy else {}
    moved = training_transform((SIDE, SIDE), rotation=10.0 if heavy else 0.0)
    augmented = Augmented(data, Compose([moved, *degradations_of(asked)]), seed=0)

    def run() -> None:
        augmented.epoch += 1
        samples: list[Sample] = []
        for index in range(COUNT):
            samples.append(augmented[index])
            if len(samples) == 8:
                Batch.collate(samples)
                samples = []

    return run


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.data is None:
            made_images(Path(folder))
        data = open_data(given.data or folder, val_fraction=0.0, test_fraction=0.0).train.take(range(COUNT))
        for heavy in (False, True):
            what = "with rotation, blur and JPEG besides" if heavy else "scale, crop, mirror, colours"
            other = albumentations_way(heavy)
            medians = compare(
                f"{COUNT} images to batches of 8, {what}, processor time",
                {
                    "pixelwise": ours(data, heavy),
                    "torchvision v2": batches_of(torchvision_way(heavy), data.pairs),
                    "albumentations": batches_of(other, data.pairs) if other else None,
                },
                target="at least 1.0x their images per second",
                rounds=given.rounds,
                clock=time.process_time,
            )
            print()
            for name, seconds in medians.items():
                print(f"{name}: {COUNT / seconds:.0f} images per second")


if __name__ == "__main__":
    main()
