"""One image of 512 x 512 through forms of two networks, beside segmentation_models_pytorch.

    python bench/predict.py --images FOLDER
    python bench/predict.py --images FOLDER --trained RUN --form openvino --form "openvino, bf16"

Times are medians of rounds in which everything takes its turn, so read the ratios. Weights are random, so
the share of equal labels of forms in low precision says little, except for `--trained RUN`: a U-Net or
DeepLabV3+ with an encoder that the peer has too.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.checkpoint import Checkpoint
from pixelwise.data.formats import images_in
from pixelwise.export.choice import file_of
from pixelwise.export.fast_forms import FORMS
from pixelwise.export.int8 import classes_of
from pixelwise.types import BuiltBy, ClassTable

NETWORKS = (("unet", "resnet34", smp.Unet), ("deeplabv3plus", "resnet50", smp.DeepLabV3Plus))
PEERS = {"unet": smp.Unet, "deeplabv3plus": smp.DeepLabV3Plus}
CLASSES = ClassTable.of(*(f"class {i}" for i in range(11)))


def made(name: str, encoder: str) -> Checkpoint:
    """A network of ours with random weights."""
    torch.manual_seed(0)
    model = pw.build(name, len(CLASSES), encoder=encoder, pretrained=False).eval()
    return Checkpoint(model, CLASSES, BuiltBy(name, {}), {}, "semantic")


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each; they take turns, and the first turn of each does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for turn in range(rounds + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if turn:
                    taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def from_file_to_file(label: Callable[[torch.Tensor], torch.Tensor], jpeg: bytes) -> bytes:
    """A label PNG of a JPEG, as a plain loop does it."""
    image = pw.data.formats.image.to_tensor(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    written = io.BytesIO()
    Image.fromarray(label(image[None])[0].to(torch.uint8).numpy()).save(written, "PNG")
    return written.getvalue()


def compare(
    title: str, found: Checkpoint, peer: torch.nn.Module, images: Sequence[torch.Tensor],
    forms: Sequence[str], rounds: int,
) -> None:  # fmt: skip
    """Print a table."""
    image, compared = images[0][None], images[1::2]
    runs: dict[str, Callable[[], object]] = {"peer, eager": lambda: peer(image)}
    runs["eager"] = lambda: found.model(image)
    told = {"peer, eager": "", "eager": "100 %"}
    labels: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "peer, eager": lambda x: peer(x).argmax(1),
        "eager": lambda x: classes_of(found, found.model(x)),
    }
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        expected = [classes_of(found, found.model(one[None])) for one in compared]
        for form in forms:
            try:
                model = FORMS[form](found, images, file_of(Path(folder), form))
                given = [classes_of(found, model(one[None])) for one in compared]
            except Exception as error:
                told[form] = f"skipped: {' '.join(str(error).split()):.80}"
                continue
            same = sum(int((a == b).sum()) for a, b in zip(expected, given, strict=True))
            told[form] = f"{same / sum(one.numel() for one in expected):.2%}"
            runs[form] = lambda model=model: model(image)
            labels[form] = lambda x, model=model: classes_of(found, model(x))
        jpeg = io.BytesIO()
        Image.fromarray((images[0] * 255).byte().permute(1, 2, 0).numpy()).save(jpeg, "JPEG", quality=92)
        seconds = interleaved(runs, rounds)
        whole = interleaved(
            {name: lambda one=one: from_file_to_file(one, jpeg.getvalue()) for name, one in labels.items()},
            rounds,
        )
    print(f"\n### {title}\n")
    print("| form | ms | times as fast as the peer | the same from JPEG to PNG | labels of eager |")
    print("|---|---|---|---|---|")
    for name, label in told.items():
        if name not in seconds:
            print(f"| {name} | | | | {label} |")
            continue
        first, second = seconds["peer, eager"] / seconds[name], whole["peer, eager"] / whole[name]
        print(f"| {name} | {1e3 * seconds[name]:.0f} | {first:.2f} | {second:.2f} | {label} |", flush=True)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of real images")
    parser.add_argument("--trained", type=Path, help="a run, instead of random weights")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=8, help="images, half of them compared")
    parser.add_argument("--form", action="append", help="only these forms")
    given = parser.parse_args()
    size = (given.size, given.size)
    images = [
        F.interpolate(one[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        for one in images_in(given.images, most=given.count)
    ]
    forms = given.form or list(FORMS)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.rounds} rounds")
    if given.trained is None:
        for name, encoder, kind in NETWORKS:
            peer = kind(encoder, encoder_weights=None, classes=len(CLASSES)).eval()
            title = f"{name} on {encoder}, {given.size} x {given.size}, random weights"
            compare(title, made(name, encoder), peer, images, forms, given.rounds)
        return
    found = pw.load(given.trained)
    name, encoder = found.built_by.builder, found.built_by.arguments["encoder"]
    peer = PEERS[name](encoder, encoder_weights=None, classes=len(found.classes)).eval()
    title = f"{name} on {encoder}, {given.size} x {given.size}, weights of a training"
    compare(title, found, peer, images, forms, given.rounds)


if __name__ == "__main__":
    main()
