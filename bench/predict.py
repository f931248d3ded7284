"""One image of 512 x 512 through forms of two networks, beside segmentation_models_pytorch.

    python bench/predict.py --camvid FOLDER [--weights FOLDER] [--seconds 110]
    python bench/predict.py --images FOLDER
    python bench/predict.py --images FOLDER --trained RUN --form openvino --form "openvino, bf16"

Times are medians of rounds in which everything takes its turn, so read the ratios. With `--camvid` both
networks are first trained on CamVid for that many seconds each, or read from `--weights` where an earlier
call left them, and the images are those of the validation part. With `--images` alone weights are random,
and the share of equal labels of forms in low precision says little; `--trained RUN` is a U-Net or SMP's
DeepLabV3+ (`smp_deeplabv3plus`) with an encoder that the peer has too. Our networks are the peer's, made of
its weights, and it is checked that their scores are the same before anything is timed. Forms of torch.compile
take minutes to compile: name them by `--form`.

The last column is the time over that of the arithmetic: operations of the network, counted, over the rate of
a 3 x 3 convolution of 256 channels in the same precision, measured here.
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
from torch.utils.flop_counter import FlopCounterMode

import pixelwise as pw
from pixelwise.checkpoint import Checkpoint
from pixelwise.data.formats import images_in
from pixelwise.export.choice import file_of
from pixelwise.export.fast_forms import FORMS
from pixelwise.export.int8 import classes_of, unused
from pixelwise.layers import IMAGENET_MEAN, IMAGENET_STD
from pixelwise.models import from_smp
from pixelwise.types import BuiltBy, ClassTable

NETWORKS = (("unet", "resnet34"), ("smp_deeplabv3plus", "resnet50"))
PEERS = {"unet": smp.Unet, "smp_deeplabv3plus": smp.DeepLabV3Plus}  # classes of the peer, by our builders
USUAL = tuple(form for form in FORMS if "compile" not in form)
GOALS = {"float32": 1.6, "bf16": 3.0, "int8": 5.0}  # times as fast as the peer
AGREEMENT = 0.995
CROP, BATCH = 256, 4  # of the short training
CLASSES = ClassTable.of(*(f"class {i}" for i in range(11)))


def peer_of(name: str, encoder: str, classes: ClassTable) -> torch.nn.Module:
    """The network of the peer, with random weights."""
    torch.manual_seed(0)
    return PEERS[name](encoder, encoder_weights=None, classes=len(classes)).eval()


def made(name: str, encoder: str, classes: ClassTable = CLASSES) -> Checkpoint:
    """The same network of ours with the same weights: scores are compared."""
    peer = peer_of(name, encoder, classes)
    model = from_smp(peer.state_dict(), PEERS[name].__name__, encoder=encoder)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image).logits, peer(normalised(image)), rtol=1e-3, atol=1e-4)
    return Checkpoint(model, classes, model.built_by or BuiltBy(name, {}), {}, "semantic")


def normalised(image: torch.Tensor) -> torch.Tensor:
    """As the peer wants its images; our networks do that inside."""
    mean, deviation = (torch.tensor(one)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / deviation


def trained(name: str, encoder: str, camvid: Path, kept: Path | None, seconds: float) -> Checkpoint:
    """A network after a short training on CamVid, from random weights; kept in a folder for the next call."""
    path = None if kept is None else kept / f"{name}-{encoder}.safetensors"
    if path is not None and path.exists():
        return pw.load(path)
    splits = pw.open_data(camvid)
    begun = made(name, encoder, splits.classes)
    model = begun.model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    chosen = torch.Generator().manual_seed(0)
    model.train()
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        samples = [
            splits.train[int(torch.randint(len(splits.train), (), generator=chosen))] for _ in range(BATCH)
        ]
        crops = [cropped(sample.image, sample.target.labels, chosen) for sample in samples]
        scores = model(torch.stack([image for image, _ in crops])).logits
        labels = torch.stack([found for _, found in crops])
        loss = F.cross_entropy(scores, labels, ignore_index=splits.classes.ignore)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    model.eval()
    print(f"{name} on {encoder}: {steps} steps in {seconds:.0f} s, last loss {loss.item():.2f}", flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pw.save(model, path, splits.classes)
    return begun


def cropped(
    image: torch.Tensor, labels: torch.Tensor, chosen: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A square of an image and its labels, mirrored now and then."""
    top, left, mirrored = (
        int(torch.randint(high, (), generator=chosen))
        for high in (labels.shape[0] - CROP + 1, labels.shape[1] - CROP + 1, 2)
    )
    image, labels = (x[..., top : top + CROP, left : left + CROP] for x in (image, labels))
    return (image.flip(-1), labels.flip(-1)) if mirrored else (image, labels)


