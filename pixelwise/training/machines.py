"""Several machines: which of them this one is, as the launcher of the cluster says it.

Every machine runs the same command, once. The first one prepares the run directory, trains and writes the
report; the others wait for the recipe in the run directory, and start their share of the processes.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from ..recipe import Recipe
from .callbacks import RECIPE
from .distributed import ONE, Machine, launch

_PATIENCE = 1800  # seconds that another machine waits for the first one


def this_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """What torchrun or SLURM says of this machine; where nobody says anything, it is the only one.

    Args:
        environment: of the process.

    Raises:
        ValueError: if there are several processes on a machine: pixelwise starts those of the devices itself.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        if environment["LOCAL_WORLD_SIZE"] != "1":
            raise ValueError(
                f"pixelwise starts the processes of a machine itself: torchrun --nproc-per-node 1, got "
                f"{environment['LOCAL_WORLD_SIZE']}"
            )
        # The launcher listens at its own port.
        port = int(environment["MASTER_PORT"]) + 1
        return Machine(
            int(environment["WORLD_SIZE"]), int(environment["RANK"]), environment["MASTER_ADDR"], port
        )
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_NNODES", "1")) > 1:
        if environment["SLURM_NTASKS"] != environment["SLURM_NNODES"]:
            raise ValueError(
                f"pixelwise starts the processes of a machine itself: srun --ntasks-per-node 1, got "
                f"{environment['SLURM_NTASKS']} tasks on {environment['SLURM_NNODES']} machines"
            )
        first = SLURMEnvironment.resolve_root_node_address(environment["SLURM_NODELIST"])
        port = 15000 + int(environment["SLURM_JOB_ID"]) % 4000
        return Machine(int(environment["SLURM_NNODES"]), int(environment["SLURM_PROCID"]), first, port)
    return ONE


def help_train(path: Path, machine: Machine, *, patience: float = _PATIENCE) -> None:
    """Take part in the training that the first machine begins in `path`; returns when it is done.

    Args:
        path: run directory, on a disk that all machines share.
        machine: this one, not the first.
        patience: seconds to wait for the first machine.

    Raises:
        ValueError: if the first machine does not begin, or as `launch`.
    """
    until = time.monotonic() + patience
    while not (path / RECIPE).is_file():
        if time.monotonic() > until:
            raise ValueError(
                f"the first machine wrote no {path / RECIPE} within {patience:.0f} seconds: is the folder "
                "on a disk that all machines share?"
            )
        time.sleep(0.2)
    launch(path, Recipe.read(path / RECIPE).devices, progress=False, machine=machine)
