"""Facts, budget and what the user gives become a plan; nothing here looks at a clock or a file of images."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..wording import counted
from . import rules
from .budget import told_seconds
from .rule import Choice, Planning, Rule, Rung, Situation

GIVEN = "given by you"
LEAST_STEPS = 10  # fewer teach nothing
TIMES = ("report", "scoring", "choices", "joining", "validation")  # what a clock keeps time for


@dataclass(frozen=True)
class Row:
    """One line of the table of choices.

    Attributes:
        choice: what was decided.
        value: as people read it.
        reason: why.
        origin: "rule" from the data alone, "measured" on this machine, or "given".
    """

    choice: str
    value: str
    reason: str
    origin: str


@dataclass(frozen=True)
class Plan:
    """What was decided, by what, and from which facts.

    Attributes:
        settings: of a recipe; those that the user gives are among them.
        rows: the choices with their reasons.
        situation: the facts that they follow from.
        times: seconds that what follows the training and a validation are expected to take, and the number
            of steps beyond which time is not worth it; see `training.deadline.Clock`.
        warnings: what a person should know, one sentence each.
    """

    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    situation: Situation
    times: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON knows it."""
        plain: dict[str, Any] = {
            "budget": self.situation.budget,
            "times": dict(self.times),
            "data": self.situation.data.as_dict(),
            "machine": self.situation.machine.as_dict(),
            "range_test": None if self.situation.range_test is None else asdict(self.situation.range_test),
            "choices": [asdict(row) for row in self.rows],
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
        }
        known: dict[str, Any] = _without_nan(plain)
        return known

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON.

        Raises:
            ValueError: if the file cannot be written.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=2) + "\n")


