"""`pixelwise serve` under steady load for a long time: memory stays flat and no answer is lost or wrong.

    python bench/soak.py [--minutes 30] [--clients 4] [--workers 1]

Loopback only. Clients send JPEG files of six sizes and ask for labels, COCO and overlays in turn; every
answer must have the bytes of the first one to the same request. Memory is that of the server's processes,
the median of the last fifth of the time over that of the second fifth (in the first one buffers grow to the
largest image). Exit code 1 if it grew by more than 2 %, or an answer was missing, wrong, or no 200.
"""

import argparse
import http.client
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from load import Request, Running, ask, free_port, start
from serve import pictures

MOST = 1.02
SIZES = (64, 96, 128, 160, 192, 224)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.safetensors"
        make(checkpoint)
        port = free_port()
        words = [
            "-m",
            "pixelwise",
            "serve",
            str(checkpoint),
            "--port",
            str(port),
            "--size",
            "224",
            "--timeout",
            "600",
        ]
        words += ["--workers", str(options.workers)]
        server = start(words, port, "/v1/health/ready", threads=1)
        try:
            fine = soak(server, options)
        finally:
            code = server.stop()
    print(f"Ended by SIGTERM with code {code}.")
    sys.exit(0 if fine and code == 0 else 1)


def make(checkpoint: Path) -> None:
    """Write the weights of a small network, so that most of the work is the server's."""
    import torch

    import pixelwise as pw
    from pixelwise.checkpoint import save

    torch.manual_seed(0)
    save(pw.build("unet", 5, encoder="tiny"), checkpoint, pw.ClassTable.of(*"abcde"))


def soak(server: Running, options: argparse.Namespace) -> bool:
    """Ask all the time and look at the memory; whether all was well."""
    requests: list[Request] = [
        (f"/v1/predict?output={output}", file, "image/jpeg")
        for size in SIZES
        for output in ("labels", "coco", "overlay")
        for file in pictures(2, size)
    ]
    expected = [answer_to(server.port, one) for one in requests]
    memory: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(options.minutes * 60 / 100):
            memory.append(server.memory())

    looking = threading.Thread(target=look)
    looking.start()
    began = time.monotonic()
    found = ask(
        server.port,
        requests,
        clients=options.clients,
        seconds=options.minutes * 60,
        right=lambda number, content: content == expected[number],
    )
    over.set()
    looking.join()
    fifth = len(memory) // 5
    fifths = [statistics.median(memory[i * fifth : (i + 1) * fifth]) for i in range(5)]
    early, late = fifths[1], fifths[-1]
    print(
        f"{sum(found.statuses.values())} requests in {(time.monotonic() - began) / 60:.1f} minutes: answers "
        f"{found.statuses}, {found.wrong} wrong; p50 {found.quantile(0.5):.0f} ms, p99 "
        f"{found.quantile(0.99):.0f} ms; memory in fifths of the time "
        f"{', '.join(f'{one:.1f}' for one in fifths)} MiB: the last over the second {late / early:.3f} "
        f"(at most {MOST})"
    )
    return set(found.statuses) == {200} and not found.wrong and late <= MOST * early


def answer_to(port: int, request: Request) -> bytes:
    """The body of one answer."""
    path, body, kind = request
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: status {answer.status}: {content[:300]!r}")
    return content


if __name__ == "__main__":
    main()
