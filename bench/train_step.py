"""One epoch of a U-Net: by hand with SMP and a plain DataLoader, against ours.

Both train a U-Net on ResNet-18 from random weights on the same image files with the same crops, batch
size, optimiser and number of loading processes, in one process, in turn. Theirs is the usual loop in
float32; ours is the path of `pixelwise train` (recipe, data, TrainingModule, Lightning) without checkpoints
and validation. Printed: time per image of each, their ratio (median over the rounds), and ours with bf16.

    python bench/train_step.py --data ../shared/data/camvid --images 64 --rounds 3
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import pixelwise as pw
from pixelwise.data import DataSplits, Pair, open_data
from pixelwise.training import Experiment, Recipe, make_experiment
from pixelwise.training.environment import cpu_name
from pixelwise.training.run import quiet
from pixelwise.training.samplers import train_loader


class ByHand(Dataset[tuple[Tensor, Tensor]]):
    """What people write: Pillow, a random crop, a flip, ImageNet's mean and standard deviation."""

    def __init__(self, pairs: tuple[Pair, ...], crop: tuple[int, int]) -> None:
        self.pairs = pairs
        self.geometry = v2.Compose([v2.RandomCrop(crop, pad_if_needed=True), v2.RandomHorizontalFlip()])
        self.color = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pair = self.pairs[index]
        image = tv_tensors.Image(np.array(Image.open(pair.image).convert("RGB")).transpose(2, 0, 1))
        mask = tv_tensors.Mask(np.array(Image.open(pair.mask)))
        image, mask = self.geometry(image, mask)
        return self.color(image.as_subclass(Tensor)), mask.as_subclass(Tensor).long()


class Theirs:
    """A hand-written training loop."""

    def __init__(
        self, pairs: tuple[Pair, ...], num_classes: int, ignore: int, options: argparse.Namespace
    ) -> None:
        self.model = smp.Unet("resnet18", encoder_weights=None, classes=num_classes)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.criterion = nn.CrossEntropyLoss(ignore_index=ignore)
        self.loader = DataLoader(
            ByHand(pairs, options.crop),
            options.batch_size,
            shuffle=True,
            num_workers=options.workers,
            drop_last=True,
        )

    def epoch(self) -> float:
        """Seconds of one pass over the data."""
        start = time.perf_counter()
        self.model.train()
        for image, mask in self.loader:
            loss = self.criterion(self.model(image), mask)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
        return time.perf_counter() - start


class Ours:
    """The path of `pixelwise train`."""

    def __init__(self, splits: DataSplits, options: argparse.Namespace, precision: str) -> None:
        recipe = Recipe("").changed(
            model="unet",
            model_arguments={"encoder": "resnet18"},
            crop=options.crop,
            scale=(1.0, 1.0),
            color=0.0,
            batch_size=options.batch_size,
            workers=options.workers,
            epochs=1,
            precision=precision,
            accelerator="cpu",
        )
        self.precision = {"32": "32-true", "bf16": "bf16-mixed"}[precision]
        self.experiment: Experiment = make_experiment(recipe, data=splits)
        self.loader = train_loader(self.experiment.batches, splits.classes, workers=options.workers)
        self.epochs = 0

    def epoch(self) -> float:
        """Seconds of one pass over the data."""
        self.experiment.batches.set_epoch(self.epochs)
        self.epochs += 1
        clock = _Clock()
        with quiet():
            trainer: Any = lightning.Trainer(
                accelerator="cpu",
                devices=1,
                precision=self.precision,
                max_epochs=1,
                callbacks=[clock],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                limit_val_batches=0,
            )
            clock.start = time.perf_counter()
            trainer.fit(self.experiment.module, self.loader)
        return clock.end - clock.start


class _Clock(lightning.Callback):
    """From the call of fit, loading processes included, to the end of the epoch."""

    start = end = 0.0

    def on_train_epoch_end(self, *_: Any) -> None:
        self.end = time.perf_counter()


def synthetic(folder: Path, count: int) -> Path:
    """Noisy boxes of the size of CamVid, 11 classes."""
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for i in range(count + count // 4 + 1):
        mask = np.kron(random.integers(0, 11, (6, 8)), np.ones((60, 60))).astype(np.uint8)
        image = (20 * mask[..., None] + random.integers(0, 30, (360, 480, 3))).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i}.jpg")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    (folder / "classes.csv").write_text("name\n" + "\n".join(f"class {i}" for i in range(11)) + "\n")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).parent.parent.parent / "shared/data/camvid"
    )
    parser.add_argument("--images", type=int, default=64, help="per epoch")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=lambda text: tuple(map(int, text.split("x"))), default=(224, 320))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--rounds", type=int, default=3, help="epochs of each that are timed, after one that is not"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data if options.data.exists() else synthetic(Path(folder), options.images)
        splits = open_data(data)
        used = splits.train.take(list(range(options.images // options.batch_size * options.batch_size)))
        splits = DataSplits(
            used, splits.val, None, splits.classes, splits.format, splits.root, splits.encoding
        )
        contestants: dict[str, Theirs | Ours] = {
            "by hand (SMP, fp32)": Theirs(used.pairs, len(splits.classes), splits.classes.ignore, options),
            "pixelwise (fp32)": Ours(splits, options, "32"),
            "pixelwise (bf16)": Ours(splits, options, "bf16"),
        }
        names = list(contestants)
        times: dict[str, list[float]] = {name: [] for name in names}
        for round in range(options.rounds + 1):
            for name in names if round % 2 else names[::-1]:
                seconds = contestants[name].epoch()
                if round:
                    times[name].append(1000 * seconds / len(used))
    versions = f"torch {torch.__version__}, smp {smp.__version__}, lightning {lightning.__version__}"
    print(
        f"{cpu_name()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, {versions}, "
        f"pixelwise {pw.__version__}"
    )
    height, width = options.crop
    print(
        f"{len(used)} images from {data.name}, crops of {height} x {width}, batches of {options.batch_size}, "
        f"{options.workers} loading processes, {options.rounds} rounds"
    )
    for name in names:
        spread = " ".join(f"{x:.1f}" for x in times[name])
        print(f"{name:<22}{statistics.median(times[name]):8.1f} ms per image   ({spread})")
    for name in names[1:]:
        ratios = [ours / theirs for ours, theirs in zip(times[name], times[names[0]], strict=True)]
        print(
            f"ratio {name} / by hand: {statistics.median(ratios):.3f}   "
            f"({' '.join(f'{ratio:.3f}' for ratio in ratios)})"
        )


if __name__ == "__main__":
    main()
