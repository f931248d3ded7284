"""The page on what `train` decides is the table of rules."""

import importlib.util
from pathlib import Path

from pixelwise.planning import MachineFacts
from pixelwise.recipe import SETTINGS
from pixelwise.registry import describe
from pixelwise.tasks import TASKS
from tests.planning.conftest import facts, one

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_is_what_the_rules_say() -> None:
    # After a change: make docs
    spec = importlib.util.spec_from_file_location("make_auto_page", DOCS / "make_auto_page.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (DOCS / "auto.md").read_text() == made.page()


def test_rules_decide_settings_that_exist_and_ladders_hold_models_of_their_task() -> None:
    for name, task in TASKS.items():
        if task.planning is None:
            continue
        for rule in task.planning.rules:
            assert set(rule.settings) <= set(SETTINGS), rule.name
            assert rule.text.endswith(".")
        for data in (facts(), facts(of_classes=(one(thickness=5.0),))):
            rungs = task.planning.ladder(data, MachineFacts())
            assert len({rung.name for rung in rungs}) == len(rungs)
            assert all(name in describe(rung.model).tasks for rung in rungs)
