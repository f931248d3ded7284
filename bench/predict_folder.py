"""A folder of images predicted to palette PNGs and overlays: pixelwise beside the loop that people write.

    python bench/predict_folder.py [--images FOLDER] [--count 200] [--rounds 3] [--overlay] [--all] [--ray]

Every measurement is a process of its own, because the waiting policy of OpenMP is read when torch is loaded;
the ways take turns. Loading and one image are not counted. `policy` is what the process was told: `as it is`
leaves the variable unset, as in a program that knows nothing of it; `passive` is what `pixelwise predict`
sets. `optimised` is `pixelwise predict --optimize`, with the fastest of the forms that `--form` names, chosen
before the clock starts, by one measurement for all rounds. `--ray` measures ours and `pixelwise predict
--engine ray` on this machine, and no loop: Ray once with a quarter of the images and once with all. The
difference is what images cost, and the rest is the start of Ray and of its workers, told apart. The processor
time is that of all processes that take part, as Linux tells it twice a second, by kind of process. Without
`--images`, JPEG files of CamVid's size are made. The goals, at least 1.3 times the plain loop and with Ray at
most 1.15 times ours from 1000 images on, stand at the end.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CODE = Path(__file__).resolve().parent.parent
RAY = "pixelwise, --engine ray"
OPTIMISED = "pixelwise, optimised"
WAYS = {  # way, its waiting policy
    "pixelwise, 2 workers": ("ours", "passive"),
    OPTIMISED: ("optimised", "passive"),
    "pixelwise, 2 workers, threads spin": ("ours", "as it is"),
    "pixelwise, one after the other": ("alone", "passive"),
    "plain loop": ("plain", "as it is"),
    "plain loop, threads sleep": ("plain", "passive"),
    RAY: ("ray", "passive"),
}
FEW = ("pixelwise, 2 workers", OPTIMISED, "pixelwise, 2 workers, threads spin", "plain loop")


def child(way: str, model_name: str, images: Path, count: int, overlay: bool, forms: Sequence[str]) -> None:
    """Predict the images in this process; print the seconds, by clock and processor, and the form."""
    import torch
    from PIL import Image

    import pixelwise as pw
    from pixelwise.machine import keep_freed_memory
    from pixelwise.predict.writing import plan, write_predictions

    if way != "plain":
        keep_freed_memory()  # as `pixelwise predict` does
    torch.manual_seed(0)
    arguments = {"encoder": "resnet18"} if model_name == "unet" else {}
    model = pw.build(model_name, 11, **arguments).eval()
    table = pw.ClassTable.of(*(f"class {number}" for number in range(11)))
    palette = [part for color in table.colors for part in color]
    colors = np.array(table.colors, np.uint8)
    paths = sorted(path for path in images.rglob("*") if path.suffix in (".png", ".jpg"))[:count]

    def plain(path: Path, out: Path) -> None:
        picture = Image.open(path).convert("RGB")
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 255
        with torch.no_grad():
            labels = model(x).logits.argmax(1)[0].numpy().astype(np.uint8)
        mask = Image.fromarray(labels)
        mask.putpalette(palette)
        mask.save(out / f"{path.stem}.png")
        if overlay:
            tinted = 0.5 * np.asarray(picture) + 0.5 * colors[labels]
            Image.fromarray(tinted.astype(np.uint8)).save(out / f"{path.stem}_overlay.png")

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if way == "ray":
            from pixelwise.predict.bulk import predict_on_ray

            pw.save(model, out / "model.safetensors", table)
            names = [os.fspath(path) for path in paths]
            loaded, target = pw.load(out / "model.safetensors"), os.fspath(out / "ray")
            done = predict_on_ray(loaded, names, target, prepare=keep_freed_memory, progress=False)
            assert len(done.predictions) == len(paths)
            return
        if way == "plain":
            plain(paths[0], out)
        else:
            if way == "optimised":
                choose(model, table, paths[0], forms)
            predictor = pw.Predictor(model, table, tile=None, optimize=way == "optimised")
            jobs = plan([os.fspath(path) for path in paths], out / "ours")
            write_predictions(predictor, plan([paths[0]], out / "warm"), out / "warm", progress=False)
        begin, processor = time.perf_counter(), time.process_time()
        if way == "plain":
            for path in paths:
                plain(path, out)
        else:
            workers = 0 if way == "alone" else 2
            write_predictions(predictor, jobs, out / "ours", overlay=overlay, progress=False, workers=workers)
        form = "eager" if way == "plain" else predictor.form
        print(json.dumps([time.perf_counter() - begin, time.process_time() - processor, form]))


def choose(model: Any, table: Any, path: Path, forms: Sequence[str]) -> None:
    """The fastest form for the size of an image, unless an earlier process chose it."""
    import pixelwise as pw
    from pixelwise import export
    from pixelwise.data.formats import read_image
    from pixelwise.types import BuiltBy

    found, image = pw.Checkpoint(model, table, BuiltBy("", {}), {}, "semantic"), read_image(path, 3)
    if export.recalled(found, (image.shape[1], image.shape[2])) is None:
        export.optimize(found, [image], forms=forms)


def called(
    way: str, policy: str, model: str, images: Path, given: argparse.Namespace, folder: Path
) -> tuple[list[str], dict[str, str]]:
    """The command of a process of its own, without the number of images, and its environment."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(CODE)} | ({"OMP_WAIT_POLICY": "PASSIVE"} if policy == "passive" else {})
    environment["RAY_worker_niceness"] = "0"  # else its workers give way to whatever else runs
    environment["PIXELWISE_CACHE"] = str(folder / "cache")  # of the choice of a form
    command = [sys.executable, __file__, "--child", way, "--model", model, "--images", str(images)]
    command += ["--overlay"] * given.overlay + [word for form in given.form for word in ("--form", form)]
    return command, environment


