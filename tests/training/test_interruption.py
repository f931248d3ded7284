"""However a training ends, it says so, nothing is lost, and no two processes write to one run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pixelwise.files import lock_folder
from pixelwise.interruption import Terminated, terminable
from pixelwise.training import Recipe, TrainingModule, resume, run
from pixelwise.types import Batch

MakeRecipe = Callable[..., Recipe]


def signal_at(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int) -> None:
    """The process gets SIGTERM before a training step, epochs counted from 0; only once."""
    step, pending = TrainingModule.training_step, [True]

    def signalled(self: TrainingModule, data: Batch, batch_idx: int) -> Any:
        if pending and (self.current_epoch, batch_idx) == (epoch, batch):
            pending.clear()
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, data, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", signalled)


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_sigterm_ends_a_training_that_continues_exactly(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tiny(epochs=3, out=tmp_path / "whole"), progress=False, report=False)
    before = signal.getsignal(signal.SIGTERM)
    signal_at(monkeypatch, 1, 1)
    with pytest.raises(
        Terminated, match=r"^Terminated\. All whole epochs are kept: pixelwise train --resume "
    ):
        run(tiny(epochs=3), progress=False, report=False)
    assert signal.getsignal(signal.SIGTERM) is before
    assert_same_weights(resume(tmp_path / "run", progress=False, report=False).path, expected.path)


def test_the_handler_of_sigterm_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_dying_loading_process_raises_after_sigterm_is_not_told(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(self: TrainingModule, batch: Batch, batch_idx: int) -> Any:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:  # as the handler of SIGCHLD does, where the signal reached every process of the group
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

    monkeypatch.setattr(TrainingModule, "training_step", both)
    with pytest.raises(Terminated, match="pixelwise train --resume"):
        run(tiny(), progress=False, report=False)


def test_a_run_that_is_held_is_refused_and_left_alone(tiny: MakeRecipe, tmp_path: Path) -> None:
    run(tiny(epochs=1), progress=False, report=False)
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with lock_folder(tmp_path / "run"):
        with pytest.raises(ValueError, match=r"is working in .*run: wait for its end, or stop it first"):
            resume(tmp_path / "run", epochs=2, progress=False, report=False)
        (tmp_path / "new").mkdir()
    with (
        lock_folder(tmp_path / "new"),
        pytest.raises(ValueError, match=r"is working in .*new"),
    ):
        run(tiny(epochs=1, out=tmp_path / "new"), progress=False, report=False)
    assert {path: path.read_bytes() for path in files if path.name != ".lock"} == {
        path: content for path, content in files.items() if path.name != ".lock"
    }


def test_resuming_sweeps_what_a_killed_process_left(tiny: MakeRecipe, tmp_path: Path) -> None:
    path = run(tiny(epochs=1), progress=False, report=False).path
    left, mine = path / ".last.0123abcd.ckpt", path / ".notes.0123abcd.txt"
    for file in (left, mine):
        file.write_text("half")
    resume(path, progress=False, report=False)
    assert not left.exists()
    assert mine.exists()


def test_a_training_that_stops_before_its_end_is_told(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def stopping(self: TrainingModule, batch: Batch, batch_idx: int) -> Any:
        self.trainer.should_stop = True  # as some callback or signal handler may do
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", stopping)
    with pytest.raises(ValueError, match=r"training ended in epoch 2 of 4, before its end: .*--resume"):
        run(tiny(), progress=False, report=False)


def test_a_loading_process_that_is_killed_is_told_in_one_sentence(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: TrainingModule, batch: Batch, batch_idx: int) -> Any:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(TrainingModule, "training_step", killed)
    with pytest.raises(ValueError, match="a process that loads images was killed, perhaps because memory"):
        run(tiny(), progress=False, report=False)


# --- real processes -------------------------------------------------------------------------------


@contextmanager
def started(recipe: Recipe, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`pixelwise train` in a process of its own, at work in its second epoch."""
    recipe.write(folder / "recipe.json")
    command = [sys.executable, "-m", "pixelwise", "train", "--config", str(folder / "recipe.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (folder / "run" / "metrics.csv").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_real_sigterm_ends_with_143_and_the_way_to_go_on(
    tiny: MakeRecipe, tmp_path: Path, devices: int
) -> None:
    recipe = tiny(epochs=60, workers=1, devices=devices)
    with started(recipe, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.strip().splitlines()[-1].startswith("Terminated. All whole epochs are kept: pixelwise train")
    result = resume(tmp_path / "run", progress=False, report=False)
    expected = run(recipe.changed(out=tmp_path / "whole"), progress=False, report=False)
    ours, theirs = load_file(result.last), load_file(expected.last)
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


@pytest.mark.slow
def test_one_of_two_processes_is_refused_and_a_killed_one_frees_the_run(
    tiny: MakeRecipe, tmp_path: Path
) -> None:
    with started(tiny(epochs=400), tmp_path) as process:
        command = [sys.executable, "-m", "pixelwise", "train", "--resume", str(tmp_path / "run")]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"another process ({process.pid}) is working in" in " ".join(second.stderr.split())
        assert process.poll() is None
        process.kill()
    (tmp_path / "run" / ".last.0123abcd.ckpt").write_text("half")
    recipe = Recipe.read(tmp_path / "run" / "recipe.json")
    recipe.changed(epochs=None, steps=3).write(tmp_path / "run" / "recipe.json")
    resume(tmp_path / "run", progress=False, report=False)
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")] == [".lock"]


@pytest.mark.slow
def test_a_process_of_several_that_is_killed_is_told(tiny: MakeRecipe, tmp_path: Path) -> None:
    with started(tiny(epochs=400, devices=2), tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "of 2 of the training was killed by signal 9, perhaps because memory ran out" in said
