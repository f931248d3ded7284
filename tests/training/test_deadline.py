"""Ending on time: a clock changes the number of steps, the rate still falls to 0, a replay is equal."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pixelwise.kernels.compiling import ANNOUNCER
from pixelwise.planning.plan import TIMES
from pixelwise.training import Recipe, TrainingModule, resume, run
from pixelwise.training.callbacks import Keeper
from pixelwise.training.deadline import Clock
from pixelwise.training.length import Length
from pixelwise.training.schedule import factor
from pixelwise.types import Batch

MakeRecipe = Callable[..., Recipe]
PACED = {
    "epochs": None,
    "steps": 48,
    "images_per_epoch": 8,
    "schedule": "linear",
    "warmup_steps": 4,
    "val_every": 3,
}


class FakeClock:
    """A clock that only training and validation move: so many seconds per step and per image.

    Where `busy`, an image takes as many times longer as a step takes seconds.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        step: Callable[[int], float],
        image: float = 0.0,
        *,
        busy: bool = False,
    ) -> None:
        self.time, self.steps, self.lr = 100.0, 0, list[float]()
        train, validate = TrainingModule.training_step, TrainingModule.validation_step

        def training_step(module: TrainingModule, batch: Batch, index: int) -> Any:
            self.time += step(self.steps)
            self.steps += 1
            self.lr.append(module.lr)
            return train(module, batch, index)

        def validation_step(module: TrainingModule, batch: Batch, index: int) -> None:
            self.time += image * (step(self.steps) if busy else 1.0)
            validate(module, batch, index)

        monkeypatch.setattr(TrainingModule, "training_step", training_step)
        monkeypatch.setattr(TrainingModule, "validation_step", validation_step)

    def __call__(self) -> float:
        return self.time

    def until(self, budget: float, **known: Any) -> Clock:
        return Clock(self.time + budget, self.time, now=self, **known)


@pytest.mark.parametrize(
    "step",
    [
        lambda n: 1.0,
        lambda n: 1.0 if n < 20 else 2.0,
        lambda n: 1.0 if n < 20 else 0.5,
        lambda n: 0.3,
        lambda n: 3.0,
    ],
    ids=["as planned", "half the speed", "twice the speed", "faster from the start", "slower from the start"],
)
def test_a_training_ends_in_time_with_a_learning_rate_near_zero(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch, step: Callable[[int], float]
) -> None:
    clock = FakeClock(monkeypatch, step, image=0.5)
    result = run(tiny(**PACED), progress=False, report=False, clock=clock.until(56.0, validation=1.5))
    spent = clock.time - 100.0
    assert 56 - 3 * step(clock.steps) <= spent <= 56.0  # within steps that cannot be divided
    assert clock.lr[-1] <= 0.12 * max(clock.lr)
    assert len(result.history) >= 2
    assert result.history[-1]["step"] == clock.steps


def test_what_follows_the_last_step_has_more_time_where_the_machine_became_slower(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch, lambda n: 1.0 if n < 50 else 3.0, image=0.5, busy=True)
    timed = clock.until(100.0, validation=1.5, scoring=4.0, report=6.0)
    run(tiny(**PACED), progress=False, report=False, clock=timed)
    assert clock.steps > 50
    assert 27 <= timed.left <= 36  # scores and report take 30 s now


def test_validations_that_take_longer_than_planned_leave_more_time_for_the_report(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch, lambda n: 1.0, image=1.0)  # 3 s each time
    timed = clock.until(100.0, validation=1.5, scoring=4.0, report=6.0)
    run(tiny(**PACED), progress=False, report=False, clock=timed)
    assert 20 <= timed.left <= 24


