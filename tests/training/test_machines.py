"""Training on several machines: two of them are started here, and meet on loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pixelwise as pw
from pixelwise.training.distributed import ONE, Machine, launch
from pixelwise.training.machines import help_train, this_machine

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "LOCAL_WORLD_SIZE": "1",
    "WORLD_SIZE": "2",
    "RANK": "1",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_NNODES": "3",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_JOB_ID": "4007",
    "SLURM_NODELIST": "node[07-09]",
}


def test_the_launcher_says_which_machine_this_is() -> None:
    assert this_machine({}) == ONE
    assert this_machine(TORCHRUN) == Machine(2, 1, "first", 29501)
    assert this_machine(SLURM) == Machine(3, 2, "node07", 15007)
    assert this_machine(SLURM | {"SLURM_NNODES": "1"}) == ONE


def test_several_processes_per_machine_are_refused() -> None:
    with pytest.raises(ValueError, match="--nproc-per-node 1, got 4"):
        this_machine(TORCHRUN | {"LOCAL_WORLD_SIZE": "4"})
    with pytest.raises(ValueError, match="--ntasks-per-node 1, got 6 tasks on 3 machines"):
        this_machine(SLURM | {"SLURM_NTASKS": "6"})


def test_devices_must_be_divided_among_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2, 1, "127.0.0.1", 1)
    with pytest.raises(ValueError, match="3 devices cannot be divided among 2 machines"):
        launch(tmp_path, 3, progress=False, machine=machine)
    with pytest.raises(ValueError, match="the first machine wrote no"):
        help_train(tmp_path / "run", machine, patience=0.1)
    for name, value in (TORCHRUN | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="1 devices cannot be divided among 2 machines"):
        pw.train(
            street(tmp_path),
            "unet",
            model_arguments={"encoder": "tiny"},
            out=str(tmp_path / "run"),
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def street(place: Path) -> str:
    random = np.random.default_rng(0)
    for number in range(8):
        labels = np.zeros((32, 32), np.uint8)
        y, x = random.integers(0, 16, 2)
        labels[y : y + 16, x : x + 16] = 1
        for kind, pixels in (("images", labels * 150 + 40), ("masks", labels)):
            folder = place / "street" / kind / ("val" if number > 5 else "train")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return str(place / "street")


@pytest.mark.slow
def test_two_machines_learn_what_two_devices_of_one_machine_learn(tmp_path: Path) -> None:
    data = street(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ["--model", "unet", "--encoder", "tiny", "--set", "width=4", "--epochs", "2", "--workers", "0"]
    settings += [
        "--crop",
        "32x32",
        "--batch-size",
        "4",
        "--devices",
        "2",
        "--accelerator",
        "cpu",
        "--no-choose",
    ]
    environment = os.environ | {
        "PYTHONPATH": str(Path(pw.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }

    def command(out: str) -> list[str]:
        return ["-m", "pixelwise", "train", data, *settings, "--out", str(tmp_path / out)]

    machines = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                *(f"--node-rank={number}", "--master-addr=127.0.0.1", f"--master-port={port}"),
                *command("two"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    told = [machine.communicate(timeout=500)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(told)
    assert "machine 2 of 2 takes part" in "".join(told)
    assert "".join(told).count("best weights:") == 1
    one = subprocess.run(
        [sys.executable, *command("one")], env=environment, capture_output=True, text=True, timeout=500
    )
    assert one.returncode == 0, one.stderr
    first, second = (load_file(tmp_path / out / "last.safetensors") for out in ("one", "two"))
    assert first.keys() == second.keys()
    for name, weights in first.items():
        assert torch.allclose(weights.float(), second[name].float(), atol=1e-5), name
