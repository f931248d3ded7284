"""`pixelwise serve` under load, over pure calls of the same model, LitServe, and FastAPI as people write it.

    python bench/serve.py [--seconds 8] [--rounds 2] [--clients 16] [--size 256] [--threads 1]

Loopback only, three to four minutes. JPEG in, label PNG out, U-Net on ResNet-18 with random weights. Each
server is a process of its own with the same number of threads; they take turns. CPU is that of the server's
processes, without the clients, which share the machine: shares by the clock suffer from that where there are
few cores. Who is not measured is stopped meanwhile (SIGSTOP), because a server may compute while nobody asks.
Goals are those that were set before
anything was measured. The overload sends four times as many requests per second as are answered at
saturation.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from load import CODE, Request, Running, anonymous, ask, free_port, start
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


def pure(checkpoint: Path, size: int, seconds: float, batch: int) -> None:
    """Call the model and take the largest score, image by image.

    Prints wall and CPU seconds per image, MiB of the process, seconds from its start until it had loaded, and
    MiB after it has also called the model with as many images at once as the server does.
    """
    import torch

    from pixelwise.checkpoint import load

    model = load(checkpoint).model
    loaded = time.time() - float(os.environ["BEGAN"])
    image = torch.rand(1, 3, size, size)

    def call(images: torch.Tensor = image) -> None:
        with torch.no_grad():
            model(images).logits.argmax(1)

    for _ in range(3):
        call()
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < began + seconds:
        call()
        count += 1
    wall, spent = time.perf_counter() - began, time.process_time() - cpu
    one_by_one = anonymous(os.getpid())
    for _ in range(3):
        call(image.expand(batch, -1, -1, -1).contiguous())
    print(json.dumps([wall / count, spent / count, one_by_one, loaded, anonymous(os.getpid())]))


def handling(size: int) -> float:
    """CPU milliseconds to decode a JPEG and to encode a label PNG, which every server must do."""
    file = pictures(1, size)[0]
    labels = np.zeros((size, size), np.uint8)
    labels[size // 3 :, size // 2 :] = 1
    began = time.process_time()
    for _ in range(100):
        np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        Image.fromarray(labels).save(io.BytesIO(), "PNG")
    return 10 * (time.process_time() - began)


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


# --- the measurement ----------------------------------------------------------------------------------


def form(file: bytes) -> tuple[bytes, str]:
    """A form with one file, for FastAPI's UploadFile."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return head + file + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
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
            "pure": lambda: pure(Path(words[0]), options.size, options.seconds, int(words[1])),
            "ours": lambda: ours(Path(words[0]), options.size, int(words[1]), int(words[2])),
            "plain": lambda: plain(Path(words[0]), int(words[1])),
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
        variables = {
            **os.environ, "PYTHONPATH": str(CODE), "OMP_NUM_THREADS": str(options.threads),
            "OMP_WAIT_POLICY": "PASSIVE", "BEGAN": str(time.time()),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *child(*words)], env=variables, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    run("make", checkpoint)
    files = pictures(32, options.size)
    ours = [("/v1/predict", one, "image/jpeg") for one in files]
    ways: dict[str, tuple[list[str], str, list[Request]]] = {}
    ports = {name: free_port() for name in ("pixelwise", "FastAPI, plain", "LitServe")}
    ways["pixelwise"] = (child("ours", checkpoint, ports["pixelwise"], 64), "/v1/health/ready", ours)
    forms = [("/predict", *form(one)) for one in files]
    ways["FastAPI, plain"] = (child("plain", checkpoint, ports["FastAPI, plain"]), "/ready", forms)
    if peer("litserve") is not None:
        bodies = [json.dumps({"image": base64.b64encode(one).decode()}).encode() for one in files]
        script = str(Path(__file__).with_name("serve_litserve.py"))
        asked = [("/predict", one, "application/json") for one in bodies]
        ways["LitServe"] = ([script, str(checkpoint), str(ports["LitServe"])], "/health", asked)
    servers: dict[str, Running] = {}
    try:
        for name, (words, ready, _) in ways.items():
            try:
                servers[name] = start(words, ports[name], ready, options.threads)
            except RuntimeError as error:
                if name == "pixelwise":
                    raise
                print(f"{name} is left out: {error}\n")
                continue
            servers[name].pause()
        requests = {name: way[2] for name, way in ways.items()}
        report(options, run, checkpoint, requests, servers)
    finally:
        codes = {name: server.stop() for name, server in servers.items()}
    print(f"Ended by SIGTERM with code {codes['pixelwise']}.")
    overload(options, checkpoint, ours)