def test_a_compiler_in_the_first_validation_does_not_shorten_the_training(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, validate = FakeClock(monkeypatch, lambda n: 1.0, image=0.5), TrainingModule.on_validation_epoch_end

    def compiles(module: TrainingModule) -> None:
        if not ANNOUNCER.compiled:
            ANNOUNCER.compiled.append("a kernel")
            clock.time += 15.0
        validate(module)

    monkeypatch.setattr(ANNOUNCER, "compiled", [])
    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", compiles)
    timed = clock.until(100.0, validation=1.5, scoring=4.0, report=6.0)
    run(tiny(**PACED), progress=False, report=False, clock=timed)
    assert ANNOUNCER.compiled == ["a kernel"]
    assert 10 <= timed.left <= 13  # ten times as long, scores and report would have kept a hundred


def test_one_stall_does_not_end_a_training(tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, lambda n: 20.0 if n == 30 else 1.0)
    timed = clock.until(100.0, report=10.0)
    run(tiny(**PACED), progress=False, report=False, clock=timed)
    assert clock.steps >= 66
    assert timed.left >= 10


def test_files_that_take_long_are_counted(tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, write = FakeClock(monkeypatch, lambda n: 1.0), Keeper.on_train_epoch_end

    def slow(self: Keeper, *of_lightning: Any) -> None:
        clock.time += 5.0
        write(self, *of_lightning)

    monkeypatch.setattr(Keeper, "on_train_epoch_end", slow)
    timed = clock.until(60.0)
    run(tiny(**PACED), progress=False, report=False, clock=timed)
    assert 0 <= timed.left <= 8


def test_choices_take_what_scores_and_report_leave() -> None:
    clock = Clock(100.0, 0.0, report=10.0, scoring=20.0, choices=15.0, now=lambda: 50.0)
    assert clock.patience() == 15.0
    assert clock.patience(1.2) == pytest.approx(14.0)
    assert clock.patience(2.0) < 0


def test_folds_divide_what_their_joining_choices_and_report_leave() -> None:
    known = {"report": 10.0, "scoring": 0.0, "choices": 5.0, "joining": 15.0}
    clock = Clock(100.0, 0.0, **known, now=lambda: 10.0)
    first = clock.share(3)
    assert first.left == pytest.approx((90 - 30) / 3)
    assert (first.report, first.choices, first.joining) == (0.0, 0.0, 0.0)


def test_a_replay_follows_the_clock_without_one_to_the_same_weights(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch, lambda n: 1.0 if n < 20 else 2.0)
    first = run(tiny(**PACED), progress=False, report=False, clock=clock.until(40.0))
    recipe = Recipe.read(first.path / "recipe.json")
    assert recipe.replans
    again = run(recipe.changed(out=str(tmp_path / "again")), progress=False, report=False)
    for name in ("last.safetensors", "best.safetensors"):
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes()
    assert [row["step"] for row in first.history] == [row["step"] for row in again.history]


def test_what_is_interrupted_keeps_the_best_and_goes_on_with_what_is_left(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(n: int) -> float:
        if n == 22:
            raise KeyboardInterrupt
        return 1.0

    clock = FakeClock(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"best weights so far are .*best\.safetensors"):
        run(tiny(**PACED), progress=False, report=False, clock=clock.until(48.0), plan=PlanOf(48.0))
    path = tmp_path / "run"
    assert load_file(path / "best.safetensors")
    clock.steps, clock.time = 30, 1000.0
    module = sys.modules["pixelwise.training.run"]  # the package has a function of that name
    monkeypatch.setattr(module, "Clock", lambda **known: Clock(**known, now=clock))
    result = resume(path, progress=False, report=False, started=1000.0)
    assert 1000 + 48 - 20 - 3 <= clock.time <= 1000 + 48 - 20  # 20 steps were kept
    assert result.history[-1]["step"] >= 40


class PlanOf:
    """As much of a plan as a run directory keeps for `resume`."""

    def __init__(self, budget: float) -> None:
        self.budget = budget

    def write(self, path: Path) -> None:
        times = {**dict.fromkeys(TIMES, 0.0), "most_steps": None}
        path.write_text(json.dumps({"budget": self.budget, "times": times}))


def test_a_limit_of_steps_ends_early(tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, lambda n: 0.1)
    run(tiny(**PACED), progress=False, report=False, clock=clock.until(1000.0, most_steps=48))
    assert clock.steps == 48


@pytest.mark.parametrize("name", ["linear", "poly", "cosine"])
def test_a_schedule_that_is_planned_again_does_not_jump_and_ends_at_zero(name: str) -> None:
    replans: list[tuple[int, int]] = []
    at = factor(name, 100, 10, replans=replans)
    before = at(50)
    replans.append((50, 70))
    assert at(50) == before
    assert abs(at(51) - before) < 0.06
    assert at(70) == 0.0
    replans.append((60, 200))
    assert [at(step) >= at(step + 1) for step in range(10, 200)].count(False) == 0
    assert at(199) > 0.0 == at(200)


def test_a_leftover_piece_takes_the_validation_of_the_epoch_before_it() -> None:
    length = Length(120, 10)
    assert [length.validates(epoch, 10 * epoch - 10, 3) for epoch in (3, 11, 12)] == [True, False, True]
    length.replans.append((4, 123))
    assert length.epochs == 13
    assert [length.validates(epoch, 10 * epoch - 10, 3) for epoch in (9, 12, 13)] == [True, False, True]


def test_epochs_of_more_images_than_there_are_show_each_as_often_and_anew(tiny: MakeRecipe) -> None:
    from pixelwise.training import make_experiment

    batches = make_experiment(tiny(images_per_epoch=21)).batches
    order = [index for batch in batches for index in batch]
    assert sorted(index % 7 for index in order) == sorted([*range(7)] * 3)[: len(order)]
    views = batches.data[0], batches.data[7]
    assert not torch.equal(views[0].image, views[1].image)
    assert views[0].id == views[1].id
    fewer = make_experiment(tiny(images_per_epoch=4)).batches
    assert len({index for batch in fewer for index in batch}) == 4


def test_names_of_images_make_the_parts(tiny: MakeRecipe) -> None:
    from pixelwise.training import make_experiment

    recipe = tiny(val_images=("train/images/1.png", "train/images/3.png"), left_out=("train/images/2.png",))
    experiment = make_experiment(recipe)
    assert [pair.id for pair in experiment.val_data.pairs] == list(recipe.val_images)
    assert [Path(pair.id).stem for pair in experiment.train_data.pairs] == ["0", "4", "5", "6"]
    with pytest.raises(ValueError, match=r"the data hold no image 'nowhere\.png'"):
        make_experiment(replace(recipe, left_out=("nowhere.png",)))
