"""`pixelwise serve` under load, over pure calls of the same model, LitServe, and FastAPI as people write it.

    python bench/serve.py [--seconds 10] [--rounds 2] [--clients 16] [--size 256] [--threads 1]

Loopback only, about three minutes. JPEG in, label PNG out, U-Net on ResNet-18 with random weights. Each
server is a process of its own with the same number of threads; they take turns. CPU is that of the server's
processes, without the clients, which share the machine: shares by the clock suffer from that where there are
few cores. The overload sends four times as many requests per second as are answered at saturation.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from load import CODE, Running, ask, free_port, start
from PIL import Image
from side_by_side import peer

CLASSES = 21


def pictures(count: int, size: int) -> list[bytes]:
    """JPEG files of smooth noise."""
    random, files = np.random.default_rng(0), []
    for _ in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
        files.append(file.getvalue())
    return files


# --- what runs in processes of its own ----------------------------------------------------------------


def make(checkpoint: Path) -> None:
    """Write the weights."""
    import torch

    import pixelwise as pw
    from pixelwise.checkpoint import save

    torch.manual_seed(0)
    model = pw.build("unet", CLASSES, encoder="resnet18", pretrained=False)
    save(model, checkpoint, pw.ClassTable.of(*(f"class {number}" for number in range(CLASSES))))


def pure(checkpoint: Path, size: int, seconds: float) -> None:
    """Call the model and take the largest score, image by image; print wall and CPU seconds per image."""
    import torch

    from pixelwise.checkpoint import load

    model = load(checkpoint).model
    image = torch.rand(1, 3, size, size)

    def call() -> None:
        with torch.no_grad():
            model(image).logits.argmax(1)

    for _ in range(3):
        call()
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < began + seconds:
        call()
        count += 1
    print(json.dumps([(time.perf_counter() - began) / count, (time.process_time() - cpu) / count]))


def ours(checkpoint: Path, size: int, port: int, waiting: int) -> None:
    """Our server, with room for `waiting` images."""
    from pixelwise.serve import Limits, serve

    serve([str(checkpoint)], port=port, size=size, limits=Limits(waiting=waiting))


def plain(checkpoint: Path, port: int) -> None:
    """FastAPI around the model, as tutorials have it."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Response, UploadFile

    from pixelwise.checkpoint import load

    found = load(checkpoint)
    model, palette = found.model, [part for color in found.classes.colors for part in color]
    app = FastAPI()

    @app.get("/ready")
    def ready() -> str:
        return "ready"

    @app.post("/predict")
    def predict(image: UploadFile) -> Response:
        picture = Image.open(image.file).convert("RGB")
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 255
        with torch.no_grad():
            labels = model(x).logits.argmax(1)[0].numpy().astype(np.uint8)
        mask = Image.fromarray(labels)
        mask.putpalette(palette)
        file = io.BytesIO()
        mask.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    uvicorn.run(app, port=port, log_level="warning")


def litserve(checkpoint: Path, port: int) -> None:
    """LitServe around the model, one image at a time; its requests carry base64."""
    import base64

    import litserve as ls  # type: ignore[import-not-found]
    import torch

    from pixelwise.checkpoint import load

    class Api(ls.LitAPI):
        def setup(self, device: str) -> None:
            found = load(checkpoint)
            self.model = found.model
            self.palette = [part for color in found.classes.colors for part in color]

        def decode_request(self, request: dict[str, str]) -> torch.Tensor:
            picture = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB")
            return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 255

        def predict(self, x: torch.Tensor) -> np.ndarray:
            with torch.no_grad():
                labels: np.ndarray = self.model(x).logits.argmax(1)[0].numpy()
            return labels.astype(np.uint8)

        def encode_response(self, output: np.ndarray) -> dict[str, str]:
            mask, file = Image.fromarray(output), io.BytesIO()
            mask.putpalette(self.palette)
            mask.save(file, "PNG")
            return {"mask": base64.b64encode(file.getvalue()).decode()}

    ls.LitServer(Api(), accelerator="cpu", workers_per_device=1).run(port=port, generate_client_file=False)


# --- the measurement ----------------------------------------------------------------------------------


