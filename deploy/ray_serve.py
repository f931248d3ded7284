"""`pixelwise serve` on a Ray cluster, for those who outgrow one machine.

    pip install 'pixelwise[serve]' 'ray[serve]'              # on every machine; brings HAProxy (GPL-2)
    python deploy/ray_serve.py runs/first --replicas 2       # a cluster of this machine alone
    ray start --head                                         # or: on the first machine,
    ray start --address FIRST:6379                           # on the others, and then on the first:
    python deploy/ray_serve.py /shared/runs/first --address auto --replicas 8 --token-file T --host 0.0.0.0

Every replica is a process with the engine of `pixelwise serve`: its queue, its batches, its limits. The run
must lie under the same path on all machines. It ends at Ctrl-C or SIGTERM, after what was begun is answered.
"""

import argparse
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray import serve

from pixelwise.serve import Limits, application, read_token
from pixelwise.serve.listening import check_address

if TYPE_CHECKING:
    from fastapi import FastAPI


def main() -> None:
    """Start the replicas, and wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", help="checkpoints, run directories or exported files")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=1, help="of each replica")
    parser.add_argument("--gpus", type=float, default=0, help="of each replica; 0.5 lets two share one")
    parser.add_argument(
        "--address", help="of a cluster; auto for the one of this machine; else one is started"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--size", type=int, default=512, help="side of the images for the warm-up")
    options = parser.parse_args()
    if missing := [run for run in options.runs if not Path(run).exists()]:
        parser.error(f"there is no {missing[0]}")
    token = (
        read_token(options.token_file) if options.token_file else os.environ.get("PIXELWISE_TOKEN") or None
    )
    check_address(options.host, token)

    if options.address is None:
        cpus = max(1, round(options.replicas * options.cpus))
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    else:
        ray.init(address=options.address)
    try:
        serve.start(http_options={"host": options.host, "port": options.port})
        serve.run(deployment(options, token), name="pixelwise")
        stopped = threading.Event()
        for one in (signal.SIGINT, signal.SIGTERM):  # after `ray.init`, which sets its own
            signal.signal(one, lambda *_: stopped.set())
        print(f"{options.replicas} replicas answer on http://{options.host}:{options.port}", flush=True)
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def deployment(options: argparse.Namespace, token: str | None) -> serve.Application:
    """The replicas; each makes the application for itself."""
    limits = Limits()
    device = "cuda" if options.gpus else "cpu"
    runs = [str(Path(run).resolve()) for run in options.runs]
    size = options.size

    def made() -> "FastAPI":  # a function, not a partial: Ray takes anything else for the application itself
        return application(runs, token=token, limits=limits, size=size, device=device)

    replicas = serve.deployment(
        name="pixelwise",
        num_replicas=options.replicas,
        # The engine refuses what it has no room for: its 503 must not wait for Ray's queue.
        max_ongoing_requests=4 * limits.waiting,
        graceful_shutdown_timeout_s=40,
        health_check_timeout_s=60,
        ray_actor_options={
            "num_cpus": options.cpus,
            "num_gpus": options.gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(options.cpus)))}},
        },
    )
    return replicas(serve.ingress(made)()).bind()


if __name__ == "__main__":
    main()