def measured(command: list[str], environment: dict[str, str], count: int) -> tuple[list[float], str]:
    """Seconds by the clock and of the processor, and the form of the network, of a process of its own."""
    command = [*command, "--count", str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *seconds, form = json.loads(done.stdout.splitlines()[-1])
    return seconds, form


def measured_on_ray(
    command: list[str], environment: dict[str, str], count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the start, and for the images, as `seconds_of_family` names them."""
    few = count // 4
    less, more = (
        seconds_of_family([*command, "--count", str(number)], environment) for number in (few, count)
    )
    images = {name: (more[name] - less[name]) * count / (count - few) for name in more}
    return {name: more[name] - images[name] for name in more}, images


def seconds_of_family(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """By the clock, and of the processor: of a command, of workers with the model, of what else Ray runs."""
    begin = time.perf_counter()
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    used: dict[int, float] = {}  # what each process told last: one that has ended tells nothing
    workers = set[int]()
    while first.poll() is None:
        started, seconds = defaultdict[int, list[int]](list), dict[int, float]()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                fields = path.read_text().rpartition(")")[2].split()  # proc(5), from the third one on
                number = int(path.parent.name)
                started[int(fields[1])].append(number)
                seconds[number] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        family = [first.pid]
        for one in family:
            family += started[one]
            used[one] = seconds.get(one, used.get(one, 0))
            with contextlib.suppress(OSError):
                if b"_Worker" in Path(f"/proc/{one}/cmdline").read_bytes():
                    workers.add(one)
        time.sleep(0.5)
    if first.returncode:
        raise subprocess.CalledProcessError(first.returncode, command)
    return {
        "by the clock": time.perf_counter() - begin,
        "the command": used.pop(first.pid),
        "workers": sum(seconds for one, seconds in used.items() if one in workers),
        "Ray itself": sum(seconds for one, seconds in used.items() if one not in workers),
    }


def tell_parts(rounds: list[tuple[dict[str, float], dict[str, float]]], count: int) -> None:
    """What the start on Ray costs, and an image."""
    print("\n| on Ray, processor | start, s | ms per image |")
    print("|---|---|---|")
    for name in list(rounds[0][0])[1:]:
        start, images = (statistics.median(one[i][name] for one in rounds) for i in (0, 1))
        print(f"| {name} | {start:.1f} | {1e3 * images / count:.1f} |")
    print()


def made(folder: Path, count: int) -> Path:
    """Images of CamVid's size where there are none: smooth shapes with a little noise, as JPEG."""
    from PIL import Image

    random = np.random.default_rng(0)
    y, x = np.mgrid[:360, :480]
    for number in range(count):
        waves = random.uniform(0.01, 0.05, (3, 2))
        pixels = np.stack([127 + 90 * np.sin(a * x + b * y + number) for a, b in waves], -1)
        pixels = np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="espnetv2_s_1_0,unet")
    parser.add_argument("--overlay", action="store_true", help="overlays beside the labels")
    parser.add_argument("--all", action="store_true", help="all ways, not only ours and the plain loop")
    parser.add_argument("--ray", action="store_true", help="only ours, and on Ray with processes of its own")
    parser.add_argument("--form", action="append", default=[], help="of optimised (openvino and folded)")
    parser.add_argument("--child")
    parser.add_argument("--model")
    given = parser.parse_args()
    given.form = given.form or ["openvino", "folded"]
    if given.child:
        child(given.child, given.model, given.images, given.count, given.overlay, given.form)
        return
    with tempfile.TemporaryDirectory() as temporary:
        images = given.images or made(Path(temporary), given.count)
        for model in given.models.split(","):
            chosen = (FEW[0], RAY) if given.ray else [one for one in WAYS if one != RAY] if given.all else FEW
            ways = {name: way for name, way in WAYS.items() if name in chosen}
            taken: dict[str, list[list[float]]] = {name: [] for name in ways}
            forms: dict[str, str] = {}
            on_ray: list[tuple[dict[str, float], dict[str, float]]] = []
            for _ in range(given.rounds):
                for name, (way, policy) in ways.items():
                    command, environment = called(way, policy, model, images, given, Path(temporary))
                    if way == "ray":
                        on_ray.append(measured_on_ray(command, environment, given.count))
                        clock, *processes = on_ray[-1][1].values()
                        seconds, forms[name] = [clock, sum(processes)], "eager"
                    else:
                        seconds, forms[name] = measured(command, environment, given.count)
                    taken[name].append(seconds)
                    wall, processor = seconds
                    print(f"{name}: {wall:.1f} s, {processor:.1f} of the processor", file=sys.stderr)
            files = "labels and overlays" if given.overlay else "labels"
            print(f"\n### {model}, {given.count} images to {files}, {given.rounds} rounds, medians\n")
            print("| way | images/s | processor ms per image | wall over ours | processor over ours |")
            print("|---|---|---|---|---|")
            median = {
                name: [statistics.median(column) for column in zip(*rows, strict=True)]
                for name, rows in taken.items()
            }
            ours = next(iter(median.values()))
            for name, (wall, processor) in median.items():
                shown = f"{name}: {forms[name]}" if name == OPTIMISED else name
                print(
                    f"| {shown} | {given.count / wall:.1f} | {1e3 * processor / given.count:.1f} "
                    f"| {wall / ours[0]:.2f} | {processor / ours[1]:.2f} |",
                    flush=True,
                )
            if given.ray:
                tell_parts(on_ray, given.count)
                for clock, used, own in zip(("wall", "processor"), median[RAY], ours, strict=True):
                    met = "met" if used <= 1.15 * own else "missed"
                    print(f"Goal: Ray at most 1.15 times ours, {clock}; found {used / own:.2f}, {met}")
                continue
            gain = median["plain loop"][0] / ours[0]
            met = "met" if gain >= 1.3 else "missed"
            print(f"\nGoal: at least 1.30 times the plain loop; found {gain:.2f}, {met}", flush=True)
            gain = median["plain loop"][0] / median[OPTIMISED][0]
            print(f"Optimised: {gain:.2f} times the plain loop", flush=True)


if __name__ == "__main__":
    main()
