"""What docs/augmentation.md says of every augmentation is what it does."""

import re
from pathlib import Path

from pixelwise.data import AUGMENTATIONS
from pixelwise.data.augmentations import MIXES
from pixelwise.recipe import SETTINGS
from pixelwise.tasks import TASKS, get_task

PAGE = (Path(__file__).parent.parent.parent / "docs" / "augmentation.md").read_text()


def test_every_augmentation_has_a_row_with_its_number() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \((.+?)\) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    told = {name: (number, float(usual)) for name, number, usual, _, _ in rows}
    assert told == {name: (one.number, one.usual) for name, one in AUGMENTATIONS.items()}
    assert all(name in SETTINGS["augment"].help for name in AUGMENTATIONS)


def test_the_tasks_of_the_mixtures_are_those_that_the_page_names() -> None:
    for name in ("cutmix", "classmix"):
        (told,) = re.findall(rf"^\| `{name}` .* \| ([^|]+) \|$", PAGE, re.MULTILINE)
        able = {task for task in TASKS if get_task(task).annotation in MIXES[name]} - {"volume"}
        assert set(told.split(", ")) == {task for task in able if get_task(task).formats}
