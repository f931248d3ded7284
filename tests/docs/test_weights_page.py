"""The page on published weights names options, variables and weights that there are."""

import re
from pathlib import Path

import typer

from pixelwise import weights
from pixelwise.cli import app

PAGE = (Path(__file__).parent.parent.parent / "docs" / "weights.md").read_text()


def test_every_option_and_every_variable_on_the_page_exists() -> None:
    group = typer.main.get_command(app).commands["weights"]
    commands = [group, *group.commands.values()]
    options = {name for command in commands for p in command.params for name in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= options
    source = Path(weights.__file__).read_text()
    named = set(re.findall(r"\b(?:PIXELWISE|HF)_[A-Z_]+", PAGE))
    named.remove("HF_TOKEN")  # huggingface_hub reads it
    assert len(named) == 5
    assert all(f'"{name}"' in source for name in named)


def test_the_weights_on_the_page_are_published() -> None:
    named = set(re.findall(r"\b\w+_(?:coco|voc)\b", PAGE))
    assert len(named) == 2
    assert named <= set(weights.list_weights(commercial=True))
