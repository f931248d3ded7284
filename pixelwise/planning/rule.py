"""What a rule is: facts in, a choice and its reason out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .data_facts import DataFacts
from .machine_facts import MachineFacts, Probe, RangeTest

Chosen = Mapping[str, Any]


@dataclass(frozen=True)
class Rung:
    """One network of a ladder, from small to large.

    Attributes:
        name: as the table of choices tells it.
        model: name of the model.
        arguments: of its builder.
    """

    name: str
    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """What rules decide by.

    Attributes:
        data: what the data are like.
        machine: what the machine can do.
        budget: seconds of the whole command; None without a deadline.
        left: seconds of it that are left for training, validation and report.
        report: seconds that the report takes at the end.
        passes_of_choices: how often a validation image is predicted to choose test-time settings.
        ladder: the networks to choose from, small to large.
        range_test: of the learning rate that was planned; None before it, and where the rate is given.
    """

    data: DataFacts
    machine: MachineFacts
    budget: float | None = None
    left: float | None = None
    report: float = 0.0
    passes_of_choices: int = 0
    ladder: tuple[Rung, ...] = ()
    range_test: RangeTest | None = None

    def rung(self, chosen: Chosen) -> Rung | None:
        """The rung that was chosen."""
        return next((one for one in self.ladder if one.name == chosen.get("rung")), None)

    def probe(self, chosen: Chosen) -> Probe | None:
        """What was measured of the rung, batch and precision that were chosen, as far as they were."""
        name = chosen.get("rung", "")
        batch, precision = chosen.get("batch_size"), chosen.get("precision")
        return (
            self.machine.probe(name, batch=batch, precision=precision)
            or self.machine.probe(name, precision=precision)
            or self.machine.probe(name)
        )


@dataclass(frozen=True)
class Choice:
    """What a rule decides.

    Attributes:
        settings: of the recipe, by name; "rung" names the rung of the ladder.
        reason: why, in a few words with the numbers that decided.
        shown: the value as the table tells it; the settings themselves if "".
    """

    settings: Mapping[str, Any]
    reason: str
    shown: str = ""


@dataclass(frozen=True)
class Rule:
    """One row of the table of rules.

    Attributes:
        name: of what is decided.
        settings: of the recipe that it may decide.
        choose: situation and what was chosen before -> the choice; None where there is nothing to decide.
        text: the rule in words; docs/auto.md is made from it.
        probed: whether it needs to know how fast the machine is.
    """

    name: str
    settings: tuple[str, ...]
    choose: Callable[[Situation, Chosen], Choice | None]
    text: str
    probed: bool = False


@dataclass(frozen=True)
class Planning:
    """How a task plans a training.

    Attributes:
        ladder: the networks to choose from for these data, small to large.
        text: the ladder in words.
        rules: in the order in which they decide.
    """

    ladder: Callable[[DataFacts, MachineFacts], Sequence[Rung]]
    text: str
    rules: tuple[Rule, ...]
