"""`pixelwise plan`, and what `train` does without a length."""

import json
import re
from typing import Any

import pytest

from pixelwise.planning import Probe, RangeTest
from pixelwise.training import automatic

SMALL = ("--model", "unet", "--set", "width=4", "--workers", 0, "--accelerator", "cpu")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that say 10 ms per step and validation image, and no range test."""

    def probe(recipe: Any, data: Any, rung: str, **of_time: Any) -> Probe:
        return Probe(rung, tuple(recipe.crop or ()), recipe.batch_size, recipe.precision, 0.01, 0.001, 0.01)

    monkeypatch.setattr(automatic, "probe", probe)
    monkeypatch.setattr(automatic, "range_test", lambda *of, **time: RangeTest(skipped="in a test"))


@pytest.mark.usefixtures("measured")
def test_a_plan_is_told_with_reasons_and_nothing_is_trained(pixelwise, street, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = pixelwise("plan", street, *SMALL, "--budget", "10m", "--lr", 0.01)
    assert shown.code == 0, shown.err
    for words in ("machine: ", "crop", "flips", "given by you", "steps"):
        assert words in shown.out
    data, machine = shown.out.split("machine: ")
    assert "median region" in data
    for name in ("ground", "square"):
        assert re.search(rf"{name} .* [0-9.]+% .* [0-9]+% .* px ", data), data
    assert re.search(r"unet .* 4 .* 32 .* 0\.01 .* 400 ", machine.partition("choice")[0])
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("measured")
def test_a_plan_as_json_holds_facts_choices_and_settings(pixelwise, street) -> None:
    shown = pixelwise("plan", street, *SMALL, "--json")
    plan = json.loads(shown.out)
    assert plan["budget"] == 1200
    assert plan["data"]["train"] == 3
    assert plan["settings"]["model"] == "unet"
    assert {"choice", "value", "reason", "origin"} == set(plan["choices"][0])
    without = json.loads(pixelwise("plan", street, *SMALL, "--epochs", 3, "--json").out)
    assert without["budget"] is None
    assert without["settings"]["epochs"] == 3


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way `train` goes, without going it."""
    import pixelwise.training as training

    ways: list[str] = []

    def stop(way: str) -> Any:
        def note(*arguments: Any, **named: Any) -> Any:
            ways.append(way)
            raise ValueError("enough")

        return note

    monkeypatch.setattr(training, "run", stop("as told"))
    monkeypatch.setattr(training, "make_plan", stop("planned"))
    return ways


@pytest.mark.parametrize(
    "options, way",
    [
        ((), "planned"),
        (("--model", "unet", "--lr", 0.1), "planned"),
        (("--budget", "none", "--epochs", 3), "planned"),
        (("--epochs", 3), "as told"),
        (("--steps", 3), "as told"),
        (("--no-plan",), "as told"),
        (("--devices", 2), "as told"),
    ],
)
def test_who_says_how_long_gets_what_was_before(pixelwise, street, monkeypatch, options, way) -> None:
    ways = trained(monkeypatch)
    pixelwise("train", street, *options)
    assert ways == [way]


def test_a_budget_in_words_that_are_no_time(pixelwise, street) -> None:
    assert "a budget is a time such as 90s" in pixelwise("train", street, "--budget", "soon").sentence
    assert "--no-plan takes no --budget" in pixelwise("train", street, "--budget", "5m", "--no-plan").sentence
    both = pixelwise("train", street, "--budget", "5m", "--epochs", 3)
    assert (both.code, both.err.count("\n")) == (2, 1)


def test_five_seconds_are_too_little_and_say_so(pixelwise, street, tmp_path) -> None:
    shown = pixelwise("train", street, *SMALL, "--budget", "5s", "--out", tmp_path / "run")
    assert shown.code == 2
    assert "a budget of 5 s is too small" in shown.sentence
    assert not (tmp_path / "run").exists()
