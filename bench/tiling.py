"""A large image in tiles: streamed file to file, beside the model calls alone and MONAI's sliding window.

    python bench/tiling.py [--side 10000] [--peer-side 4000] [--threads 2] [--rounds 3]

RGB of 8 bits, four classes, tiles of 512 x 512 that overlap by 64, a network of three convolutions at full
resolution. Every run is a fresh process, in turn; processor time is measured beside wall time, since machines
are shared. Extra memory is the highest resident size less that before the prediction. MONAI holds the scores
of the whole image, so it is measured on a smaller one, as ours beside it. The goals stand at the end: at most
300 MB, at most 1.1 times the model calls alone, at least 3.5 times as fast as MONAI. "tiles chosen" are as
large as `stream` takes them where nobody asks for a size, which is what users get: less is computed twice, so
both ways are judged by the calls for tiles of 512 x 512 and for their own. The last column counts the pixels
that the network was given, over those of the image.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixelwise.machine import keep_freed_memory
from pixelwise.predict import Predictor
from pixelwise.types import ClassTable, DenseLogits, DenseModel

TILE, OVERLAP, CLASSES = (512, 512), 64, 4
ALONE, FIXED = "model calls alone", "ours, crop"
ALONE_CHOSEN, CHOSEN = (f"{way}, tiles chosen" for way in (ALONE, FIXED))
OURS = (
    ALONE,
    ALONE_CHOSEN,
    FIXED,
    CHOSEN,
    "ours, Gaussian",
    "ours, crop, to tiled TIFF",
    "ours, crop, to zarr",
)
PEERS = ("MONAI, constant", "MONAI, Gaussian", FIXED, "ours, Gaussian")


class Small(DenseModel):
    """Three convolutions at full resolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_classes, self.minimum_size = CLASSES, 8
        self.seen: list[int] = []  # pixels of each call
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, CLASSES, 1),
        )  # fmt: skip

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Scores of every pixel."""
        self.seen.append(image.shape[0] * image.shape[-2] * image.shape[-1])
        return DenseLogits(self.layers(image), (image.shape[-2], image.shape[-1]))


def picture(path: Path, side: int) -> None:
    """Smooth shapes with noise, written in bands."""
    random = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.uint8, (side, side, 3))
    x = np.arange(side, dtype=np.float32)
    for top in range(0, side, 500):
        y = np.arange(top, min(top + 500, side), dtype=np.float32)[:, None]
        waves = [np.sin(x / a) * np.cos(y / b) for a, b in ((90, 70), (40, 130), (210, 50))]
        shade = 128 + 80 * np.stack(waves, -1) + random.integers(-20, 20, (len(y), side, 3))
        rows[top : top + 500] = np.clip(shade, 0, 255)


def once(way: str, source: Path, folder: Path, threads: int) -> dict[str, float]:
    """Wall and processor seconds, and megabytes, of one way in this process."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as `pixelwise predict` does; here for all ways alike
    model, image = Small().eval(), np.load(source, mmap_mode="r")
    size = image.shape[:2]
    classes = ClassTable.of(*"abcd")
    blend = "gaussian" if "Gaussian" in way else "crop"
    tile_size = None if way in (ALONE_CHOSEN, CHOSEN) else TILE
    predict = Predictor(model, classes, tile=tile_size, overlap=OVERLAP, blend=blend)
    warm = np.zeros((600, 600, 3), np.uint8)
    predict.stream(warm, np.zeros(warm.shape[:2], np.uint8))
    with predict._stream(image, "labels", 1, None) as stream:
        tiles, tile = math.prod(map(len, stream.axes)), torch.rand(1, 3, *stream.tile)
    tile = tile.contiguous(memory_format=torch.channels_last)
    model.seen.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
    before = _highest()
    wall, used = time.perf_counter(), time.process_time()
    out = folder / f"{way.split()[-1]}-{size[0]}.npy"
    if way in (ALONE, ALONE_CHOSEN):
        with torch.no_grad():
            for _ in range(tiles):
                model(tile)
    elif way.startswith("MONAI"):
        from monai.inferers.utils import sliding_window_inference

        # As its users do: the image as float32, one tile at a time, the argmax of all scores.
        whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        mode = "constant" if "constant" in way else "gaussian"
        with torch.no_grad():
            scores = sliding_window_inference(
                whole, TILE, 1, lambda x: model(x).logits, overlap=OVERLAP / TILE[0], mode=mode
            )
            np.save(out, scores.argmax(1)[0].byte().numpy())
    else:
        suffix = {"TIFF": ".tif", "zarr": ".zarr"}.get(way.split()[-1], ".npy")
        predict.stream(source, out.with_suffix(suffix))
    seconds = time.perf_counter() - wall, time.process_time() - used
    return {
        "wall": seconds[0],
        "processor": seconds[1],
        "memory": (_highest() - before) / 1e6,
        "seen": sum(model.seen) / (size[0] * size[1]),
    }