@contextlib.contextmanager
def awake(server: Running) -> Iterator[None]:
    """One server runs, the others rest."""
    server.go_on()
    try:
        yield
    finally:
        server.pause()


def batch_of(port: int) -> int:
    """How many images our server gives the model at once."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as answer:
        return int(json.load(answer)["models"][0]["batch"])


def report(
    options: argparse.Namespace,
    run: Callable[..., str],
    checkpoint: Path,
    requests: Mapping[str, Sequence[Request]],
    servers: Mapping[str, Running],
) -> None:
    """The tables of throughput, of one client, and of rest."""
    with awake(servers["pixelwise"]):
        batch = batch_of(servers["pixelwise"].port)
    alone = [json.loads(run("pure", checkpoint, batch).splitlines()[-1])]
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, server in servers.items():
            with awake(server):
                ask(server.port, requests[name], clients=2, seconds=1)  # it may have been cold
                cpu = server.cpu()
                found = ask(server.port, requests[name], clients=options.clients, seconds=options.seconds)
                spent = (server.cpu() - cpu) / max(1, len(found.seconds))
            if set(found.statuses) != {200}:
                raise RuntimeError(f"{name} answered {found.statuses}: there is nothing to compare")
            rows[name].append((found.rate, found.quantile(0.5), found.quantile(0.99), 1e3 * spent))
        alone.append(json.loads(run("pure", checkpoint, batch).splitlines()[-1]))
    wall, cpu, memory, loaded, with_batches = (
        statistics.median(column) for column in zip(*alone, strict=True)
    )
    wall, cpu, codec = 1e3 * wall, 1e3 * cpu, handling(options.size)
    print(
        f"U-Net on ResNet-18, {options.size} x {options.size}, {options.clients} clients, "
        f"{options.threads} thread(s), medians of {options.rounds} rounds of {options.seconds:g} s; "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.\n"
        f"Pure model calls: {wall:.1f} ms by the clock, {cpu:.1f} ms CPU, {1e3 / wall:.1f} images/s, "
        f"{memory:.0f} MiB, loaded in {loaded:.1f} s. Decoding and encoding: {codec:.2f} ms CPU.\n"
    )
    print("| server | requests/s | of pure calls | p50 ms | p99/p50 | CPU ms | over pure | MiB | start s |")
    print("|---|---|---|---|---|---|---|---|---|")
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rows[name], strict=True)) for name in servers
    }
    for name, (rate, p50, p99, spent) in medians.items():
        server = servers[name]
        print(
            f"| {name} | {rate:.2f} | {rate * wall / 1e3:.2f} | {p50:.0f} | {p99 / p50:.2f} | {spent:.1f} | "
            f"{spent / cpu:.2f} | {server.memory():.0f} | {server.seconds:.1f} |"
        )
    if "LitServe" not in servers:
        print("| LitServe | not there (pip install litserve) | | | | | | | |")
    print("\n| one client | p50 ms | above the model |\n|---|---|---|")
    lonely = {}
    for name, server in servers.items():
        with awake(server):
            found = ask(server.port, requests[name], clients=1, seconds=options.seconds / 2)
        lonely[name] = found.quantile(0.5) - wall
        print(f"| {name} | {found.quantile(0.5):.1f} | {lonely[name]:.1f} |")
    print("\n| nobody asks | cores |\n|---|---|")
    idle = {}
    for name, server in servers.items():
        with awake(server):
            time.sleep(1)
            before = server.cpu()
            time.sleep(5)
            idle[name] = (server.cpu() - before) / 5
        print(f"| {name} | {idle[name]:.3f} |")
    rate, p50, p99, spent = medians["pixelwise"]
    server = servers["pixelwise"]
    print("\n| goal | wanted | measured | |\n|---|---|---|---|")
    goal("requests/s, share of pure calls by the clock (a quiet machine)", rate * wall / 1e3, at_least=0.9)
    goal("CPU per answer over pure calls", spent / cpu, at_most=1.03)
    goal("CPU ms above the model, decoding and encoding", spent - cpu - codec, at_most=0.8)
    if "LitServe" in servers:
        theirs = medians["LitServe"]
        goal("requests/s over LitServe's", rate / theirs[0], at_least=0.98)
        goal(
            "CPU above all that, over LitServe's",
            (spent - cpu - codec) / max(1e-9, theirs[3] - cpu - codec), at_most=0.7,
        )  # fmt: skip
    goal(f"p99/p50 at {options.clients} clients", p99 / p50, at_most=1.3)
    goal("one client, ms above the model", lonely["pixelwise"], at_most=5)
    goal("MiB above the pure process", server.memory() - memory, at_most=80)
    told = f"MiB above a pure process that calls the model with batches of {batch}, as the server does"
    goal(told, server.memory() - with_batches, at_most=80)
    goal("seconds of the start above the pure load, warm-up included", server.seconds - loaded)
    goal("cores while nobody asks", idle["pixelwise"], at_most=0.01)


def goal(name: str, measured: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """A row of the table of goals."""
    wanted, met = "", ""
    if at_least is not None:
        wanted, met = f">= {at_least:g}", "met" if measured >= at_least else "not met"
    if at_most is not None:
        wanted, met = f"<= {at_most:g}", "met" if measured <= at_most else "not met"
    print(f"| {name} | {wanted} | {measured:.3g} | {met} |")


def overload(options: argparse.Namespace, checkpoint: Path, requests: Sequence[Request]) -> None:
    """Four times the requests that can be answered, with room for 16; then as many as clients can ask."""
    port = free_port()
    words = [__file__, "--size", str(options.size), "--child", "ours", str(checkpoint), str(port), "16"]
    server = start(words, port, "/v1/health/ready", options.threads)
    try:
        cpu = server.cpu()
        before = ask(port, requests, clients=12, seconds=options.seconds)
        per_answer = 1e3 * (server.cpu() - cpu) / max(1, len(before.seconds))
        found = ask(port, requests, clients=64, seconds=2 * options.seconds, pace=4 * before.rate)
        cpu = server.cpu()
        flood = ask(port, requests, clients=64, seconds=options.seconds)
        spent = 1e3 * (server.cpu() - cpu)
        after = ask(port, requests, clients=1, seconds=1)
    finally:
        server.stop()
    refused = found.statuses.get(503, 0)
    print(
        f"\nOverload, {4 * before.rate:.1f} requests/s asked for with room for 16 images: "
        f"answers {found.statuses}, {found.without_hint} refusals without Retry-After, "
        f"afterwards {after.statuses}.\n"
    )
    print("| goal | wanted | measured | |\n|---|---|---|---|")
    other = sum(found.statuses.values()) - found.statuses.get(200, 0) - refused + found.without_hint
    goal("answers that are neither 200 nor 503 with Retry-After", other, at_most=0)
    goal(f"accepted/s, share of {before.rate:.2f} at saturation", found.rate / before.rate, at_least=0.9)
    goal("p99/p50 of the accepted", found.quantile(0.99) / found.quantile(0.5))
    # Of clients that come back at once, so that nearly all are refused: answers cost far more than refusals.
    if refused := flood.statuses.get(503, 0):
        each = (spent - per_answer * len(flood.seconds)) / refused
        goal(f"CPU ms per refusal, of {refused} refusals", each, at_most=0.3)


if __name__ == "__main__":
    main()