def form(file: bytes) -> tuple[bytes, str]:
    """A form with one file, for FastAPI's UploadFile."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return head + file + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, *words = options.child
        {
            "make": lambda: make(Path(words[0])),
            "pure": lambda: pure(Path(words[0]), options.size, options.seconds),
            "ours": lambda: ours(Path(words[0]), options.size, int(words[1]), int(words[2])),
            "plain": lambda: plain(Path(words[0]), int(words[1])),
            "litserve": lambda: litserve(Path(words[0]), int(words[1])),
        }[way]()
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder) / "model.safetensors")


def measure(options: argparse.Namespace, checkpoint: Path) -> None:
    """Start the servers, let them take turns, print the tables."""
    common = ["--size", str(options.size), "--seconds", str(options.seconds)]

    def child(*words: object) -> list[str]:
        return [__file__, *common, "--child", *map(str, words)]

    def run(*words: object) -> str:
        variables = {"PYTHONPATH": str(CODE), "OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(
            [sys.executable, *child(*words)], env=variables, check=True, capture_output=True, text=True
        )
        return done.stdout

    run("make", checkpoint)
    files = pictures(32, options.size)
    ways = {"pixelwise": ("ours", "/v1/health/ready", [("/v1/predict", one, "image/jpeg") for one in files])}
    ways["FastAPI, plain"] = ("plain", "/ready", [("/predict", *form(one)) for one in files])
    if peer("litserve") is not None:
        import base64

        bodies = [json.dumps({"image": base64.b64encode(one).decode()}).encode() for one in files]
        ways["LitServe"] = ("litserve", "/health", [("/predict", one, "application/json") for one in bodies])
    servers: dict[str, Running] = {}
    try:
        for name, (way, ready, _) in ways.items():
            port = free_port()
            more = [64] if way == "ours" else []
            servers[name] = start(child(way, checkpoint, port, *more), port, ready, options.threads)
        report(options, run, checkpoint, ways, servers)
    finally:
        codes = {name: server.stop() for name, server in servers.items()}
    print(f"\nEnded by SIGTERM with code {codes['pixelwise']}.")


def report(options, run, checkpoint, ways, servers) -> None:
    """The tables of throughput, of one client, and of overload."""
    alone = [json.loads(run("pure", checkpoint))]
    rows: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, server in servers.items():
            cpu = server.cpu()
            found = ask(server.port, ways[name][2], clients=options.clients, seconds=options.seconds)
            assert set(found.statuses) == {200}, found.statuses
            spent = (server.cpu() - cpu) / len(found.seconds)
            rows[name].append((found.rate, found.quantile(0.5), found.quantile(0.99), 1e3 * spent))
        alone.append(json.loads(run("pure", checkpoint)))
    wall, cpu = (1e3 * statistics.median(column) for column in zip(*alone, strict=True))
    print(
        f"U-Net on ResNet-18, {options.size} x {options.size}, {options.clients} clients, "
        f"{options.threads} thread(s), medians of {options.rounds} rounds of {options.seconds:g} s.\n"
        f"Pure model calls: {wall:.1f} ms by the clock, {cpu:.1f} ms CPU, {1e3 / wall:.1f} images/s.\n"
    )
    print("| server | requests/s | of pure calls | p50 ms | p99/p50 | CPU ms | over pure | MiB | start s |")
    print("|---|---|---|---|---|---|---|---|---|")
    saturated = 0.0
    for name, server in servers.items():
        rate, p50, p99, spent = (statistics.median(column) for column in zip(*rows[name], strict=True))
        saturated = saturated or rate
        print(
            f"| {name} | {rate:.2f} | {rate * wall / 1e3:.2f} | {p50:.0f} | {p99 / p50:.2f} | {spent:.1f} | "
            f"{spent / cpu:.2f} | {server.memory():.0f} | {server.seconds:.1f} |"
        )
    if "LitServe" not in servers:
        print("| LitServe | not installed | | | | | | | |")
    print("\nGoals: at least 0.9 of pure calls by the clock on a quiet machine, at most 1.03 of their CPU.\n")
    print("| one client | p50 ms | above the model |\n|---|---|---|")
    for name, server in servers.items():
        found = ask(server.port, ways[name][2], clients=1, seconds=options.seconds / 2)
        print(f"| {name} | {found.quantile(0.5):.1f} | {found.quantile(0.5) - wall:.1f} |")
    server = servers["pixelwise"]
    for _ in range(20):  # idle
        time.sleep(0.1)
    cpu_before = server.cpu()
    time.sleep(5)
    print(f"\nIdle: {(server.cpu() - cpu_before) / 5:.3f} cores (goal: at most 0.01).")
    overload(options, checkpoint, ways["pixelwise"][2], saturated)


def overload(options, checkpoint, requests, saturated: float) -> None:
    """Four times the requests that can be answered, with room for 16 images."""
    port = free_port()
    words = [__file__, "--size", str(options.size), "--child", "ours", str(checkpoint), str(port), "16"]
    server = start(words, port, "/v1/health/ready", options.threads)
    try:
        before = ask(port, requests, clients=12, seconds=options.seconds)
        found = ask(port, requests, clients=64, seconds=2 * options.seconds, pace=4 * before.rate)
    finally:
        server.stop()
    fine = set(found.statuses) <= {200, 503} and not found.without_hint
    print(
        f"\nOverload, {4 * before.rate:.1f} requests/s asked for, room for 16 images: answers "
        f"{found.statuses}, {'all' if fine else 'NOT all'} of them 200 or 503 with Retry-After; "
        f"{found.rate:.2f} accepted/s are {found.rate / before.rate:.2f} of {before.rate:.2f} at "
        f"saturation (goal: at least 0.9); "
        f"p99/p50 of the accepted {found.quantile(0.99) / found.quantile(0.5):.2f}."
    )


if __name__ == "__main__":
    main()