def _highest() -> int:
    """The highest resident size of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


Medians = dict[str, tuple[float, float, float]]


def table(title: str, ways: tuple[str, ...], source: Path, arguments: argparse.Namespace) -> Medians:
    """Run all ways in turn and print their medians: wall and processor seconds, and megabytes."""
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    labels: dict[str, np.ndarray] = {}
    for _ in range(arguments.rounds):
        for way in ways:
            with tempfile.TemporaryDirectory(dir=source.parent) as folder:
                command = [sys.executable, __file__, "--one", way, "--source", str(source), "--out", folder]
                command += ["--threads", str(arguments.threads)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                taken[way].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{way}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
                if found := list(Path(folder).glob("*.npy")):
                    labels[way] = np.load(found[0])
    print(f"\n### {title}\n")
    print(
        "| way | wall s | over the first | processor s | over the first | extra MB | same labels "
        "| pixels seen |"
    )
    print("|---|---|---|---|---|---|---|---|")
    medians: Medians = {}
    for way, runs in taken.items():
        wall, used, memory = (
            statistics.median(run[name] for run in runs) for name in ("wall", "processor", "memory")
        )
        medians[way] = (wall, used, memory)
        first = medians[ways[0]]
        like = next(iter(labels.values()))
        same = f"{100 * (labels[way] == like).mean():.3f} %" if way in labels else ""
        print(
            f"| {way} | {wall:.1f} | {wall / first[0]:.2f} | {used:.1f} | {used / first[1]:.2f} "
            f"| {memory:.0f} | {same} | {runs[0]['seen']:.2f} |",
            flush=True,
        )
    return medians


def goals(large: Medians, small: Medians) -> None:
    """What was promised, and what came of it."""
    told = list[tuple[str, str, bool]]()
    for way in (CHOSEN, FIXED):
        memory = large[way][2]
        told.append((f"{way}: at most 300 MB of extra memory", f"{memory:.0f} MB", memory <= 300))
    for way, alone in ((CHOSEN, ALONE), (CHOSEN, ALONE_CHOSEN), (FIXED, ALONE)):
        for i, clock in enumerate(("wall", "processor")):
            above = large[way][i] / large[alone][i]
            goal = f"{way}: at most 1.10 times {alone}, {clock} time"
            told.append((goal, f"{above:.2f}", above <= 1.1))
    for ours, peer in ((FIXED, "MONAI, constant"), ("ours, Gaussian", "MONAI, Gaussian")):
        gain = small[peer][0] / small[ours][0]
        told.append((f"{ours}: at least 3.5 times as fast as {peer}", f"{gain:.2f}", gain >= 3.5))
    print("\n| goal | found | |\n|---|---|---|")
    for goal, found, met in told:
        print(f"| {goal} | {found} | {'met' if met else 'missed'} |")


def main() -> None:
    """Everything, or one way where `--one` asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--peer-side", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(once(arguments.one, arguments.source, arguments.out, arguments.threads)))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for side, ways in ((arguments.side, OURS), (arguments.peer_side, PEERS)):
            source = Path(folder) / f"{side}.npy"
            picture(source, side)
            title = f"{side} x {side}, {arguments.threads} thread(s), {arguments.rounds} round(s)"
            found.append(table(title, ways, source, arguments))
    goals(*found)


if __name__ == "__main__":
    main()
