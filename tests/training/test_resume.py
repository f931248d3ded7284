"""A training that was stopped and continued ends where one that never stopped does, bit for bit."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pixelwise as pw
from pixelwise.training import Recipe, TrainingModule, TrainResult, resume, run
from pixelwise.types import Batch

MakeRecipe = Callable[..., Recipe]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int) -> None:
    """Ctrl-C arrives before a training step, epochs counted from 0; only once."""
    step, pending = TrainingModule.training_step, [True]

    def interrupted(self: TrainingModule, data: Batch, batch_idx: int) -> Any:
        if pending and (self.current_epoch, batch_idx) == (epoch, batch):
            pending.clear()
            raise KeyboardInterrupt
        return step(self, data, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", interrupted)


def assert_same_runs(one: Path, other: Path) -> None:
    """Weights, optimiser, schedule, history and best score are equal."""
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), key
    ours, theirs = (torch.load(path / "last.ckpt", weights_only=True) for path in (one, other))
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    for index, state in ours["optimizer_states"][0]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, theirs["optimizer_states"][0]["state"][index][key])
    for history in (ours["pixelwise"]["history"], theirs["pixelwise"]["history"]):
        for row in history:
            del row["seconds"]
    assert ours["pixelwise"]["history"] == theirs["pixelwise"]["history"]
    assert ours["pixelwise"]["best_epoch"] == theirs["pixelwise"]["best_epoch"]
    assert ours["global_step"] == theirs["global_step"]


def whole(recipe: Recipe, tmp_path: Path) -> TrainResult:
    return run(recipe.changed(out=tmp_path / "whole"), progress=False, report=False)


@pytest.mark.parametrize("epoch, batch", [(0, 1), (2, 0), (2, 2)])
def test_a_run_interrupted_anywhere_continues_exactly(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int
) -> None:
    recipe = tiny(warmup_steps=3, clip_norm=1.0, optimizer="sgd")
    expected = whole(recipe, tmp_path)
    interrupt_at(monkeypatch, epoch, batch)
    with pytest.raises(KeyboardInterrupt, match="train --resume"):
        run(recipe, progress=False, report=False)
    assert len(torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["pixelwise"]["history"]) == epoch
    result = resume(tmp_path / "run", progress=False, report=False)
    assert_same_runs(result.path, expected.path)
    assert result.scores.confusion.equal(expected.scores.confusion)
    assert len(result.history) == 4


@pytest.mark.parametrize("workers", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_loading_processes_change_nothing(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    expected = whole(tiny(epochs=3), tmp_path)
    interrupt_at(monkeypatch, 2, 1)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(epochs=3, workers=workers), progress=False, report=False)
    result = resume(tmp_path / "run", progress=False, report=False)
    assert_same_runs(result.path, expected.path)


def test_a_run_interrupted_twice_continues_exactly(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(tiny(accumulate=3), tmp_path)
    interrupt_at(monkeypatch, 1, 2)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(accumulate=3), progress=False, report=False)
    interrupt_at(monkeypatch, 2, 0)
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run", progress=False, report=False)
    assert_same_runs(resume(tmp_path / "run", progress=False, report=False).path, expected.path)


def test_a_run_of_steps_continues_exactly(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(epochs=None, steps=8)  # 3 batches per epoch: the last epoch has two steps
    expected = whole(recipe, tmp_path)
    assert expected.history[-1]["step"] == 8
    interrupt_at(monkeypatch, 2, 1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, progress=False, report=False)
    assert_same_runs(resume(tmp_path / "run", progress=False, report=False).path, expected.path)


def test_early_stopping_goes_on_counting_after_resuming(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A learning rate that changes nothing: the first epoch stays the best.
    recipe = tiny(
        early_stopping=3,
        lr=1e-12,
        epochs=9,
        model="unet_original",
        batch_size=1,
        model_arguments={"in_channels": 3, "width": 2},
        crop=(188, 188),
        val_batch_size=1,
    )
    interrupt_at(monkeypatch, 2, 0)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, progress=False, report=False)
    result = resume(tmp_path / "run", progress=False, report=False)
    assert (len(result.history), result.best_epoch) == (4, 1)


def test_resuming_a_finished_run_gives_its_result(tiny: MakeRecipe) -> None:
    first = run(tiny(epochs=1), progress=False, report=False)
    before = (first.path / "last.ckpt").read_bytes()
    again = resume(first.path, progress=False, report=False)
    assert again.scores.confusion.equal(first.scores.confusion)
    assert again.history == first.history
    assert (first.path / "last.ckpt").read_bytes() == before


def test_a_finished_run_goes_on_for_more_epochs(
    tiny: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tiny(epochs=2), progress=False, report=False).path
    result = resume(path, epochs=4, report=False)
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert Recipe.read(path / "recipe.json").epochs == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "Epoch 3 to 4 follow the poly schedule of 4 epochs: the learning rate goes from " in said
    assert "will not be those of a training of 4 epochs from the start" in said
    whole_run = whole(tiny(epochs=4), tmp_path)
    assert [row["lr"] for row in result.history[2:]] == [row["lr"] for row in whole_run.history[2:]]
    assert resume(path, progress=False, report=False).history == result.history
    with pytest.raises(ValueError, match="has 4 epochs already: epochs must be more, got 3"):
        resume(path, epochs=3, progress=False)


def test_more_epochs_at_a_constant_rate_are_those_of_a_longer_training(
    tiny: MakeRecipe, tmp_path: Path
) -> None:
    expected = whole(tiny(schedule="constant"), tmp_path)
    path = run(tiny(schedule="constant", epochs=2), progress=False, report=False).path
    assert_same_runs(resume(path, epochs=4, progress=False, report=False).path, expected.path)


def test_a_run_of_steps_is_not_lengthened_by_epochs(tiny: MakeRecipe) -> None:
    path = run(tiny(epochs=None, steps=2), progress=False, report=False).path
    with pytest.raises(ValueError, match="was started for 2 steps, so epochs cannot lengthen it"):
        resume(path, epochs=5, progress=False)


def test_the_signal_handler_of_ctrl_c_is_given_back(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt_at(monkeypatch, 0, 0)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), progress=False, report=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_data_are_refused(
    tiny: MakeRecipe, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(boxes, data)
    interrupt_at(monkeypatch, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(data=data), progress=False, report=False)
    for kind in ("images", "masks"):
        (data / "train" / kind / "0.png").unlink()
    with pytest.raises(ValueError, match="the data are not those"):
        resume(tmp_path / "run", progress=False, report=False)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch hacked",))


def test_a_checkpoint_of_a_training_is_never_run(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 0, 1)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), progress=False, report=False)
    last, good = tmp_path / "run" / "last.ckpt", (tmp_path / "run" / "last.ckpt").read_bytes()
    monkeypatch.chdir(tmp_path)
    for bad in (pickle.dumps(Runs()), good[: len(good) // 2], b""):
        last.write_bytes(bad)
        with pytest.raises(ValueError, match=r"last\.ckpt is not a whole checkpoint"):
            resume(tmp_path / "run", progress=False, report=False)
    torch.save({"pixelwise": Runs()}, last)
    with pytest.raises(ValueError, match=r"last\.ckpt is not a whole checkpoint"):
        resume(tmp_path / "run", progress=False, report=False)
    assert not (tmp_path / "hacked").exists()


def test_what_is_no_run_directory_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no run directory: it holds no recipe\.json"):
        resume(tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json is no recipe"):
        resume(tmp_path)


def test_the_weights_of_an_interrupted_run_can_be_used(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 1, 1)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), progress=False, report=False)
    found = pw.load(tmp_path / "run")
    assert found.notes["epoch"] == "1"
    assert found.classes.names == ("background", "box")


def test_a_recipe_that_resumes_must_say_where(tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must name its run directory"):
        run(tiny(out=None), resume=True)
    interrupt_at(monkeypatch, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), progress=False, report=False)
    assert len(run(tiny(), resume=True, progress=False, report=False).history) == 4


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_real_ctrl_c_leaves_a_run_that_continues_exactly(
    tiny: MakeRecipe, tmp_path: Path, devices: int
) -> None:
    recipe = tiny(epochs=60, workers=2, devices=devices)
    expected = whole(recipe, tmp_path)
    recipe.write(tmp_path / "recipe.json")
    code = (
        "import sys; from pixelwise.training import Recipe, run\n"
        "try: run(Recipe.read(sys.argv[1]), progress=False, report=False)\n"
        "except KeyboardInterrupt as e: print(e); sys.exit(130)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "recipe.json")],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    assert_same_runs(resume(tmp_path / "run", progress=False, report=False).path, expected.path)


def heed_ctrl_c() -> None:
    """Shells start background jobs deaf to SIGINT, and their children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