def rates() -> dict[str, float]:
    """Operations per second of a large convolution, in float32 and bfloat16."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        layer = torch.nn.Conv2d(256, 256, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
        image = torch.rand(1, 256, 128, 128, dtype=dtype).contiguous(memory_format=torch.channels_last)
        seconds = interleaved({name: lambda layer=layer, image=image: layer(image)}, 7)[name]
        found[name] = 2 * 9 * 256 * 256 * 128 * 128 / seconds
    return found


def precision_of(form: str) -> str:
    """What a form computes in."""
    return next((one for one in ("bf16", "int8") if one in form), "float32")


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
    forms: Sequence[str], rounds: int, rate: dict[str, float],
) -> list[tuple[str, str, bool]]:  # fmt: skip
    """Print a table; what was promised of it, what was found, and whether that is enough."""
    image, compared = images[0][None], unused(images)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        found.model(image)
    shares = {"eager": 1.0}
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
            shares[form] = same / sum(one.numel() for one in expected)
            told[form] = f"{shares[form]:.2%}"
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
    print(
        "| form | ms | times as fast as the peer | the same from JPEG to PNG | labels of eager "
        "| over the arithmetic |"
    )
    print("|---|---|---|---|---|---|")
    for name, label in told.items():
        if name not in seconds:
            print(f"| {name} | | | | {label} | |")
            continue
        first, second = seconds["peer, eager"] / seconds[name], whole["peer, eager"] / whole[name]
        known = rate.get(precision_of(name))
        above = "" if known is None else f"{seconds[name] * known / counted.get_total_flops():.2f}"
        print(
            f"| {name} | {1e3 * seconds[name]:.0f} | {first:.2f} | {second:.2f} | {label} | {above} |",
            flush=True,
        )
    told_goals = []
    for precision, least in GOALS.items():
        fitting = [name for name in shares if precision_of(name) == precision and shares[name] >= AGREEMENT]
        goal = f"{title.partition(',')[0]}, {precision}: at least {least} times the peer at {AGREEMENT:.1%}"
        if not fitting:
            told_goals.append((goal, "no form keeps so many labels", False))
            continue
        best = min(fitting, key=lambda name: seconds[name])
        gain = seconds["peer, eager"] / seconds[best]
        ends = whole["peer, eager"] / whole[best]
        told_goals.append((goal, f"{gain:.2f} ({best}); {ends:.2f} from file to file", gain >= least))
    return told_goals


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="CamVid: train on it first, compare on its images")
    parser.add_argument("--weights", type=Path, help="folder that keeps what was trained")
    parser.add_argument("--seconds", type=float, default=110, help="of training of each network")
    parser.add_argument("--images", type=Path, help="folder of real images")
    parser.add_argument("--trained", type=Path, help="a run, instead of random weights")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=24, help="images, a quarter of them compared")
    parser.add_argument("--form", action="append", choices=FORMS, help="only these forms, beside eager")
    given = parser.parse_args()
    if given.images is None and given.camvid is None:
        parser.error("images are needed: --camvid or --images")
    began = time.monotonic()
    size = (given.size, given.size)
    images = [
        F.interpolate(one[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        for one in images_in(given.images or given.camvid / "images" / "val", most=given.count)
    ]
    forms, rate, goals = given.form or list(USUAL), rates(), []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.rounds} rounds")
    if given.trained is None:
        for name, encoder in NETWORKS:
            if given.camvid is None:
                found, weights = made(name, encoder), "random weights"
            else:
                found = trained(name, encoder, given.camvid, given.weights, given.seconds)
                weights = "weights of a short training"
            peer = peer_of(name, encoder, found.classes)
            title = f"{name} on {encoder}, the network of the peer, {given.size} x {given.size}, {weights}"
            goals += compare(title, found, peer, images, forms, given.rounds, rate)
        tell(goals, time.monotonic() - began)
        return
    found = pw.load(given.trained)
    name, encoder = found.built_by.builder, found.built_by.arguments["encoder"]
    peer = peer_of(name, encoder, found.classes)
    title = f"{name} on {encoder}, {given.size} x {given.size}, weights of a training"
    tell(compare(title, found, peer, images, forms, given.rounds, rate), time.monotonic() - began)


def tell(goals: list[tuple[str, str, bool]], seconds: float) -> None:
    """What was promised, and what came of it."""
    print("\n| goal | found | |\n|---|---|---|")
    for goal, found, met in goals:
        print(f"| {goal} | {found} | {'met' if met else 'missed'} |")
    print(f"\n{seconds / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()
