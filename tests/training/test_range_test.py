"""The range test of the learning rate: where the loss turns, and what a plan makes of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelwise.data import open_data
from pixelwise.planning import Probe, RangeTest
from pixelwise.recipe import Recipe
from pixelwise.training import automatic, make_plan
from pixelwise.training.range_test import range_test, turning_point

RATES = [0.0, *(float(rate) for rate in np.geomspace(1e-4, 1e-1, 9))]


def losses(turn: float, noise: float = 0.05, seed: int = 0) -> list[list[float]]:
    """Losses of six batches that fall to 1 until a rate, and rise by 0.4 at each rate beyond it, with noise.

    Batches differ by much more than that.
    """
    random = np.random.default_rng(seed)
    at = int(np.searchsorted(RATES, turn))
    fall = np.interp(range(10), [0, max(at, 1)], [2, 1]) + 0.4 * np.maximum(0, np.arange(10) - at)
    table = fall[:, None] + random.exponential(2.0, 6) + noise * random.standard_normal((10, 6))
    return table.tolist()


@pytest.mark.parametrize("turn", [1e-3, 1e-2, 3e-2])
def test_the_turn_of_a_noisy_loss_is_found_within_a_factor_of_three(turn: float) -> None:
    for seed in range(20):
        assert turn / 3 < turning_point(RATES, losses(turn, seed=seed)) < 3 * turn


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_a_loss_that_falls_or_stays_has_no_turn(noise: float) -> None:
    for seed in range(20):
        assert turning_point(RATES, losses(1.0, noise, seed)) == math.inf
    stays = [1 + noise * np.random.default_rng(seed).standard_normal((10, 6)) for seed in range(20)]
    assert sum(turning_point(RATES, one.tolist()) < math.inf for one in stays) <= 4


def test_a_rise_that_is_small_beside_the_fall_is_none() -> None:
    fall = [8.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.4, 0.4]
    assert turning_point(RATES, [[x, x] for x in (*fall, 1.0, 1.0)]) == math.inf
    assert turning_point(RATES, [[x, x] for x in (*fall, 1.4, 1.4)]) == RATES[6]
    assert (
        turning_point(RATES, [[x, y] for x, y in zip((*fall, 3.0, 3.0), [1.0] * 10, strict=True)]) == math.inf
    )


def test_a_loss_that_is_not_finite_is_a_turn() -> None:
    assert turning_point(RATES, [[2.0, 3.0], [1.5, 2.5], [1.0, math.nan]]) == RATES[1]
    assert turning_point(RATES, [[2.0, 3.0], [1.0, 2.0], [math.inf]]) == RATES[1]
    assert turning_point(RATES, [[math.nan]]) == RATES[1]
    assert turning_point(RATES, [[1.0, 1.1]] + [[9.0, 9.1]] * 9) == RATES[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of bright boxes on noise."""
    random = np.random.default_rng(0)
    for number in range(6):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 + number : 24 + number, 10:30] = 1
        image = mask[..., None] * 120 + random.integers(0, 100, (40, 48, 3))
        for kind, array in (("images", image), ("masks", mask)):
            (tmp_path / "boxes" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / "boxes" / kind / f"{number}.png")
    return tmp_path / "boxes"


SMALL = {"model": "unet", "model_arguments": {"width": 4}, "accelerator": "cpu", "precision": "32"}


@pytest.mark.parametrize("lr, stays", [(1e-4, True), (2.0, False)])
def test_real_steps_tell_a_rate_that_is_far_too_high(folder: Path, lr: float, stays: bool) -> None:
    recipe = Recipe(str(folder), **SMALL, lr=lr, crop=(32, 32), batch_size=2, steps=100, workers=0)
    found = range_test(recipe, open_data(folder, seed=0), seconds=math.inf)
    assert not found.skipped
    assert found.steps == 60 or not stays
    assert (found.turn / 4 >= lr) == stays


def test_a_test_that_takes_too_long_concludes_nothing(folder: Path) -> None:
    recipe = Recipe(str(folder), **SMALL, crop=(32, 32), batch_size=2, steps=100, workers=0)
    seconds = iter(range(100))
    found = range_test(recipe, open_data(folder, seed=0), seconds=3, now=lambda: float(next(seconds)))
    assert found.skipped == "the time was over after 3 of 60 steps"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[RangeTest], list[Recipe]]:
    """Steps of 10 ms, and a range test that shows what it is told; gives the recipes that it was given."""

    def showing(found: RangeTest) -> list[Recipe]:
        tested: list[Recipe] = []

        def probe(recipe: Recipe, data: Any, rung: str, **of_time: Any) -> Probe:
            return Probe(
                rung, tuple(recipe.crop or ()), recipe.batch_size, recipe.precision, 0.01, 0.001, 0.01
            )

        def tell(recipe: Recipe, *rest: Any, **of_time: Any) -> RangeTest:
            tested.append(recipe)
            return found

        monkeypatch.setattr(automatic, "probe", probe)
        monkeypatch.setattr(automatic, "range_test", tell)
        monkeypatch.setattr(automatic, "_business", lambda: 1.0)
        return tested

    return showing


def test_a_plan_lowers_its_rate_to_a_quarter_of_the_turn(folder: Path, measured: Callable[..., Any]) -> None:
    tested = measured(RangeTest(0.004, 0.03, 60, 1.0))
    planned = make_plan({"data": str(folder), **SMALL}, budget=600.0)
    assert [one.lr for one in tested] == [0.002]
    assert planned.recipe.lr == 0.001
    assert tested[0].changed(lr=0.001) == planned.recipe  # what was tested is what is trained
    row = next(row for row in planned.plan.rows if row.choice == "LR range test")
    assert row.reason == "the loss turns at 0.004: a quarter of that"
    assert planned.plan.as_dict()["range_test"]["turn"] == 0.004


@pytest.mark.parametrize(
    "given, budget, reason",
    [
        ({}, 599.0, "the budget is less than 10 min"),
        ({"lr": 0.002}, 1200.0, None),
    ],
)
def test_a_short_budget_or_a_given_rate_has_no_range_test(
    folder: Path, measured: Callable[..., Any], given: dict[str, Any], budget: float, reason: str | None
) -> None:
    tested = measured(RangeTest(1e-6, 0.03, 60, 1.0))
    planned = make_plan({"data": str(folder), **SMALL, **given}, budget=budget)
    assert (tested, planned.recipe.lr) == ([], 0.002)
    rows = {row.choice: row for row in planned.plan.rows}
    assert rows["LR range test"].reason == reason if reason else "LR range test" not in rows
