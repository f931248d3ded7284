"""Facts as literals: what rules are tested with."""

from typing import Any

import pytest

from pixelwise.planning import (
    ClassFacts,
    DataFacts,
    MachineFacts,
    Plan,
    Probe,
    RangeTest,
    Rung,
    Situation,
    settle,
)
from pixelwise.planning.plan import given_ladder
from pixelwise.predict.choices import passes
from pixelwise.tasks import get_task

FAST = (0.2, 0.35, 0.6, 1.0, 1.8, 3.0)  # seconds per step of the rungs


def one(name: str = "thing", share: float = 0.5, **facts: Any) -> ClassFacts:
    return ClassFacts(name, share, **{"thickness": 20.0, "small": 9.0, "area": 400.0, **facts})


def facts(train: int = 100, *, classes: int = 2, **changes: Any) -> DataFacts:
    """A hundred independent photographs of 480 x 640 pixels and two classes unless told otherwise."""
    size = changes.pop("size", (480, 640))
    named = changes.pop("of_classes", tuple(one(f"class {i}", 1 / classes) for i in range(classes)))
    usual = {
        "smallest": size, "largest": size, "random_order": 0.1, "groups": train, "mirrored": 0.5,
        "told_apart": 0.95, "looked_at": 24, "names": tuple(f"images/{i:03}.png" for i in range(train)),
        "group_of": tuple(range(train)), "shown": ((0, 1),) * train,
    }  # fmt: skip
    return DataFacts(train, size, named, **{**usual, **changes})


def machine(
    seconds: tuple[float, ...] = FAST, *, ladder: tuple[Rung, ...] = (), **changes: Any
) -> MachineFacts:
    """Two cores and what each rung takes for a batch of 4 crops of 256 x 256."""
    known = {"cores": 2, "memory": 8 * 2**30, "bf16": False, **changes}
    validation = known.pop("validation", 0.1)
    probes = tuple(
        Probe(rung.name, (256, 256), 4, "32", time, 0.01, validation)
        for rung, time in zip(ladder, seconds, strict=False)
    )
    return MachineFacts(probes=probes, **known)


def decided(
    data: DataFacts,
    given: dict[str, Any] | None = None,
    *,
    task: str = "semantic",
    budget: float | None = 1200.0,
    seconds: tuple[float, ...] = FAST,
    probes: tuple[Probe, ...] = (),
    range_test: RangeTest | None = None,
    **of_machine: Any,
) -> Plan:
    """The plan for these facts, on a machine whose rungs take so many seconds per step."""
    planning = get_task(task).planning
    assert planning is not None
    given = {"crop": (256, 256), **(given or {})} if task == "semantic" else dict(given or {})
    given = {name: value for name, value in given.items() if value != "free"}
    ladder = given_ladder(planning.ladder(data, MachineFacts()), given, {})
    known = machine(seconds, ladder=ladder, **of_machine).with_probes(*probes)
    left = None if budget is None else 0.9 * budget
    situation = Situation(
        data,
        known,
        budget,
        left,
        report=4.0,
        passes_of_choices=passes(get_task(task)),
        ladder=ladder,
        range_test=range_test,
    )
    return settle(planning, situation, given)


@pytest.fixture(scope="session")
def plan_for() -> Any:
    return decided
