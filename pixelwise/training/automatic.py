"""`train` with a budget: look at the data, measure the machine, plan, train, end on time."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data import DataSplits
from ..data.classes import NeedsRule
from ..encoders import weights_at_hand
from ..planning import (
    DataFacts,
    MachineFacts,
    Plan,
    Planning,
    RangeTest,
    Row,
    Rule,
    Rung,
    Situation,
    all_settings,
    machine_facts,
    measure_data,
    rules,
    settle,
    shape,
)
from ..planning.plan import given_ladder
from ..predict.choices import passes
from ..recipe import Recipe
from ..registry import describe, taken_by
from ..tasks import Settings, Task, get_task, open_data, others_that_read, task_of_folder
from ..types import DenseLogits
from .deadline import Clock
from .probing import probe
from .range_test import range_test
from .run import TrainResult, recipe_of, run

FACTS_SHARE, PROBES_SHARE = 0.03, 0.05  # of the budget
FACTS_SECONDS, PROBES_SECONDS = 20.0, 60.0  # without one
PROBED_SIDE = 256  # pixels of the crops that probes take on a CPU
REPORT_SECONDS = 5.0  # charts and pages, beside the predictions of the report
_FRACTIONS = {"val_fraction", "test_fraction"}
_IMPORTED, _USED = time.monotonic(), sum(os.times()[:2])


@dataclass(frozen=True)
class Planned:
    """A plan and what is needed to carry it out.

    Attributes:
        plan: the choices with their reasons.
        recipe: the settings.
        data: opened.
        clock: of the training; None without a budget.
    """

    plan: Plan
    recipe: Recipe
    data: DataSplits
    clock: Clock | None


def make_plan(
    given: Settings,
    *,
    budget: float | None,
    started: float | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Planned:
    """Look at the data, measure the machine, and decide.

    Args:
        given: settings of the recipe that the user gives, `data` among them; they always win.
        budget: seconds that the whole command may take; None for no deadline.
        started: when the command began, of `now`.
        now: the clock.

    Raises:
        ValueError: if data or settings cannot be used, the task is not planned, or the budget is too small
            for any training; says what would suffice.
    """
    started = now() if started is None else started
    _check_settings(given)
    if given.get("devices", 1) > 1:
        raise ValueError("a plan is for one device: leave out devices, or give epochs or steps")
    if budget is not None and (given.get("epochs") or given.get("steps")):
        raise ValueError("give a budget of time, or epochs or steps, not both")
    task, planning = _task(given)
    data, mask_rule = _opened(given, task)
    looking = FACTS_SHARE * budget if budget is not None else FACTS_SECONDS
    facts = measure_data(
        data.train, data.val if len(data.val) else None, mask_rule=mask_rule, seconds=looking, now=now
    )
    if facts.numbered and "mask_rule" not in given and data.format == "pairs":
        data, mask_rule = _opened({**given, "mask_rule": "above-0"}, task)
        facts = measure_data(
            data.train, data.val if len(data.val) else None, mask_rule=mask_rule, seconds=looking, now=now
        )
    _check(facts, data)
    machine = machine_facts(given.get("accelerator", "auto"))
    ladder = given_ladder(planning.ladder(facts, machine), given, _channels(facts))
    situation = Situation(facts, machine, budget, passes_of_choices=passes(task), ladder=_taken(ladder))
    machine = _probed(planning, situation, given, data, task, budget, now)
    left = None if budget is None else budget - (now() - started)
    situation = replace(situation, machine=machine, left=left, report=_report_seconds(budget))
    if "lr" not in given:
        situation = _ranged(planning, situation, given, data, task, now)
    plan = settle(planning, situation, given)
    if "task" not in given:
        plan = replace(plan, rows=(_task_row(task, given, data, facts), *plan.rows))
    recipe = _recipe(plan.settings, given, task)
    return Planned(plan, recipe, data, _clock(plan, started, now))


def train_by_plan(planned: Planned, *, progress: bool = True, report: bool = True) -> TrainResult:
    """Carry a plan out.

    Raises:
        ValueError: see `train`.
        KeyboardInterrupt: on Ctrl-C; says what is kept.
    """
    return run(
        planned.recipe,
        data=planned.data,
        progress=progress,
        report=report,
        plan=planned.plan,
        clock=planned.clock,
    )


def _report_seconds(budget: float | None) -> float:
    """What charts and pages take at the end; at most a fifth of the budget is kept for it."""
    return min(REPORT_SECONDS * _business(), max(REPORT_SECONDS, 0.2 * (budget or 0.0)))


def _business() -> float:
    """How much longer things take than their own computing, because others use the machine too."""
    used = os.times()
    return min(10.0, max(1.0, (time.monotonic() - _IMPORTED) / max(0.1, used.user + used.system - _USED)))


def is_planned(given: Settings) -> bool:
    """Whether the task that settings and folder tell has rules.

    Raises:
        ValueError: if there is no such task or model.
    """
    return task_of(given).planning is not None


def _check_settings(given: Settings) -> None:
    """What is no setting at all is told before the data are opened; a task alone leaves the model open."""
    if "task" in given and "model" not in given:
        Recipe.of({**get_task(given["task"]).defaults, **given})
    else:
        recipe_of(given)


def _task(given: Settings) -> tuple[Task, Planning]:
    """What is learnt, and how that is planned."""
    task = task_of(given)
    if task.planning is None:
        raise ValueError(f"the task {task.name} is not planned: give a model and epochs or steps")
    planning = task.planning
    if "model" in given and not issubclass(describe(given["model"]).output, DenseLogits):
        of_pixels = (rules.LOSS, rules.CLASS_WEIGHTS)  # such a network has the loss of its paper
        planning = _without(planning, *of_pixels)
    if "model" in given and describe(given["model"]).output is not DenseLogits:
        planning = _without(planning, rules.REDUCE, rules.REDUCE_MORE, rules.LOCATION_PRIOR)
    return task, planning


def _without(planning: Planning, *left_out: Rule) -> Planning:
    return replace(planning, rules=tuple(rule for rule in planning.rules if rule not in left_out))


def task_of(given: Settings) -> Task:
    """What is learnt, from the settings or from the folder."""
    root, format = Path(given["data"]), given.get("format", "auto")
    if "task" in given:
        return get_task(given["task"])
    return task_of_folder(root, format, *([describe(given["model"]).tasks] if "model" in given else []))


def _task_row(task: Task, given: Settings, data: DataSplits, facts: DataFacts) -> Row:
    """What is learnt, and what else the folder could teach."""
    numbered = facts.mask_rule != "exact"
    others = others_that_read(Path(given["data"]), task.name, numbered=numbered)
    if "model" in given:
        others = tuple(name for name in others if name in describe(given["model"]).tasks)
    reason = f"data in the layout {data.format}"
    if others:
        reason += f", which is read for {', '.join(others)} too: --task"
    return Row("task", task.name, reason, "rule")


def _opened(given: Settings, task: Task) -> tuple[DataSplits, str]:
    """The data, all images that may be trained on in the training part, and how their masks are read."""
    options = {name: given[name] for name in ("format", "classes", "mask_rule", "seed") if name in given}
    cut = {name: given[name] for name in _FRACTIONS & set(given)}  # else a rule cuts
    options |= cut or dict.fromkeys(_FRACTIONS, 0.0)
    try:
        return open_data(given["data"], task=task.name, **options), options.get("mask_rule", "exact")
    except NeedsRule as error:
        if "mask_rule" in given:
            raise
        options["mask_rule"] = error.rule
        return open_data(given["data"], task=task.name, **options), error.rule


def _check(facts: DataFacts, data: DataSplits) -> None:
    """Data that nothing can be learnt from."""
    if facts.train < 2 and not facts.val:
        raise ValueError(
            f"{data.root}: one image cannot be learnt from and validated on: at least 2 are needed"
        )
    shown = [one.name for one in facts.classes if one.share > 0]
    of_pixels = not any(math.isnan(one.thickness) for one in facts.classes if one.share > 0)
    if of_pixels and len(shown) == 1 and facts.exclusive and facts.looked_at >= facts.train:
        raise ValueError(
            f"{data.root}: all that is labelled is {shown[0]!r}: with one class there is nothing to tell "
            "apart"
        )


def _channels(facts: DataFacts) -> dict[str, Any]:
    """Arguments of a builder that follow from the images; three channels are what builders expect."""
    return {} if facts.channels == 3 else {"in_channels": facts.channels}


def _taken(ladder: tuple[Rung, ...]) -> tuple[Rung, ...]:
    """The rungs without arguments that their builders do not take.

    They start from published weights where these lie on this machine, and smaller networks without any are
    left out then; none are fetched without being asked for.
    """
    rungs = []
    for one in ladder:
        encoder = one.arguments.get("encoder")
        start = {"pretrained": isinstance(encoder, str) and weights_at_hand(encoder)}
        rungs.append(
            replace(one, arguments={**taken_by(one.model, {**start, **one.arguments}), **_asked(one)})
        )
    published = next((i for i, one in enumerate(rungs) if one.arguments.get("pretrained")), 0)
    return tuple(rungs[published:])


def _asked(rung: Rung) -> dict[str, Any]:
    """All arguments but those that follow from the data, so that a wrong one is told."""
    return {name: value for name, value in rung.arguments.items() if name != "in_channels"}


def _probed(
    planning: Planning,
    situation: Situation,
    given: Settings,
    data: DataSplits,
    task: Task,
    budget: float | None,
    now: Callable[[], float],
) -> MachineFacts:
    """The machine with what was measured of the rungs: small to large, while there is hope and time."""
    settings = {**shape(planning, situation, given), "task": task.name}
    settings.pop("rung", None)
    counts = [settings["batch_size"]] if "batch_size" in settings else [rules.BATCH, 2, 1]
    settings |= {"batch_size": counts[0], "workers": 0}
    settings |= _first_fold(settings)
    lengths = ("epochs", "steps", "warmup_steps")
    settings = {name: value for name, value in settings.items() if name not in lengths}
    machine, probed = situation.machine, dict(settings, steps=1)
    if machine.device == "cpu" and len(settings.get("crop") or ()) == 2:  # time goes with the pixels
        probed["crop"] = tuple(min(side, PROBED_SIDE) for side in settings["crop"])
    end = now() + (PROBES_SHARE * budget if budget is not None else PROBES_SECONDS)

    def measured(rung: Rung, **changes: Any) -> bool:
        nonlocal machine
        network = {"model": rung.model, "model_arguments": dict(rung.arguments)}
        recipe = recipe_of({**probed, **network, "batch_size": settings["batch_size"], **changes})
        try:
            machine = machine.with_probes(probe(recipe, data, rung.name, patience=end - now(), now=now))
        except (torch.OutOfMemoryError, MemoryError):
            return False
        return True

    first = situation.ladder[0]
    for count in counts:
        settings["batch_size"] = count
        if measured(first, precision=given.get("precision", "32")):
            break
    else:
        raise ValueError(
            f"the memory is too small for a step of {first.name}: a smaller crop or batch_size may help"
        )
    if machine.bf16 and "precision" not in given and now() < end:
        measured(first, precision="bf16")
    known = replace(situation, machine=machine)
    choice = rules.precision(known, settings) if "precision" not in given else None
    fast = str(choice.settings["precision"]) if choice is not None else given["precision"]
    known = replace(situation, left=None if budget is None else end - now() + 0.9 * budget)
    last = first
    for rung in situation.ladder[1:]:
        of_last = machine.probe(last.name, precision=fast) or machine.probe(last.name)
        assert of_last is not None
        if not rules.may_climb(known, of_last, settings):
            break
        if now() + 4 * of_last.seconds > end or not measured(rung, precision=fast):
            break
        last = rung
    known = replace(known, machine=machine)
    taken = known.rung(rules.model(known, settings).settings)
    larger = (8, 16) if machine.device == "cpu" else (8, 16, 32, 64)
    for count in larger if len(counts) > 1 and settings["batch_size"] == rules.BATCH else ():
        of_last = machine.probe(taken.name, precision=fast) if taken is not None else None
        if (
            taken is None
            or of_last is None
            or now() + 8 * of_last.seconds > end
            or not measured(taken, precision=fast, batch_size=count)
        ):
            break
    return machine


def _recipe(settings: Settings, given: Settings, task: Task) -> Recipe:
    """The recipe of what was decided; where a rule cuts the parts, no fraction does."""
    by_rule = {} if _FRACTIONS & set(given) else {"test_fraction": 0.0}
    known = {name: value for name, value in settings.items() if name != "rung"}
    return recipe_of({**by_rule, **known, "task": task.name})


def _first_fold(settings: Settings) -> dict[str, Any]:
    """Steps of the first fold stand for those of all."""
    return {"fold": 1} if settings.get("folds") and not settings.get("fold") else {}


def _ranged(
    planning: Planning,
    situation: Situation,
    given: Settings,
    data: DataSplits,
    task: Task,
    now: Callable[[], float],
) -> Situation:
    """The situation with what a range test of the planned learning rate showed, or why there was none.

    The time that the test is expected to take is taken off before, so that what it tests is what is trained.
    """
    settings = all_settings(planning, situation, given)
    if reason := rules.no_range_test(situation, settings):
        return replace(situation, range_test=RangeTest(skipped=reason))
    known = situation.probe(settings)
    assert known is not None
    seconds = rules.seconds_of_range_test(situation, known, settings)
    if situation.left is not None:
        situation = replace(situation, left=situation.left - seconds)
        settings = all_settings(planning, situation, given)
    recipe = _recipe({**settings, **_first_fold(settings)}, given, task)
    return replace(situation, range_test=range_test(recipe, data, seconds=2 * seconds, now=now))


def _clock(plan: Plan, started: float, now: Callable[[], float]) -> Clock | None:
    """The clock of a plan; None without a budget."""
    if plan.situation.budget is None:
        return None
    return Clock(deadline=started + plan.situation.budget, started=started, now=now, **plan.times)