def read_plan(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `Plan.write` wrote.

    Raises:
        ValueError: if there is no such file or it holds no plan; names the file.
    """
    try:
        plan: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        _ = plan["budget"], *(plan["times"][name] for name in (*TIMES, "most_steps"))
    except OSError as error:
        raise ValueError(f"cannot read the plan {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no plan of a training") from error
    return plan


def shape(planning: Planning, situation: Situation, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that follow from the data alone, such as the crop: what probes of the machine need."""
    settings, _ = _decided([rule for rule in planning.rules if not rule.probed], situation, given)
    return settings


def all_settings(planning: Planning, situation: Situation, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `settle` decides, without reasons; "rung" names the rung of the ladder."""
    settings, _ = _decided(planning.rules, situation, given)
    return settings


def settle(planning: Planning, situation: Situation, given: Mapping[str, Any]) -> Plan:
    """Decide everything.

    Args:
        planning: rules and ladder of the task.
        situation: the facts, with what was measured of the rungs.
        given: settings of the recipe that the user gives: they always win, and later rules see them.
    """
    settings, rows = _decided(planning.rules, situation, given)
    times, warnings = _times(situation, settings), _warnings(situation, settings)
    settings.pop("rung", None)
    told = {row.choice for row in rows}
    rest = {name: value for name, value in given.items() if name not in ("data", "out", "name")}
    for name, value in rest.items():
        owner = next((rule.name for rule in planning.rules if name in rule.settings), None)
        if (owner is None or owner not in told) and value not in ({}, None):
            rows.append(Row(name, _told(value), GIVEN, "given"))
    return Plan(settings, tuple(rows), situation, times, warnings)


def _times(situation: Situation, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What a clock must know of the end of the training.

    Raises:
        ValueError: if so little time is left that nothing can be learnt; says what would suffice.
    """
    probe = situation.probe(chosen)
    if situation.budget is None or situation.left is None or probe is None:
        return {**dict.fromkeys(TIMES, 0.0), "most_steps": None}
    validation = rules.seconds_of_validation(situation, probe, chosen)
    scoring = rules.seconds_of_scoring(situation, probe, chosen)
    report = rules.seconds_of_report(situation, probe, chosen)
    choices, joining = (
        rules.seconds_of_choices(situation, probe, chosen),
        rules.seconds_of_joining(situation, chosen),
    )
    per_step = rules.seconds_per_step(situation, probe, chosen, rules.images_per_step(chosen))
    if rules.steps_in(situation, probe, chosen) < LEAST_STEPS:
        spent, trainings = situation.budget - situation.left, rules.trainings(chosen)
        after = report + scoring + choices + joining + trainings * validation
        least = spent + after
        raise ValueError(
            f"a budget of {told_seconds(situation.budget)} is too small: start, data and timed steps took "
            f"{told_seconds(spent)}, a step takes {told_seconds(per_step)}, validation and report take "
            f"{told_seconds(after)}; a first try needs "
            f"{told_seconds(1.2 * (least + trainings * LEAST_STEPS * per_step))}, a training "
            f"{told_seconds(1.1 * (least + trainings * rules.STEPS * per_step))}"
        )
    times = dict(zip(TIMES, (report, scoring, choices, joining, validation), strict=True))
    return {**times, "most_steps": rules.most_steps(situation, chosen)}


def _warnings(situation: Situation, chosen: Mapping[str, Any]) -> tuple[str, ...]:
    """What a person should know, one sentence each."""
    warnings, data, probe = [], situation.data, situation.probe(chosen)
    if situation.budget is not None and situation.left is not None and probe is not None:
        batch = rules.images_per_step(chosen)
        steps = rules.steps_in(situation, probe, chosen)
        views = rules.views_in(situation, chosen, steps, batch)
        if steps < rules.STEPS or views < 1:
            wanted = max(rules.STEPS, math.ceil(steps / max(views, 1e-6)))
            more = wanted * rules.seconds_per_step(situation, probe, chosen, batch)
            better = 1.1 * (situation.budget + more)
            warnings.append(
                f"{told_seconds(situation.budget)} allow about {counted(steps, 'step')}, which see each "
                f"training pixel {views:.2g} times: expect a modest model; {told_seconds(better)} would do "
                "better"
            )
    if data.sequence and data.val:
        warnings.append(
            "the images are a sequence: see that training and validation do not come from the same one, or "
            "scores promise too much"
        )
    if data.crossing:
        warnings.append(
            f"{counted(data.crossing, 'validation image')} of those looked at are almost in the training "
            "part too: scores promise too much"
        )
    return tuple(warnings)


def given_ladder(
    ladder: Sequence[Rung], given: Mapping[str, Any], channels: Mapping[str, Any]
) -> tuple[Rung, ...]:
    """The ladder as far as the user leaves it open.

    A given model is the only rung; given arguments of the builder hold on every rung where the model is open.

    Args:
        ladder: of the task.
        given: settings that the user gives.
        channels: arguments of the builder that follow from the data.
    """
    arguments = dict(given.get("model_arguments", {}))
    if "model" in given:
        name = " ".join([given["model"], *(str(x) for x in arguments.values() if isinstance(x, str))])
        return (Rung(name, given["model"], {**channels, **arguments}),)
    if not arguments:
        return tuple(Rung(one.name, one.model, {**channels, **one.arguments}) for one in ladder)
    rungs: dict[str, Rung] = {}
    for one in ladder:
        merged, known = {**channels, **one.arguments, **arguments}, one.name
        if "encoder" in arguments and "width" not in arguments:
            merged.pop("width", None)
            known = one.model
        key = f"{one.model} {json.dumps(merged, sort_keys=True, default=str)}"
        name = ", ".join([known, *(f"{name} {value}" for name, value in arguments.items())])
        rungs.setdefault(key, Rung(name, one.model, merged))
    return tuple(rungs.values())


def _decided(
    table: Sequence[Rule], situation: Situation, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Row]]:
    settings: dict[str, Any] = dict(given)
    rows: list[Row] = []
    told: set[str] = set()
    for rule in table:
        choice = rule.choose(situation, settings)
        if choice is None:
            continue
        free = {name: value for name, value in choice.settings.items() if name not in given}
        if "model_arguments" in choice.settings:
            free["model_arguments"] = {
                **choice.settings["model_arguments"],
                **given.get("model_arguments", {}),
            }
        settings |= free
        if not free and set(choice.settings) <= told:  # an earlier rule was told the same
            continue
        told |= set(choice.settings)
        rows.append(_row(rule, choice, settings, given))
    return settings, rows


def _row(rule: Rule, choice: Choice, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Row:
    ours = [name for name in choice.settings if name not in given or name == "model_arguments"]
    theirs = [name for name in choice.settings if name in given and name != "model_arguments"]
    if theirs and not [name for name in ours if name not in ("rung", "model_arguments")]:
        value = ", ".join(_told(settings[name]) for name in theirs)
        return Row(rule.name, value, GIVEN, "given")
    if theirs:
        value = ", ".join(f"{name} {_told(settings[name])}" for name in choice.settings if name in settings)
        return Row(rule.name, value, f"{', '.join(theirs)} {GIVEN}; {choice.reason}", "given")
    value = choice.shown or ", ".join(_told(settings[name]) for name in choice.settings)
    return Row(rule.name, value, choice.reason, "measured" if rule.probed else "rule")


def _told(value: Any) -> str:
    """A setting as people read it."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple | list):
        if value and all(isinstance(one, int) for one in value):
            return "x".join(map(str, value))
        return ", ".join(map(_told, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(one)}" for name, one in value.items())
    return str(value)


def _without_nan(what: Any) -> Any:
    if isinstance(what, Mapping):
        return {str(key): _without_nan(value) for key, value in what.items()}
    if isinstance(what, list | tuple):
        return [_without_nan(value) for value in what]
    return None if isinstance(what, float) and not math.isfinite(what) else what
